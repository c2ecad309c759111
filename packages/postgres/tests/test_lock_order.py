"""What writes several schedules locks them in the order of their ids: no two calls wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import asyncpg
import pytest

from taskiq_sources.models import Claim
from taskiq_sources_conformance.build import NOW, at, outcome, schedule, take
from taskiq_sources_postgres import PostgresStore

pytestmark = pytest.mark.anyio

_TIMEOUT = 20.0
_IDS = "abcd"

Write: TypeAlias = Callable[[PostgresStore, dict[str, Claim]], Awaitable[Any]]


def _settle(finished: str) -> Write:
    """Return a settle of all in the opposite order, some of which are finished."""

    async def settle(store: PostgresStore, claims: dict[str, Claim]) -> None:
        outcomes = [
            outcome(claims[name], finished=name in finished, next_run_at=None if name in finished else at(60))
            for name in reversed(_IDS)
        ]
        assert await store.settle(outcomes) == frozenset()

    return settle


async def _renew(store: PostgresStore, claims: dict[str, Claim]) -> None:
    assert await store.renew([claims[name] for name in reversed(_IDS)], until=at(60)) == set(_IDS)


async def _put(store: PostgresStore, _claims: dict[str, Claim]) -> None:
    assert await store.put([schedule(name) for name in reversed(_IDS)]) == set(_IDS)


async def _delete(store: PostgresStore, _claims: dict[str, Claim]) -> None:
    assert await store.delete(list(reversed(_IDS))) == set(_IDS)


async def _claim(store: PostgresStore, _claims: dict[str, Claim]) -> None:
    assert len(await take(store, now=at(3_600), ids=list(reversed(_IDS)))) == len(_IDS)  # their leases have ended


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(_settle(""), id="settle"),
        pytest.param(_settle("abcd"), id="settle finished"),
        pytest.param(_settle("bd"), id="settle both"),
        pytest.param(_settle("cd"), id="settle finished last"),
        pytest.param(_renew, id="renew"),
        pytest.param(_put, id="put"),
        pytest.param(_delete, id="delete"),
        pytest.param(_claim, id="claim by ids"),
    ],
)
async def test_who_waits_for_a_schedule_has_locked_none_behind_it(place: Any, write: Write) -> None:
    """If this fails: a statement locks in several passes, or in the order of a plan; see the head of ``queries.sql``."""
    store = PostgresStore(place.dsn, prefix=place.prefix)
    await store.open()
    for seconds, name in reversed([*enumerate(_IDS)]):  # neither on their page nor by when they are due in the order of ids
        await store.put([schedule(name, next_run_at=at(-seconds))])
    claims = {claim.schedule.id: claim for claim in await take(store, now=NOW)}
    locked = f"SELECT id FROM {place.prefix}schedules WHERE id = $1 FOR UPDATE NOWAIT"
    other = await asyncpg.connect(place.dsn)
    try:
        async with other.transaction():
            await other.fetch(locked, "b")
            writing = asyncio.ensure_future(write(store, claims))
            await place.a_wait_for_a_lock()
            with pytest.raises(asyncpg.LockNotAvailableError):
                async with other.transaction():
                    await other.fetch(locked, "a")
            assert await other.fetch(locked, "c")
            assert await other.fetch(locked, "d")
        await asyncio.wait_for(writing, _TIMEOUT)
    finally:
        await other.close()
        await store.close()
