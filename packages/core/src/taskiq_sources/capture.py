"""What a kicker would store, taken from it through taskiq's public API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import taskiq
from taskiq.decor import AsyncTaskiqDecoratedTask
from taskiq.kicker import AsyncKicker

from taskiq_sources.errors import ScheduleValidationError

_ANY_TIME = datetime(1970, 1, 1, tzinfo=timezone.utc)


class _Capture(taskiq.ScheduleSource):
    """A source that keeps what it is given: the definition as taskiq itself prepares it (labels, arguments, ids)."""

    captured: taskiq.ScheduledTask

    async def get_schedules(self) -> list[taskiq.ScheduledTask]:
        return []

    async def add_schedule(self, schedule: taskiq.ScheduledTask) -> None:
        self.captured = schedule


def kicker_of(task: object) -> AsyncKicker[..., Any]:
    """Return what sends a task.

    Raises:
        ScheduleValidationError: It is neither a task nor a kicker.
    """
    kicker = task.kicker() if isinstance(task, AsyncTaskiqDecoratedTask) else task
    if not isinstance(kicker, AsyncKicker):
        raise ScheduleValidationError("task", task, "use a task, made by @broker.task, or its kicker()")
    return kicker


async def captured_task(kicker: AsyncKicker[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> taskiq.ScheduledTask:
    """Return the task as taskiq would schedule it; its time means nothing."""
    capture = _Capture()
    # All by position, each is prepared alike: a keyword of the task may be the name of one of taskiq's own.
    await kicker.schedule_by_time(capture, _ANY_TIME, *args, *kwargs.values())
    captured, prepared = capture.captured, capture.captured.args
    captured.args, captured.kwargs = prepared[: len(args)], dict(zip(kwargs, prepared[len(args) :], strict=True))
    return captured
