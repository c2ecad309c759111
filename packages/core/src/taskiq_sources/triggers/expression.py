"""Cron text: what is accepted, how it is parsed, and what is said about text that is refused.

croniter knows the syntax and turns the text into values; evaluating them is left to :mod:`taskiq_sources.triggers.fields`, since
only calendar arithmetic is needed there, and the search in both directions is some twenty times faster.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple, NoReturn

# The exact ignore is for environments without stubs, the second one for those that have them.
from croniter import croniter  # type: ignore[import-untyped, unused-ignore]

from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.triggers.fields import CronFields

LONGEST_EXPRESSION = 255  # of characters: more than any person writes, little enough to parse at once

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAY_NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    letters: str = ""


_SECOND = _Field("second", 0, 59)
_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day of month", 1, 31, letters="lw")
_MONTH = _Field("month", 1, 12, names=_MONTH_NAMES)
_WEEKDAY = _Field("day of week", 0, 7, names=_WEEKDAY_NAMES, letters="l#")
_LETTERS = (
    "; as a day of the month, L is the last one and 15W the weekday nearest to the 15th; as a weekday, L5 is the last Friday"
)
_FIVE_FIELDS = (_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)
_SIX_FIELDS = (_SECOND, *_FIVE_FIELDS)

_HASHED_OR_RANDOM = re.compile(r"[hr]($|[(/])", re.ASCII)
_ENTRY = re.compile(r"(?P<low>[^-/]+)(-(?P<high>[^/]+))?(/(?P<step>.*))?", re.ASCII | re.DOTALL)

# The search for a first match starts here, so that the same text is judged alike at any time.
_REFERENCE = datetime(2000, 1, 1)


class CronExpression(NamedTuple):
    """A cron expression, understood.

    Attributes:
        fields: The wall-clock times that it matches.
        fixed_time: Neither hour nor minute holds a ``*`` or a step: it asks for times of the day, not for a rhythm.
    """

    fields: CronFields
    fixed_time: bool


@lru_cache(maxsize=4096)
def parse_expression(text: str) -> CronExpression:
    """Parse a cron expression of 5 fields, of 6 with seconds first, or an alias such as ``@hourly``.

    Raises:
        ScheduleValidationError: It is malformed, uses what would not mean the same each time, or matches no date at all.
    """
    parts = _split(text)
    layout = _FIVE_FIELDS if len(parts) == len(_FIVE_FIELDS) else _SIX_FIELDS
    for field, part in zip(layout, parts, strict=True):
        _refuse_ambiguous(text, field, part)
    fields = _parse_fields(text, parts, layout)
    if fields.after(_REFERENCE) is None:
        _refuse(text, f"no date matches it: day of month {parts[-3]} never comes in month {parts[-2]}")
    minute, hour = parts[-5], parts[-4]
    return CronExpression(fields, fixed_time=not set("*?/") & set(minute + hour))


def _split(text: str) -> list[str]:
    if len(text) > LONGEST_EXPRESSION:
        _refuse(text, f"it has {len(text)} characters, at most {LONGEST_EXPRESSION} are allowed; split it into several schedules")
    if not text.isascii():
        odd = next(character for character in text if not character.isascii())
        _refuse(text, f"it contains {odd!a}; use ASCII characters only")
    parts = text.lower().split()
    if not parts:
        _refuse(text, "it is empty; '* * * * *' runs every minute")
    if parts[0].startswith("@"):
        if len(parts) > 1 or parts[0] not in _ALIASES:
            hint = "; it is no point in time: declare a one-off with time= instead" if parts[0] == "@reboot" else ""
            _refuse(text, f"{parts[0]} is not supported{hint}; aliases are {', '.join(_ALIASES)}, each on its own")
        parts = _ALIASES[parts[0]].split()
    if len(parts) == len(_SIX_FIELDS) + 1:
        _refuse(text, "it has 7 fields, and years are not supported; use start_at and end_at to bound a schedule")
    if len(parts) not in (len(_FIVE_FIELDS), len(_SIX_FIELDS)):
        _refuse(text, f"it has {len(parts)} field{'s'[: len(parts) != 1]}; 5 are needed, or 6 with seconds first")
    return parts


def _refuse_ambiguous(text: str, field: _Field, part: str) -> None:
    """Refuse what croniter accepts, but reads in a way that hardly anybody means."""
    entries = part.split(",")
    for entry in entries:
        if _HASHED_OR_RANDOM.match(entry):
            _refuse(text, f"{field.name} {entry}: hashed and random values are not supported; write the value, or use jitter")
        match = _ENTRY.fullmatch(entry)
        if match is not None and match["high"] is not None and match["low"] == match["high"]:
            _refuse(text, f"{field.name} {entry} is a range of one value; write {match['low']}, or * for all")
        if match is not None and (match["step"] or "").isdigit() and int(match["step"]) > field.high - field.low + 1:
            _refuse(text, f"{field.name} {entry}: the step is longer than the field; use interval= for a longer period")
        if match is not None and match["high"] and match["step"] and _rank(field, match["low"]) > _rank(field, match["high"]):
            _refuse(text, f"{field.name} {entry} goes round the end of the field in steps; write the values")
    if field is _WEEKDAY:
        in_month = [entry for entry in entries if "#" in entry or entry.startswith("l")]
        if in_month and len(in_month) < len(entries):
            _refuse(text, f"{field.name} {part} mixes {in_month[0]} with whole weekdays; split it into two schedules")


def _rank(field: _Field, value: str) -> int:
    """Return the number of a value or a name; croniter refuses what is neither."""
    return field.names.index(value) + field.low if value in field.names else int(value) if value.isdigit() else -1


def _parse_fields(text: str, parts: list[str], layout: tuple[_Field, ...]) -> CronFields:
    try:
        parsed: Any = croniter(" ".join(parts), 0.0, second_at_beginning=True)
        expanded: list[list[int | str]] = parsed.expanded
        minutes, hours, days, months, weekdays = (_values(values) for values in expanded[:5])
        seconds = _values(expanded[5]) if len(expanded) > len(_FIVE_FIELDS) else frozenset((0,))
        nth_weekdays = {int(day): frozenset(positions) for day, positions in parsed.nth_weekday_of_month.items()}
        return CronFields(
            seconds=_numbers(seconds, _SECOND),
            minutes=_numbers(minutes, _MINUTE),
            hours=_numbers(hours, _HOUR),
            days=days,
            near_days=frozenset(getattr(parsed, "nearest_weekday", ())),
            months=_numbers(months, _MONTH),
            weekdays=None if weekdays is None and not nth_weekdays else frozenset(_numbers(weekdays, _WEEKDAY)),
            nth_weekdays=nth_weekdays,
        )
    except Exception as error:  # whatever croniter trips over is bad input, not only what it raises on purpose
        problem = _explain(parts, layout) or f"croniter cannot read it ({str(error) or type(error).__name__}){_letters_of(parts)}"
        raise ScheduleValidationError("cron", text, problem) from error


def _letters_of(parts: list[str]) -> str:
    """Return what letters in the fields of days mean, if there are any: others write the same otherwise."""
    day, _, weekday = parts[-3:]
    return _LETTERS if {"l", "w"} & set(day) or "l" in weekday else ""


def _values(expanded: Iterable[int | str]) -> frozenset[int | Literal["l"]] | None:
    """Return the values of a field, None if all match."""
    values = set(expanded)
    if "*" in values:
        return None
    return frozenset("l" if value == "l" else int(value) for value in values)


def _numbers(values: frozenset[int | Literal["l"]] | None, field: _Field) -> tuple[int, ...]:
    if values is None:
        return tuple(range(field.low, field.high + 1))
    return tuple(sorted(value for value in values if value != "l"))


def _explain(parts: list[str], layout: tuple[_Field, ...]) -> str | None:
    """Say what is wrong with an expression that croniter refused, or None where that is beyond this function."""
    for field, part in zip(layout, parts, strict=True):
        for entry in part.split(","):
            problem = _explain_entry(field, entry)
            if problem is not None:
                where = "" if entry == part or not entry else f" (in {part})"
                return f"{field.name} {problem}{where}"
    return None


def _explain_entry(field: _Field, entry: str) -> str | None:
    if not entry:
        return "has an empty entry: a comma too many"
    if entry.startswith("-"):
        return f"{entry} is negative"
    match = _ENTRY.fullmatch(entry)
    if match is None:
        return f"{entry} is not understood"
    step = match["step"]
    if step is not None and not (step.isdigit() and int(step)):
        return f"{entry} has the step {step or 'of nothing'}; a step is a whole number from 1"
    problems = (_explain_bound(field, bound) for bound in (match["low"], match["high"]) if bound is not None)
    return next((problem for problem in problems if problem is not None), None)


def _explain_bound(field: _Field, bound: str) -> str | None:
    value, _, position = bound.partition("#")
    if position and field is _WEEKDAY and position not in {"1", "2", "3", "4", "5"}:
        return f"{bound}: after # comes the position in the month, 1-5; the last Friday is l5"
    if value == "*" or value in field.names:
        return None
    if value.isdigit():
        return None if field.low <= int(value) <= field.high else f"{value} is out of range {field.low}-{field.high}"
    if value == "?" and not field.letters:
        return "? is for the day fields only; write *"
    if any(letter in value for letter in field.letters):
        return None  # croniter knows better
    named = f" and not a name such as {field.names[0]}" if field.names else ""
    return f"{value} is not a number from {field.low} to {field.high}{named}"


def _refuse(text: str, problem: str) -> NoReturn:
    raise ScheduleValidationError("cron", text, problem)
