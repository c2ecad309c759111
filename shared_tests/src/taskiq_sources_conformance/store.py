"""`StoreConformance`: what a backend author subclasses, and the fixtures that the rules use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

import pytest

from taskiq_sources.models import RunQuery, ScheduleQuery
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.base import Conformance
from taskiq_sources_conformance.elsewhere import can_travel
from taskiq_sources_conformance.plugin import VERSION
from taskiq_sources_conformance.rules.bulk import BulkRules
from taskiq_sources_conformance.rules.capabilities import CapabilityRules
from taskiq_sources_conformance.rules.claim import ClaimRules
from taskiq_sources_conformance.rules.clock import ClockRules
from taskiq_sources_conformance.rules.concurrency import ConcurrencyRules
from taskiq_sources_conformance.rules.datetimes import DatetimeRules
from taskiq_sources_conformance.rules.definitions import DeleteRules, GetRules
from taskiq_sources_conformance.rules.durability import DurabilityRules
from taskiq_sources_conformance.rules.history import HistoryRules
from taskiq_sources_conformance.rules.interleaving import InterleavingRules
from taskiq_sources_conformance.rules.lifecycle import LifecycleRules
from taskiq_sources_conformance.rules.next_due import NextDueRules
from taskiq_sources_conformance.rules.page import PageRules
from taskiq_sources_conformance.rules.payloads import PayloadRules
from taskiq_sources_conformance.rules.processes import ProcessRules
from taskiq_sources_conformance.rules.push import PushRules
from taskiq_sources_conformance.rules.put import PutRules
from taskiq_sources_conformance.rules.renew import RenewRules
from taskiq_sources_conformance.rules.settle import SettleRules
from taskiq_sources_conformance.rules.stateful import StatefulRules
from taskiq_sources_conformance.rules.update import UpdateRules

MakeStore: TypeAlias = Callable[[], ScheduleStore]


@dataclass(frozen=True)
class Unreachable:
    """A store whose server cannot be reached, for the rules about errors.

    Attributes:
        store: An unopened handle to an address at which nobody answers, with a password in its URL.
        mentions: What the error has to name: the host and the database.
        secret: What it must not show: the password.
    """

    store: ScheduleStore
    mentions: tuple[str, ...]
    secret: str


class StoreConformance(
    LifecycleRules,
    ClockRules,
    PutRules,
    GetRules,
    PageRules,
    DeleteRules,
    UpdateRules,
    ClaimRules,
    RenewRules,
    SettleRules,
    NextDueRules,
    HistoryRules,
    DurabilityRules,
    PushRules,
    PayloadRules,
    DatetimeRules,
    BulkRules,
    ConcurrencyRules,
    InterleavingRules,
    ProcessRules,
    StatefulRules,
    CapabilityRules,
    Conformance,
):
    """Every rule of `taskiq_sources.store.ScheduleStore`. Subclass it, set `backend` and give it the fixture `make_store`.

    Required: `backend`, `make_store`. Optional, each with rules that are skipped without it: `server_version`, `unreachable`,
    `make_schema_newer`, `drop_connections`, `each_step`, `make_store_elsewhere` (where `make_store` cannot be pickled).
    """

    @pytest.fixture
    def make_store(self) -> MakeStore:
        """Return a factory whose every call gives a new, unopened handle on the same data.

        The data is this test's own and empty at first: a new file, schema, database or key prefix for each test. To be
        overridden, as an ordinary (not async) fixture.
        """
        raise NotImplementedError(
            f"{type(self).__qualname__} has to define the fixture make_store; see its docstring in StoreConformance"
        )

    @pytest.fixture
    async def store(self, make_store: MakeStore, request: pytest.FixtureRequest) -> AsyncIterator[ScheduleStore]:
        """An open store on empty data."""
        handle = make_store()
        await handle.open()
        try:
            version = await self.server_version(handle)
            if version:
                # Not record_property: that one refuses to work beside --junitxml when warnings are errors.
                request.node.user_properties.append((VERSION, version))
            left = [found.id for found in await handle.page(ScheduleQuery(), limit=5)]
            left += [row.occurrence_id for row in await handle.runs(RunQuery(), limit=5)]
            if left:
                pytest.fail(
                    f"make_store has to give each test empty data of its own; this store already holds {left}", pytrace=False
                )
            yield handle
        finally:
            await handle.close()

    @pytest.fixture
    async def other(self, store: ScheduleStore, make_store: MakeStore) -> AsyncIterator[ScheduleStore]:
        """A second open handle on the data of `store`, as another process would have."""
        if not store.capabilities.shared:
            pytest.skip(f"{type(store).__name__} does not declare the capability 'shared'")
        handle = make_store()
        await handle.open()
        try:
            yield handle
        finally:
            await handle.close()

    @pytest.fixture
    async def handles(self, store: ScheduleStore, make_store: MakeStore) -> AsyncIterator[tuple[ScheduleStore, ScheduleStore]]:
        """Two open handles on the same data; the same one twice where the backend has no other."""
        if not store.capabilities.shared:
            yield store, store
            return
        handle = make_store()
        await handle.open()
        try:
            yield store, handle
        finally:
            await handle.close()

    @pytest.fixture
    def make_store_elsewhere(self, store: ScheduleStore, make_store: MakeStore) -> MakeStore:
        """Return a factory like `make_store` that another process can be given: a ``functools.partial`` of an importable class.

        By default it is `make_store` itself, if that is one; the rules about processes are skipped where it is not.
        """
        kind = type(store)
        if not (kind.capabilities.shared and kind.capabilities.durable):
            pytest.skip(f"{kind.__name__} does not declare the capabilities 'shared' and 'durable'")
        if not can_travel(make_store):
            pytest.skip(f"another process cannot be given make_store: have it return functools.partial({kind.__name__}, ...)")
        return make_store

    @pytest.fixture
    def unreachable(self) -> Unreachable | None:
        """Return a store that cannot connect; None skips the rules about it. For backends with a server."""
        return None

    async def server_version(self, store: ScheduleStore) -> str | None:
        """Return the version of the server or library under the open `store`, for the summary line."""
        return None

    async def make_schema_newer(self, store: ScheduleStore) -> None:
        """Make the schema look as if a newer release had made it. Called with an open store."""
        pytest.skip(f"{type(self).__qualname__} does not define make_schema_newer()")

    async def drop_connections(self, store: ScheduleStore) -> None:
        """Break the connections of the open `store` from the server's side, as a restart of the server would."""
        pytest.skip(f"{type(self).__qualname__} does not define drop_connections()")

    def each_step(self, store: ScheduleStore, before: Callable[[], Awaitable[None]]) -> AbstractContextManager[None]:
        """Have `before` awaited ahead of each thing that the open `store` asks of its server, statement, script or commit.

        For the rules about what others do in between; where a call is a single step at the server, there is none but the start.
        """
        pytest.skip(f"{type(self).__qualname__} does not define each_step()")
