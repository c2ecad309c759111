"""Rules for many schedules in one call, and for very many. How fast they are is for the benchmarks to say."""

from __future__ import annotations

from taskiq_sources.models import Claim, RunQuery, ScheduleChanges, ScheduleQuery
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import LEASE, NOW, at, listed, outcome, recorded, run, schedule, take, take_one

MANY = 10_000
BATCH = 2_500


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
