"""Where the UTC offset of a time zone changes: the bridge between instants and wall clocks.

An offset is piecewise constant, so a zone is known by its transitions. The standard library does not list them; they are found by
sampling and kept for each zone and year. In here all datetimes are naive: instants are in UTC, walls are what a clock shows.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo

from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.triggers.zones import UTC_NAME, Zone, load_zone

#: Wall clocks are computed for these years only: a day of slack at both ends of what a datetime can hold.
FIRST_YEAR = 2
LAST_YEAR = 9998

_UTC = timezone.utc
_ZERO = timedelta(0)
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)

# An offset is less than a day, so a transition that repeats or drops wall clocks is no further away than two.
NEARBY = timedelta(days=2)


class Transition(NamedTuple):
    """A change of the UTC offset.

    Attributes:
        at: The first instant of the new offset.
        before: The offset until then.
        after: The offset from then on.
    """

    at: datetime
    before: timedelta
    after: timedelta

    @property
    def old_wall(self) -> datetime:
        """What the clock would have shown at that instant without the change."""
        return self.at + self.before

    @property
    def new_wall(self) -> datetime:
        """What the clock shows at that instant."""
        return self.at + self.after


class Offsets(Protocol):
    """The UTC offset of one zone as a function of time."""

    def at(self, instant: datetime) -> timedelta:
        """Return the offset at `instant`."""
        ...

    def first_transition(self, after: datetime, until: datetime) -> Transition | None:
        """Return the first transition with ``after < at <= until``."""
        ...

    def last_transition(self, after: datetime, until: datetime) -> Transition | None:
        """Return the last transition with ``after < at <= until``."""
        ...


def offsets_of(zone: Zone) -> Offsets:
    """Return the offsets of `zone`.

    Raises:
        ScheduleValidationError: The zone is unknown on this machine.
    """
    if isinstance(zone, timedelta):
        return _FixedOffset(zone)
    if zone == UTC_NAME:
        return _FixedOffset(_ZERO)
    loaded = load_zone(zone)
    if loaded is None:
        raise ScheduleValidationError(
            "cron_offset", zone, "no such time zone is known on this machine; pip install -U tzdata brings all"
        )
    return _ZoneOffsets(loaded)


class _FixedOffset:
    __slots__ = ("_offset",)

    def __init__(self, offset: timedelta) -> None:
        self._offset = offset

    def at(self, instant: datetime) -> timedelta:
        return self._offset

    def first_transition(self, after: datetime, until: datetime) -> Transition | None:
        return None

    def last_transition(self, after: datetime, until: datetime) -> Transition | None:
        return None


class _ZoneOffsets:
    __slots__ = ("_zone",)

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone

    def at(self, instant: datetime) -> timedelta:
        return _offset_at(self._zone, instant)

    def first_transition(self, after: datetime, until: datetime) -> Transition | None:
        for year in range(after.year, until.year + 1):
            for transition in _transitions(self._zone, year):
                if transition.at > after:
                    return transition if transition.at <= until else None
        return None

    def last_transition(self, after: datetime, until: datetime) -> Transition | None:
        for year in range(until.year, after.year - 1, -1):
            for transition in reversed(_transitions(self._zone, year)):
                if transition.at <= until:
                    return transition if transition.at > after else None
        return None


@lru_cache(maxsize=8192)  # 100 zones through 80 years; a year takes some hundred bytes
def _transitions(zone: ZoneInfo, year: int) -> tuple[Transition, ...]:
    """Return the transitions within one year of UTC, in order.

    Offsets are compared from midnight to midnight: a zone that changed its mind twice within one day is read as never having
    done so, which the time-zone database knows no case of since 1970.
    """
    if not FIRST_YEAR <= year <= LAST_YEAR:
        return ()
    found = []
    day, end = datetime(year, 1, 1) - _SECOND, datetime(year + 1, 1, 1) - _SECOND
    before = _offset_at(zone, day)
    while day < end:
        next_day = day + _DAY
        after = _offset_at(zone, next_day)
        if after != before:
            found.append(Transition(_bisect(zone, day, next_day, before), before, after))
            before = after
        day = next_day
    return tuple(found)


def _bisect(zone: ZoneInfo, low: datetime, high: datetime, before: timedelta) -> datetime:
    """Return the first second after `low` at which the offset is no longer `before`, given that it is not at `high`."""
    while high - low > _SECOND:
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if _offset_at(zone, middle) == before:
            low = middle
        else:
            high = middle
    return high


def _offset_at(zone: ZoneInfo, instant: datetime) -> timedelta:
    offset = instant.replace(tzinfo=_UTC).astimezone(zone).utcoffset()
    assert offset is not None  # a ZoneInfo always knows
    return offset
