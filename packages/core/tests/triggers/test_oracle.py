"""Cron in time zones against brute force.

The oracle walks through real time step by step, looks at what the wall clock shows, and matches the fields itself. It shares no
code with production, knows nothing of croniter, and finds gaps and repetitions by looking, not by calculating.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from taskiq_sources.triggers import DstPolicy, Timetable, compile_cron

#: Zone and instant around which to look.
CHANGES = [
    ("Europe/Berlin", "2026-03-29 01:00"),
    ("Europe/Berlin", "2026-10-25 01:00"),
    ("Europe/Berlin", "2080-10-27 01:00"),
    ("Europe/Dublin", "2026-10-25 01:00"),
    ("America/New_York", "2026-03-08 07:00"),
    ("America/New_York", "2026-11-01 06:00"),
    ("America/St_Johns", "2006-10-29 02:31"),
    ("Australia/Lord_Howe", "2026-04-04 15:00"),
    ("Australia/Lord_Howe", "2026-10-03 15:30"),
    ("Africa/Casablanca", "2026-02-15 02:00"),
    ("Africa/Casablanca", "2026-03-22 02:00"),
    ("Africa/Casablanca", "2080-01-01 02:00"),
    ("America/Sao_Paulo", "2018-11-04 03:00"),
    ("America/Sao_Paulo", "2018-02-18 02:00"),
    ("America/Danmarkshavn", "1996-01-01 03:00"),
    ("Antarctica/Troll", "2026-03-29 01:00"),
    ("Antarctica/Troll", "2026-10-25 01:00"),
    ("Pacific/Apia", "2011-12-30 10:00"),
    ("Pacific/Kwajalein", "1969-09-30 13:00"),
    ("Pacific/Kwajalein", "1993-08-21 12:00"),
    ("Pacific/Kiritimati", "1994-12-31 10:40"),
    ("Asia/Kathmandu", "1985-12-31 18:30"),
    ("Asia/Pyongyang", "2018-05-04 15:00"),
    ("America/Caracas", "2007-12-09 07:00"),
]

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


@dataclass(frozen=True)
class Field:
    """One cron field: its text, and the values that the text stands for."""

    text: str
    values: frozenset[int]


@dataclass(frozen=True)
class Cron:
    seconds: Field | None
    minutes: Field
    hours: Field
    days: Field
    weekdays: Field

    @property
    def text(self) -> str:
        fields = [self.minutes, self.hours, self.days, Field("*", frozenset()), self.weekdays]
        return " ".join(field.text for field in ([self.seconds] if self.seconds else []) + fields)

    @property
    def fixed(self) -> bool:
        return not any(character in field.text for field in (self.minutes, self.hours) for character in "*/")

    def matches(self, wall: datetime) -> bool:
        if wall.minute not in self.minutes.values or wall.hour not in self.hours.values:
            return False
        if wall.second not in (self.seconds.values if self.seconds else {0}):
            return False
        by_day, by_weekday = wall.day in self.days.values, wall.isoweekday() % 7 in self.weekdays.values
        if any_value(self.days, 31, beside=self.weekdays) or any_value(self.weekdays, 7, beside=self.days):
            return by_day and by_weekday
        return by_day or by_weekday


def any_value(field: Field, size: int, *, beside: Field) -> bool:
    """Tell whether a day field restricts nothing: it is ``*``, or lists every value beside a field with a ``*`` in it."""
    return field.text == "*" or (len(field.values) == size and "*" in beside.text)


@lru_cache(maxsize=64)
def walls(zone: str, first: datetime, last: datetime, step: timedelta) -> list[tuple[datetime, datetime]]:
    """Return each instant from `first` to `last` with what the clock on the wall shows then."""
    place = ZoneInfo(zone)
    instants = [first + index * step for index in range((last - first) // step + 1)]
    return [(instant, instant.astimezone(place).replace(tzinfo=None)) for instant in instants]


def oracle(cron: Cron, policy: DstPolicy, steps: list[tuple[datetime, datetime]], step: timedelta) -> list[datetime]:
    """Return the instants at which `cron` fires. The steps begin early enough to know which walls were seen before."""
    fires = []
    seen: set[datetime] = set()
    previous = steps[0][1] - step
    for instant, wall in steps:
        missing = previous + step
        fire = False
        while missing < wall:
            fire = fire or (cron.fixed and policy != "skip" and cron.matches(missing))
            missing += step
        if cron.matches(wall) and not (cron.fixed and policy != "twice" and wall in seen):
            fire = True
        if fire:
            fires.append(instant)
        seen.add(wall)
        previous = wall
    return fires


def field(low: int, high: int) -> st.SearchStrategy[Field]:
    everything = range(low, high + 1)
    number = st.integers(low, high)
    return st.one_of(
        st.just(Field("*", frozenset(everything))),
        st.sets(number, min_size=1, max_size=4).map(lambda some: Field(",".join(map(str, sorted(some))), frozenset(some))),
        st.integers(2, 7).map(lambda step: Field(f"*/{step}", frozenset(everything[::step]))),
        st.lists(number, min_size=2, max_size=2, unique=True)
        .map(sorted)
        .map(lambda ends: Field(f"{ends[0]}-{ends[1]}", frozenset(range(ends[0], ends[1] + 1)))),
    )


ANY_DAY = st.just(Field("*", frozenset(range(1, 32))))
ANY_WEEKDAY = st.just(Field("*", frozenset(range(7))))
POLICIES: st.SearchStrategy[DstPolicy] = st.sampled_from(["vixie", "skip", "twice"])


def crons(seconds: st.SearchStrategy[Field | None], hours: st.SearchStrategy[Field]) -> st.SearchStrategy[Cron]:
    return st.builds(
        Cron,
        seconds=seconds,
        minutes=field(0, 59),
        hours=hours,
        days=ANY_DAY | field(1, 31),
        weekdays=ANY_WEEKDAY | field(0, 6),
    )


def check(cron: Cron, policy: DstPolicy, change: tuple[str, str], step: timedelta, reach: timedelta, start: timedelta) -> None:
    """Compare all occurrences after `start` (relative to the change) within reach, forwards and backwards."""
    zone, at = change[0], datetime.fromisoformat(change[1]).replace(tzinfo=timezone.utc)
    lead = min(27 * HOUR, reach)  # longer than any repetition in the list that a step of this size is used for
    steps = walls(zone, at - reach - lead, at + reach, step)
    moment, last = at + start, at + reach
    expected = [fire for fire in oracle(cron, policy, steps, step) if moment < fire <= last]
    trigger = compile_cron(cron.text, zone, policy)
    timetable = Timetable(anchor=moment, cron=cron.text, zone=zone, dst=policy)

    found = []
    following = trigger.next_after(moment)
    while following is not None and following <= last:
        found.append(following)
        following = trigger.next_after(following)

    assert found == expected
    assert timetable.newest(moment + timedelta(milliseconds=1), last, 5) == expected[-5:]


@given(
    cron=crons(st.none(), field(0, 23)),
    policy=POLICIES,
    change=st.sampled_from(CHANGES),
    start=st.integers(-28 * 60, 28 * 60).map(lambda minutes: minutes * MINUTE) | st.integers(-90, 90).map(lambda m: m * MINUTE),
)
@settings(max_examples=500)
def test_minutes_agree_with_brute_force(cron: Cron, policy: DstPolicy, change: tuple[str, str], start: timedelta) -> None:
    """Around every kind of clock change, each policy fires exactly when looking at the clock says so."""
    check(cron, policy, change, MINUTE, 28 * HOUR, start)


BRIEF = [change for change in CHANGES if change[0] in {"Europe/Berlin", "America/New_York", "Australia/Lord_Howe"}]


@given(
    cron=crons(field(0, 59), st.sets(st.integers(0, 4), min_size=1).map(lambda h: Field(",".join(map(str, h)), frozenset(h)))),
    policy=POLICIES,
    change=st.sampled_from(BRIEF),
    start=st.integers(-7_200_000, 7_200_000).map(lambda milliseconds: timedelta(milliseconds=milliseconds)),
)
@settings(max_examples=80)
def test_seconds_agree_with_brute_force(cron: Cron, policy: DstPolicy, change: tuple[str, str], start: timedelta) -> None:
    """The same holds for expressions with seconds, from any millisecond on."""
    check(cron, policy, change, SECOND, 2 * HOUR, start)
