"""Benchmarks of stores and of the engine, the same code for every backend: ``nox -s bench -- --backend sqlite``.

Figures are printed as a table; compare ratios within one run, not seconds between machines. Nothing here is a test.

- claim: median time to claim 100 due schedules with 100, 100,000 and (``--million``) 1,000,000 stored.
- add: 10,000 schedules through ``ScheduleSource.add_schedules``.
- cycle: claim and settle per second, in batches of 500, of recurring schedules and of one-offs, history on.
- burst: 5,000 one-offs due at one instant through `DurableScheduler` into a broker that does nothing, from the first send to the
  last settle, against as many bare ``kiq`` calls into the same broker.
- pick-up: from adding a schedule that is due at once, by another handle, to its send.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from taskiq import AsyncBroker, BrokerMessage

from taskiq_sources import DurableScheduler, ScheduledTask, ScheduleSource, definitions, source_from_url
from taskiq_sources.definitions import Defaults
from taskiq_sources.models import Claim, Outcome, Run, StoredSchedule
from taskiq_sources_conformance.servers import ServerUnavailable, url_of

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
LEASE = timedelta(seconds=30)
BATCH = 500
REPEATS = 7

BACKENDS = {
    "memory": "memory",
    "sqlite": "sqlite",
    "redis": "redis",
    "postgres": "postgres",
    "mongo": "mongo_replica_set",
}


class NullBroker(AsyncBroker):
    """Takes messages and does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[float] = []

    async def kick(self, message: BrokerMessage) -> None:
        del message
        self.sent.append(time.perf_counter())

    async def listen(self) -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""


def source_factory(backend: str, directory: Path) -> Callable[..., ScheduleSource]:
    """Return a factory of sources on data of their own, empty at first."""
    prefix = f"bench_{uuid.uuid4().hex[:8]}_"
    if backend == "memory":
        from taskiq_sources.memory import InMemoryScheduleSource, MemoryData

        data = MemoryData()
        return lambda **options: InMemoryScheduleSource(data, **options)
    if backend == "sqlite":
        return lambda **options: source_from_url(f"sqlite:///{directory}/{prefix}.db", **options)
    url = url_of(BACKENDS[backend])
    return lambda **options: source_from_url(url, prefix=prefix, **options)


def schedules(number: int, *, due: datetime | None, **fields: Any) -> list[StoredSchedule]:
    """Return rows; those that are not `due` are due in a year."""
    given = {"task_name": "bench:task", "labels": {"queue": "a"}, "args": [1, "two"], "kwargs": {"three": 3}}
    made = []
    for _ in range(number):
        task = ScheduledTask(**given, schedule_id=uuid.uuid4().hex, **(fields or {"time": due or NOW + timedelta(days=365)}))
        made.append(definitions.store_form(definitions.define(task, Defaults()), NOW, Defaults()))
    return made


async def put(source: ScheduleSource, rows: list[StoredSchedule]) -> None:
    for start in range(0, len(rows), 1000):
        await source.store.put(rows[start : start + 1000])


def moved(claim: Claim, *, finished: bool) -> Outcome:
    """Return an outcome with one history row: done, or due again in a year."""
    schedule = claim.schedule
    later = NOW + timedelta(days=365)
    run = Run(
        occurrence_id=f"{schedule.id}@{claim.token}",
        schedule_id=schedule.id,
        task_name=schedule.task_name,
        scheduled_for=NOW,
        status="sent",
        recorded_at=NOW,
    )
    return Outcome(claim=claim, scheduled_for=later, next_run_at=later, run_count=1, finished=finished, runs=(run,))


async def claim_at_sizes(make: Callable[..., ScheduleSource], sizes: list[int]) -> list[str]:
    source = make()
    await source.startup()
    medians: list[float] = []
    stored, now = 0, NOW
    await put(source, schedules(100, due=NOW))
    for size in sizes:
        while stored < size - 100:
            number = min(20_000, size - 100 - stored)
            await put(source, schedules(number, due=None))
            stored += number
        times = []
        for _ in range(REPEATS + 2):
            now += LEASE  # the leases of the last round have ended
            begin = time.perf_counter()
            claims = await source.store.claim(now, claimant="bench", lease=LEASE, limit=100)
            times.append(time.perf_counter() - begin)
            assert len(claims) == 100
        medians.append(statistics.median(times[2:]))
    await source.shutdown()
    shown = ", ".join(f"{size:,}: {median * 1000:.1f} ms" for size, median in zip(sizes, medians, strict=True))
    return [f"claim of 100 due, stored {shown}; ratio to the smallest {max(medians) / medians[0]:.2f}"]


