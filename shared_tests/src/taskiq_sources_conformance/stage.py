"""`Stage`: what the rules about taskiq's own loop play with. The rules are in :mod:`taskiq_sources_conformance.stock`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import taskiq
from taskiq import TaskiqScheduler

from taskiq_sources import ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.virtual import RecordingBroker, VirtualTime

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
