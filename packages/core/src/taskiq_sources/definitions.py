"""From what users write to what stores keep: validation, default resolution, the first occurrence. Pure; no store is called."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

import taskiq
from pydantic import ValidationError
from taskiq.abc.serializer import TaskiqSerializer

from taskiq_sources import codec
from taskiq_sources.clock import OUT_OF_RANGE, floor_ms, to_ms
from taskiq_sources.codec import Definition
from taskiq_sources.errors import ScheduleDecodeError, ScheduleValidationError
from taskiq_sources.models import StoredSchedule
from taskiq_sources.options import OPTIONS_LABEL, ScheduleOptions
from taskiq_sources.tasks import ScheduledTask
from taskiq_sources.triggers import Timetable, Zone, compile_cron, jittered, parse_zone

MAX_ID_LENGTH = 255
MAX_TASK_NAME_LENGTH = 512
MAX_OWNER_LENGTH = 255
MAX_TASK_ID_LENGTH = 255

_LONGEST_JITTER = timedelta(days=366)

BEGINNING = datetime.min.replace(tzinfo=timezone.utc)  # of all instants

_END_OTHERWISE = "give a later one, or end the schedule with delete_schedule"
_NO_TRIGGER = "a schedule needs at least one of cron, interval and time"

#: What the stock loop is given as the id of a single occurrence (`taskiq_sources.stock`). Refused as an id, so never ambiguous.
HANDED_OUT_ID = re.compile(r"(?P<id>.+)@\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z~[0-9a-z]+", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a source fills in where a schedule says nothing, and how it stores arguments."""

    options: ScheduleOptions = ScheduleOptions()
    timezone: Zone = "UTC"
    serializer: TaskiqSerializer | None = None


def define(task: taskiq.ScheduledTask, defaults: Defaults) -> Definition:
    """Validate what a user wrote and resolve all defaults.

    Raises:
        ScheduleValidationError: Something in it is refused; the error names schedule, field, value and fix.
    """
    try:
        check_id(task.schedule_id)
        check_name("task_name", task.task_name, MAX_TASK_NAME_LENGTH)
        own = task if isinstance(task, ScheduledTask) else _extended(task)
        if own.task_id is not None:
            check_name("task_id", own.task_id, MAX_TASK_ID_LENGTH)
        if own.owner is not None:
            check_name("owner", own.owner, MAX_OWNER_LENGTH, may_be_empty=True)
        if own.cron is None and own.interval is None and own.time is None:
            raise ScheduleValidationError("triggers", None, _NO_TRIGGER)
        labels = dict(own.labels)
        labelled = ScheduleOptions.from_label(labels.pop(OPTIONS_LABEL)) if OPTIONS_LABEL in labels else ScheduleOptions()
        options = (own.schedule_options or ScheduleOptions()).over(labelled).over(defaults.options)
        offset = None if own.cron_offset is None else parse_zone(own.cron_offset, field="cron_offset")
        if options.jitter > _LONGEST_JITTER:
            raise ScheduleValidationError("jitter", options.jitter, f"{_LONGEST_JITTER.days} days is the most")
        if own.cron is not None:
            compile_cron(own.cron, defaults.timezone if offset is None else offset, options.dst)
        return Definition(
            schedule_id=own.schedule_id,
            task_name=own.task_name,
            labels=labels,
            args=own.args,
            kwargs=own.kwargs,
            task_id=own.task_id,
            cron=own.cron,
            cron_offset=offset,
            interval=_checked_interval(own.interval),
            time=_utc(own.time),
            owner=own.owner,
            options=options,
            timezone=defaults.timezone,
        )
    except ScheduleValidationError as error:
        raise error.for_schedule(task.schedule_id) from error


def is_over(definition: Definition, now: datetime) -> bool:
    """Whether a definition has had occurrences, all before `now` because of its ``end_at``: it has run, and is declared still."""
    end_at = definition.options.end_at
    return end_at is not None and end_at < now and _is_left_without(definition, now) and _has_had(definition, end_at)


def may_be_over(definition: Definition, now: datetime) -> bool:
    """Whether none of its occurrences is left before its ``end_at``: it has run by then, or is a mistake."""
    end_at = definition.options.end_at
    return end_at is not None and _is_left_without(definition, now) and (end_at < now or _has_had(definition, end_at))


def _is_left_without(definition: Definition, now: datetime) -> bool:
    return timetable_of(definition, now).first(now) is None  # a past time counts


def _has_had(definition: Definition, end_at: datetime) -> bool:
    timetable = timetable_of(definition, definition.options.start_at or BEGINNING)
    return timetable.newest(BEGINNING, end_at, 1) != []


