"""Rules for large numbers of schedules in one call. How fast they are is for the benchmarks to say."""

from __future__ import annotations

from taskiq_sources.models import RunQuery, ScheduleQuery
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import LEASE, NOW, at, listed, outcome, run, schedule, take

MANY = 10_000
BATCH = 2_500


class BulkRules:
    """A call takes as many schedules as one likes."""

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
