"""Measures the Redis store: ``python benchmarks/bench_redis.py [url]``. Without a URL it starts a server of its own.

Prints claims and settles per second in batches of 500 (with and without history rows), how long a claim of 100 takes with 100,
100,000 and a million schedules stored, bulk writes, and the memory of schedules and of history. Client and server share the
machine; where other programs share it too, the processor times tell more than the rates.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from typing import Any

from redis.asyncio import Redis

from taskiq_sources.errors import redact_url
from taskiq_sources.models import Outcome, Run, StoredSchedule
from taskiq_sources_redis import RedisStore
from taskiq_sources_redis.shards import Shards

NOW = datetime(2035, 6, 15, 12, tzinfo=timezone.utc)
LEASE = timedelta(seconds=30)
DOCUMENT = '{"version": 1, "task": {"task_name": "app.tasks:report", "args": [1, 2], "kwargs": {"to": "you"}, "labels": {}}}'
BATCH = 500
ROUNDS = 100


def schedules(first: int, number: int, due: timedelta) -> list[StoredSchedule]:
    """Return schedules with ids from `first` on."""
    return [
        StoredSchedule(
            id=f"schedule-{one:08}",
            task_name=f"app.tasks:report_{one % 20}",
            document=DOCUMENT,
            timing="0123456789abcdef",
            scheduled_for=NOW + due,
            next_run_at=NOW + due + timedelta(milliseconds=one % 1000),
            anchor=NOW,
            created_at=NOW,
            updated_at=NOW,
        )
        for one in range(first, first + number)
    ]


async def fill(store: RedisStore, first: int, last: int, due: timedelta) -> float:
    """Store schedules in calls of 10,000; return how many a second."""
    started = time.perf_counter()
    for start in range(first, last, 10_000):
        await store.put(schedules(start, min(10_000, last - start), due))
    return (last - first) / (time.perf_counter() - started)


class Meter:
    """Counts what is done, and what it costs in time and in processor time of client and server."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._day = NOW + timedelta(days=1)

    async def claim_and_settle(
        self, store: RedisStore, what: str, *, history: bool, batch: int = BATCH, rounds: int = ROUNDS
    ) -> None:
        """Claim the oldest batch and send it into the future, again and again."""
        self._day += timedelta(days=1)
        started, client_started, server_started = time.perf_counter(), time.process_time(), await self._server_time()
        for round_ in range(rounds):
            now = self._day + round_ * timedelta(milliseconds=1)
            claims = await store.claim(now, claimant="bench", lease=LEASE, limit=batch)
            assert len(claims) == batch
            await store.settle(
                [
                    Outcome(
                        claim=claim,
                        scheduled_for=now,
                        next_run_at=self._day + timedelta(hours=1),
                        run_count=1,
                        runs=(row(claim.schedule.id, now),) if history else (),
                    )
                    for claim in claims
                ]
            )
        number = batch * rounds
        rate = number / (time.perf_counter() - started)
        client = (time.process_time() - client_started) / number * 1e6
        server = (await self._server_time() - server_started) / number * 1e6
        print(f"claim + settle, {what}: {rate:,.0f}/s; processor time of each: client {client:.1f} µs, server {server:.1f} µs")

    async def _server_time(self) -> float:
        info = await self._client.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])


def row(schedule_id: str, now: datetime) -> Run:
    """Return a history row."""
    return Run(
        occurrence_id=f"{schedule_id}@{now:%Y-%m-%dT%H:%M:%S.%f}Z",
        schedule_id=schedule_id,
        task_name="app.tasks:report",
        scheduled_for=now,
        status="sent",
        recorded_at=now,
        task_id="8c0d9a4e-9b1f-5b52-8c0d-0123456789ab",
        claimant="host:1234:abcdef",
    )


async def median_ms(call: Callable[[], Awaitable[Any]], times: int = 51) -> float:
    """Return the median duration of a call in milliseconds."""
    durations = []
    for _ in range(times):
        started = time.perf_counter()
        await call()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations) * 1000


async def measure(url: str) -> None:
    """Measure everything, on an empty prefix, and clean up."""
    client = Redis.from_url(url)
    store = RedisStore(url, prefix="bench")
    await store.open()

    async def clear() -> None:
        await client.unlink(*Shards("bench", 1).keys[0])

    async def used_memory() -> int:
        return int((await client.info("memory"))["used_memory"])

    await clear()
    before = await used_memory()
    print(f"bulk put of 10,000: {await fill(store, 0, 10_000, timedelta(0)):,.0f}/s")
    await fill(store, 10_000, 100_000, timedelta(0))
    print(f"memory of 100,000 schedules: {(await used_memory() - before) / 2**20:.0f} MiB (documents of {len(DOCUMENT)} bytes)")
    meter = Meter(client)
    for history in (False, True):
        words = "with a history row each" if history else "without history"
        before = await used_memory()
        for _ in range(3):
            await meter.claim_and_settle(store, f"batches of {BATCH}, 100,000 stored, {words}", history=history)
    rows = 3 * ROUNDS * BATCH
    print(f"memory of 100,000 history rows: {(await used_memory() - before) / 2**20 / rows * 100_000:.0f} MiB")
    for batch in (1, 10):
        await meter.claim_and_settle(store, f"batches of {batch}, {words}", history=True, batch=batch, rounds=300)
    await clear()
    stored = 0
    now = NOW + timedelta(hours=1)
    for size in (100, 100_000, 1_000_000):
        await fill(store, max(stored, 100), size, timedelta(days=300))
        await store.put(schedules(0, 100, timedelta(0)))
        stored = size

        async def claim_due() -> None:
            nonlocal now
            now += LEASE
            assert len(await store.claim(now, claimant="bench", lease=LEASE, limit=100)) == 100

        empty = await median_ms(lambda: store.claim(NOW - LEASE, claimant="bench", lease=LEASE, limit=100))
        due = await median_ms(lambda: store.next_due(NOW - LEASE))
        claimed = await median_ms(claim_due)
        print(f"{size:,} stored: claim of 100 due {claimed:.2f} ms, empty claim {empty:.2f} ms, next_due {due:.2f} ms")
    await fill(store, 1_000_000, 1_100_000, timedelta(0))
    for _ in range(3):
        await meter.claim_and_settle(store, f"batches of {BATCH}, 1,100,000 stored, without history", history=False)
    await clear()
    await store.close()
    await client.aclose()


def main() -> None:
    """Run against the URL on the command line, or a server started for it."""
    from taskiq_sources_conformance.servers import start_redis

    with nullcontext() if len(sys.argv) > 1 else start_redis() as server:
        url = sys.argv[1] if server is None else server.url
        print(
            f"Redis at {redact_url(url)}"
            if server is None
            else f"redis-server {server.version}, append-only file on, fsync left to the system"
        )
        asyncio.run(measure(url))


if __name__ == "__main__":
    main()
