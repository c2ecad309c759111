"""What a source returns of a schedule, and the keyword arguments that all sources take. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta, tzinfo
from typing import TypedDict

from taskiq.abc.serializer import TaskiqSerializer

from taskiq_sources.clock import Clock
from taskiq_sources.models import StoredSchedule
from taskiq_sources.options import ScheduleOptions
from taskiq_sources.tasks import ScheduledTask


class SourceOptions(TypedDict, total=False):
    """Keyword arguments that every source takes; `ScheduleSource` says what they mean."""

    options: ScheduleOptions | None
    default_timezone: str | timedelta | tzinfo
    serializer: TaskiqSerializer | None
    lease: timedelta
    look_ahead: timedelta | None
    stale_for: timedelta
    run_retention: timedelta
    max_run_rows: int
    clock: Clock | None
    claimant: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleInfo:
    """A schedule as it stands: its definition and how far it has come.

    Attributes:
        state: What the store keeps: due times, counters, errors, who holds it.
        task: The definition; None if this release cannot read it.
        error: Why it cannot be read.
        manual_of: Of a pending run that `run_now` has asked for: the id of the schedule that is run.
    """

    state: StoredSchedule
    task: ScheduledTask | None
    error: str | None = None
    manual_of: str | None = None
