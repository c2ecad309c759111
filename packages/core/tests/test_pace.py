"""`Pace`: how much is claimed at a time."""

from __future__ import annotations

import pytest

from taskiq_sources.pace import Pace


def send(pace: Pace, number: int, *, until: float, took: float = 0.0) -> None:
    for _ in range(number):
        pace.sent(took)
    pace.judge(until)


@pytest.mark.parametrize(
    ("rate", "batch"),
    [(10, 100), (400, 100), (1_000, 250), (1_999, 500), (100_000, 500)],
)
def test_what_is_claimed_at_a_time_can_be_sent_within_a_quarter_of_a_second(rate: int, batch: int) -> None:
    """But it is never less than can be sent at once, and never more than one call takes."""
    pace = Pace(100, 500)
    pace.begin(5.0)
    send(pace, 200, until=5.0 + 200 / rate)

    assert pace.batch == batch


def test_a_few_sends_teach_nothing() -> None:
    """That one was sent in no time tells nothing of many."""
    pace = Pace(100, 500)
    pace.begin(5.0)
    send(pace, 50, until=5.0)

    assert pace.batch == 100


def test_time_without_anything_to_send_does_not_count() -> None:
    """Nor does it make a fast broker a slow one."""
    pace = Pace(100, 500)
    send(pace, 200, until=0.01)
    pace.begin(1_000.0)
    send(pace, 500, until=1_000.1)

    assert pace.batch == 500


def test_sends_that_began_before_do_not_make_a_slow_broker_a_fast_one() -> None:
    """A hundred sends of a second each that end at once, just after there was nothing to send, are a hundred a second."""
    pace = Pace(100, 500)
    pace.begin(0.99)
    send(pace, 100, until=1.0, took=1.0)

    assert (pace.batch, pace.low_mark) == (100, 50)


def test_a_broker_that_slows_down_is_noticed() -> None:
    """Others get what this scheduler cannot send soon."""
    pace = Pace(100, 500)
    send(pace, 200, until=0.01)
    send(pace, 300, until=2.0)

    assert pace.batch == 100


def test_few_sends_that_took_long_tell_enough() -> None:
    """Else a broker that has become slow is taken for a fast one for minutes; what was claimed for that one is too much."""
    pace = Pace(2, 500)
    send(pace, 200, until=0.01)
    assert (pace.batch, pace.most) == (500, 1_500)
    send(pace, 4, until=2.01, took=1.0)

    assert (pace.batch, pace.most) == (2, 10)
    send(pace, 4, until=42.01, took=20.0)
    assert pace.most == pace.low_mark + pace.batch


@pytest.mark.parametrize(("rate", "low_mark"), [(100, 50), (1_000, 125), (8_000, 400), (1_000_000, 1_000)])
def test_more_is_claimed_before_sends_would_have_to_wait_for_the_store(rate: int, low_mark: int) -> None:
    """What waits lasts for a twentieth of a second: half of what is claimed at a time, or more, and two calls' worth at most."""
    pace = Pace(100, 500)
    assert pace.low_mark == 50
    send(pace, 200, until=200 / rate)

    assert pace.low_mark == low_mark


def test_the_lowest_is_not_above_the_highest() -> None:
    """More sends at once than one call claims."""
    assert Pace(1_000, 20).batch == 20
