"""What a cron does where a zone's clock is put forward or back: tables for each policy, in both directions."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.triggers import DstPolicy, compile_cron


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def check(expression: str, zone: str | timedelta, policy: DstPolicy, start: str, expected: list[str]) -> None:
    """Walk forwards from `start`, then back over the same occurrences."""
    trigger = compile_cron(expression, zone, policy)
    moment: datetime | None = utc(start)
    forwards = []
    for _ in expected:
        assert moment is not None
        moment = trigger.next_after(moment)
        forwards.append(moment)
    backwards = []
    for _ in expected:
        assert moment is not None
        moment = trigger.last_until(moment)
        assert moment is not None
        backwards.append(moment)
        moment -= timedelta(milliseconds=1)

    assert forwards == [utc(text) for text in expected]
    assert backwards[::-1] == forwards


#: zone, fixed-time expression whose wall time falls into the gap, day before, first instant after the gap, day after
GAPS = [
    ("Europe/Berlin", "30 2 * * *", "2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30"),
    ("Europe/Berlin", "0 2 * * *", "2026-03-28 01:00", "2026-03-29 01:00", "2026-03-30 00:00"),
    ("Europe/Berlin", "15 30 2 * * *", "2026-03-28 01:30:15", "2026-03-29 01:00", "2026-03-30 00:30:15"),
    ("Europe/Berlin", "30 2 * * *", "2080-03-30 01:30", "2080-03-31 01:00", "2080-04-01 00:30"),
    ("America/New_York", "30 2 * * *", "2026-03-07 07:30", "2026-03-08 07:00", "2026-03-09 06:30"),
    ("Australia/Lord_Howe", "15 2 * * *", "2026-10-02 15:45", "2026-10-03 15:30", "2026-10-04 15:15"),
    ("Africa/Casablanca", "30 2 * * *", "2026-03-21 02:30", "2026-03-22 02:00", "2026-03-23 01:30"),
    ("America/Sao_Paulo", "@daily", "2018-11-03 03:00", "2018-11-04 03:00", "2018-11-05 02:00"),
    ("Antarctica/Troll", "30 2 * * *", "2026-03-28 02:30", "2026-03-29 01:00", "2026-03-30 00:30"),
    ("Pacific/Apia", "0 12 * * *", "2011-12-29 22:00", "2011-12-30 10:00", "2011-12-30 22:00"),
]

#: zone, fixed-time expression whose wall time is repeated, day before, first pass, second pass, day after
REPEATS = [
    ("Europe/Berlin", "30 2 * * *", "2026-10-24 00:30", "2026-10-25 00:30", "2026-10-25 01:30", "2026-10-26 01:30"),
    ("Europe/Berlin", "0 2 * * *", "2026-10-24 00:00", "2026-10-25 00:00", "2026-10-25 01:00", "2026-10-26 01:00"),
    ("Europe/Berlin", "30 2 * * *", "2080-10-26 00:30", "2080-10-27 00:30", "2080-10-27 01:30", "2080-10-28 01:30"),
    ("America/New_York", "30 1 * * *", "2026-10-31 05:30", "2026-11-01 05:30", "2026-11-01 06:30", "2026-11-02 06:30"),
    ("Australia/Lord_Howe", "45 1 * * *", "2026-04-03 14:45", "2026-04-04 14:45", "2026-04-04 15:15", "2026-04-05 15:15"),
    ("Africa/Casablanca", "30 2 * * *", "2026-02-14 01:30", "2026-02-15 01:30", "2026-02-15 02:30", "2026-02-16 02:30"),
    ("America/Sao_Paulo", "30 23 * * *", "2018-02-17 01:30", "2018-02-18 01:30", "2018-02-18 02:30", "2018-02-19 02:30"),
    ("Antarctica/Troll", "30 1 * * *", "2026-10-23 23:30", "2026-10-24 23:30", "2026-10-25 01:30", "2026-10-26 01:30"),
]


def _just_before(text: str) -> str:
    return (datetime.fromisoformat(text) - timedelta(milliseconds=1)).isoformat()


@pytest.mark.parametrize("policy", ["vixie", "twice"])
@pytest.mark.parametrize(("zone", "expression", "before", "gap", "after"), GAPS)
def test_fixed_time_in_a_gap_fires_once_right_after_it(
    zone: str, expression: str, before: str, gap: str, after: str, policy: DstPolicy
) -> None:
    """A wall time that the clock jumps over fires at the first instant after the jump."""
    check(expression, zone, policy, _just_before(before), [before, gap, after])


@pytest.mark.parametrize(("zone", "expression", "before", "gap", "after"), GAPS)
def test_skip_leaves_a_gap_out(zone: str, expression: str, before: str, gap: str, after: str) -> None:
    """With `skip` a wall time that does not exist does not fire."""
    check(expression, zone, "skip", _just_before(before), [before, after])


@pytest.mark.parametrize("policy", ["vixie", "skip"])
@pytest.mark.parametrize(("zone", "expression", "before", "once", "again", "after"), REPEATS)
def test_fixed_time_that_is_repeated_fires_the_first_time_only(
    zone: str, expression: str, before: str, once: str, again: str, after: str, policy: DstPolicy
) -> None:
    """A wall time that the clock shows twice fires the first time it is shown."""
    check(expression, zone, policy, _just_before(before), [before, once, after])


@pytest.mark.parametrize(("zone", "expression", "before", "once", "again", "after"), REPEATS)
def test_twice_fires_in_both_passes(zone: str, expression: str, before: str, once: str, again: str, after: str) -> None:
    """With `twice` a repeated wall time fires each time it is shown."""
    check(expression, zone, "twice", _just_before(before), [before, once, again, after])


@pytest.mark.parametrize(("zone", "expression", "before", "once", "again", "after"), REPEATS)
def test_start_between_the_passes(zone: str, expression: str, before: str, once: str, again: str, after: str) -> None:
    """Started after the first pass, or within the second one, only `twice` fires again."""
    inside = _just_before(again)  # the wall clock shows the second pass by then

    check(expression, zone, "vixie", once, [after])
    check(expression, zone, "vixie", inside, [after])
    check(expression, zone, "skip", inside, [after])
    check(expression, zone, "twice", once, [again, after])
    check(expression, zone, "twice", inside, [again, after])
    check(expression, zone, "twice", again, [after])


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        pytest.param("0,15,30,45 2 * * *", ["2026-03-29 01:00", "2026-03-30 00:00"], id="several in one gap"),
        pytest.param("0 2,3 * * *", ["2026-03-29 01:00", "2026-03-30 00:00"], id="together with a regular match"),
        pytest.param("30 2,3 * * *", ["2026-03-29 01:00", "2026-03-29 01:30"], id="before a regular match"),
        pytest.param("0 0-5 * * *", ["2026-03-29 01:00", "2026-03-29 02:00"], id="a range of hours"),
        pytest.param("*/10 30 2 * * *", ["2026-03-29 01:00", "2026-03-30 00:30"], id="a step of seconds is fixed-time too"),
    ],
)
def test_fixed_times_in_one_gap_collapse(expression: str, expected: list[str]) -> None:
    """However many wall times one gap swallows, they fire as one occurrence, at the instant after it."""
    check(expression, "Europe/Berlin", "vixie", "2026-03-29 00:59:59", expected)


@pytest.mark.parametrize("policy", ["vixie", "skip", "twice"])
@pytest.mark.parametrize(
    ("expression", "zone", "start", "expected"),
    [
        ("*/30 * * * *", "Europe/Berlin", "2026-03-29 00:15", ["2026-03-29 00:30", "2026-03-29 01:00", "2026-03-29 01:30"]),
        ("*/30 * * * *", "Europe/Berlin", "2026-10-25 00:10", [f"2026-10-25 0{h}" for h in ("0:30", "1:00", "1:30", "2:00")]),
        ("*/30 2 * * *", "Europe/Berlin", "2026-03-29 00:00", ["2026-03-30 00:00", "2026-03-30 00:30"]),
        ("*/30 2 * * *", "Europe/Berlin", "2026-10-24 23:59", [f"2026-10-25 0{h}" for h in ("0:00", "0:30", "1:00", "1:30")]),
        ("0/30 2 * * *", "Europe/Berlin", "2026-03-29 00:00", ["2026-03-30 00:00", "2026-03-30 00:30"]),
        ("0-30/30 2 * * *", "Europe/Berlin", "2026-10-25 00:10", ["2026-10-25 00:30", "2026-10-25 01:00", "2026-10-25 01:30"]),
        ("30 0-4/2 * * *", "Europe/Berlin", "2026-03-29 00:00", ["2026-03-29 02:30", "2026-03-29 22:30"]),
        ("30 * * * *", "Europe/Berlin", "2026-10-25 01:10", ["2026-10-25 01:30", "2026-10-25 02:30"]),
        ("30 * * * *", "Europe/Berlin", "2026-03-29 00:45", ["2026-03-29 01:30", "2026-03-29 02:30"]),
        ("30 */2 * * *", "Europe/Berlin", "2026-03-29 00:00", ["2026-03-29 02:30", "2026-03-29 04:30"]),
        ("* 2 * * *", "Europe/Berlin", "2026-03-28 01:59", ["2026-03-30 00:00"]),
        ("@hourly", "Australia/Lord_Howe", "2026-04-04 14:00", ["2026-04-04 15:30", "2026-04-04 16:30"]),
        ("*/20 * * * *", "Australia/Lord_Howe", "2026-04-04 14:30", [f"2026-04-04 1{h}" for h in ("4:40", "5:10", "5:30")]),
        ("*/20 * * * * *", "America/New_York", "2026-11-01 05:59:30", ["2026-11-01 05:59:40", "2026-11-01 06:00"]),
        ("0 */6 * * *", "Pacific/Apia", "2011-12-30 04:00", ["2011-12-30 10:00", "2011-12-30 16:00"]),
    ],
)
def test_rhythm_follows_what_the_clock_shows(
    expression: str, zone: str, start: str, expected: list[str], policy: DstPolicy
) -> None:
    """A cron with a `*` or a step in hour or minute fires at each instant whose wall clock matches, under any policy."""
    check(expression, zone, policy, start, expected)


def test_cron_that_only_ever_falls_into_gaps_never_fires_under_skip() -> None:
    """A search without end is given up after the horizon: there is no next occurrence."""
    trigger = compile_cron("30 2 * 3 L0", "Europe/Berlin", "skip")

    assert trigger.next_after(utc("2026-01-01 00:00")) is None


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("UTC", "2026-06-01 09:00"),
        ("Asia/Kathmandu", "2026-06-01 03:15"),
        ("America/New_York", "2026-06-01 13:00"),
        (timedelta(hours=2), "2026-06-01 07:00"),
        (timedelta(hours=-3, minutes=-30), "2026-06-01 12:30"),
        (timedelta(hours=13), "2026-06-01 20:00"),
        (timedelta(hours=23, minutes=59, seconds=59), "2026-06-01 09:00:01"),
    ],
)
def test_zone_shifts_the_wall_clock(zone: str | timedelta, expected: str) -> None:
    """A name means that wall clock; an offset is added to UTC before matching."""
    check("0 9 * * *", zone, "vixie", "2026-06-01 00:00", [expected])


def test_unknown_zone_or_policy_is_refused() -> None:
    """What cannot be evaluated is refused where the trigger is made."""
    with pytest.raises(ScheduleValidationError, match="Mars/Phobos"):
        compile_cron("@daily", "Mars/Phobos")
    with pytest.raises(ScheduleValidationError, match="use one of vixie, skip, twice"):
        compile_cron("@daily", "UTC", "sometimes")  # type: ignore[arg-type]
