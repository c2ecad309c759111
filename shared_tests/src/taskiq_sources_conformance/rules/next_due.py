"""Rules for `next_due`."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from taskiq_sources.models import ScheduleChanges
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import LEASE, MS, NOW, at, claimable, outcome, put_and_take, schedule, take, take_one


class NextDueRules:
    """`next_due` is the instant at which a dispatcher has to look again: no later, no earlier."""

    async def test_nothing_pending(self, store: ScheduleStore) -> None:
        """Where nothing is pending, the answer is None. (Look at the minimum of no rows.)"""
        assert await store.next_due(NOW) is None
        await store.put([schedule(next_run_at=None)])
        assert await store.next_due(NOW) is None

    async def test_the_earliest_counts(self, store: ScheduleStore) -> None:
        """Of many schedules the earliest next_run_at is the answer, to the millisecond. (Look at the order, the precision.)"""
        await store.put(
            [schedule("a", next_run_at=at(9)), schedule("b", next_run_at=at(5, ms=7)), schedule("c", next_run_at=at(7))]
        )

        assert await store.next_due(NOW) == at(5, ms=7)

    async def test_the_past_counts(self, store: ScheduleStore) -> None:
        """What is overdue is told by its own instant, not by now. (Look at a condition next_run_at > now.)"""
        await store.put([schedule("a", next_run_at=at(-3600)), schedule("b", next_run_at=at(9))])

        assert await store.next_due(NOW) == at(-3600)

    @pytest.mark.parametrize("flags", [{"paused": True}, {"quarantined": True}], ids=str)
    async def test_paused_and_quarantined_do_not_count(self, store: ScheduleStore, flags: dict[str, Any]) -> None:
        """A schedule that cannot be claimed wakes nobody. (Look at the where clause.)"""
        await store.put([schedule("a", **flags)])
        assert await store.next_due(NOW) is None
        await store.put([schedule("b", next_run_at=at(9))])
        assert await store.next_due(NOW) == at(9)

    async def test_paused_meanwhile_does_not_count(self, store: ScheduleStore) -> None:
        """Nor does one that was paused under its lease. (Look at lease ends that are read without the conditions.)"""
        await put_and_take(store)
        await store.update("a", ScheduleChanges(updated_at=NOW, paused=True))

        assert await store.next_due(NOW) is None

    async def test_a_lease_counts_with_its_end(self, store: ScheduleStore) -> None:
        """What is leased counts when the lease ends. (Look at lease ends: left out, a dead scheduler is never replaced.)"""
        claim = await put_and_take(store)

        assert await store.next_due(NOW) == claim.lease_until
        assert await store.next_due(claim.lease_until - MS) == claim.lease_until

    async def test_an_ended_lease_counts_with_next_run_at(self, store: ScheduleStore) -> None:
        """Once the lease has ended, next_run_at counts again. (Look at the comparison of lease_until and now.)"""
        claim = await put_and_take(store)

        assert await store.next_due(claim.lease_until) == at(-1)

    async def test_a_leased_schedule_due_after_its_lease(self, store: ScheduleStore) -> None:
        """Of a lease's end and a later next_run_at, the later counts. (Look at the maximum of the two.)"""
        claim = await put_and_take(store)
        await store.settle([outcome(claim, release=False)])
        assert await store.next_due(NOW) == at(3600)
        await store.update("a", ScheduleChanges(updated_at=NOW, next_run_at=at(10)))
        assert await store.next_due(NOW) == claim.lease_until

    async def test_a_leased_schedule_with_nothing_pending(self, store: ScheduleStore) -> None:
        """A lease on a schedule with nothing pending wakes nobody. (Look at lease ends that are read without next_run_at.)"""
        claim = await put_and_take(store)
        await store.settle([outcome(claim, release=False, scheduled_for=None, next_run_at=None)])

        assert await store.next_due(NOW) is None

    async def test_the_earliest_of_leases_and_due_times(self, store: ScheduleStore) -> None:
        """Free and leased schedules are compared with each other. (Look at two queries whose results are not merged.)"""
        await put_and_take(store)
        await store.put([schedule("b", next_run_at=at(31))])
        assert await store.next_due(NOW) == at(30)
        await store.put([schedule("c", next_run_at=at(29))])
        assert await store.next_due(NOW) == at(29)

    async def test_renewing_moves_it(self, store: ScheduleStore) -> None:
        """A renewed lease counts with its new end. (Look at an index of lease ends that `renew` does not keep up.)"""
        claim = await put_and_take(store)
        await store.renew([claim], until=at(77))

        assert await store.next_due(NOW) == at(77)

    async def test_settling_moves_it(self, store: ScheduleStore) -> None:
        """A settled schedule counts with its next occurrence. (Look at lease ends left behind by `settle`.)"""
        claim = await put_and_take(store)
        await store.settle([outcome(claim)])

        assert await store.next_due(NOW) == at(3600)

    @pytest.mark.parametrize("seed", range(8))
    async def test_claim_agrees(self, store: ScheduleStore, seed: int) -> None:
        """`claim` takes nothing before `next_due` and something at it, all through a busy life. (Look at both where clauses.)"""
        chance = random.Random(seed)
        await store.put([_random_schedule(chance, str(number)) for number in range(12)])
        for schedule_id in await claimable(store, limit=4):
            if chance.random() < 0.5:
                await store.update(
                    schedule_id, ScheduleChanges(updated_at=NOW, paused=chance.random() < 0.3, next_run_at=_instant(chance))
                )
        now = NOW
        for _ in range(12):
            due = await store.next_due(now)
            if due is None:
                assert await claimable(store, now + timedelta(days=365)) == []
                return
            if due > now:
                assert await claimable(store, due - MS) == []
            now = max(now, due)
            claims = await take(store, now=now, limit=1, lease=timedelta(seconds=chance.randint(1, 60)))
            assert len(claims) == 1, f"next_due() said {due}, but claim() finds nothing at {now}"
            if chance.random() < 0.7:
                await store.settle([outcome(claims[0], next_run_at=_instant(chance), release=chance.random() < 0.7)])

    async def test_early_claims_do_not_change_the_answer(self, store: ScheduleStore) -> None:
        """`next_due` speaks of claims without `early`. (Look at an early margin built into the query.)"""
        await store.put([schedule(next_run_at=at(1))])
        await take_one(store, early=timedelta(seconds=2), lease=LEASE)

        assert await store.next_due(NOW) == at(30)


def _instant(chance: random.Random) -> datetime | None:
    return None if chance.random() < 0.1 else at(chance.randint(-60, 60), ms=chance.randint(0, 999))


def _random_schedule(chance: random.Random, schedule_id: str) -> Any:
    flags = {"paused": chance.random() < 0.2, "quarantined": chance.random() < 0.1}
    return schedule(schedule_id, next_run_at=_instant(chance), **flags)
