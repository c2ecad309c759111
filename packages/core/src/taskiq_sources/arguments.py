"""What applications pass to a source, checked by kind: what no type checker has seen is refused here, with the way to go on.

Pure, and before anything is opened or written. What the values mean is checked elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, get_args

import taskiq

from taskiq_sources import definitions
from taskiq_sources.backends import check_durations
from taskiq_sources.clock import OUT_OF_RANGE, floor_ms
from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.models import Run
from taskiq_sources.stock import origin_id

#: A scheduler renews its leases at a third of it, and each renewal is a call to the store.
_SHORTEST_LEASE: Final = timedelta(seconds=1)

#: What a scheduler that has died holds waits for that long.
_LONGEST_LEASE: Final = timedelta(days=1)

_LONGEST_CLAIMANT: Final = 255
_LONGEST_OCCURRENCE: Final = 2 * definitions.MAX_ID_LENGTH  # the id of the schedule, and an instant


def check_source(
    *, lease: object, max_run_rows: object, serializer: object, clock: object, claimant: object, **durations: object
) -> None:
    """Refuse what a source cannot work with.

    Raises:
        ScheduleValidationError: It names the argument, its value and what to give instead.
    """
    check_durations(lease=lease, **durations)
    if not isinstance(lease, timedelta) or not _SHORTEST_LEASE <= lease <= _LONGEST_LEASE:
        raise ScheduleValidationError("lease", lease, "use a timedelta of at least a second and at most a day")
    if not isinstance(max_run_rows, int) or isinstance(max_run_rows, bool) or max_run_rows < 0:
        raise ScheduleValidationError("max_run_rows", max_run_rows, "use a whole number, 0 or more")
    if serializer is not None and not _has(serializer, "dumpb", "loadb"):
        raise ScheduleValidationError("serializer", serializer, "use a serializer of taskiq's, such as PickleSerializer()")
    if clock is not None and not _has(clock, "now"):
        raise ScheduleValidationError("clock", clock, "use an object with a coroutine method now(), such as ManualClock(…)")
    if claimant:
        definitions.check_name("claimant", claimant, _LONGEST_CLAIMANT)


def schedule_id_of(given: object, field: str = "schedule_id") -> str:
    """Return the id of the schedule that is meant by an id that was shown somewhere; it need not exist.

    Raises:
        ScheduleValidationError: It is no text.
    """
    if not isinstance(given, str):
        raise ScheduleValidationError(field, given, "use the id of a schedule, which is text")
    return origin_id(given)


def schedule_ids_of(given: object) -> frozenset[str]:
    """Return the ids of schedules that are meant by a list of ids.

    Raises:
        ScheduleValidationError: It is no list of ids.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, Collection):
        raise ScheduleValidationError("schedule_ids", given, "use a list of ids, or delete_schedule")
    return frozenset(schedule_id_of(one, f"schedule_ids[{number}]") for number, one in enumerate(given))


def schedules_of(given: object) -> Iterator[taskiq.ScheduledTask]:
    """Yield the schedules of a list.

    Raises:
        ScheduleValidationError: It is no list of schedules.
    """
    if isinstance(given, taskiq.ScheduledTask):
        raise ScheduleValidationError("schedules", given.schedule_id, "use a list of schedules, or add_schedule")
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise ScheduleValidationError("schedules", given, "use a list of ScheduledTask(…)")
    for number, one in enumerate(given):
        if not isinstance(one, taskiq.ScheduledTask):
            raise ScheduleValidationError(f"schedules[{number}]", one, "use ScheduledTask(…), or source.schedule(task, …)")
        yield one


def check_call(args: object, kwargs: object) -> None:
    """Refuse what cannot be the arguments of a task.

    Raises:
        ScheduleValidationError: They are no list, or no dictionary with names.
    """
    if isinstance(args, (str, bytes, bytearray)) or not isinstance(args, Sequence):
        raise ScheduleValidationError("args", args, "use a list of arguments")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ScheduleValidationError("kwargs", kwargs, "use a dictionary of arguments by name")
    for name in kwargs or ():
        if not isinstance(name, str):
            raise ScheduleValidationError("kwargs", name, "the names of arguments are text")


def check_words(literal: object, **words: object) -> None:
    """Refuse what is none of the words of a `Literal`.

    Raises:
        ScheduleValidationError: It names the argument and its value.
    """
    for name, value in words.items():
        if value not in get_args(literal):
            raise ScheduleValidationError(name, value, f"use one of {', '.join(get_args(literal))}")


def check_flags(**flags: object) -> None:
    """Refuse what is neither True nor False: text such as "no" would count as True.

    Raises:
        ScheduleValidationError: It names the argument and its value.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ScheduleValidationError(name, value, "use True or False")


def check_choices(**choices: object) -> None:
    """Refuse what is neither True nor False nor None, which is both.

    Raises:
        ScheduleValidationError: It names the argument and its value.
    """
    check_flags(**{name: value for name, value in choices.items() if value is not None})


def check_texts(**texts: object) -> None:
    """Refuse what is no text; None is none.

    Raises:
        ScheduleValidationError: It names the argument and its value.
    """
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise ScheduleValidationError(name, value, "use text")


def check_limit(limit: object) -> None:
    """Refuse what cannot be a number of rows; None is all.

    Raises:
        ScheduleValidationError: It is no whole number, or less than 0.
    """
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        raise ScheduleValidationError("limit", limit, "use a whole number, 0 or more")


def instant(field: str, moment: object) -> datetime | None:
    """Return an instant as stores have it; None is none.

    Raises:
        ScheduleValidationError: It is no datetime with a time zone, or outside of what one in UTC can be.
    """
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise ScheduleValidationError(field, moment, "use an aware datetime")
    if moment.utcoffset() is None:
        raise ScheduleValidationError(field, moment.isoformat(), "it has no time zone; pass an aware datetime")
    try:
        return floor_ms(moment)
    except OverflowError as error:
        raise ScheduleValidationError(field, moment.isoformat(), OUT_OF_RANGE) from error


def row_before(after: object) -> Run | None:
    """Return the history row that a page begins after, as stores have it; None is none.

    Raises:
        ScheduleValidationError: It is no row.
    """
    if after is None:
        return None
    if not isinstance(after, Run):
        raise ScheduleValidationError("after", after, "use the last row of the page before, as runs() has yielded it")
    definitions.check_name("after.occurrence_id", after.occurrence_id, _LONGEST_OCCURRENCE)
    return replace(after, recorded_at=instant("after.recorded_at", after.recorded_at) or after.recorded_at)


def _has(value: object, *methods: str) -> bool:
    """Whether a value is an object, not a class, with these methods."""
    return not isinstance(value, type) and all(callable(getattr(value, method, None)) for method in methods)
