"""Benchmarks of stores: what a claim costs among many schedules, adding, claims and settles in bulk."""

from __future__ import annotations

import statistics
import time
from datetime import timedelta
from pathlib import Path

from common import NOW, new_place, put, rows

from taskiq_sources import ScheduledTask
from taskiq_sources.models import Claim, Outcome, Run

LEASE = timedelta(seconds=30)
BATCH = 500
REPEATS = 15


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


async def claim(backend: str, directory: Path, sizes: list[int]) -> str:
    """Median time to claim 100 due schedules, by how many are stored."""
    source = new_place(backend, directory).make()
    await source.startup()
    medians: list[float] = []
    stored, now = 100, NOW
    await put(source, rows(100, due=NOW))
    for size in sizes:
        while stored < size:
            number = min(20_000, size - stored)
            await put(source, rows(number, due=None))
            stored += number
        times = []
        for _ in range(REPEATS):
            now += LEASE  # the leases of the last round have ended
            begin = time.perf_counter()
            claims = await source.store.claim(now, claimant="bench", lease=LEASE, limit=100)
            times.append(time.perf_counter() - begin)
            assert len(claims) == 100
        medians.append(statistics.median(times))
    await source.shutdown()
    shown = ", ".join(f"{size:,}: {median * 1000:.2f} ms" for size, median in zip(sizes, medians, strict=True))
    last = medians[-1] / medians[-2]
    return f"claim of 100 due, stored {shown}; last ratio {last:.2f}, greatest to smallest {max(medians) / min(medians):.2f}"


async def add(backend: str, directory: Path) -> str:
    """10,000 crons through ``ScheduleSource.add_schedules``."""
    source = new_place(backend, directory).make()
    await source.startup()
    tasks = [ScheduledTask(task_name="t", labels={}, args=[index], kwargs={}, cron="0 7 * * *") for index in range(10_000)]
    begin = time.perf_counter()
    await source.add_schedules(tasks)
    took = time.perf_counter() - begin
    await source.shutdown()
    return f"add 10,000 crons through add_schedules: {len(tasks) / took:,.0f}/s"


async def cycle(backend: str, directory: Path, *, finished: bool) -> str:
    """Claim and settle in batches, history on, among 20,000 that are not due."""
    source = new_place(backend, directory).make()
    await source.startup()
    await put(source, rows(20_000, due=None))
    await put(source, rows(10_000, due=NOW))
    rates = []
    while True:
        begin = time.perf_counter()
        claims = await source.store.claim(NOW, claimant="bench", lease=LEASE, limit=BATCH)
        if not claims:
            break
        outcomes = [moved(claim, finished=finished) for claim in claims]
        await source.store.settle(outcomes)
        rates.append(len(claims) / (time.perf_counter() - begin))
    await source.shutdown()
    kind = "one-offs" if finished else "recurring"
    return f"claim + settle of {kind}, batches of {BATCH}, history on: {statistics.median(rates):,.0f}/s"
