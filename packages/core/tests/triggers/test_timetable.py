"""All triggers of a schedule together: the first occurrence, the next, ranges, windows."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.triggers import Timetable

NOON = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
MILLISECOND, SECOND, MINUTE, HOUR, DAY = (
    timedelta(milliseconds=1),
    timedelta(seconds=1),
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
)
EVER = 10**9


@pytest.mark.parametrize(
    ("timetable", "expected"),
    [
        pytest.param(Timetable(anchor=NOON), None, id="nothing"),
        pytest.param(Timetable(anchor=NOON, cron="0 * * * *"), NOON, id="cron matching right now"),
        pytest.param(Timetable(anchor=NOON, cron="1 * * * *"), NOON + MINUTE, id="cron later"),
        pytest.param(Timetable(anchor=NOON, interval=HOUR), NOON, id="interval at creation"),
        pytest.param(Timetable(anchor=NOON - 90 * MINUTE, interval=HOUR), NOON + 30 * MINUTE, id="interval keeps its phase"),
        pytest.param(Timetable(anchor=NOON + DAY, interval=HOUR), NOON + DAY, id="interval never before its anchor"),
        pytest.param(Timetable(anchor=NOON, time=NOON - DAY), NOON - DAY, id="past time"),
        pytest.param(Timetable(anchor=NOON, time=NOON + DAY), NOON + DAY, id="future time"),
        pytest.param(Timetable(anchor=NOON, time=NOON + DAY, cron="5 * * * *"), NOON + 5 * MINUTE, id="earliest of two"),
        pytest.param(Timetable(anchor=NOON, cron="0 0 * * *", interval=DAY, time=NOON - HOUR), NOON - HOUR, id="of three"),
        pytest.param(Timetable(anchor=NOON, interval=HOUR, start_at=NOON + 90 * MINUTE), NOON + 2 * HOUR, id="start_at"),
        pytest.param(Timetable(anchor=NOON, cron="0 * * * *", start_at=NOON + HOUR), NOON + HOUR, id="start_at inclusive"),
        pytest.param(
            Timetable(anchor=NOON, cron="5 * * * *", end_at=NOON + 5 * MINUTE), NOON + 5 * MINUTE, id="end_at inclusive"
        ),
        pytest.param(Timetable(anchor=NOON, cron="5 * * * *", end_at=NOON + 4 * MINUTE), None, id="end_at before"),
        pytest.param(Timetable(anchor=NOON, interval=HOUR, end_at=NOON - SECOND), None, id="over already"),
        pytest.param(Timetable(anchor=NOON, time=NOON, start_at=NOON + SECOND), None, id="time before start_at"),
        pytest.param(Timetable(anchor=NOON, time=NOON, end_at=NOON - SECOND), None, id="time after end_at"),
        pytest.param(
            Timetable(anchor=NOON, time=NOON - DAY, start_at=NOON - HOUR, cron="9 * * * *"), NOON + 9 * MINUTE, id="time cut off"
        ),
    ],
)
def test_first_occurrence(timetable: Timetable, expected: datetime | None) -> None:
    """Cron and interval begin at creation, that instant included; a time counts even if it is past."""
    assert timetable.first(NOON) == expected


@pytest.mark.parametrize("dst", ["vixie", "skip", "twice"])
@pytest.mark.parametrize("cron", ["* * * * *", "*/7 * * * * *", "30 2 * * *", "15,45 1-3 * * *", None])
@pytest.mark.parametrize("interval", [None, MINUTE, 7 * HOUR])
@settings(max_examples=30)
@given(data=st.data())
def test_no_range_has_more_than_it_may(data: st.DataObject, cron: str | None, interval: timedelta | None, dst: Any) -> None:
    """The bound holds for each range, those over a change of clocks included."""
    change = datetime(2026, data.draw(st.sampled_from([3, 10])), 29 if data.draw(st.booleans()) else 25, tzinfo=timezone.utc)
    first = change + timedelta(seconds=data.draw(st.integers(-10_000, 10_000)))
    last = first + timedelta(seconds=data.draw(st.integers(0, 20_000)))
    timetable = Timetable(anchor=NOON - 365 * DAY, cron=cron, zone="Europe/Berlin", dst=dst, interval=interval, time=first)

    assert timetable.count(first, last, EVER) <= timetable.at_most(first, last)


@pytest.mark.parametrize("dst", ["vixie", "skip", "twice"])
@pytest.mark.parametrize("cron", ["15 * * * *", "45 * * * *", "0 */6 * * *", "30 2 * * *", "0,30 0-3 * * 0"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kolkata"])
@settings(max_examples=30)
@given(data=st.data())
def test_no_long_range_has_more_than_it_may(data: st.DataObject, cron: str, zone: str, dst: Any) -> None:
    """Nor one with several changes of clocks, of an hour or of half of one."""
    first = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(minutes=data.draw(st.integers(0, 525_600)))
    last = first + timedelta(minutes=data.draw(st.integers(0, 90_000)))
    timetable = Timetable(anchor=NOON - 365 * DAY, cron=cron, zone=zone, dst=dst)

    assert timetable.count(first, last, EVER) <= timetable.at_most(first, last)


@pytest.mark.parametrize(
    ("cron", "days", "most"), [("0 * * * *", 40, 970), ("0 7 * * *", 1000, 1060), ("0,30 9-17 * * *", 50, 1_010)]
)
def test_the_bound_is_not_far_from_what_there_is(cron: str, days: int, most: int) -> None:
    """It tells when nothing has to be counted: all that is late would else be looked for again with each that is sent."""
    assert Timetable(anchor=NOON, cron=cron, zone="Europe/Berlin").at_most(NOON, NOON + days * DAY) <= most


@pytest.mark.parametrize(
    ("timetable", "moment", "expected"),
    [
        (Timetable(anchor=NOON, interval=HOUR), NOON - 5 * DAY, NOON),
        (Timetable(anchor=NOON, interval=HOUR), NOON - MILLISECOND, NOON),
        (Timetable(anchor=NOON, interval=HOUR), NOON, NOON + HOUR),
        (Timetable(anchor=NOON, interval=HOUR), NOON + HOUR - MILLISECOND, NOON + HOUR),
        (Timetable(anchor=NOON, time=NOON), NOON - MILLISECOND, NOON),
        (Timetable(anchor=NOON, time=NOON), NOON, None),
        (Timetable(anchor=NOON, cron="0 * * * *"), NOON, NOON + HOUR),
        (Timetable(anchor=NOON, cron="0 * * * *", interval=7 * MINUTE), NOON + 57 * MINUTE, NOON + HOUR),
        (Timetable(anchor=NOON, cron="0 * * * *", interval=7 * MINUTE), NOON + HOUR, NOON + 63 * MINUTE),
        (Timetable(anchor=NOON, cron="0 * * * *", start_at=NOON + 3 * HOUR), NOON, NOON + 3 * HOUR),
        (Timetable(anchor=NOON, cron="0 * * * *", start_at=NOON + 3 * HOUR), NOON + 3 * HOUR, NOON + 4 * HOUR),
        (Timetable(anchor=NOON, interval=HOUR, end_at=NOON + HOUR), NOON, NOON + HOUR),
        (Timetable(anchor=NOON, interval=HOUR, end_at=NOON + HOUR), NOON + HOUR, None),
    ],
)
def test_next_occurrence_is_strictly_after(timetable: Timetable, moment: datetime, expected: datetime | None) -> None:
    """The next occurrence is the earliest of all triggers that is later than the given instant, inside the window."""
    assert timetable.next_after(moment) == expected


def test_interval_never_drifts() -> None:
    """After ten million periods an interval is still exactly on its grid, found in one step."""
    timetable = Timetable(anchor=NOON + 123 * MILLISECOND, interval=7 * SECOND)

    assert timetable.next_after(timetable.anchor + 10**7 * 7 * SECOND) == timetable.anchor + (10**7 + 1) * 7 * SECOND


def test_interval_beyond_the_calendar_has_no_next_occurrence() -> None:
    """A period that leads past the last datetime ends the schedule instead of raising."""
    timetable = Timetable(anchor=NOON, interval=timedelta(days=900_000_000))

    assert timetable.first(NOON) == NOON
    assert timetable.next_after(NOON) is None


@pytest.mark.parametrize("interval", [timedelta(0), -HOUR])
def test_interval_that_does_not_advance_is_refused(interval: timedelta) -> None:
    """An interval of nothing, or backwards, would never end."""
    with pytest.raises(ScheduleValidationError, match="interval"):
        Timetable(anchor=NOON, interval=interval)


def test_one_instant_named_twice_is_one_occurrence() -> None:
    """Where cron, interval and time coincide there is a single occurrence."""
    timetable = Timetable(anchor=NOON, cron="*/30 * * * *", interval=HOUR, time=NOON + HOUR)
    expected = [NOON + index * 30 * MINUTE for index in range(5)]

    assert timetable.until(NOON, NOON + 2 * HOUR, EVER) == expected
    assert timetable.newest(NOON, NOON + 2 * HOUR, EVER) == expected
    assert timetable.count(NOON, NOON + 2 * HOUR, EVER) == 5
    assert Timetable(anchor=NOON, interval=HOUR, time=NOON + HOUR).count(NOON, NOON + 2 * HOUR, EVER) == 3


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 100])
def test_limit_keeps_the_oldest_or_the_newest(limit: int) -> None:
    """`until` cuts at the end, `newest` at the beginning, `count` at the number; both ends of the range count."""
    timetable = Timetable(anchor=NOON, cron="0 * * * *")
    occurrences = [NOON + index * HOUR for index in range(4)]

    assert timetable.until(NOON, NOON + 3 * HOUR, limit) == occurrences[:limit]
    assert timetable.newest(NOON, NOON + 3 * HOUR, limit) == occurrences[max(0, 4 - limit) :]
    assert timetable.count(NOON, NOON + 3 * HOUR, limit) == min(limit, 4)


def test_range_that_ends_before_it_begins_is_empty() -> None:
    """An empty range has no occurrences, whatever the triggers."""
    timetable = Timetable(anchor=NOON - DAY, cron="* * * * *", interval=SECOND, time=NOON)

    assert timetable.until(NOON, NOON - MINUTE, EVER) == []
    assert timetable.newest(NOON, NOON - MINUTE, EVER) == []
    assert timetable.count(NOON, NOON - MINUTE, EVER) == 0
    assert Timetable(anchor=NOON - DAY, interval=SECOND).count(NOON, NOON - MINUTE, EVER) == 0


@pytest.mark.parametrize("cron", ["* * * * * *", "* * * 1 1 *", "*/30 2 * * *", "0 0 29 2 *"])
def test_newest_of_many_years_takes_no_longer_than_of_one_day(cron: str) -> None:
    """The newest occurrences are found from the end: a hundred million others cost nothing."""
    timetable = Timetable(anchor=NOON, cron=cron, zone="Europe/Berlin", interval=SECOND)
    began = time.process_time()

    found = timetable.newest(NOON - 20 * 365 * DAY, NOON, 100)

    assert time.process_time() - began < 1
    assert found[-1] == NOON
    assert found == sorted(set(found))


def test_count_of_an_interval_is_arithmetic() -> None:
    """Counting the seconds of twenty years is one division."""
    timetable = Timetable(anchor=NOON, interval=SECOND, time=NOON + HOUR + MILLISECOND)

    assert timetable.count(NOON, NOON + 7300 * DAY, EVER) == 7300 * 86_400 + 2


def _moments(reach: int) -> st.SearchStrategy[datetime]:
    return st.integers(-reach, reach).map(lambda seconds: datetime(2026, 3, 29, 1, tzinfo=timezone.utc) + seconds * SECOND)


@given(
    anchor=_moments(200_000),
    cron=st.sampled_from([None, "*/20 * * * *", "30 2 * * *", "0 */3 * * *", "5,35 1-3 * * 0"]),
    dst=st.sampled_from(["vixie", "skip", "twice"]),
    interval=st.sampled_from([None, 17 * MINUTE, HOUR, 26 * HOUR]),
    single=st.none() | _moments(200_000),
    start_at=st.none() | _moments(200_000),
    end_at=st.none() | _moments(200_000),
    first=_moments(150_000),
    length=st.integers(0, 100_000),
    limit=st.integers(0, 40),
)
@settings(max_examples=400)
def test_ranges_agree_with_stepping(  # noqa: PLR0917 - hypothesis passes them by name
    anchor: datetime,
    cron: str | None,
    dst: str,
    interval: timedelta | None,
    single: datetime | None,
    start_at: datetime | None,
    end_at: datetime | None,
    first: datetime,
    length: int,
    limit: int,
) -> None:
    """`until`, `newest` and `count` are views of one list: the one that `next_after` walks through."""
    timetable = Timetable(
        anchor=anchor,
        cron=cron,
        zone="Europe/Berlin",
        dst=dst,  # type: ignore[arg-type]
        interval=interval,
        time=single,
        start_at=start_at,
        end_at=end_at,
    )
    last = first + length * SECOND
    walked = []
    occurrence = timetable.next_after(first - MILLISECOND)
    while occurrence is not None and occurrence <= last:
        walked.append(occurrence)
        occurrence = timetable.next_after(occurrence)

    assert timetable.until(first, last, limit) == walked[:limit]
    assert timetable.newest(first, last, limit) == walked[max(0, len(walked) - limit) :]
    assert timetable.count(first, last, limit) == min(limit, len(walked))
    assert all(start_at is None or start_at <= occurrence for occurrence in walked)
    assert all(end_at is None or occurrence <= end_at for occurrence in walked)


def test_cron_has_no_occurrences_before_the_anchor() -> None:
    """A past time beside a cron does not bring up the cron's occurrences between that time and the creation."""
    created = datetime(2030, 1, 1, 12, 0, 30, tzinfo=timezone.utc)
    past = created - timedelta(days=1)
    timetable = Timetable(anchor=created, cron="0 * * * *", time=past)

    assert timetable.first(created) == past
    assert timetable.next_after(past) == datetime(2030, 1, 1, 13, tzinfo=timezone.utc)
    assert timetable.newest(past, created + timedelta(minutes=30), 5) == [past]