def store_form(definition: Definition, now: datetime, defaults: Defaults) -> StoredSchedule:
    """Return the row of a new schedule created at `now`.

    Raises:
        ScheduleValidationError: It would never run, or its arguments cannot be stored.
    """
    try:
        document = codec.encode(definition, defaults.serializer)
        anchor = _anchor(definition, now)
        timetable = timetable_of(definition, anchor)
        first = timetable.first(now)
        if first is None:
            raise _never_runs(definition, now)
    except ScheduleValidationError as error:
        raise error.for_schedule(definition.schedule_id) from error
    return StoredSchedule(
        id=definition.schedule_id,
        task_name=definition.task_name,
        document=document,
        timing=timing_of(definition),
        owner=definition.owner,
        scheduled_for=first,
        next_run_at=due_at(definition, timetable, first),
        anchor=anchor,
        created_at=now,
        updated_at=now,
    )


def read(stored: StoredSchedule, serializer: TaskiqSerializer | None) -> Definition:
    """Return what a stored schedule says.

    Raises:
        ScheduleDecodeError: This release cannot read it, or one of its triggers is not valid (any more).
    """
    definition = codec.decode(stored.id, stored.document, serializer, owner=stored.owner)
    if definition.cron is not None:
        try:
            compile_cron(definition.cron, definition.zone, definition.options.dst)
        except ScheduleValidationError as error:
            raise ScheduleDecodeError(stored.id, str(error)) from error
    return definition


def timetable_of(definition: Definition, anchor: datetime) -> Timetable:
    """Return when the schedule runs, for the given phase of its interval."""
    options = definition.options
    return Timetable(
        anchor=anchor,
        cron=definition.cron,
        zone=definition.zone,
        dst=options.dst,
        interval=_as_timedelta(definition.interval),
        time=definition.time,
        start_at=options.start_at,
        end_at=options.end_at,
    )


def interval_of(definition: Definition) -> timedelta | None:
    """Return the period of its interval, if it has one."""
    return _as_timedelta(definition.interval)


def occurrence_id(schedule_id: str, scheduled_for: datetime) -> str:
    """Return the identity of an occurrence: the schedule's id and the nominal time, UTC, to the millisecond."""
    return f"{schedule_id}@{_instant_text(scheduled_for)}"


@lru_cache(maxsize=1024)  # many schedules are due at the same instants
def _instant_text(instant: datetime) -> str:
    return f"{instant.isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"


def due_at(definition: Definition, timetable: Timetable, scheduled_for: datetime) -> datetime:
    """Return from when on an occurrence may be claimed: its nominal time, delayed by its jitter."""
    if not definition.options.jitter:
        return scheduled_for
    return jittered(
        scheduled_for,
        following=timetable.next_after(scheduled_for),
        jitter=definition.options.jitter,
        occurrence_id=occurrence_id(definition.schedule_id, scheduled_for),
    )


def redefine(definition: Definition, task: ScheduledTask, options: ScheduleOptions, defaults: Defaults) -> Definition:
    """Return `definition` with another task and other options, keeping what a newer release wrote into it.

    The source's defaults do not come in again: a schedule keeps those that were in force when it was written.
    """
    own = replace(defaults, timezone=definition.timezone, options=ScheduleOptions())
    edited = define(task.model_copy(update={"schedule_options": options}), own)
    return replace(
        edited,
        manual_of=definition.manual_of,
        unknown=definition.unknown,
        unknown_options=definition.unknown_options,
    )


def check_id(schedule_id: object) -> None:
    """Refuse what cannot be a schedule id.

    Raises:
        ScheduleValidationError: It is empty, too long, has no UTF-8 form, contains NUL, or is of the form we hand out ourselves.
    """
    check_name("schedule_id", schedule_id, MAX_ID_LENGTH)
    if HANDED_OUT_ID.fullmatch(str(schedule_id)):
        raise ScheduleValidationError(
            "schedule_id",
            schedule_id,
            "ids that end in '@<time>~<letters>' are reserved for single occurrences; choose another ending",
        )


def may_exist(schedule_id: str) -> bool:
    """Whether a schedule can have this id: stores are only asked for ids that every one of them could hold."""
    try:
        check_name("schedule_id", schedule_id, MAX_ID_LENGTH)
    except ScheduleValidationError:
        return False
    return True


