"""The circuit breaker: what failures say of the broker, and what they say of single schedules."""

from __future__ import annotations

from datetime import timedelta

from taskiq_sources.breaker import Breaker

LATE = 10_000.0  # what began then began after any pause


class Time:
    def __init__(self) -> None:
        self.now = 100.0


def breaker_of(time: Time, threshold: int = 6) -> Breaker:
    return Breaker(threshold, timedelta(seconds=1), timedelta(seconds=3), lambda: time.now)


def fail(breaker: Breaker, number: int) -> list[bool]:
    return [breaker.failed(str(index), LATE) for index in range(number)]


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = breaker_of(Time())

    assert fail(breaker, 6) == [False] * 5 + [True]
    assert (breaker.state, breaker.remaining) == ("open", 1.0)


def test_it_opens_where_there_are_few_schedules_too() -> None:
    breaker = breaker_of(Time())

    assert [breaker.failed("only", LATE) for _ in range(6)] == [False] * 5 + [True]


def test_a_send_that_succeeds_closes_it() -> None:
    time = Time()
    breaker = breaker_of(time)
    fail(breaker, 6)
    time.now += 1
    assert breaker.state == "half_open"
    breaker.succeeded("another", time.now)

    assert breaker.state == "closed"
    assert [breaker.failed(f"new-{index}", LATE) for index in range(5)] == [False] * 5


def test_a_few_are_tried_and_the_pause_grows_when_all_fail() -> None:
    time = Time()
    breaker = breaker_of(time)
    fail(breaker, 6)
    pauses = []
    for _ in range(3):
        time.now += breaker.remaining
        assert fail(breaker, breaker.trials) == [False, True]
        pauses.append(breaker.remaining)

    assert pauses == [2.0, 3.0, 3.0]


def test_what_failed_before_the_broker_took_something_else_says_nothing_of_it() -> None:
    """Until it is sent: then it is like any other."""
    breaker = breaker_of(Time())
    breaker.failed("bad", LATE)
    breaker.succeeded("good", 101.0)

    assert not any(breaker.failed("bad", LATE) for _ in range(100))
    assert (breaker.state, breaker.failing) == ("closed", 1)
    breaker.succeeded("bad", 101.0)
    assert breaker.failing == 0
    assert [breaker.failed("bad", LATE) for _ in range(6)][-1]


def test_a_send_that_ends_late_does_not_hide_an_outage() -> None:
    """What failed after it was begun may well be the outage."""
    time = Time()
    breaker = breaker_of(time)
    began = time.now
    time.now += 1
    fail(breaker, 5)
    time.now += 1
    breaker.succeeded("late", began)

    assert breaker.failed("5", LATE)
    assert breaker.state == "open"


def test_what_has_not_failed_for_long_is_forgotten() -> None:
    """It was deleted, perhaps, or sent at most once."""
    time = Time()
    breaker = breaker_of(time)
    fail(breaker, 3)
    breaker.succeeded("good", time.now)
    assert breaker.failing == 3
    time.now += 601

    assert breaker.failing == 0
    assert [breaker.failed("0", LATE) for _ in range(6)][-1]


def test_what_fails_while_it_is_open_says_nothing() -> None:
    """It was under way before; nor does it say anything when a few are tried."""
    time = Time()
    breaker = breaker_of(time)
    fail(breaker, 6)

    assert not breaker.failed("another", time.now)
    assert (breaker.remaining, breaker.failing) == (1.0, 6)
    time.now += 1
    assert not any(breaker.failed(str(index), time.now - 1) for index in range(10))
    assert breaker.state == "half_open"
