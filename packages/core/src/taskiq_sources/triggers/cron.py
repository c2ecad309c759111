"""The instants at which a cron expression fires in a time zone.

Text is the business of :mod:`~taskiq_sources.triggers.expression`, wall clocks of :mod:`~taskiq_sources.triggers.fields`. This
module lays one over the other and decides what happens where wall clocks are dropped or repeated.

A cron that names times of the day ("fixed-time": no ``*`` and no step in hour and minute) promises to run on each such day; one
with a rhythm promises to run in that rhythm. So, by default (``vixie``), a fixed time that is dropped fires once at the first
instant after the gap, and one that is repeated fires the first time only, while a rhythm fires at each real instant at which a
clock on the wall shows a matching time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.triggers.expression import parse_expression
from taskiq_sources.triggers.fields import HORIZON_YEARS, CronFields
from taskiq_sources.triggers.offsets import FIRST_YEAR, LAST_YEAR, NEARBY, Offsets, Transition, offsets_of
from taskiq_sources.triggers.zones import UTC_NAME, Zone

#: What a fixed-time cron does where daylight saving drops or repeats its wall time. ``vixie``: fires right after the gap; the
#: first time only. ``skip``: not at all; the first time only. ``twice``: right after the gap; both times.
DstPolicy: TypeAlias = Literal["vixie", "skip", "twice"]

_POLICIES = get_args(DstPolicy)
_UTC = timezone.utc
_TICK = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_BETWEEN_CHANGES = timedelta(days=20)  # Morocco has two a month apart, around Ramadan
_WINDOWS = 24  # schedules that share an expression ask about a few neighbouring occurrences
_YEARS = range(FIRST_YEAR + 1, LAST_YEAR)  # with a year to spare for offsets


@dataclass(frozen=True, slots=True, eq=False)
class CronTrigger:
    """A cron expression in a time zone. Get one from `compile_cron`.

    Immutable, but for remembering its last answers; any number of threads may share one.

    Attributes:
        expression: The expression as it was written.
        zone: The zone whose wall clock is matched.
        dst: What happens to fixed times that are dropped or repeated.
    """

    expression: str
    zone: Zone
    dst: DstPolicy
    _fields: CronFields = field(repr=False)
    _offsets: Offsets = field(repr=False)
    _fills_gaps: bool = field(repr=False)
    _drops_repeats: bool = field(repr=False)
    _answers: _Answers = field(repr=False)

    def at_most(self, span: timedelta) -> int:
        """Return how many occurrences no range of this length has more than. Looks for none."""
        changes = span // _BETWEEN_CHANGES + 2  # of the zone's offset, each of which may repeat an hour, or a day
        return min(
            (span // _MINUTE + 2) * self._fields.per_minute,
            (span // _HOUR + 2 + changes) * self._fields.per_hour,
            (span // _DAY + 2 + changes) * self._fields.per_day,
        )

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first occurrence strictly after `moment`.

        Args:
            moment: Any instant, aware.

        Returns:
            The occurrence, aware UTC; None if there is none within 50 years.
        """
        answer = self._answers.find(moment)
        if answer is None:
            instant = _naive(moment)
            found = self._after(instant)
            if found is None:
                return None
            answer = found.replace(tzinfo=_UTC)
            # Occurrences are whole seconds, so the answer is the same from the start of this second on.
            self._answers.add(moment.replace(microsecond=0), answer)
        return answer

    def last_until(self, moment: datetime) -> datetime | None:
        """Return the last occurrence not later than `moment`.

        Args:
            moment: Any instant, aware.

        Returns:
            The occurrence, aware UTC; None if there is none within 50 years.
        """
        found = self._until(_naive(moment))
        return None if found is None else found.replace(tzinfo=_UTC)

    def _after(self, instant: datetime) -> datetime | None:
        if instant.year not in _YEARS:
            return None
        horizon = min(instant.year + HORIZON_YEARS, LAST_YEAR)
        offset = self._offsets.at(instant)
        wall = self._fields.after(instant + offset)
        if self._drops_repeats:
            earlier = self._offsets.last_transition(instant - NEARBY, instant)
            if earlier is not None:
                wall = self._past_repeats(earlier, wall)
        while wall is not None and wall.year <= horizon:
            candidate = wall - offset
            crossed = self._offsets.first_transition(instant, candidate)
            if crossed is None:
                return candidate
            # The candidate was found with an offset that has changed by then: go on from the change.
            instant, offset = crossed.at, crossed.after
            if crossed.after > crossed.before:
                if wall < crossed.new_wall:
                    if self._fills_gaps:
                        return instant
                    wall = self._fields.after(crossed.new_wall - _TICK)
            else:
                wall = self._fields.after(crossed.new_wall - _TICK)
                if self._drops_repeats:
                    wall = self._past_repeats(crossed, wall)
        return None

    def _past_repeats(self, transition: Transition, wall: datetime | None) -> datetime | None:
        """Return `wall`, or the first match after the repeated ones if it is one of those that `transition` repeats."""
        if wall is not None and transition.new_wall <= wall < transition.old_wall:
            return self._fields.after(transition.old_wall - _TICK)
        return wall

    def _until(self, instant: datetime) -> datetime | None:
        if instant.year not in _YEARS:
            return None
        horizon = max(instant.year - HORIZON_YEARS, FIRST_YEAR)
        offset = self._offsets.at(instant)
        wall = self._fields.until(instant + offset)
        while wall is not None and wall.year >= horizon:
            candidate = wall - offset
            crossed = self._offsets.last_transition(candidate - NEARBY, instant)
            if crossed is None:
                return candidate
            if candidate >= crossed.at and not (self._drops_repeats and wall < crossed.old_wall):
                return candidate
            if self._fills_gaps and crossed.after > crossed.before:
                dropped = self._fields.until(crossed.new_wall - _TICK)
                if dropped is not None and dropped >= crossed.old_wall:
                    return crossed.at
            instant, offset = crossed.at - _TICK, crossed.before
            wall = self._fields.until(instant + offset)
        return None


