"""The delay that spreads equal due times."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskiq_sources.triggers import jittered

NOON = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
MILLISECOND, MINUTE, HOUR = timedelta(milliseconds=1), timedelta(minutes=1), timedelta(hours=1)


def test_delay_never_changes_between_releases() -> None:
    """The delay of an occurrence is fixed by its id alone: every process, today and tomorrow, agrees on it."""
    delayed = jittered(NOON, following=None, jitter=MINUTE, occurrence_id="nightly@2026-06-01T12:00:00.000Z")

    assert delayed - NOON == timedelta(milliseconds=44004)


def test_delays_are_spread_evenly() -> None:
    """Over many ids the delays fill their range: none past it, each tenth of it with about a tenth of them."""
    delays = [jittered(NOON, following=None, jitter=MINUTE, occurrence_id=f"job-{index}@x") - NOON for index in range(5000)]
    tenths = [sum(1 for delay in delays if delay // (MINUTE / 10) == tenth) for tenth in range(10)]

    assert sum(tenths) == 5000
    assert min(tenths) > 400
    assert max(tenths) < 600


@pytest.mark.parametrize("jitter", [timedelta(0), timedelta(microseconds=999), MILLISECOND, -MINUTE])
def test_no_room_means_no_delay(jitter: timedelta) -> None:
    """A jitter of a millisecond or less leaves the nominal time as it is."""
    assert jittered(NOON, following=None, jitter=jitter, occurrence_id="a") == NOON


@given(
    room=st.integers(-1000, 10_000),
    jitter=st.integers(0, 100_000),
    occurrence_id=st.text(),
)
def test_delay_stays_before_the_next_occurrence(room: int, jitter: int, occurrence_id: str) -> None:
    """The delay is in whole milliseconds, shorter than the jitter, and ends before the next occurrence."""
    delayed = jittered(NOON, following=NOON + room * MILLISECOND, jitter=jitter * MILLISECOND, occurrence_id=occurrence_id)
    delay = delayed - NOON

    assert not delay % MILLISECOND
    assert timedelta(0) <= delay <= max(0, min(room, jitter) - 1) * MILLISECOND


def test_close_occurrences_are_spread_over_the_room_that_there_is() -> None:
    """A jitter longer than the period does not pile delays up at its end."""
    delays = {jittered(NOON, following=NOON + MINUTE, jitter=HOUR, occurrence_id=f"job-{index}") - NOON for index in range(500)}

    assert len(delays) > 450
