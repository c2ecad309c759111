"""What an operation costs does not depend on how much is stored."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from taskiq_sources.backends import portions
from taskiq_sources.models import RunQuery, ScheduleQuery
from taskiq_sources_conformance.build import LEASE, MS, NOW, at, outcome, record, run, schedule, take
from taskiq_sources_conformance.servers import RedisServer, ServerUnavailable, start_redis
from taskiq_sources_redis import RedisStore

pytestmark = pytest.mark.anyio

#: Commands whose cost grows with the size of what they are asked about.
WHOLE = {"scan", "keys", "hscan", "zscan", "sscan", "hgetall", "hkeys", "hvals", "smembers", "sort", "flushdb", "flushall"}

FEW, MANY = 200, 20_000
REPEATS = 5
GROWTH = 8  # of the time in the server, while what is stored grows a hundredfold
NOISE = 300  # microseconds


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    try:
        with start_redis(appendonly=False) as running:
            yield running
    except ServerUnavailable as error:
        pytest.skip(f"no redis server: {error}")


@pytest.fixture(scope="module")
async def stores(server: RedisServer) -> AsyncIterator[list[RedisStore]]:
    """Two stores, with ten due schedules among few and among many that are not; and as many rows of history."""
    stores = [RedisStore(server.url, prefix=f"{number}") for number in (FEW, MANY)]
    for store, number in zip(stores, (FEW, MANY), strict=True):
        await store.open()
        rows = [run(f"{one:06}", schedule_id=f"{one * FEW // number}", recorded_at=at(ms=one)) for one in range(number)]
        for start in range(0, number, 1_000):
            await record(store, *rows[start : start + 1_000])
        await store.put([_schedule(one) for one in range(number)])
    yield stores
    for store in stores:
        await store.close()


def _schedule(number: int) -> Any:
    """Of each task, owner and flag there are few among those that are looked at, however many there are in all."""
    is_special = 50 <= number < 60
    return schedule(
        f"{number:06}",
        task_name="tasks:special" if is_special else "tasks:add",
        owner="billing" if is_special else None,
        paused=is_special,
        next_run_at=at(-1) if number < 10 else at(86_400 + number),
    )


async def claim_and_settle(store: RedisStore, repeat: int) -> None:
    now = NOW + (repeat + 1) * LEASE
    claims = await take(store, now=now, limit=5)
    rows = (run(f"settled-{repeat}"),)
    await store.settle([outcome(claim, next_run_at=at(-1), runs=rows) for claim in claims])


OPERATIONS: dict[str, Callable[[RedisStore, int], Awaitable[Any]]] = {
    "claim and settle": claim_and_settle,
    "claim nothing": lambda store, _: take(store, now=at(-60), limit=5),
    "claim ids": lambda store, repeat: take(store, now=NOW + (repeat + 1) * LEASE, ids=["000003"]),
    "next_due": lambda store, _: store.next_due(NOW),
    "get": lambda store, _: store.get(["000003"]),
    "page": lambda store, _: store.page(ScheduleQuery(), after="000100", limit=5),
    "page of a task": lambda store, _: store.page(ScheduleQuery(task_name="tasks:special"), after="000052", limit=20),
    "page of an owner": lambda store, _: store.page(ScheduleQuery(owner="billing"), limit=20),
    "page of the paused": lambda store, _: store.page(ScheduleQuery(paused=True), limit=20),
    "page of the due": lambda store, _: store.page(ScheduleQuery(due_before=NOW), after="000001", limit=20),
    "page of the running": lambda store, _: store.page(ScheduleQuery(paused=False), limit=5),
    "page of nothing": lambda store, _: store.page(ScheduleQuery(task_name="tasks:none"), limit=5),
    "runs": lambda store, _: store.runs(RunQuery(), limit=5),
    "runs of a schedule": lambda store, _: store.runs(RunQuery(schedule_id="3"), limit=1),
    "runs that failed": lambda store, _: store.runs(RunQuery(status="failed"), limit=5),
    "runs of a time": lambda store, _: store.runs(RunQuery(since=NOW, until=NOW + 50 * MS), limit=5),
    "put": lambda store, repeat: store.put([schedule(f"zz{repeat}", next_run_at=None)]),
    "delete": lambda store, repeat: store.delete([f"zz{repeat}"]),
}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_cost_follows_what_is_returned(server: RedisServer, stores: list[RedisStore], operation: str) -> None:
    """With a hundred times as much stored, Redis works about as long, and reads nothing whole."""
    microseconds = []
    for store in stores:
        best = None
        for repeat in range(REPEATS):
            server.command("CONFIG", "RESETSTAT")
            await OPERATIONS[operation](store, repeat)
            told = server.command("INFO", "commandstats")
            spent = sum(int(found) for found in re.findall(r"cmdstat_eval(?:sha)?:calls=\d+,usec=(\d+)", told))
            best = spent if best is None else min(best, spent)
            assert WHOLE.isdisjoint(re.findall(r"cmdstat_([a-z]+)", told))
        microseconds.append(best)

    few, many = microseconds
    assert few is not None
    assert many is not None
    assert many < few * GROWTH + NOISE


async def test_a_listing_asks_for_what_it_still_lacks(server: RedisServer) -> None:
    """Where one in a thousand matches, and a call looks at 5,000, it takes two calls to find seven."""
    store = RedisStore(server.url, prefix="sparse")
    await store.open()
    await store.put([schedule(f"{one:05}", quarantined=one % 1_000 > 0) for one in range(20_000)])
    rows = [run(f"{one:05}", recorded_at=at(ms=-one), status="failed" if one % 1_000 else "sent") for one in range(20_000)]
    for some in portions(rows, 1_000):
        await record(store, *some)
    assert await store.page(ScheduleQuery(), limit=1)  # so that the scripts are there
    assert await store.runs(RunQuery(), limit=1)
    wanted = [f"{one:05}" for one in range(0, 7_000, 1_000)]

    server.command("CONFIG", "RESETSTAT")
    assert [one.id for one in await store.page(ScheduleQuery(quarantined=False), limit=7)] == wanted
    assert [one.occurrence_id for one in await store.runs(RunQuery(status="sent"), limit=7)] == wanted
    told = server.command("INFO", "commandstats")
    await store.close()

    assert re.findall(r"cmdstat_eval\w*:calls=(\d+)", told) == ["4"]
