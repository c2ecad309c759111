"""Which wall-clock times a cron expression matches, and the search for the next and the previous one.

A wall clock here is a naive datetime in whole seconds. Time zones play no part: see :mod:`taskiq_sources.triggers.cron`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import monthrange
from datetime import datetime, timedelta
from typing import Literal

#: How far a search goes. The rarest day that cron can ask for, a fifth weekday in February, comes at least every 40 years
#: (28, or 40 across a century year that is not a leap year).
HORIZON_YEARS = 50

_SECOND = timedelta(seconds=1)
_MONTHS_REMEMBERED = 1200
_FIRST_YEAR, _LAST_YEAR = 1, 9999  # what a datetime can hold


class CronFields:
    """The wall-clock times that a cron expression matches.

    Immutable but for what it remembers of months. Values are sorted, without duplicates, never empty.

    Args:
        seconds: Matching seconds.
        minutes: Matching minutes.
        hours: Matching hours.
        days: Matching days of the month, ``"l"`` for the last one; None if all match.
        near_days: Days of the month whose nearest weekday matches (``15W``).
        months: Matching months.
        weekdays: Matching days of the week, 0 is Sunday; None if all match.
        nth_weekdays: Day of the week to its matching positions in the month, ``"l"`` for the last. Replaces `weekdays`.
    """

    __slots__ = ("_days", "_hours", "_minutes", "_months", "_near_days", "_nth_weekdays", "_remembered", "_seconds", "_weekdays")

    def __init__(
        self,
        *,
        seconds: tuple[int, ...],
        minutes: tuple[int, ...],
        hours: tuple[int, ...],
        days: frozenset[int | Literal["l"]] | None,
        near_days: frozenset[int],
        months: tuple[int, ...],
        weekdays: frozenset[int] | None,
        nth_weekdays: dict[int, frozenset[int | Literal["l"]]],
    ) -> None:
        self._seconds = seconds
        self._minutes = minutes
        self._hours = hours
        self._days = days
        self._near_days = near_days
        self._months = months
        self._weekdays = weekdays
        self._nth_weekdays = nth_weekdays
        self._remembered: dict[tuple[int, int], tuple[int, ...]] = {}

    @property
    def per_minute(self) -> int:
        """How many matches there are in a minute at most."""
        return len(self._seconds)

    @property
    def per_hour(self) -> int:
        """How many matches there are in an hour at most."""
        return len(self._minutes) * len(self._seconds)

    @property
    def per_day(self) -> int:
        """How many matches there are in a day at most."""
        return len(self._hours) * len(self._minutes) * len(self._seconds)

    def after(self, wall: datetime) -> datetime | None:
        """Return the first match later than `wall`, or None if there is none within the horizon."""
        if wall.year >= _LAST_YEAR:
            return None
        wall = wall.replace(microsecond=0) + _SECOND
        year, month = wall.year, wall.month
        days = self._matching_days(year, month)
        if wall.day in days:
            time = self._time_from(wall.hour, wall.minute, wall.second)
            if time is not None:
                return datetime(year, month, wall.day, *time)
        index = bisect_right(days, wall.day)
        last_year = min(year + HORIZON_YEARS, _LAST_YEAR)
        while index >= len(days):
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
            if year > last_year:
                return None
            days = self._matching_days(year, month)
            index = 0
        return datetime(year, month, days[index], self._hours[0], self._minutes[0], self._seconds[0])

    def until(self, wall: datetime) -> datetime | None:
        """Return the last match not later than `wall`, or None if there is none within the horizon."""
        year, month = wall.year, wall.month
        days = self._matching_days(year, month)
        if wall.day in days:
            time = self._time_until(wall.hour, wall.minute, wall.second)
            if time is not None:
                return datetime(year, month, wall.day, *time)
        index = bisect_left(days, wall.day) - 1
        first_year = max(year - HORIZON_YEARS, _FIRST_YEAR)
        while index < 0:
            year, month = (year, month - 1) if month > 1 else (year - 1, 12)
            if year < first_year:
                return None
            days = self._matching_days(year, month)
            index = len(days) - 1
        return datetime(year, month, days[index], self._hours[-1], self._minutes[-1], self._seconds[-1])

    def _time_from(self, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
        """Return the first matching time of day that is not earlier than the given one."""
        if hour in self._hours:
            if minute in self._minutes:
                index = bisect_left(self._seconds, second)
                if index < len(self._seconds):
                    return hour, minute, self._seconds[index]
            index = bisect_right(self._minutes, minute)
            if index < len(self._minutes):
                return hour, self._minutes[index], self._seconds[0]
        index = bisect_right(self._hours, hour)
        if index < len(self._hours):
            return self._hours[index], self._minutes[0], self._seconds[0]
        return None

    def _time_until(self, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
        """Return the last matching time of day that is not later than the given one."""
        if hour in self._hours:
            if minute in self._minutes:
                index = bisect_right(self._seconds, second) - 1
                if index >= 0:
                    return hour, minute, self._seconds[index]
            index = bisect_left(self._minutes, minute) - 1
            if index >= 0:
                return hour, self._minutes[index], self._seconds[-1]
        index = bisect_left(self._hours, hour) - 1
        if index >= 0:
            return self._hours[index], self._minutes[-1], self._seconds[-1]
        return None

    def _matching_days(self, year: int, month: int) -> tuple[int, ...]:
        """Return the matching days of a month, sorted."""
        if month not in self._months:
            return ()
        days = self._remembered.get((year, month))
        if days is None:
            if len(self._remembered) >= _MONTHS_REMEMBERED:
                self._remembered = {}
            days = self._remembered[year, month] = self._find_days(year, month)
        return days

    def _find_days(self, year: int, month: int) -> tuple[int, ...]:
        first_weekday, length = monthrange(year, month)
        first_weekday = (first_weekday + 1) % 7  # from Monday = 0 to cron's Sunday = 0
        every_day = range(1, length + 1)
        by_number, by_weekday = self._days is not None, self._weekdays is not None
        return tuple(
            day
            for day in every_day
            if (not by_number and not by_weekday)
            or (by_number and self._matches_number(day, length, first_weekday))
            or (by_weekday and self._matches_weekday(day, length, first_weekday))
        )

    def _matches_number(self, day: int, length: int, first_weekday: int) -> bool:
        if self._near_days:
            return any(day == _nearest_weekday(near, length, first_weekday) for near in self._near_days)
        assert self._days is not None
        return day in self._days or (day == length and "l" in self._days)

    def _matches_weekday(self, day: int, length: int, first_weekday: int) -> bool:
        weekday = (first_weekday + day - 1) % 7
        if self._nth_weekdays:
            positions = self._nth_weekdays.get(weekday, frozenset())
            return (day - 1) // 7 + 1 in positions or (day + 7 > length and "l" in positions)
        assert self._weekdays is not None
        return weekday in self._weekdays


def _nearest_weekday(day: int, length: int, first_weekday: int) -> int:
    """Return the Monday-to-Friday day nearest to `day` within the same month; a day past its end counts as the last one."""
    day = min(day, length)
    weekday = (first_weekday + day - 1) % 7
    if weekday == 6:
        return day - 1 if day > 1 else day + 2
    if weekday == 0:
        return day + 1 if day < length else day - 2
    return day
