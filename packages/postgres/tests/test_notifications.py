"""What a settle notifies of: what others would wake for too late, and nothing else."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.models import ScheduleChanges
from taskiq_sources_conformance.build import LEASE, at, outcome, put_and_take
from taskiq_sources_postgres import PostgresStore

pytestmark = pytest.mark.anyio

_LEASE_SECONDS = LEASE / timedelta(seconds=1)


@pytest.mark.parametrize(
    ("outcome_of_b", "edited", "told"),
    [
        ({"finished": True, "next_run_at": at(1)}, False, False),
        ({"quarantined": True, "next_run_at": at(1)}, False, False),
        ({"next_run_at": None}, False, False),
        ({"next_run_at": at(_LEASE_SECONDS)}, False, False),
        ({"next_run_at": at(1), "release": False}, False, False),
        ({"next_run_at": at(_LEASE_SECONDS, ms=-1)}, False, True),
        ({"next_run_at": at(-1)}, False, True),
        ({"next_run_at": at(3600)}, True, True),
        ({"finished": True}, True, True),
    ],
)
async def test_a_settle_tells_of_what_is_due_before_the_lease_ends(
    place: Any, outcome_of_b: dict[str, Any], edited: bool, told: bool
) -> None:
    """Everybody looks when the lease ends, and so need not be told of what is due later. (Look at what `settle` notifies of.)"""
    store = PostgresStore(place.dsn, prefix=place.prefix)
    await store.open()
    claims = [await put_and_take(store, name) for name in "ab"]
    if edited:
        await store.update("b", ScheduleChanges(updated_at=at(0), next_run_at=at(2)))
    heard: list[object] = []
    known = asyncio.Event()

    def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        heard.append(payload)
        if payload == "that was all":
            known.set()

    listening = await asyncpg.connect(place.dsn)
    await listening.add_listener(store._names.channel, hear)

    await store.settle([outcome(claims[0], finished=True), outcome(claims[1], **outcome_of_b)])
    await place.execute(f"NOTIFY {store._names.channel}, 'that was all'")  # they arrive in the order of the commits
    await asyncio.wait_for(known.wait(), 10)

    assert heard == [*[""] * told, "that was all"]
    await listening.close()
    await store.close()


async def test_a_settle_that_lifts_a_quarantine_tells_of_it(place: Any) -> None:
    """Nobody looks for what is quarantined, however late it is due. (Look at what an outcome says of it.)"""
    store = PostgresStore(place.dsn, prefix=place.prefix)
    await store.open()
    claim = await put_and_take(store)
    await store.update("a", ScheduleChanges(updated_at=at(0), quarantined=True))
    watch = store.watch()
    await watch.__anext__()
    told = asyncio.ensure_future(watch.__anext__())

    await store.settle([outcome(claim)])

    await asyncio.wait_for(told, 10)
    await watch.aclose()
    await store.close()


async def test_a_connection_that_ends_just_before_it_listens_is_a_lost_one(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver has an error of its own for it, and leaves the connection open. (Look at `_BROKEN`.)"""
    store = PostgresStore(place.dsn, prefix=place.prefix)
    await store.open()
    ended: list[asyncpg.Connection] = []

    async def listen(connection: asyncpg.Connection, *_args: object) -> None:
        ended.append(connection)
        raise asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")

    monkeypatch.setattr(asyncpg.Connection, "add_listener", listen)

    with pytest.raises(SourceConnectionError):
        await asyncio.wait_for(anext(store.watch()), 10)

    assert [connection.is_closed() for connection in ended] == [True]
    await store.close()
