"""Rules for many schedules in one call, and for very many. How fast they are is for the benchmarks to say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from taskiq_sources.models import Claim, Outcome, RunQuery, ScheduleChanges, ScheduleQuery, StoredSchedule
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import (
    LEASE,
    NOW,
    at,
    listed,
    outcome,
    recorded,
    rich_schedule,
    run,
    schedule,
    take,
    take_one,
)

MANY = 10_000
BATCH = 2_500

#: Of each field of an outcome and of a history row: two values, of which all of a batch but one have the first.
OUTCOMES: dict[str, tuple[Any, Any]] = {
    "scheduled_for": (at(60), None),
    "next_run_at": (at(60), at(61)),
    "coalesced": (1, 2),
    "attempt": (0, 1),
    "run_count": (1, 0),
    "last_error": (None, "broken"),
    "quarantined": (False, True),
    "finished": (False, True),
    "release": (True, False),
}
RUNS: dict[str, tuple[Any, Any]] = {
    "task_name": ("tasks:add", "tasks:rare"),
    "scheduled_for": (at(-1), at(-2)),
    "status": ("sent", "failed"),
    "recorded_at": (at(0), at(1)),
    "task_id": ("id-1", None),
    "attempt": (1, 2),
    "coalesced": (1, 2),
    "claimant": (None, "scheduler-1"),
    "error": ("broken", None),
}


class BulkRules:
    """A call takes as many schedules as one likes, and treats each by itself."""

    async def test_ten_thousand_in_one_put(self, store: ScheduleStore) -> None:
        """`put` has no limit on the number of schedules. (Look at the driver's limits on parameters and message sizes.)"""
        ids = [f"{number:05}" for number in range(MANY)]
        assert await store.put([schedule(schedule_id) for schedule_id in ids]) == frozenset()
        assert await store.put([schedule(schedule_id) for schedule_id in ids[::2]]) == set(ids[::2])

        assert await listed(store) == ids
        assert await listed(store, ScheduleQuery(due_before=NOW), limit=MANY) == ids

    async def test_large_batches_of_claims(self, store: ScheduleStore) -> None:
        """Claims, renewals and outcomes come in any number, every one applied. (Look at limits on parameters.)"""
        ids = [f"{number:05}" for number in range(BATCH)]
        await store.put([schedule(schedule_id) for schedule_id in ids])
        claims = await take(store, limit=BATCH, ids=ids)
        assert [claim.schedule.id for claim in claims] == ids
        assert await store.renew(claims, until=NOW + 2 * LEASE) == set(ids)

        outcomes = [outcome(claim, runs=(run(f"{claim.schedule.id}@1", schedule_id=claim.schedule.id),)) for claim in claims]
        assert await store.settle(outcomes) == frozenset()
        assert len(await store.runs(RunQuery(), limit=BATCH + 1)) == BATCH
        assert await store.next_due(NOW) == at(3600)
        assert await store.settle(outcomes) == set(ids)
        assert await store.prune_runs(before=at(-1), keep=1) == BATCH - 1

    async def test_each_outcome_that_finishes_is_judged_alone(self, store: ScheduleStore) -> None:
        """Outcomes that are all of one kind do not share their fate. (Look at conditions on all that is finished.)"""
        ids = ["changed", "deleted", "edited", "first", "last", "taken"]
        await store.put([schedule(schedule_id) for schedule_id in ids])
        claims: dict[str, Claim] = {claim.schedule.id: claim for claim in await take(store)}
        await store.delete(["deleted"])
        await store.update("changed", ScheduleChanges(updated_at=NOW, document="{}"))
        await store.update("edited", ScheduleChanges(updated_at=NOW, next_run_at=at(9)))
        await take_one(store, "taken", now=NOW + LEASE)

        lost = await store.settle(
            [outcome(claims[name], finished=True, runs=(run(f"{name}@1", schedule_id=name),)) for name in reversed(ids)]
        )

        assert lost == {"deleted", "taken"}
        assert await recorded(store) == [f"{name}@1" for name in ("last", "first", "edited", "changed")]
        found = await store.get(ids)
        assert {name: (one.next_run_at, one.lease_until) for name, one in found.items()} == {
            "edited": (at(9), None),
            "taken": (at(-1), NOW + 2 * LEASE),
        }

    @pytest.mark.parametrize("odd", ["a", "b", "c"])
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("field", OUTCOMES)
    async def test_one_outcome_differs(self, store: ScheduleStore, field: str, reverse: bool, odd: str) -> None:
        """All outcomes of a batch are equal but one, in one field. (Look at values that are taken from the first of them.)"""
        await store.put([schedule(name) for name in "abc"])
        values = _all_but_one(OUTCOMES[field], odd, reverse=reverse)
        claims = await take(store)
        settled = {claim.schedule.id: outcome(claim, **{field: values[claim.schedule.id]}) for claim in claims}

        assert await store.settle(list(settled.values())) == frozenset()
        found = await store.get("abc")
        assert sorted(found) == [name for name in "abc" if not settled[name].finished]
        assert found == {name: _settled(settled[name]) for name in found}

    @pytest.mark.parametrize("odd", ["a", "b", "c"])
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("field", RUNS)
    async def test_one_history_row_differs(self, store: ScheduleStore, field: str, reverse: bool, odd: str) -> None:
        """All history rows of a batch are equal but one, in one field. (Look at values that are taken from the first of them.)"""
        await store.put([schedule(name) for name in "abc"])
        values = _all_but_one(RUNS[field], odd, reverse=reverse)
        rows = {name: run(f"{name}@1", **{"schedule_id": name, field: values[name]}) for name in "abc"}
        await store.settle([outcome(claim, runs=(rows[claim.schedule.id],)) for claim in await take(store)])

        assert {row.schedule_id: row for row in await store.runs(RunQuery(), limit=10)} == rows

    @pytest.mark.parametrize("odd", ["a", "b", "c"])
    async def test_one_was_edited_before_the_claim(self, store: ScheduleStore, odd: str) -> None:
        """Each outcome is compared with the revision that its own claim found. (Look at the claimed revision of the others.)"""
        await store.put([schedule(name) for name in "abc"])
        await store.update(odd, ScheduleChanges(updated_at=NOW, next_run_at=at(-2)))
        claims = sorted(await take(store), key=lambda claim: claim.schedule.id)
        assert await store.settle([outcome(claim) for claim in claims]) == frozenset()
        moved_on = {name: found.next_run_at for name, found in (await store.get("abc")).items()}

        assert moved_on == dict.fromkeys("abc", at(3600))

    @pytest.mark.parametrize("odd", ["a", "b", "c"])
    @pytest.mark.parametrize(("usual", "other"), [("a", "b"), ("b", "a")])
    async def test_one_schedule_differs(self, store: ScheduleStore, usual: str, other: str, odd: str) -> None:
        """All schedules of a batch are equal but one, in every field. (Look at values that are taken from the first of them.)"""
        made = {"a": schedule, "b": rich_schedule}
        given = {name: made[other if name == odd else usual](name) for name in "abc"}
        await store.put(list(given.values()))

        assert await store.get("abc") == {name: replace(one, revision=1, timing_revision=1) for name, one in given.items()}


def _all_but_one(pair: tuple[Any, Any], odd: str, *, reverse: bool) -> dict[str, Any]:
    """Return a value for each schedule: one of the pair, and for the odd one the other."""
    usual, other = reversed(pair) if reverse else pair
    return {name: other if name == odd else usual for name in "abc"}


def _settled(outcome: Outcome) -> StoredSchedule:
    """Return the schedule as `settle` leaves it, where nothing has been edited in between."""
    fields: dict[str, Any] = {name: getattr(outcome, name) for name in OUTCOMES if name not in {"finished", "release"}}
    if outcome.release:
        fields |= {"claimant": None, "lease_until": None}
    return replace(outcome.claim.schedule, **fields)
