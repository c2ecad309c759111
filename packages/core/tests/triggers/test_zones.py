"""What is taken for a time zone, and what it is stored as."""

from __future__ import annotations

import zoneinfo
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path

import pytest
import pytz
from dateutil import tz
from hypothesis import given, settings
from hypothesis import strategies as st

from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.triggers import Zone, parse_zone
from taskiq_sources.triggers.zones import load_zone

HOUR = timedelta(hours=1)


class NamelessZone(tzinfo):
    """A zone with daylight saving that does not tell its name."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None if moment is None else HOUR

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("UTC", "UTC"),
        ("Europe/Berlin", "Europe/Berlin"),
        ("America/Argentina/Buenos_Aires", "America/Argentina/Buenos_Aires"),
        ("Etc/GMT+5", "Etc/GMT+5"),
        ("PST8PDT", "PST8PDT"),
        ("Poland", "Poland"),
        ("PT2H", 2 * HOUR),
        ("-PT1H30M", -1.5 * HOUR),
        ("+PT45M", 0.75 * HOUR),
        ("02:00:00", 2 * HOUR),
        ("-05:30", -5.5 * HOUR),
        (2 * HOUR, 2 * HOUR),
        (timedelta(0), timedelta(0)),
        (timedelta(hours=-23, minutes=-59), timedelta(hours=-23, minutes=-59)),
        (timezone.utc, "UTC"),
        (timezone(timedelta(0)), "UTC"),
        (timezone(-3.5 * HOUR), -3.5 * HOUR),
        (timezone(2 * HOUR, "CEST"), 2 * HOUR),
        (zoneinfo.ZoneInfo("Asia/Kathmandu"), "Asia/Kathmandu"),
        (pytz.timezone("Europe/Berlin"), "Europe/Berlin"),
        (pytz.timezone("Europe/Berlin").localize(datetime(2026, 7, 1)).tzinfo, "Europe/Berlin"),  # noqa: DTZ001 - pytz asks for a wall clock
        (pytz.UTC, "UTC"),
        (pytz.FixedOffset(90), 1.5 * HOUR),
        (tz.gettz("Europe/Berlin"), "Europe/Berlin"),
        (tz.gettz("America/Argentina/Buenos_Aires"), "America/Argentina/Buenos_Aires"),
        (tz.UTC, "UTC"),
        (tz.tzoffset("X", 7200), 2 * HOUR),
    ],
)
def test_zone_of_any_kind_becomes_a_name_or_an_offset(value: str | timedelta | tzinfo, expected: Zone) -> None:
    """Text, durations and the zone objects of the usual libraries come down to an IANA name or an offset."""
    assert parse_zone(value, field="cron_offset") == expected


@pytest.mark.parametrize(
    "value",
    [
        "Mars/Phobos",
        "Europe/Berln",
        "",
        " ",
        "../x",
        "../../etc/passwd",
        "/etc/localtime",
        "/usr/share/zoneinfo/Europe/Berlin",
        "Europe/../Europe/Berlin",
        "Europe",
        "Europe/",
        "Europe/Berlin/",
        "a\0b",
        "\ud800",
        "é",
        "x" * 5000,
        "A" * 60,
        "A/" * 100,
        "tzdata.zoneinfo",
        "zone.tab",
        "localtime",
        "posixrules",
        "posix/Europe/Berlin",
        "right/Europe/Berlin",
        "C:\\x",
        "PT",
        "P1D",
        "-P1D",
        "PT24H",
        "-PT24H",
        "P400Y",
        "PT2.5S",
        "25:00:00",
        "99:99",
        "7200",
        "+2",
        "-1 day, 22:00:00",
        timedelta(days=1),
        timedelta(days=-1),
        timedelta.max,
        timedelta(milliseconds=1500),
        timezone(timedelta(seconds=1, microseconds=1)),
        tz.tzstr("EST5EDT"),
        NamelessZone(),
        None,
        2,
        b"UTC",
        2.5,
    ],
)
def test_what_is_no_zone_is_refused(value: object) -> None:
    """Whatever is wrong, the error is ours and names field, value and what to write instead."""
    with pytest.raises(ScheduleValidationError) as caught:
        parse_zone(value, field="cron_offset")  # type: ignore[arg-type]

    assert caught.value.field == "cron_offset"
    assert caught.value.value == value


def test_error_says_what_would_be_right() -> None:
    """A misspelt name leads to examples of all that is accepted."""
    with pytest.raises(ScheduleValidationError) as caught:
        parse_zone("Europe/Berln", field="cron_offset")

    assert str(caught.value) == (
        "cron_offset 'Europe/Berln' is not valid: no such time zone is known (is the tzdata package up to date?); use an IANA "
        "name such as 'Europe/Berlin', or an offset that is added to UTC, such as timedelta(hours=2) or 'PT2H'"
    )


def test_machine_without_zone_data_is_told_about_tzdata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no time-zone database is found, UTC still works and the error says what to install."""

    def nothing(key: str) -> zoneinfo.ZoneInfo:
        raise ModuleNotFoundError("No module named 'tzdata'")

    monkeypatch.setattr("taskiq_sources.triggers.zones.ZoneInfo", nothing)
    load_zone.cache_clear()
    try:
        assert parse_zone("UTC", field="cron_offset") == "UTC"
        with pytest.raises(ScheduleValidationError, match="pip install tzdata"):
            parse_zone("Europe/Berlin", field="cron_offset")
    finally:
        load_zone.cache_clear()


def test_zone_without_a_name_is_refused_even_if_it_is_a_zoneinfo() -> None:
    """A ZoneInfo that was read from a file has no key, so that another machine could not find it again."""
    package = Path(pytz.__file__).parent / "zoneinfo" / "Europe" / "Berlin"
    with package.open("rb") as file:
        zone = zoneinfo.ZoneInfo.from_file(file)

    with pytest.raises(ScheduleValidationError, match="does not tell its IANA name"):
        parse_zone(zone, field="cron_offset")


def test_every_zone_of_the_database_is_accepted() -> None:
    """No zone that this machine knows is refused for its spelling."""
    names = zoneinfo.available_timezones() - {"localtime", "Factory"}

    assert {name for name in names if parse_zone(name, field="cron_offset") != name} == set()


@given(st.text(max_size=30) | st.text(alphabet="PTDHMS0123456789.:+-/ ", max_size=12))
@settings(max_examples=500)
def test_any_text_is_a_zone_or_a_validation_error(text: str) -> None:
    """Whatever a user types, the outcome is a zone or a `ScheduleValidationError`."""
    try:
        zone = parse_zone(text, field="cron_offset")
    except ScheduleValidationError:
        return
    assert zone == text or isinstance(zone, timedelta)
