"""Edits of a stored schedule as pure functions: what ``resume``, ``reschedule`` and ``run_now`` write, and how a schedule ends.

No store is called.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from typing import TypedDict

from pydantic import ValidationError

from taskiq_sources import codec, definitions
from taskiq_sources.clock import MILLISECOND
from taskiq_sources.codec import Definition
from taskiq_sources.continuing import begun, continued, is_being_sent, is_in_flight
from taskiq_sources.definitions import Defaults
from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.models import ScheduleChanges, StoredSchedule
from taskiq_sources.options import ScheduleOptions
from taskiq_sources.tasks import ScheduledTask


class Triggers(TypedDict):
    """The triggers of a schedule, as users give them."""

    cron: str | None
    cron_offset: str | timedelta | tzinfo | None
    interval: int | timedelta | None
    time: datetime | None


def resumed(stored: StoredSchedule, definition: Definition, now: datetime, *, catch_up: bool) -> ScheduleChanges:
    """Return what lets a schedule run again; without `catch_up`, from the first occurrence that is not past.

    An occurrence that stays pending keeps its attempts: it may have been sent before, and is sent as the same message, or, at
    most once, never again.
    """
    changes = ScheduleChanges(updated_at=now, paused=False, quarantined=False)
    was_only_paused = stored.paused and not stored.quarantined
    if catch_up or not was_only_paused or stored.scheduled_for is None or stored.scheduled_for >= now:
        return changes
    timetable = definitions.timetable_of(definition, stored.anchor)
    if definitions.due_at(definition, timetable, stored.scheduled_for) >= now:
        return changes  # its jitter has not passed: it is neither of the pause nor overdue
    if is_being_sent(stored, now):  # its settle moves the schedule on, and counts the run
        return changes
    following = timetable.next_after(now - MILLISECOND)
    if following is None and definition.is_one_off:
        return changes
    if following is None:  # its window closed during the pause
        return replace(changes, scheduled_for=None, next_run_at=None, coalesced=1, attempt=0, last_error=None)
    due = definitions.due_at(definition, timetable, following)
    return replace(changes, scheduled_for=following, next_run_at=due, coalesced=1, attempt=0, last_error=None)


def rescheduled(
    stored: StoredSchedule,
    definition: Definition,
    now: datetime,
    triggers: Triggers,
    options: ScheduleOptions | None,
    defaults: Defaults,
) -> ScheduleChanges:
    """Return what gives a schedule other triggers, as if it were created now, or other options, with which it goes on.

    Raises:
        ScheduleValidationError: A trigger is refused, or nothing is to be changed.
    """
    given = {name for name, value in triggers.items() if value is not None}
    if not given and options is None:
        raise ScheduleValidationError(
            "triggers", None, "give at least one of cron, interval, time and options", schedule_id=stored.id
        )
    wanted: dict[str, object] = dict(triggers)
    if given <= {"cron_offset"}:
        wanted |= {"cron": definition.cron, "interval": definition.interval, "time": definition.time}
    if "cron_offset" in given and wanted["cron"] is None:
        problem = "the schedule has no cron that it would move; give a cron too, or leave it out"
        raise ScheduleValidationError("cron_offset", triggers["cron_offset"], problem, schedule_id=stored.id)
    if "cron_offset" not in given and wanted["cron"] is not None:  # a cron keeps its zone
        wanted["cron_offset"] = definition.cron_offset
    try:
        task = ScheduledTask.model_validate({**dict(definition.task), **wanted})
    except ValidationError as error:
        raise definitions.as_validation_error(error, stored.id) from error
    merged = definition.options if options is None else ScheduleOptions.from_label(options).over(definition.options)
    edited = definitions.redefine(definition, task, merged, defaults)
    row = definitions.store_form(edited, now, defaults)
    return begun(row, edited, stored, definition, now) if given else continued(row, edited, stored, definition, now)


def ended(stored: StoredSchedule, definition: Definition, now: datetime, defaults: Defaults) -> ScheduleChanges | None:
    """Return what lets a schedule send what is late, by its own definition, and then end; None if it comes to that by itself.

    Nothing is said of *when* while something is late: it may be being sent, and would be sent again, or lost.
    """
    pending, end_at = stored.scheduled_for, definition.options.end_at
    if pending is None or (end_at is not None and end_at <= now):
        return None
    is_late = pending <= now or is_in_flight(stored, now)
    ends, begins = max(pending, now) if is_late else now, definition.options.start_at
    window = {"end_at": ends, "start_at": None if begins is None or begins > ends else begins}
    # Also where nothing is late: by its document it is told that it was ended, if the former release declares it once more.
    document = codec.encode(replace(definition, options=definition.options.model_copy(update=window)), defaults.serializer)
    changes = ScheduleChanges(updated_at=now, document=document)
    if is_late:
        return changes
    return replace(changes, scheduled_for=None, next_run_at=None, coalesced=1, attempt=0, last_error=None)


def manual_id(task_id: str) -> str:
    """Return the id of the one-off that is a manual run, for the ``task_id`` of its message: who has that can delete it."""
    return f"manual-{task_id}"


def manual_run(
    stored: StoredSchedule, definition: Definition, now: datetime, defaults: Defaults, *, task_id: str
) -> StoredSchedule:
    """Return the one-off that runs a schedule's task once, now. It stands by itself, and remembers whose run it is."""
    options = ScheduleOptions(delivery=definition.options.delivery)
    manual = replace(
        definition,
        schedule_id=manual_id(task_id),
        cron=None,
        cron_offset=None,
        interval=None,
        time=now,
        task_id=task_id,
        options=options,
        owner=None,  # whoever prunes what they declared must not prune a run that somebody asked for
        manual_of=definition.manual_of or stored.id,
    )
    return definitions.store_form(manual, now, defaults)
