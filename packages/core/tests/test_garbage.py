"""Holding the cycle collector back: only for as long as it says, and only where it would have run."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from taskiq_sources.garbage import collector_waits


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.enable()


def test_nothing_is_collected_meanwhile() -> None:
    collections: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        collections.append(phase)

    gc.callbacks.append(note)
    try:
        with collector_waits():
            collections.clear()
            kept = [[number] for number in range(100_000)]
            during = list(collections)
        kept.append([])
    finally:
        gc.callbacks.remove(note)

    assert during == []
    assert collections, "it ran once afterwards"


def test_it_runs_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="x"), collector_waits():
        raise ValueError("x")

    assert gc.isenabled()


def test_it_stays_held_back_until_the_outer_one_ends() -> None:
    with collector_waits():
        with collector_waits():
            pass
        assert not gc.isenabled()

    assert gc.isenabled()


def test_an_application_that_has_turned_it_off_keeps_it_off() -> None:
    gc.disable()
    with collector_waits():
        pass

    assert not gc.isenabled()
