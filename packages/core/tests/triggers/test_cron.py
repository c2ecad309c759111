"""What a trigger promises besides being right: sharing, remembering, steadiness."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from datetime import datetime, timedelta, timezone

import pytest

from taskiq_sources.triggers import CronTrigger, compile_cron
from taskiq_sources.triggers.cron import _compile

START = datetime(2026, 3, 28, 22, tzinfo=timezone.utc)


def fresh(expression: str, zone: str) -> CronTrigger:
    """Return a trigger that has no answers to remember."""
    return _compile.__wrapped__(expression, zone, "vixie")


def test_equal_arguments_share_one_trigger() -> None:
    """Schedules with the same expression share its parsing and its answers."""
    assert compile_cron("0 3 * * *") is compile_cron("0 3 * * *", "UTC", "vixie")
    assert compile_cron("0 3 * * *") is not compile_cron("0 3 * * *", "Europe/Berlin")


def test_trigger_shows_what_it_is_and_cannot_be_changed() -> None:
    """A shared object must not be changed under others, and a log line shows only what the user wrote."""
    trigger = compile_cron(" 0 3 * * * ", timedelta(hours=1), "skip")

    with pytest.raises(FrozenInstanceError):
        trigger.zone = "UTC"  # type: ignore[misc]
    assert repr(trigger) == "CronTrigger(expression=' 0 3 * * * ', zone=datetime.timedelta(seconds=3600), dst='skip')"


@pytest.mark.parametrize("expression", ["*/7 * * * *", "30 2 * * *", "*/13 * * * * *", "0 0 L * *"])
def test_remembered_answers_equal_computed_ones(expression: str) -> None:
    """Asked in any order, at any millisecond, a trigger says the same as one that was never asked before."""
    generator = random.Random(7)
    shared = fresh(expression, "Europe/Berlin")
    moments = [START + timedelta(milliseconds=generator.randrange(18_000_000)) for _ in range(400)]
    moments += [moment.replace(microsecond=0) for moment in moments[:200]]

    for moment in moments:
        assert shared.next_after(moment) == fresh(expression, "Europe/Berlin").next_after(moment)


def test_occurrence_itself_is_not_after_itself() -> None:
    """The answer is strictly later, also for the very instant that was the last answer."""
    trigger = fresh("* * * * *", "UTC")
    first = trigger.next_after(START)
    assert first is not None

    assert trigger.next_after(first - timedelta(milliseconds=1)) == first
    assert trigger.next_after(first) == first + timedelta(minutes=1)
    assert trigger.last_until(first) == first


def test_threads_may_share_a_trigger() -> None:
    """Answers given to several threads at once are the ones that each would get alone."""
    shared = fresh("*/5 * * * *", "Europe/Berlin")
    moments = [START + timedelta(seconds=37 * index) for index in range(2000)]
    expected = [fresh("*/5 * * * *", "Europe/Berlin").next_after(moment) for moment in moments]

    def ask(seed: int) -> bool:
        order = list(range(len(moments)))
        random.Random(seed).shuffle(order)
        return all(shared.next_after(moments[index]) == expected[index] for index in order)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(8)))


def test_instant_in_another_zone_is_the_same_instant() -> None:
    """An aware datetime of any zone is taken for the instant that it is; the answer is in UTC."""
    elsewhere = START.astimezone(timezone(timedelta(hours=9)))

    answer = fresh("0 3 * * *", "UTC").next_after(elsewhere)

    assert answer == datetime(2026, 3, 29, 3, tzinfo=timezone.utc)
    assert answer.tzinfo is timezone.utc


def test_naive_instant_is_refused() -> None:
    """A datetime without a zone is no instant: it is never guessed to be local time."""
    with pytest.raises(ValueError, match="no time zone"):
        fresh("0 3 * * *", "UTC").next_after(datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(("year", "month"), [(1, 1), (1, 6), (9998, 6), (9999, 12)])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", timedelta(hours=-23)])
def test_ends_of_the_calendar_are_no_error(year: int, month: int, zone: str | timedelta) -> None:
    """Where datetimes end, there is no next and no previous occurrence, rather than an OverflowError."""
    trigger = compile_cron("@hourly", zone)
    instant = datetime(year, month, 1, tzinfo=timezone.utc)

    assert trigger.next_after(instant) is None
    assert trigger.last_until(instant) is None
