"""The application of the demonstration: an ordinary taskiq application whose schedules live in an SQLite file.

``taskiq scheduler demo_app:scheduler`` runs its scheduler, in as many processes as one likes; ``python demo_app.py SECONDS`` adds
the schedules. ``demo.py`` starts both.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from taskiq import (
    Context,
    InMemoryBroker,
    TaskiqDepends,
    TaskiqEvents,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqScheduler,
    TaskiqState,
)

from taskiq_sources import ScheduleOptions
from taskiq_sources.clock import system_now
from taskiq_sources_sqlite import SQLiteScheduleSource

DIRECTORY = Path(os.environ["DEMO_DIRECTORY"])
NAME = os.environ["DEMO_NAME"]

INTERVAL = 3  # seconds
CRON = "*/5 * * * * *"  # six fields: the first one is the second
MARGIN = timedelta(seconds=3)  # between adding the schedules and the first occurrence
ONE_OFFS = (1.0, 4.0, 5.5, 7.0, 7.0, 7.0, 7.0, 10.0, 12.5, 12.5)  # seconds after START


class SlowNetwork(TaskiqMiddleware):
    """A message takes a moment to the broker, so that a SIGKILL can hit a scheduler in the middle of a send."""

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        await asyncio.sleep(0.3)
        return message


# This broker executes tasks in the process that sends them, before it acknowledges the message: os.getpid() is the scheduler's.
broker = InMemoryBroker(await_inplace=True).with_middlewares(SlowNetwork())

source = SQLiteScheduleSource(
    DIRECTORY / "schedules.db",
    claimant=NAME,
    lease=timedelta(seconds=7),  # 30 s by default: who watches does not want to wait for that
    options=ScheduleOptions(misfire="fire_all"),  # every occurrence counts, the late ones too
)
scheduler = TaskiqScheduler(broker, sources=[source])


@broker.task(task_name="demo:record")
async def record(context: Annotated[Context, TaskiqDepends()]) -> None:
    """Write down that, when and by whom this was executed."""
    labels = context.message.labels
    write({"executed": context.message.task_id, "schedule_id": labels["schedule_id"]})


@broker.on_event(TaskiqEvents.CLIENT_STARTUP)
async def started(_state: TaskiqState) -> None:
    write({"started": NAME})


def write(event: dict[str, str]) -> None:
    """Append a line to the log that all processes share; one write, so lines never mix."""
    line = json.dumps({**event, "at": system_now().isoformat(), "by": NAME, "pid": os.getpid()})
    descriptor = os.open(DIRECTORY / "log.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


async def add_schedules(duration: timedelta) -> None:
    """Add all schedules through taskiq's own API. The label carries what that API has no arguments for."""
    await source.startup()
    start = (system_now() + MARGIN).replace(microsecond=0)
    window = ScheduleOptions(start_at=start, end_at=start + duration)
    bounded = record.kicker().with_labels(schedule_options=window)
    await bounded.with_schedule_id("interval").schedule_by_interval(source, INTERVAL)
    await bounded.with_schedule_id("cron").schedule_by_cron(source, CRON)
    for number, seconds in enumerate(ONE_OFFS, start=1):
        one_off = record.kicker().with_schedule_id(f"one-off-{number}")
        await one_off.schedule_by_time(source, start + timedelta(seconds=seconds))
    if system_now() >= start:  # occurrences before a schedule was stored do not exist: nothing could be concluded
        sys.exit(f"this machine took more than {MARGIN.seconds - 1} s to store the schedules; run it again when it is less busy")
    write({"start": start.isoformat()})
    await source.shutdown()


if __name__ == "__main__":
    asyncio.run(add_schedules(timedelta(seconds=float(sys.argv[1]))))
