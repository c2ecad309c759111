"""The circuit breaker: what many schedules say of the broker, and what one says of itself."""

from __future__ import annotations

from datetime import timedelta

from taskiq_sources.breaker import Breaker


class Time:
    def __init__(self) -> None:
        self.now = 100.0


def breaker_of(time: Time, threshold: int = 6) -> Breaker:
    return Breaker(threshold, timedelta(seconds=1), timedelta(seconds=3), lambda: time.now)


def fail(breaker: Breaker, number: int, *, is_retry: bool = False) -> list[bool]:
    return [breaker.failed(str(index), is_retry=is_retry) for index in range(number)]


def test_it_opens_when_one_schedule_after_another_fails() -> None:
    time = Time()
    breaker = breaker_of(time)

    assert fail(breaker, 6) == [False] * 5 + [True]
    assert (breaker.state, breaker.remaining) == ("open", 1.0)


def test_one_schedule_alone_does_not_open_it() -> None:
    breaker = breaker_of(Time())

    assert not any(breaker.failed("bad", is_retry=True) for _ in range(100))
    assert (breaker.state, breaker.failing) == ("closed", 1)


def test_a_send_that_succeeds_closes_it() -> None:
    time = Time()
    breaker = breaker_of(time)
    fail(breaker, 6)
    time.now += 1
    assert breaker.state == "half_open"
    breaker.succeeded()

    assert (breaker.state, breaker.failing) == ("closed", 0)
    assert fail(breaker, 5) == [False] * 5


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


def test_what_has_failed_before_does_not_make_the_pause_grow() -> None:
    """Else a few that always fail would keep it open for the others."""
    time = Time()
    breaker = breaker_of(time)
    fail(breaker, 6)
    time.now += 1

    assert fail(breaker, breaker.trials, is_retry=True) == [False, True]
    assert breaker.remaining == 1.0


def test_what_fails_while_it_is_open_says_nothing() -> None:
    """It was under way before."""
    time = Time()
    breaker = breaker_of(time)
    fail(breaker, 6)

    assert not breaker.failed("another", is_retry=False)
    assert (breaker.remaining, breaker.failing) == (1.0, 0)
