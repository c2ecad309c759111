"""The same burst through taskiq's own loop and the schedule sources of others, beside the bare ``kiq`` of the same run.

What they do differs: they keep no history, hold no lease, and send everything again with a second scheduler.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import taskiq
from common import NullBroker
from engine import BURST, bare_rate
from taskiq import TaskiqScheduler
from taskiq.cli.scheduler.run import SchedulerLoop

from taskiq_sources_conformance.servers import ServerUnavailable, url_of


def redis_list_source(_broker: NullBroker) -> taskiq.ScheduleSource:
    """Return taskiq-redis' source."""
    from taskiq_redis import ListRedisScheduleSource

    return ListRedisScheduleSource(url_of("redis"), prefix=uuid.uuid4().hex)


def postgres_source(broker: NullBroker) -> taskiq.ScheduleSource:
    """Return taskiq-postgres' source."""
    from taskiq_pg.asyncpg import AsyncpgScheduleSource

    return AsyncpgScheduleSource(broker, url_of("postgres"), f"bench_{uuid.uuid4().hex[:8]}")


async def burst(make: Callable[[NullBroker], taskiq.ScheduleSource]) -> tuple[float, float]:
    """Return the rate of the burst, and that of the bare ``kiq`` in the same run."""
    broker = NullBroker()

    @broker.task("bench:task")
    async def task(*_args: Any, **_kwargs: Any) -> None: ...

    bare = await bare_rate(task.kiq, BURST)
    broker.sent.clear()
    source = make(broker)
    await source.startup()
    fields = {"task_name": "bench:task", "labels": {}, "args": [1, "two"], "kwargs": {"three": 3}}
    due = datetime.now(timezone.utc) + timedelta(seconds=10)
    for _ in range(BURST):
        await source.add_schedule(taskiq.ScheduledTask(**fields, schedule_id=str(uuid.uuid4()), time=due))
    loop = asyncio.ensure_future(SchedulerLoop(TaskiqScheduler(broker, [source])).run())
    try:
        while not broker.sent:  # the processor stays awake, as in `engine.burst`
            await asyncio.sleep(0)
        while len(broker.sent) < BURST:
            await asyncio.sleep(0.01)
        took = max(time.perf_counter(), broker.sent[-1]) - broker.sent[0]
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await source.shutdown()
    return BURST / took, bare


def main() -> None:
    """Print the figures."""
    sources = {"stock loop + taskiq-redis list source": redis_list_source, "stock loop + taskiq-postgres": postgres_source}
    for name, make in sources.items():
        try:
            results = [asyncio.run(burst(make)) for _ in range(3)]
        except (ServerUnavailable, ModuleNotFoundError) as reason:
            print(f"{name}: not run ({reason})", flush=True)
            continue
        rate = statistics.median(rate for rate, _ in results)
        ratio = statistics.median(rate / bare for rate, bare in results)
        print(f"{name}: burst of {BURST:,} one-offs: {rate:,.0f}/s = {ratio:.2f} x bare kiq, to the last send", flush=True)
