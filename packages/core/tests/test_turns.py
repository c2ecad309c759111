"""Letting threads change places more often: only for as long as it says, and only where they change more seldom."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from taskiq_sources.turns import threads_get_turns


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def test_threads_change_places_more_often_meanwhile() -> None:
    sys.setswitchinterval(0.004)

    with threads_get_turns():
        assert sys.getswitchinterval() < 0.001

    assert sys.getswitchinterval() == pytest.approx(0.004)


def test_it_ends_with_the_last_one_that_waits_in_whatever_order_they_end() -> None:
    sys.setswitchinterval(0.004)
    first, second = threads_get_turns(), threads_get_turns()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() < 0.001

    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(0.004)


def test_it_ends_with_an_error() -> None:
    sys.setswitchinterval(0.004)

    with pytest.raises(ValueError, match="x"), threads_get_turns():
        raise ValueError("x")

    assert sys.getswitchinterval() == pytest.approx(0.004)


def test_a_shorter_time_of_the_application_stays() -> None:
    sys.setswitchinterval(0.00005)
    chosen = sys.getswitchinterval()

    with threads_get_turns():
        assert sys.getswitchinterval() == chosen

    assert sys.getswitchinterval() == chosen


def test_what_was_before_comes_back_to_the_microsecond() -> None:
    for microseconds in range(300, 10_000, 7):
        sys.setswitchinterval((microseconds + 0.5) / 1e6)
        before = sys.getswitchinterval()

        with threads_get_turns():
            pass

        assert sys.getswitchinterval() == before


def test_what_the_application_sets_meanwhile_stays() -> None:
    with threads_get_turns():
        sys.setswitchinterval(0.01)

    assert sys.getswitchinterval() == pytest.approx(0.01)
