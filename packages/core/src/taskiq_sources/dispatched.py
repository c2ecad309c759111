"""`DispatchedTask`: what the engine hands to ``on_ready``. It is claimed already, so the source's hooks only take note."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from pydantic import Field
from taskiq.exceptions import ScheduledTaskCancelledError

from taskiq_sources.clock import EPOCH
from taskiq_sources.occurrences import Dispatch
from taskiq_sources.tasks import ScheduledTask


class DispatchedTask(ScheduledTask):
    """One claimed occurrence, ready to be sent.

    Args:
        scheduled_for: Nominal time of the occurrence, aware UTC.
        was_sent: Set by the source's ``post_send``: ``on_ready`` returns quietly when the application cancels a send.
        failure: What sending it has raised: an ``on_ready`` around ours may keep it to itself.
    """

    scheduled_for: datetime = EPOCH
    was_sent: bool = Field(default=False, exclude=True)
    failure: Any = Field(default=None, exclude=True)  # an exception, which pydantic does not know

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Take note of what sending it raises, unless that calls it off."""
        self.failure = None
        try:
            yield
        except ScheduledTaskCancelledError:
            raise
        except BaseException as error:  # whoever makes a time-out of a cancellation may keep that to itself, too
            self.failure = error if isinstance(error, Exception) else TimeoutError("the send was cut off")
            raise

    def result(self) -> bool:
        """Return whether it was sent, and raise what kept it from that, if anything did."""
        if self.failure is not None and not self.was_sent:
            raise self.failure
        return self.was_sent


_BLANK = DispatchedTask(task_name="", labels={}, args=[], kwargs={}, schedule_id="", time=EPOCH)


def dispatched_task(dispatch: Dispatch) -> DispatchedTask:
    """Return what to hand to ``on_ready``: a copy of a valid model, because validating again would double the cost of a send."""
    definition = dispatch.definition
    return _BLANK.model_copy(
        update={
            "task_name": definition.task_name,
            "labels": definition.labels,
            "args": definition.args,
            "kwargs": definition.kwargs,
            "task_id": dispatch.task_id,
            "schedule_id": dispatch.schedule_id,
            "cron": definition.cron,
            "cron_offset": definition.cron_offset,
            "interval": definition.interval,
            "time": definition.time,
            "owner": definition.owner,
            "schedule_options": definition.options,
            "scheduled_for": dispatch.scheduled_for,
        },
    )