def compile_cron(expression: str, zone: Zone = UTC_NAME, dst: DstPolicy = "vixie") -> CronTrigger:
    """Return the trigger of a cron expression; equal arguments share one.

    Args:
        expression: 5 fields, 6 with seconds first, or an alias such as ``@hourly``.
        zone: The wall clock to match, as `parse_zone` returns it.
        dst: What happens to fixed times that daylight saving drops or repeats.

    Raises:
        ScheduleValidationError: The expression is malformed or matches no date; the zone or the policy is unknown.
    """
    if not isinstance(expression, str):
        raise ScheduleValidationError("cron", expression, f"a cron expression is text, not {type(expression).__name__}")
    if dst not in _POLICIES:
        raise ScheduleValidationError("dst", dst, f"use one of {', '.join(_POLICIES)}")
    return _compile(expression, zone, dst)


@lru_cache(maxsize=4096)
def _compile(expression: str, zone: Zone, dst: DstPolicy) -> CronTrigger:
    fields, fixed_time = parse_expression(expression)
    return CronTrigger(
        expression=expression,
        zone=zone,
        dst=dst,
        _fields=fields,
        _offsets=offsets_of(zone),
        _fills_gaps=fixed_time and dst != "skip",
        _drops_repeats=fixed_time and dst != "twice",
        _answers=_Answers(),
    )


def _naive(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone: instants are aware")
    return moment.astimezone(_UTC).replace(tzinfo=None)


class _Answers:
    """The last few answers: "for any moment in [since, answer) the next occurrence is `answer`".

    The windows are one immutable tuple that is replaced as a whole, so that threads need no lock: at worst one forgets what
    another has just found.
    """

    __slots__ = ("_windows",)

    def __init__(self) -> None:
        self._windows: tuple[tuple[datetime, datetime], ...] = ()  # newest first

    def find(self, moment: datetime) -> datetime | None:
        for since, answer in self._windows:
            if since <= moment < answer:
                return answer
        return None

    def add(self, since: datetime, answer: datetime) -> None:
        windows = self._windows
        if windows and windows[0][1] == answer:
            self._windows = ((min(since, windows[0][0]), answer), *windows[1:])
        else:
            self._windows = ((since, answer), *windows[: _WINDOWS - 1])
