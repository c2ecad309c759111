"""Rules for `put`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from taskiq_sources.models import ScheduleChanges, StoredSchedule
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import (
    LEASE,
    NOW,
    at,
    claimable,
    listed,
    outcome,
    put_and_take,
    read,
    rich_schedule,
    schedule,
    take_one,
    without_lease,
)

#: What a second `put` brings along: differs from `rich_schedule` in every field but the id.
NEW: dict[str, Any] = {
    "task_name": "tasks:new",
    "document": '{"version": 2}',
    "scheduled_for": at(60),
    "next_run_at": at(61),
    "anchor": at(62),
    "created_at": at(63),
    "updated_at": at(64),
    "owner": "shipping",
    "coalesced": 30,
    "attempt": 40,
    "run_count": 50,
    "last_error": "new error",
    "paused": True,
    "quarantined": True,
}
DEFINITION = ("task_name", "document", "timing", "owner", "updated_at")
PROGRESS = ("scheduled_for", "next_run_at", "anchor", "coalesced", "attempt", "run_count", "last_error")


def picked(found: StoredSchedule, names: tuple[str, ...]) -> dict[str, Any]:
    """Return some fields of `found`."""
    return {name: getattr(found, name) for name in names}


class PutRules:
    """`put` creates, replaces or keeps; it never loses an occurrence that an application did not mean to change."""

    async def test_put_nothing(self, store: ScheduleStore) -> None:
        """`put` of no schedules does nothing. (Look at the statement: an empty list of values.)"""
        assert await store.put([]) == frozenset()
        assert await listed(store) == []

    @pytest.mark.parametrize("make", [schedule, rich_schedule], ids=["plain", "rich"])
    async def test_a_new_schedule_is_stored_as_given(self, store: ScheduleStore, make: Any) -> None:
        """Every field of a new schedule is stored as given. (Look at the insert: columns left out or swapped.)"""
        assert await store.put([make()]) == frozenset()
        assert await read(store) == make()

    @pytest.mark.parametrize(
        "state", [{"paused": True}, {"quarantined": True}, {"scheduled_for": None, "next_run_at": None}], ids=str
    )
    async def test_a_new_schedule_keeps_the_state_it_comes_with(self, store: ScheduleStore, state: dict[str, Any]) -> None:
        """A new schedule may come paused, quarantined or with nothing pending. (Look at the insert: defaults for values.)"""
        await store.put([schedule(**state)])

        assert await read(store) == schedule(**state)
        assert await claimable(store) == []

    async def test_a_new_schedule_starts_at_revision_1_without_lease(self, store: ScheduleStore) -> None:
        """A new id gets revisions 1 and no lease, whatever it comes with. (Look at the insert: copied revision and lease.)"""
        await store.put([schedule(revision=7, timing_revision=5, claimant="nobody", lease_until=at(60))])

        assert await read(store) == schedule()
        assert await claimable(store) == ["a"]

    async def test_put_returns_the_ids_that_existed(self, store: ScheduleStore) -> None:
        """`put` tells which ids it met. (Look at how existing ids are found: before or after the write.)"""
        await store.put([schedule("a"), schedule("b")])

        assert await store.put([schedule("b"), schedule("c")]) == {"b"}
        assert await store.put([schedule("c"), schedule("d")], replace=False) == {"c"}
        assert await listed(store) == ["a", "b", "c", "d"]

    async def test_keep_changes_nothing(self, store: ScheduleStore) -> None:
        """With replace=False an existing schedule stays as it is, revision included. (Look at the conflict clause.)"""
        await store.put([rich_schedule()])
        await store.put([rich_schedule(timing="other", **NEW), schedule("b")], replace=False)

        assert await read(store) == rich_schedule()
        assert await read(store, "b") == schedule("b")

    async def test_keep_lifts_no_quarantine(self, store: ScheduleStore) -> None:
        """What is left as it is gets no new chance either. (Look at the conflict clause: quarantined.)"""
        await store.put([schedule(quarantined=True, last_error="not a task")])
        before = await read(store)
        await store.put([schedule()], replace=False)

        assert await read(store) == before
        assert before.quarantined

    async def test_replace_takes_the_new_definition(self, store: ScheduleStore) -> None:
        """Task, document, timing, owner and updated_at are taken from the new one. (Look at the conflict clause's columns.)"""
        new = rich_schedule(timing="other", **NEW)
        await store.put([rich_schedule()])
        await store.put([new])

        assert picked(await read(store), DEFINITION) == picked(new, DEFINITION)

    async def test_replace_takes_an_owner_of_none(self, store: ScheduleStore) -> None:
        """A new definition without an owner takes the owner away. (Look at the conflict clause: COALESCE or a skipped None.)"""
        await store.put([schedule(owner="billing")])
        await store.put([schedule(owner=None)])

        assert (await read(store)).owner is None

    @pytest.mark.parametrize("timing", ["rich timing", "other"], ids=["equal-timing", "other-timing"])
    async def test_replace_bumps_the_revision(self, store: ScheduleStore, timing: str) -> None:
        """Each replacing `put` adds one to the revision. (Look at the conflict clause: revision = stored revision + 1.)"""
        await store.put([rich_schedule()])
        await store.put([rich_schedule(timing=timing, revision=20)])
        assert (await read(store)).revision == 2
        await store.put([rich_schedule(timing=timing)])
        assert (await read(store)).revision == 3

    @pytest.mark.parametrize("timing", ["rich timing", "other"], ids=["equal-timing", "other-timing"])
    async def test_replace_keeps_created_at(self, store: ScheduleStore, timing: str) -> None:
        """An id keeps the time it was stored first. (Look at the conflict clause: created_at is not among its columns.)"""
        await store.put([rich_schedule()])
        await store.put([rich_schedule(timing=timing, **NEW)])

        assert (await read(store)).created_at == rich_schedule().created_at

    @pytest.mark.parametrize("timing", ["every minute", "other"], ids=["equal-timing", "other-timing"])
    @pytest.mark.parametrize("paused", [True, False], ids=["paused", "running"])
    async def test_replace_keeps_paused(self, store: ScheduleStore, timing: str, paused: bool) -> None:
        """What a person paused stays paused, and the other way round. (Look at the conflict clause: paused is not written.)"""
        await store.put([schedule(paused=paused)])
        await store.put([schedule(timing=timing, paused=not paused)])

        assert (await read(store)).paused is paused

    @pytest.mark.parametrize("timing", ["every minute", "other"], ids=["equal-timing", "other-timing"])
    async def test_replace_lifts_the_quarantine(self, store: ScheduleStore, timing: str) -> None:
        """A new definition gets a new chance, even one that comes quarantined. (Look at the conflict clause: quarantined.)"""
        await store.put([schedule(quarantined=True)])
        await store.put([schedule(timing=timing, quarantined=True)])

        assert (await read(store)).quarantined is False
        assert await claimable(store) == ["a"]

    @pytest.mark.parametrize("timing", ["every minute", "other"], ids=["equal-timing", "other-timing"])
    async def test_replace_keeps_the_lease(self, store: ScheduleStore, timing: str) -> None:
        """A replaced schedule stays in the hands that hold it. (Look at the conflict clause: it touches lease or token.)"""
        claim = await put_and_take(store)
        await store.put([schedule(timing=timing)])

        found = await read(store)
        assert (found.claimant, found.lease_until) == ("scheduler-1", at(30))
        assert await claimable(store, claim.lease_until - LEASE / 2) == []
        assert await store.renew([claim], until=at(45)) == {"a"}

    async def test_equal_timing_keeps_the_pending_occurrence(self, store: ScheduleStore) -> None:
        """With an equal timing, the pending occurrence and the progress stay. (Look at the comparison of the two timings.)"""
        await store.put([rich_schedule()])
        await store.put([rich_schedule(**NEW)])

        found = await read(store)
        assert picked(found, PROGRESS) == picked(rich_schedule(), PROGRESS)
        assert found.timing_revision == 1

    async def test_equal_timing_keeps_a_finished_occurrence_finished(self, store: ScheduleStore) -> None:
        """With an equal timing, a schedule with nothing pending stays so. (Look at the comparison: None taken for missing.)"""
        await store.put([schedule(scheduled_for=None, next_run_at=None)])
        await store.put([schedule()])

        found = await read(store)
        assert (found.scheduled_for, found.next_run_at) == (None, None)

    async def test_equal_timing_keeps_what_claims_counted(self, store: ScheduleStore) -> None:
        """With an equal timing, the attempts counted by claims stay. (Look at the conflict clause: attempt of the new one.)"""
        await put_and_take(store)
        await store.put([schedule()])

        assert (await read(store)).attempt == 1

    async def test_other_timing_starts_anew(self, store: ScheduleStore) -> None:
        """With another timing, occurrence and progress come from the new one. (Look at the comparison of the two timings.)"""
        new = rich_schedule(timing="other", **NEW)
        await store.put([rich_schedule()])
        await store.put([new])

        assert picked(await read(store), PROGRESS) == picked(new, PROGRESS)

    async def test_other_timing_may_bring_nothing_pending(self, store: ScheduleStore) -> None:
        """With another timing, None replaces what was pending. (Look at the conflict clause: COALESCE or a skipped None.)"""
        await store.put([rich_schedule()])
        await store.put([rich_schedule(timing="other", scheduled_for=None, next_run_at=None, last_error=None)])

        found = await read(store)
        assert (found.scheduled_for, found.next_run_at, found.last_error) == (None, None, None)

    async def test_other_timing_moves_the_timing_revision(self, store: ScheduleStore) -> None:
        """With another timing, timing_revision becomes the new revision; with an equal one it stays. (Look at its assignment.)"""
        await store.put([schedule()])
        await store.put([schedule()])
        await store.put([schedule(timing="other")])
        assert (await read(store)).timing_revision == 3
        await store.put([schedule(timing="other")])
        assert (await read(store)).timing_revision == 3

    @pytest.mark.parametrize("timing", ["Every minute", "every minute ", "every  minute", "évery minute"], ids=repr)
    async def test_timings_are_compared_exactly(self, store: ScheduleStore, timing: str) -> None:
        """Timings differ when a single character does. (Look at the comparison: case, trailing spaces, collation.)"""
        await store.put([schedule()])
        await store.put([schedule(timing=timing, next_run_at=at(99))])

        found = await read(store)
        assert (found.next_run_at, found.timing_revision) == (at(99), 2)

    async def test_a_mixed_put(self, store: ScheduleStore) -> None:
        """One `put` may create, keep an occurrence and start another anew. (Look at rules applied to the whole list at once.)"""
        await store.put([schedule("equal"), schedule("moved"), schedule("untouched")])
        later = at(500)
        existed = await store.put(
            [
                schedule("equal", next_run_at=later),
                schedule("moved", next_run_at=later, timing="t"),
                schedule("new", next_run_at=later),
            ]
        )

        found = await store.get(["equal", "moved", "new", "untouched"])
        assert existed == {"equal", "moved"}
        assert {schedule_id: one.next_run_at for schedule_id, one in found.items()} == {
            "equal": at(-1),
            "moved": later,
            "new": later,
            "untouched": at(-1),
        }
        assert found["untouched"] == schedule("untouched")

    async def test_put_after_update_compares_with_the_updated_timing(self, store: ScheduleStore) -> None:
        """`put` compares with the timing stored now, not with the first one. (Look at what the comparison reads.)"""
        await store.put([schedule()])
        await store.update("a", ScheduleChanges(updated_at=NOW, timing="moved", next_run_at=at(70)))
        await store.put([schedule(timing="moved", next_run_at=at(80))])
        assert (await read(store)).next_run_at == at(70)
        await store.put([schedule(next_run_at=at(90))])
        assert (await read(store)).next_run_at == at(90)

    async def test_put_after_delete_is_a_new_schedule(self, store: ScheduleStore) -> None:
        """After a delete the id is new: nothing of the old one comes back. (Look at `delete`: rows or keys left behind.)"""
        await put_and_take(store, paused=False, last_error="old")
        await store.put([schedule(document="edited")])
        await store.delete(["a"])

        assert await store.put([rich_schedule()]) == frozenset()
        assert await read(store) == rich_schedule()

    async def test_put_with_equal_timing_after_settle_keeps_the_next_occurrence(self, store: ScheduleStore) -> None:
        """An application that declares its schedules at start does not bring a sent occurrence back. (Look at the comparison.)"""
        claim = await put_and_take(store)
        await store.settle([outcome(claim)])
        await store.put([schedule()])

        assert (await read(store)).next_run_at == at(3600)
        assert await claimable(store) == []

    async def test_claims_survive_a_put_of_others(self, store: ScheduleStore) -> None:
        """`put` touches no schedule that it was not given. (Look at the where clause.)"""
        await store.put([schedule("a"), schedule("b")])
        claim = await take_one(store, "a")
        await store.put([schedule("b", document="new")])

        assert await read(store, "a") == replace(schedule("a"), attempt=1, claimant=claim.schedule.claimant, lease_until=at(30))
        assert without_lease(await read(store, "a")) == schedule("a", attempt=1)
