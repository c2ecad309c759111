"""What the tests of this package share: a server, names of their own in it, and proof that nothing is left behind."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg
import pytest

from taskiq_sources_conformance import Unreachable
from taskiq_sources_conformance.servers import url_or_skip
from taskiq_sources_postgres import PgBouncerStore, PostgresScheduleSource, PostgresStore

_PATIENCE = 10.0
_POLL = 0.01


@dataclass(frozen=True)
class Place:
    """A prefix in a database, and connections that can be told from those of other tests.

    Attributes:
        dsn: Connects under the prefix as ``application_name``.
        prefix: The prefix of the tables, in the schema public.
    """

    dsn: str
    prefix: str

    async def execute(self, *statements: str) -> list[Any]:
        """Run statements on a connection of their own, and return the rows of the last one."""
        connection = await asyncpg.connect(self.dsn, server_settings={"application_name": "test"})
        try:
            rows: list[Any] = []
            for statement in statements:
                rows = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()

    def source(self, **options: Any) -> PostgresScheduleSource:
        """A new source, unopened."""
        return PostgresScheduleSource(self.dsn, prefix=self.prefix, **options)

    def unreachable(self) -> Unreachable:
        """A store at whose address nobody answers."""
        return Unreachable(PostgresStore("postgresql://me:s3cr3t@127.0.0.1:9/orders"), ("127.0.0.1:9", "orders"), "s3cr3t")

    async def server_version(self) -> str:
        """Return what the server says of itself."""
        return str((await self.execute("SHOW server_version"))[0][0])

    async def make_schema_newer(self) -> None:
        """Make the tables look as if a newer release had made them."""
        await self.execute(f"COMMENT ON TABLE {self.prefix}schedules IS 'taskiq-sources schema 9999'")

    async def connections(self) -> list[str]:
        """Return the states of the connections that are open; one that waits for a lock ``waits``."""
        state = "CASE wait_event_type WHEN 'Lock' THEN 'waits' ELSE state END AS state"
        found = await self.execute(f"SELECT {state} FROM pg_stat_activity WHERE application_name = '{self.prefix}'")
        return [row["state"] for row in found]

    async def cut_connections(self) -> None:
        """Have the server end all connections, and wait until it has."""
        await self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{self.prefix}'")
        await self.no_connections()

    async def no_connections(self) -> None:
        """Wait until the server has seen the end of all connections."""
        await self._until(lambda states: not states, "connections left open")

    async def a_wait_for_a_lock(self) -> None:
        """Wait until one of the connections waits for a lock."""
        await self._until(lambda states: "waits" in states, "no connection waits for a lock")

    async def _until(self, holds: Callable[[list[str]], bool], problem: str) -> None:
        states: list[str] = []
        for _ in range(int(_PATIENCE / _POLL)):
            states = await self.connections()
            if holds(states):
                return
            await asyncio.sleep(_POLL)
        pytest.fail(f"{problem}: {states}")

    async def remove(self) -> None:
        """Prove that all connections are closed, and drop the tables."""
        await self.no_connections()
        await self.execute(f"DROP TABLE IF EXISTS {self.prefix}schedules, {self.prefix}runs")


def new_place(url: str) -> Place:
    """Return a place that nobody has used."""
    prefix = f"t{secrets.token_hex(6)}_"
    return Place(f"{url}{'&' if '?' in url else '?'}application_name={prefix}", prefix)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def url() -> str:
    return url_or_skip("postgres")


@pytest.fixture
def place_at() -> Iterator[Callable[[str], Place]]:
    """A function that returns a place of this test's own at a URL. In the end nothing may be connected to it any more."""
    places: list[Place] = []

    def make(url: str) -> Place:
        places.append(new_place(url))
        return places[-1]

    yield make
    for place in places:
        asyncio.run(place.remove())


@pytest.fixture(scope="module")
def module_place(url: str) -> Iterator[Place]:
    """A place for all tests of a module."""
    place = new_place(url)
    yield place
    asyncio.run(place.remove())


@pytest.fixture
def place(url: str, place_at: Callable[[str], Place]) -> Place:
    return place_at(url)


@pytest.fixture(params=[PostgresStore, PgBouncerStore])
def either_store(request: pytest.FixtureRequest, place: Place) -> Callable[[], PostgresStore]:
    """A function that returns a new store, unopened; one kind of store after the other."""
    request.instance.place = place
    return partial(request.param, place.dsn, prefix=place.prefix)