async def add(make: Callable[..., ScheduleSource]) -> list[str]:
    source = make()
    await source.startup()
    tasks = [ScheduledTask(task_name="t", labels={}, args=[index], kwargs={}, cron="0 7 * * *") for index in range(10_000)]
    begin = time.perf_counter()
    await source.add_schedules(tasks)
    took = time.perf_counter() - begin
    await source.shutdown()
    return [f"add 10,000 through add_schedules: {took:.2f} s"]


async def cycle(make: Callable[..., ScheduleSource]) -> list[str]:
    lines = []
    for kind, finished in (("recurring", False), ("one-off", True)):
        source = make()
        await source.startup()
        await put(source, schedules(20_000, due=None))
        await put(source, schedules(5_000, due=NOW))
        begin = time.perf_counter()
        done = 0
        while claims := await source.store.claim(NOW, claimant="bench", lease=LEASE, limit=BATCH):
            await source.store.settle([moved(claim, finished=finished) for claim in claims])
            done += len(claims)
        took = time.perf_counter() - begin
        assert done == 5_000, done
        lines.append(f"claim + settle, {kind}, batches of {BATCH}, history on: {done / took:,.0f}/s")
        await source.shutdown()
    return lines


async def burst(make: Callable[..., ScheduleSource], number: int = 5_000) -> list[str]:
    broker = NullBroker()

    @broker.task("bench:task")
    async def task(*_args: Any, **_kwargs: Any) -> None: ...

    ratios, rates = [], []
    for _ in range(3):
        source = make()
        await source.startup()
        begin = time.perf_counter()
        for index in range(number):
            await task.kiq(index, "two", three=3)
        bare = number / (time.perf_counter() - begin)
        broker.sent.clear()
        due = await source.clock.now() + timedelta(seconds=4)
        fields = {"task_name": "bench:task", "labels": {}, "args": [1, "two"], "kwargs": {"three": 3}, "time": due}
        await source.add_schedules(ScheduledTask(**fields) for _ in range(number))
        scheduler = DurableScheduler(broker, [make()])
        await scheduler.start()
        while len(broker.sent) < number or scheduler.health().sources[0].held:
            await asyncio.sleep(0.002)
        took = time.perf_counter() - broker.sent[0]
        await scheduler.stop()
        assert len(broker.sent) == number
        rates.append(number / took)
        ratios.append(number / took / bare)
        await source.shutdown()
    rate, ratio = statistics.median(rates), statistics.median(ratios)
    return [f"burst of {number:,} one-offs, no-op broker: {rate:,.0f}/s = {ratio:.2f} × bare kiq"]


async def pick_up(make: Callable[..., ScheduleSource], number: int = 100) -> list[str]:
    broker = NullBroker()
    source = make()
    await source.startup()
    scheduler = DurableScheduler(broker, [make()])
    await scheduler.start()
    await asyncio.sleep(0.5)
    lags = []
    for index in range(number):
        begin = time.perf_counter()
        fields = {"task_name": "t", "labels": {}, "args": [], "kwargs": {}, "schedule_id": f"now-{index}"}
        await source.add_schedule(ScheduledTask(**fields, time=await source.clock.now()))
        while len(broker.sent) <= index:
            await asyncio.sleep(0.0005)
        lags.append(broker.sent[index] - begin)
        await asyncio.sleep(0.02)
    await scheduler.stop()
    await source.shutdown()
    lags.sort()
    median, worst = statistics.median(lags), lags[int(number * 0.99) - 1]
    return [f"pick-up of a schedule added for now: median {median * 1000:.1f} ms, p99 {worst * 1000:.1f} ms"]


async def measure(backend: str, sizes: list[int], only: set[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        parts: dict[str, Callable[[Callable[..., ScheduleSource]], Any]] = {
            "claim": lambda make: claim_at_sizes(make, sizes),
            "add": add,
            "cycle": cycle,
            "burst": burst,
            "pick-up": pick_up,
        }
        for name, part in parts.items():
            if only and name not in only:
                continue
            try:
                for line in await part(source_factory(backend, Path(directory))):
                    print(f"{backend}: {line}", flush=True)
            except ServerUnavailable as reason:
                print(f"{backend}: not run ({reason})", flush=True)
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=sorted(BACKENDS), help="only this one; may be repeated")
    parser.add_argument("--only", action="append", default=[], help="only this part: claim, add, cycle, burst, pick-up")
    parser.add_argument("--million", action="store_true", help="claim among 1,000,000 too (minutes)")
    arguments = parser.parse_args()
    sizes = [100, 100_000, *([1_000_000] if arguments.million else [])]
    for backend in arguments.backend or ["sqlite", "redis", "postgres", "mongo"]:
        asyncio.run(measure(backend, sizes, set(arguments.only)))


if __name__ == "__main__":
    main()
