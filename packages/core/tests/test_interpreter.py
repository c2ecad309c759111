"""Settings of CPython: changed only for as long as somebody wants it, and only where that is better than what they were."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from taskiq_sources.interpreter import COLLECTOR, TURNS, Setting, collector_waits

OFTEN = 0.001  # more seldom than this is the usual


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(0.004)
    gc.set_threshold(700, 10, 10)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)


def test_threads_change_places_more_often_during_a_call() -> None:
    end = TURNS.change()
    assert sys.getswitchinterval() < OFTEN

    end()
    assert sys.getswitchinterval() == pytest.approx(0.004)


def test_it_lasts_until_the_last_call_ends() -> None:
    first, second = TURNS.change(), TURNS.change()
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
            end = TURNS.change()
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

    end = TURNS.change()
    assert sys.getswitchinterval() == chosen

    end()
    assert sys.getswitchinterval() == chosen


@pytest.mark.parametrize("before", [0.00005, 0.004])
@pytest.mark.parametrize("chosen", [0.00007, 0.01])
def test_what_the_application_sets_meanwhile_stays(before: float, chosen: float) -> None:
    sys.setswitchinterval(before)
    end = TURNS.change()
    sys.setswitchinterval(chosen)
    end()

    assert sys.getswitchinterval() == pytest.approx(chosen, abs=2e-6)


@pytest.mark.parametrize("at", range(6))
def test_a_use_may_end_amid_another_one(at: int) -> None:
    """As by the finalizer of an engine that nobody has any more: the collector runs at any time, in whatever thread."""
    value, steps = 4, 0
    ends: list[Callable[[], None]] = []

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps > at and ends:
            ends.pop(0)()

    def read() -> int:
        step()
        return value

    def write(new: int) -> None:
        nonlocal value
        step()
        value = new

    def work() -> None:
        setting = Setting(read, write, 1, lambda before: before > 1)
        ends.append(setting.change())
        ends.append(setting.change())
        while ends:
            ends.pop(0)()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(20)

    assert not worker.is_alive(), "it waits for itself"
    assert value == 4


def test_what_the_application_sets_between_two_calls_comes_back() -> None:
    first = TURNS.change()
    sys.setswitchinterval(0.01)
    second = TURNS.change()
    assert sys.getswitchinterval() < OFTEN

    first()
    second()
    assert sys.getswitchinterval() == pytest.approx(0.01)


def test_what_was_before_comes_back_to_the_microsecond() -> None:
    for microseconds in range(300, 10_000, 7):
        sys.setswitchinterval((microseconds + 0.5) / 1e6)
        before = sys.getswitchinterval()

        TURNS.change()()

        assert sys.getswitchinterval() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the lock that may be held then is the point
def test_a_forked_process_begins_without_calls() -> None:
    end = TURNS.change()
    with TURNS._lock:
        child = os.fork()
        if child == 0:
            TURNS.change()()
            os._exit(0 if sys.getswitchinterval() > OFTEN else 1)
    end()

    assert os.waitpid(child, 0)[1] == 0


# -- the collector of cycles -------------------------------------------------------------------------------------------------


def test_nothing_is_collected_meanwhile() -> None:
    collections: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        collections.append(phase)

    gc.collect()
    gc.callbacks.append(note)
    try:
        with collector_waits():
            kept = [[number] for number in range(10_000)]
            during = list(collections)
        kept.append([])
    finally:
        gc.callbacks.remove(note)

    assert during == []
    assert collections, "it ran once afterwards"


def test_it_is_as_before_after_an_error() -> None:
    with pytest.raises(ValueError, match="x"), collector_waits():
        raise ValueError("x")

    assert gc.get_threshold() == (700, 10, 10)


def test_it_waits_until_the_outer_one_ends() -> None:
    with collector_waits():
        with collector_waits():
            pass
        assert gc.get_threshold()[0] > 700

    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("chosen", [0, 100_000])
def test_an_application_that_has_it_run_more_seldom_or_never_keeps_that(chosen: int) -> None:
    gc.set_threshold(chosen, 5, 5)
    with collector_waits():
        assert gc.get_threshold() == (chosen, 5, 5)

    assert gc.get_threshold() == (chosen, 5, 5)


def test_what_the_application_says_of_the_other_generations_meanwhile_stays() -> None:
    with collector_waits():
        gc.set_threshold(gc.get_threshold()[0], 20, 30)

    assert gc.get_threshold() == (700, 20, 30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_collects_as_before() -> None:
    end = COLLECTOR.change()
    child = os.fork()
    if child == 0:
        os._exit(0 if gc.get_threshold()[0] == 700 else 1)
    end()

    assert os.waitpid(child, 0)[1] == 0
