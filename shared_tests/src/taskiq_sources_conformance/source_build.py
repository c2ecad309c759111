"""Builders and small helpers that the source rules are written with.

All tests live in virtual time: `NOW` is what the clock shows at first, and an occurrence is "sent" the way an engine does it, by
claiming it at the source's desk and settling it as sent.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from taskiq import AsyncTaskiqDecoratedTask

from taskiq_sources import Run, ScheduledTask, ScheduleInfo, ScheduleSource, StoredSchedule, occurrences
from taskiq_sources.clock import ManualClock
from taskiq_sources.models import RunQuery, ScheduleQuery
from taskiq_sources.occurrences import Dispatch
from taskiq_sources_conformance.build import NOW
from taskiq_sources_conformance.virtual import RecordingBroker

__all__ = ["NOW"]

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

#: The last full hour before `NOW`, and what a cron counts from.
NOON = NOW.replace(microsecond=0)

#: Written down here once more, on purpose: a message that is sent again after an upgrade has to carry the same id.
_TASK_ID_NAMESPACE = uuid.UUID("6f1b2f0e-6a0b-5d6c-9e55-2b7c1a5d9f43")

_MOST_CLAIMS = 20_000  # no rule sends as many: a source that never comes to rest is found out


@dataclass(frozen=True)
class App:
    """An application: a broker and its tasks.

    Attributes:
        broker: Writes down what it is given.
        report: The task ``app:report``; takes anything, and has a label.
    """

    broker: RecordingBroker
    report: AsyncTaskiqDecoratedTask[..., Any]


def make_app(clock: ManualClock) -> App:
    """Return a new application."""
    broker = RecordingBroker(clock)

    async def report(*args: object, **kwargs: object) -> None:
        del args, kwargs

    return App(broker, broker.register_task(report, task_name="app:report", queue="slow"))


def scheduled(schedule_id: str = "a", **fields: Any) -> ScheduledTask:
    """Return a definition; without a trigger among `fields` it is a one-off that is due at `NOW`."""
    values: dict[str, Any] = {"task_name": "app:report", "labels": {}, "args": [], "kwargs": {}, **fields}
    if not {"cron", "interval", "time"} & values.keys():
        values["time"] = NOW
    return ScheduledTask(schedule_id=schedule_id, **values)


async def add(source: ScheduleSource, schedule_id: str = "a", **fields: Any) -> StoredSchedule:
    """Store `scheduled(...)` and return how it stands."""
    await source.add_schedule(scheduled(schedule_id, **fields))
    return await state(source, schedule_id)


async def info(source: ScheduleSource, schedule_id: str = "a") -> ScheduleInfo:
    """Return a schedule, which has to exist."""
    found = await source.get_schedule(schedule_id)
    assert found is not None, f"schedule {schedule_id!r} does not exist"
    return found


async def state(source: ScheduleSource, schedule_id: str = "a") -> StoredSchedule:
    """Return how a schedule stands."""
    return (await info(source, schedule_id)).state


async def definition(source: ScheduleSource, schedule_id: str = "a") -> ScheduledTask:
    """Return what is stored of a schedule."""
    found = await info(source, schedule_id)
    assert found.task is not None, f"schedule {schedule_id!r} cannot be read: {found.error}"
    return found.task


async def ids(source: ScheduleSource, **filters: Any) -> list[str]:
    """Return the ids that `iter_schedules` yields."""
    return [found.state.id async for found in source.iter_schedules(**filters)]


async def rows(source: ScheduleSource, schedule_id: str | None = None, **filters: Any) -> list[Run]:
    """Return the history rows that `runs` yields."""
    return [row async for row in source.runs(schedule_id, **filters)]


async def take(source: ScheduleSource, **arguments: Any) -> list[Dispatch]:
    """Claim what is due."""
    return await source.desk.take(**{"limit": 1000, **arguments})


async def take_one(source: ScheduleSource, schedule_id: str = "a") -> Dispatch:
    """Claim the pending occurrence of one schedule, which has to be due."""
    taken = await take(source, ids=[schedule_id])
    assert [dispatch.claim.schedule.id for dispatch in taken] == [schedule_id], f"nothing of schedule {schedule_id!r} is due"
    return taken[0]


async def send_due(source: ScheduleSource) -> list[Dispatch]:
    """Send all that is due, as an engine does, and return what was sent in its order."""
    sent: list[Dispatch] = []
    for _ in range(_MOST_CLAIMS):
        due = await source.store.next_due(await source.clock.now())
        if due is None or due > await source.clock.now():
            return sent
        taken = await take(source)
        now = await source.clock.now()
        await source.desk.settle([occurrences.sent(dispatch, now) for dispatch in taken])
        sent += taken
    raise AssertionError(f"the source is still not at rest after {_MOST_CLAIMS} claims")


async def play(source: ScheduleSource, clock: ManualClock, until: datetime) -> list[Dispatch]:
    """Let time pass up to `until`, sending each occurrence at the instant it becomes due; return what was sent."""
    sent = await send_due(source)
    for _ in range(_MOST_CLAIMS):
        due = await source.store.next_due(await clock.now())
        if due is None or due > until:
            clock.set(until)
            return sent
        clock.set(due)
        sent += await send_due(source)
    raise AssertionError(f"the source is still not at rest after {_MOST_CLAIMS} instants")


def nominal(sent: list[Dispatch]) -> list[datetime]:
    """Return the nominal times of what was sent."""
    return [dispatch.scheduled_for for dispatch in sent]


async def snapshot(source: ScheduleSource) -> tuple[list[StoredSchedule], list[Run]]:
    """Return all that is stored, as the store has it."""
    return (
        await source.store.page(ScheduleQuery(), limit=100_000),
        await source.store.runs(RunQuery(), limit=100_000),
    )


def occurrence(schedule_id: str, scheduled_for: datetime) -> str:
    """Return the id that an occurrence has to have, put together independently of the code under test."""
    utc = scheduled_for.astimezone(timezone.utc)
    return f"{schedule_id}@{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


def expected_task_id(schedule_id: str, scheduled_for: datetime) -> str:
    """Return the ``task_id`` that an occurrence has to have."""
    return str(uuid.uuid5(_TASK_ID_NAMESPACE, occurrence(schedule_id, scheduled_for)))
