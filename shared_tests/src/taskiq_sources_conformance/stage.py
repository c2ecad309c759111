"""`Stage`: what the rules about taskiq's own loop play with. The rules are in :mod:`taskiq_sources_conformance.stock`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias

import taskiq
from taskiq import TaskiqScheduler

from taskiq_sources import ScheduledTask, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.virtual import RecordingBroker, VirtualTime

NOON = datetime(2030, 5, 14, 12, 0, 0, 500_000, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
LATENESS = timedelta(seconds=1)  # the loop ticks once a second

MakeSource: TypeAlias = Callable[..., ScheduleSource]


@dataclass
class Stage:
    """What a test plays with.

    Attributes:
        make_source: Makes another source on the same data.
        clock: The clock of all sources; moved by `world`.
        broker: What the schedulers send to.
        world: Runs scheduler loops in virtual time.
        stack: Shuts everything down in the end.
        source: The application's own source, as in a web process.
    """

    make_source: MakeSource
    clock: ManualClock
    broker: RecordingBroker
    world: VirtualTime
    stack: AsyncExitStack

    def __post_init__(self) -> None:
        self.source = self.another_source()

    def another_source(self, **options: Any) -> ScheduleSource:
        """Return one more source on the same data."""
        source = self.make_source(clock=self.clock, **options)
        self.stack.push_async_callback(source.shutdown)
        return source

    def scheduler(self, **options: Any) -> TaskiqScheduler:
        """Return a stock scheduler with a source of its own, made with `options`."""
        return TaskiqScheduler(self.broker, [self.another_source(**options)])


def message_of(entry: taskiq.ScheduledTask) -> taskiq.TaskiqMessage:
    """Return the message that taskiq would make of an entry."""
    return taskiq.TaskiqMessage(
        task_id=entry.task_id or "",
        task_name=entry.task_name,
        labels={**entry.labels, "schedule_id": entry.schedule_id},
        args=entry.args,
        kwargs=entry.kwargs,
    )


def fields_of(schedule_id: str, **fields: Any) -> dict[str, Any]:
    """Return the fields of a task that is scheduled, be it one of ours or one of taskiq's own."""
    return {"task_name": "suite:task", "labels": {}, "args": [], "kwargs": {}, "schedule_id": schedule_id, **fields}


def a_task(schedule_id: str, **fields: Any) -> ScheduledTask:
    """Return a task that is scheduled."""
    return ScheduledTask(**fields_of(schedule_id, **fields))


def assert_on_time(actual: list[datetime], nominal: list[datetime]) -> None:
    """Each nominal time was sent once, at most a tick late, at most the accepted 1.5 s early."""
    assert len(actual) == len(nominal), (actual, nominal)
    lags = [sent - due for sent, due in zip(sorted(actual), sorted(nominal), strict=True)]
    assert all(-timedelta(seconds=1.5) <= lag <= LATENESS for lag in lags), lags
    assert all(later > earlier for earlier, later in itertools.pairwise(sorted(actual))) or len(set(actual)) == len(actual)