def check_name(field: str, value: object, limit: int, *, may_be_empty: bool = False) -> None:
    """Refuse what not every store can hold as a name.

    Raises:
        ScheduleValidationError: It is no text, empty, longer than `limit`, has no UTF-8 form, or contains NUL.
    """
    if not isinstance(value, str) or not (value or may_be_empty):
        raise ScheduleValidationError(field, value, "it must be text of at least one character")
    if len(value) > limit:
        raise ScheduleValidationError(field, value, f"it has {len(value)} characters; {limit} is the most")
    if "\x00" in value:
        raise ScheduleValidationError(field, value, "it contains a NUL character, which PostgreSQL cannot store")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ScheduleValidationError(field, value, "it holds a lone surrogate, which has no UTF-8 form") from error


def _anchor(definition: Definition, now: datetime) -> datetime:
    """Return where cron and interval begin: now, or at ``start_at``; if that is past, at the interval's last step before now."""
    start_at, interval = definition.options.start_at, _as_timedelta(definition.interval)
    if start_at is None or start_at >= now:
        return start_at or now
    return now if interval is None else now - (now - start_at) % interval


def _extended(task: taskiq.ScheduledTask) -> ScheduledTask:
    try:
        return ScheduledTask(**dict(task))
    except ValidationError as error:  # it was changed after taskiq had checked it
        raise as_validation_error(error, task.schedule_id) from error


def _checked_interval(interval: int | timedelta | None) -> int | timedelta | None:
    """Apply taskiq's rule again: a model changed after its construction, or built without validation, was not checked by it."""
    seconds = _as_timedelta(interval)
    if seconds is None:
        return None
    if seconds < timedelta(seconds=1) or seconds % timedelta(seconds=1):
        raise ScheduleValidationError("interval", interval, "it must be a whole number of seconds, at least 1")
    return interval


def _as_timedelta(interval: int | timedelta | None) -> timedelta | None:
    try:
        return timedelta(seconds=interval) if isinstance(interval, int) else interval
    except OverflowError as error:
        raise ScheduleValidationError("interval", interval, "it is longer than a timedelta can be") from error


def _utc(moment: datetime | None) -> datetime | None:
    """Return aware UTC in whole milliseconds; naive means UTC, as in taskiq."""
    if moment is None:
        return None
    try:
        return floor_ms(moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment)
    except OverflowError as error:
        raise ScheduleValidationError("time", moment, OUT_OF_RANGE) from error


def _never_runs(definition: Definition, now: datetime) -> ScheduleValidationError:
    start_at, end_at = definition.options.start_at, definition.options.end_at
    if end_at is not None and is_over(definition, now):
        return ScheduleValidationError(
            "end_at", end_at.isoformat(), f"it has passed, so the schedule never runs; {_END_OTHERWISE}"
        )
    limits = [("after start_at", start_at), ("before end_at", end_at)]
    window = " and ".join(f"{where} {limit.isoformat()}" for where, limit in limits if limit is not None)
    field, value = next((name, value) for name, value in _triggers(definition).items() if value is not None)
    return ScheduleValidationError(field, value, f"it never runs: it has no occurrence {window}" if window else "it never runs")


def _triggers(definition: Definition) -> dict[str, object]:
    return {"cron": definition.cron, "interval": definition.interval, "time": definition.time}


def timing_of(definition: Definition) -> str:
    """Fingerprint of all that decides when the schedule runs, see ``StoredSchedule.timing``."""
    options, zone = definition.options, definition.zone
    interval = _as_timedelta(definition.interval)
    parts: dict[str, Any] = {
        "cron": definition.cron,
        "zone": None if definition.cron is None else (zone.total_seconds() if isinstance(zone, timedelta) else zone),
        "dst": None if definition.cron is None else options.dst,
        "interval": None if interval is None else int(interval.total_seconds()),
        "time": None if definition.time is None else to_ms(definition.time),
        "start_at": None if options.start_at is None else to_ms(options.start_at),
        "end_at": None if options.end_at is None else to_ms(options.end_at),
        "jitter": options.jitter.total_seconds() or None,
    }
    return json.dumps({name: value for name, value in parts.items() if value is not None}, separators=(",", ":"))


def as_validation_error(error: ValidationError, schedule_id: str | None) -> ScheduleValidationError:
    """Turn pydantic's report on a `ScheduledTask` into our error, about the first field that is wrong."""
    first = error.errors(include_url=False)[0]
    problem = first["msg"].removeprefix("Value error, ")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ScheduleValidationError):
        return cause if schedule_id is None else cause.for_schedule(schedule_id)
    if first["loc"]:
        field, value = str(first["loc"][0]), first["input"]
    elif first["input"].get("interval") is not None:  # taskiq checks the triggers together: that there is one, and the interval
        field, value = "interval", first["input"]["interval"]
    else:
        field, value, problem = "triggers", None, _NO_TRIGGER
    return ScheduleValidationError(field, value, problem, schedule_id=schedule_id)
