"""What a dispatcher holds: of one schedule, the newest claim counts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from taskiq_sources.codec import Definition
from taskiq_sources.held import Held, Ledger
from taskiq_sources.models import Claim, StoredSchedule
from taskiq_sources.occurrences import Dispatch

NOW = datetime(2030, 5, 14, 12, tzinfo=timezone.utc)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    yield ledger
    ledger.clear()


def dispatch(schedule_id: str, token: str) -> Dispatch:
    schedule = StoredSchedule(
        id=schedule_id,
        task_name="job",
        document="{}",
        timing="{}",
        scheduled_for=NOW,
        next_run_at=NOW,
        anchor=NOW,
        created_at=NOW,
        updated_at=NOW,
    )
    return Dispatch(
        claim=Claim(schedule=schedule, token=token, claimed_at=NOW, lease_until=NOW),
        definition=Definition(schedule_id=schedule_id, task_name="job", labels={}, args=[], kwargs={}, time=NOW),
        scheduled_for=NOW,
        coalesced=1,
        occurrence_id=f"{schedule_id}@now",
        task_id="id",
    )


def counting(ledger: Ledger) -> list[Held]:
    """Return what may be renewed and settled."""
    return [held for held in ledger if not held.lost]


def test_a_new_claim_of_a_schedule_proves_that_the_old_one_is_lost(ledger: Ledger) -> None:
    """Two of one schedule, settled in one call, would let the old outcome ride on the new token: a contract allows one each."""
    old, other = ledger.add(dispatch("a", "1"), 1.0), ledger.add(dispatch("b", "2"), 1.0)
    new = ledger.add(dispatch("a", "3"), 2.0)

    assert old.lost
    assert counting(ledger) == [other, new]
    assert old in ledger


def test_the_end_of_the_old_claim_says_nothing_of_the_new_one(ledger: Ledger) -> None:
    old = ledger.add(dispatch("a", "1"), 1.0)
    new = ledger.add(dispatch("a", "2"), 2.0)

    ledger.remove(old)
    newest = ledger.add(dispatch("a", "3"), 3.0)

    assert counting(ledger) == [newest]
    assert new.lost


def test_a_schedule_that_was_let_go_is_claimed_anew(ledger: Ledger) -> None:
    ledger.remove(ledger.add(dispatch("a", "1"), 1.0))
    ledger.add(dispatch("a", "2"), 2.0)
    ledger.clear()

    held = ledger.add(dispatch("a", "3"), 3.0)

    assert counting(ledger) == [held]
    assert ledger.busy.is_set()
