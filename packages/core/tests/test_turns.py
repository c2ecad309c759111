"""Letting threads change places more often: only for as long as a call lasts, and only where they change more seldom."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest

from taskiq_sources.turns import TURNS

OFTEN = 0.001  # more seldom than this is the usual


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.004)
    yield
    sys.setswitchinterval(before)


def test_threads_change_places_more_often_during_a_call() -> None:
    end = TURNS.begin()
    assert sys.getswitchinterval() < OFTEN

    end()
    assert sys.getswitchinterval() == pytest.approx(0.004)


def test_it_lasts_until_the_last_call_ends() -> None:
    first, second = TURNS.begin(), TURNS.begin()
    first()
    first()
    assert sys.getswitchinterval() < OFTEN

    second()
    assert sys.getswitchinterval() == pytest.approx(0.004)


def test_calls_of_many_threads_leave_nothing_behind() -> None:
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(2_000):
            end = TURNS.begin()
            assert sys.getswitchinterval() < OFTEN
            end()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sys.getswitchinterval() == pytest.approx(0.004)


def test_a_shorter_time_of_the_application_stays() -> None:
    sys.setswitchinterval(0.00005)
    chosen = sys.getswitchinterval()

    end = TURNS.begin()
    assert sys.getswitchinterval() == chosen

    end()
    assert sys.getswitchinterval() == chosen


@pytest.mark.parametrize("before", [0.00005, 0.004])
@pytest.mark.parametrize("chosen", [0.00007, 0.01])
def test_what_the_application_sets_meanwhile_stays(before: float, chosen: float) -> None:
    sys.setswitchinterval(before)
    end = TURNS.begin()
    sys.setswitchinterval(chosen)
    end()

    assert sys.getswitchinterval() == pytest.approx(chosen, abs=2e-6)


def test_what_was_before_comes_back_to_the_microsecond() -> None:
    for microseconds in range(300, 10_000, 7):
        sys.setswitchinterval((microseconds + 0.5) / 1e6)
        before = sys.getswitchinterval()

        TURNS.begin()()

        assert sys.getswitchinterval() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the lock that may be held then is the point
def test_a_forked_process_begins_without_calls() -> None:
    end = TURNS.begin()
    with TURNS._lock:
        child = os.fork()
        if child == 0:
            TURNS.begin()()
            os._exit(0 if sys.getswitchinterval() > OFTEN else 1)
    end()

    assert os.waitpid(child, 0)[1] == 0
