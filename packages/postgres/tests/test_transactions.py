"""Schedules that are stored in a transaction of the application's: with its rows, or not at all. The recipe of the README."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import asyncpg
import pytest

from taskiq_sources import ScheduledTask
from taskiq_sources.clock import system_now
from taskiq_sources_postgres import PostgresScheduleSource

pytestmark = pytest.mark.anyio

PAST = datetime(2024, 1, 1, tzinfo=timezone.utc)


class OneConnection:
    """What a source needs of a pool, over a connection that is in a transaction: its calls come one after the other."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    async def acquire(self, *, timeout: float | None = None) -> Any:
        await asyncio.wait_for(self._turn.acquire(), timeout)
        return self._connection

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        self._turn.release()


@asynccontextmanager
async def transaction_of(place: Any) -> AsyncIterator[tuple[Any, PostgresScheduleSource]]:
    connection = await asyncpg.connect(place.dsn)
    source = PostgresScheduleSource(pool=OneConnection(connection), prefix=place.prefix)
    try:
        async with connection.transaction():
            yield connection, source
            await source.shutdown()
    finally:
        await connection.close()


def reminder(schedule_id: str, **fields: Any) -> ScheduledTask:
    return ScheduledTask(task_name="remind", labels={}, args=[], kwargs={}, schedule_id=schedule_id, **fields)


async def test_what_is_stored_is_there_with_the_commit(place: Any) -> None:
    source = place.source()
    await source.startup()
    later = system_now() + timedelta(days=1)
    async with transaction_of(place) as (connection, within):
        await within.add_schedules([reminder("late", time=PAST), reminder("too", time=PAST), reminder("later", time=later)])
        await within.add_schedule(reminder("daily", cron="0 7 * * *"))
        await within.pause("daily")
        assert await connection.fetchval(f"SELECT count(*) FROM {place.prefix}schedules") == 4
        assert [info.state.id async for info in source.iter_schedules()] == []
        assert await source.desk.take(limit=9) == []

    assert [info.state.id async for info in source.iter_schedules(paused=False)] == ["late", "later", "too"]
    assert [dispatch.schedule_id for dispatch in await source.desk.take(limit=9)] == ["late", "too"]
    await source.shutdown()


async def test_what_is_stored_goes_with_the_transaction(place: Any) -> None:
    source = place.source()
    await source.startup()
    await source.add_schedule(reminder("a", time=PAST))

    async def fail() -> None:
        async with transaction_of(place) as (_, within):
            await within.add_schedule(reminder("b", time=PAST))
            await within.delete_schedule("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert [info.state.id async for info in source.iter_schedules()] == ["a"]
    await source.shutdown()


async def test_schedulers_are_told_at_the_commit(place: Any) -> None:
    source = place.source()
    await source.startup()
    changes = source.store.watch()
    await changes.__anext__()
    async with transaction_of(place) as (_, within):
        await within.add_schedule(reminder("a", time=PAST))

    await asyncio.wait_for(changes.__anext__(), 10)
    assert [dispatch.schedule_id for dispatch in await source.desk.take(limit=9)] == ["a"]
    await changes.aclose()
    await source.shutdown()
