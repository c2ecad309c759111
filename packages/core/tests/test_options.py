"""`ScheduleOptions`: refused values, defaults, and the label that carries them through taskiq."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from taskiq_sources import ScheduleOptions, ScheduleValidationError

UTC_DAY = datetime(2030, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("misfire", "sometimes"),
        ("misfire_grace", timedelta(seconds=-1)),
        ("misfire_grace", "soon"),
        ("start_at", datetime(2030, 1, 1)),  # noqa: DTZ001 - that is what is refused
        ("end_at", "2030-01-01T00:00:00"),
        ("max_runs", 0),
        ("max_runs", True),
        ("jitter", timedelta(seconds=-1)),
        ("dst", "maybe"),
        ("delivery", "exactly_once"),
        ("colour", "red"),
    ],
)
def test_a_refused_option_is_named(field: str, value: Any) -> None:
    """The error is ours, and names the option and the value."""
    with pytest.raises(ScheduleValidationError) as caught:
        ScheduleOptions(**{field: value})

    assert caught.value.field == field
    assert caught.value.value == value


def test_a_window_that_ends_before_it_starts_is_refused() -> None:
    """``end_at`` before ``start_at`` leaves no room."""
    with pytest.raises(ScheduleValidationError) as caught:
        ScheduleOptions(start_at=UTC_DAY, end_at=UTC_DAY - timedelta(seconds=1))

    assert caught.value.field == "end_at"


def test_what_is_not_set_falls_back_on_the_defaults() -> None:
    """Only options that were set override, even where they were set to what they would have been anyway."""
    defaults = ScheduleOptions(misfire="skip", max_runs=3)

    assert ScheduleOptions().over(defaults) == defaults
    assert ScheduleOptions(misfire="fire_once").over(defaults) == ScheduleOptions(misfire="fire_once", max_runs=3)


@pytest.mark.parametrize(
    "label",
    [
        ScheduleOptions(misfire="skip", misfire_grace=timedelta(minutes=5)),
        str(ScheduleOptions(misfire="skip", misfire_grace=timedelta(minutes=5))),
        {"misfire": "skip", "misfire_grace": 300},
        str({"misfire": "skip", "misfire_grace": 300}),
        '{"misfire": "skip", "misfire_grace": "PT5M"}',
    ],
)
def test_the_label_is_read_in_every_form_that_taskiq_makes_of_it(label: object) -> None:
    """taskiq stores ``str(label)``; an instance, a dictionary and JSON text all arrive."""
    assert ScheduleOptions.from_label(label) == ScheduleOptions(misfire="skip", misfire_grace=timedelta(minutes=5))


@pytest.mark.parametrize(
    "label", ["", "skip", "[1]", 7, None, "__import__('os').getcwd()", "(" * 10_000, "{[1]: 2}", "[" * 200_000]
)
def test_a_label_that_says_nothing_is_refused(label: object) -> None:
    """What is no dictionary is refused, and no code in it is run."""
    with pytest.raises(ScheduleValidationError) as caught:
        ScheduleOptions.from_label(label)

    assert caught.value.field == "schedule_options"


def test_an_option_by_the_name_of_self_is_refused_like_any_that_does_not_exist() -> None:
    with pytest.raises(ScheduleValidationError, match="no such option"):
        ScheduleOptions.from_label({"self": 1})
