"""All triggers of one schedule together, inside its window: which occurrences it has, and which comes next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.triggers.cron import CronTrigger, DstPolicy, compile_cron
from taskiq_sources.triggers.zones import UTC_NAME, Zone

_MILLISECOND = timedelta(milliseconds=1)
_ZERO = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """When one schedule runs: the union of its triggers, cut to ``[start_at, end_at]``.

    All datetimes are aware, in UTC and in whole milliseconds. An instant that several triggers name is one occurrence.

    Attributes:
        anchor: Where cron and interval begin, and the phase of the interval: ``anchor + k·interval`` for k = 0, 1, 2, …
        cron: A cron expression.
        zone: The wall clock that `cron` is matched against, as `parse_zone` returns it.
        dst: What happens to fixed times of `cron` that daylight saving drops or repeats.
        interval: The period of the interval, positive.
        time: A single instant.
        start_at: Occurrences before it do not exist.
        end_at: Occurrences after it do not exist.

    Raises:
        ScheduleValidationError: `interval` is not positive. (`cron` is checked where it is first used.)
    """

    anchor: datetime
    cron: str | None = None
    zone: Zone = UTC_NAME
    dst: DstPolicy = "vixie"
    interval: timedelta | None = None
    time: datetime | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None

    def __post_init__(self) -> None:
        if self.interval is not None and self.interval <= _ZERO:
            raise ScheduleValidationError("interval", self.interval, "an interval is longer than nothing")

    def first(self, now: datetime) -> datetime | None:
        """Return the earliest occurrence of a schedule that is created at `now`.

        Cron and interval start at `now`, an occurrence right then included; `time` counts even if it is past.

        Returns:
            The occurrence, or None if the schedule will never run.
        """
        single = self.time if self.time is not None and self._in_window(self.time) else None
        return _earliest((self._next_of_rhythms(now - _MILLISECOND), single))

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the earliest occurrence strictly after `moment`, or None if there is none."""
        single = self.time if self.time is not None and self.time > moment and self._in_window(self.time) else None
        return _earliest((self._next_of_rhythms(moment), single))

    def until(self, first: datetime, last: datetime, limit: int) -> list[datetime]:
        """Return the oldest `limit` occurrences in ``[first, last]``, ascending."""
        found: list[datetime] = []
        occurrence = self.next_after(first - _MILLISECOND)
        while occurrence is not None and occurrence <= last and len(found) < limit:
            found.append(occurrence)
            occurrence = self.next_after(occurrence)
        return found

    def newest(self, first: datetime, last: datetime, limit: int) -> list[datetime]:
        """Return the newest `limit` occurrences in ``[first, last]``, ascending.

        Takes time in proportion to `limit`, however long the range is.
        """
        if limit <= 0:
            return []
        first, last = self._cut(first, last)
        found: set[datetime] = set()
        if self.time is not None and first <= self.time <= last:
            found.add(self.time)
        if self.interval is not None:
            steps = self._steps(first, last, self.interval)
            found.update(self.anchor + step * self.interval for step in steps[-limit:])
        if self.cron is not None:
            found.update(_newest_of_cron(self._trigger(self.cron), max(first, self.anchor), last, limit))
        return sorted(found)[-limit:]

    def count(self, first: datetime, last: datetime, limit: int) -> int:
        """Return how many occurrences are in ``[first, last]``; counting stops at `limit`.

        Takes time in proportion to the result if there is a cron, and constant time otherwise.
        """
        if self.cron is not None:
            return len(self.until(first, last, limit))
        first, last = self._cut(first, last)
        steps = range(0) if self.interval is None else self._steps(first, last, self.interval)
        single = self.time is not None and first <= self.time <= last and not self._is_step(self.time)
        return max(0, min(limit, len(steps) + single))

    def at_most(self, first: datetime, last: datetime) -> int:
        """Return a number that `count` of this range does not exceed, without counting."""
        by_cron = 0 if self.cron is None else self._trigger(self.cron).at_most(last - first)
        by_interval = 0 if self.interval is None else (last - first) // self.interval + 1
        return by_cron + by_interval + (self.time is not None)

    def _next_of_rhythms(self, moment: datetime) -> datetime | None:
        """Return the earliest occurrence of cron and interval strictly after `moment`."""
        if self.start_at is not None and moment < self.start_at:
            moment = self.start_at - _MILLISECOND
        by_cron = None if self.cron is None else self._trigger(self.cron).next_after(max(moment, self.anchor - _MILLISECOND))
        by_interval = None if self.interval is None else self._next_step(moment, self.interval)
        occurrence = _earliest((by_cron, by_interval))
        return None if occurrence is None or not self._in_window(occurrence) else occurrence

    def _trigger(self, cron: str) -> CronTrigger:
        return compile_cron(cron, self.zone, self.dst)

    def _next_step(self, moment: datetime, interval: timedelta) -> datetime | None:
        try:
            return self.anchor + max(0, (moment - self.anchor) // interval + 1) * interval
        except OverflowError:  # beyond what a datetime can hold
            return None

    def _steps(self, first: datetime, last: datetime, interval: timedelta) -> range:
        """Return the k of the interval's occurrences in ``[first, last]``."""
        lowest = max(0, -((self.anchor - first) // interval))
        return range(lowest, max(lowest, (last - self.anchor) // interval + 1))

    def _is_step(self, moment: datetime) -> bool:
        return self.interval is not None and moment >= self.anchor and not (moment - self.anchor) % self.interval

    def _in_window(self, moment: datetime) -> bool:
        return (self.start_at is None or moment >= self.start_at) and (self.end_at is None or moment <= self.end_at)

    def _cut(self, first: datetime, last: datetime) -> tuple[datetime, datetime]:
        """Return the range, cut to the window."""
        return (
            first if self.start_at is None else max(first, self.start_at),
            last if self.end_at is None else min(last, self.end_at),
        )


def _newest_of_cron(trigger: CronTrigger, first: datetime, last: datetime, limit: int) -> list[datetime]:
    found: list[datetime] = []
    occurrence = trigger.last_until(last)
    while occurrence is not None and occurrence >= first and len(found) < limit:
        found.append(occurrence)
        occurrence = trigger.last_until(occurrence - _MILLISECOND)
    return found


def _earliest(moments: Iterable[datetime | None]) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)
