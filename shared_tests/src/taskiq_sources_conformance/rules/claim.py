"""Rules for `claim`, in the hands of one caller. Many at once: :mod:`taskiq_sources_conformance.rules.concurrency`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from taskiq_sources.models import ScheduleChanges
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import (
    CREATED,
    LEASE,
    MS,
    NOW,
    at,
    claimable,
    code_points,
    outcome,
    put_and_take,
    read,
    rich_schedule,
    schedule,
    take,
    take_one,
)
from taskiq_sources_conformance.rules.page import TELLING_IDS


class ClaimRules:
    """`claim` takes what is eligible, oldest first, and nothing that anybody else holds."""

    async def test_claim_of_an_empty_store(self, store: ScheduleStore) -> None:
        """Where nothing is stored, nothing is claimed. (Look at what `claim` does without rows.)"""
        assert await take(store) == []

    # -- eligibility: the numbered list of the contract ------------------------------------------------------------------------

    @pytest.mark.parametrize("flags", [{"paused": True}, {"quarantined": True}, {"paused": True, "quarantined": True}], ids=str)
    async def test_eligible_1_paused_and_quarantined_are_not(self, store: ScheduleStore, flags: dict[str, Any]) -> None:
        """A paused or quarantined schedule is never claimed. (Look at the where clause: rule 1.)"""
        await store.put([schedule(**flags), schedule("b")])

        assert await claimable(store) == ["b"]
        assert await claimable(store, ids=["a"]) == []

    async def test_eligible_1_is_judged_at_the_claim(self, store: ScheduleStore) -> None:
        """Pausing and resuming take effect at once. (Look at an index of due schedules that `update` does not keep up.)"""
        await store.put([schedule()])
        await store.update("a", ScheduleChanges(updated_at=NOW, paused=True))
        assert await claimable(store) == []
        await store.update("a", ScheduleChanges(updated_at=NOW, paused=False))
        assert await claimable(store) == ["a"]

    async def test_eligible_2_due_at_this_very_millisecond(self, store: ScheduleStore) -> None:
        """A schedule is due from next_run_at on, not a millisecond earlier. (Look at the comparison: < for <=, seconds.)"""
        await store.put([schedule(next_run_at=NOW)])

        assert await claimable(store, NOW - MS) == []
        assert await claimable(store, NOW) == ["a"]

    async def test_eligible_2_goes_by_next_run_at(self, store: ScheduleStore) -> None:
        """next_run_at decides, not scheduled_for. (Look at the where clause: jitter and back-off move next_run_at only.)"""
        await store.put([schedule("moved", scheduled_for=at(-99), next_run_at=at(99)), schedule("early", scheduled_for=at(99))])

        assert await claimable(store) == ["early"]

    async def test_eligible_2_nothing_pending_is_never_due(self, store: ScheduleStore) -> None:
        """Without next_run_at there is nothing to claim. (Look at None: it sorts first, or compares as zero.)"""
        await store.put([schedule(next_run_at=None), schedule("b", scheduled_for=None, next_run_at=None)])

        assert await claimable(store, at(10**9), early=timedelta(days=1)) == []

    async def test_eligible_3_a_leased_schedule_is_not(self, store: ScheduleStore) -> None:
        """Nobody takes what is leased, the holder included, up to the last millisecond. (Look at the lease comparison.)"""
        claim = await put_and_take(store)

        assert await claimable(store) == []
        assert await claimable(store, claimant="scheduler-2") == []
        assert await claimable(store, claim.lease_until - MS) == []

    async def test_eligible_3_an_ended_lease_holds_nobody_off(self, store: ScheduleStore) -> None:
        """From lease_until on, anybody may take over. (Look at the lease comparison: < for <=, or no take-over at all.)"""
        claim = await put_and_take(store)
        taken = await take_one(store, now=claim.lease_until, claimant="scheduler-2")

        assert taken.token != claim.token
        assert (taken.schedule.attempt, taken.schedule.claimant) == (2, "scheduler-2")

    async def test_eligible_3_a_settled_schedule_is(self, store: ScheduleStore) -> None:
        """A settled schedule is claimed again when it is next due, lease or not. (Look at the lease that `settle` leaves.)"""
        claim = await put_and_take(store)
        await store.settle([outcome(claim, scheduled_for=at(1), next_run_at=at(1))])

        assert await claimable(store, at(1) - MS) == []
        assert await claimable(store, at(1)) == ["a"]

    # -- what a claim writes and returns ---------------------------------------------------------------------------------------

    async def test_claim_writes_lease_and_attempt_only(self, store: ScheduleStore) -> None:
        """A claim writes claimant, lease and attempt; nothing else changes, revision included. (Look at the assignment list.)"""
        await store.put([rich_schedule(), schedule("later", next_run_at=at(1))])
        await take(store, claimant="host-7:42", lease=timedelta(milliseconds=1500))

        assert await read(store) == replace(rich_schedule(), attempt=5, claimant="host-7:42", lease_until=at(ms=1500))
        assert await read(store, "later") == schedule("later", next_run_at=at(1))

    async def test_claim_returns_what_it_took(self, store: ScheduleStore) -> None:
        """A claim carries the schedule as it is stored now, its own instant and its lease. (Look at how the claim is built.)"""
        await store.put([rich_schedule()])
        claim = await take_one(store, lease=timedelta(seconds=7))

        assert claim.schedule == await read(store)
        assert claim.schedule.attempt == rich_schedule().attempt + 1
        assert (claim.claimed_at, claim.lease_until) == (NOW, at(7))
        assert claim.token

    async def test_attempts_are_counted_for_each_claim(self, store: ScheduleStore) -> None:
        """Each take-over of an occurrence counts one attempt. (Look at attempt + 1: a constant, or the outcome's value.)"""
        await store.put([schedule()])
        attempts = [(await take_one(store, now=NOW + number * LEASE)).schedule.attempt for number in range(4)]

        assert attempts == [1, 2, 3, 4]

    async def test_tokens_are_fresh(self, store: ScheduleStore) -> None:
        """No two claims share a token, of one schedule or of many. (Look at where the token comes from.)"""
        ids = [f"{number:02}" for number in range(20)]
        await store.put([schedule(schedule_id) for schedule_id in ids])
        tokens: set[tuple[str, str]] = set()
        for number in range(5):
            tokens |= {(claim.schedule.id, claim.token) for claim in await take(store, now=NOW + number * LEASE)}

        assert len(tokens) == 100
        assert all(sum(1 for known, _ in tokens if known == schedule_id) == 5 for schedule_id in ids)

    async def test_tokens_are_fresh_after_a_delete(self, store: ScheduleStore) -> None:
        """A token is not used again for an id that was deleted and stored anew. (Look at counters that start over.)"""
        tokens = []
        for _ in range(3):
            tokens.append((await put_and_take(store)).token)
            await store.delete(["a"])
        for _ in range(3):
            claim = await put_and_take(store)
            tokens.append(claim.token)
            await store.settle([outcome(claim, finished=True)])

        assert len(set(tokens)) == 6

    # -- order and limit -------------------------------------------------------------------------------------------------------

    async def test_claims_come_oldest_first(self, store: ScheduleStore) -> None:
        """Claims are ordered by next_run_at. (Look at the order of the returned rows: RETURNING has none of its own.)"""
        await store.put(
            [
                schedule(schedule_id, next_run_at=at(-delay))
                for schedule_id, delay in [("a", 1), ("b", 30), ("c", 2), ("d", 3600), ("e", 0)]
            ]
        )

        assert await claimable(store) == ["d", "b", "c", "a", "e"]

    async def test_equal_ones_come_by_id(self, store: ScheduleStore) -> None:
        """Claims due at the same instant are ordered by the code points of their ids. (Look at the second sort key.)"""
        await store.put([schedule(schedule_id) for schedule_id in reversed(TELLING_IDS)])

        assert await claimable(store) == code_points(TELLING_IDS)

    async def test_a_millisecond_decides_the_order(self, store: ScheduleStore) -> None:
        """Due times a millisecond apart are told apart. (Look at the stored precision.)"""
        await store.put([schedule("a", next_run_at=at(-1)), schedule("b", next_run_at=at(-1) - MS)])

        assert await claimable(store) == ["b", "a"]

    async def test_the_limit_takes_the_oldest(self, store: ScheduleStore) -> None:
        """Of many, the `limit` oldest are taken and the others left. (Look at limit without order.)"""
        await store.put([schedule(f"{number:02}", next_run_at=at(-number)) for number in range(20)])

        assert await claimable(store, limit=3) == ["19", "18", "17"]
        assert await claimable(store, limit=1) == ["16"]
        assert await claimable(store, limit=100) == [f"{number:02}" for number in reversed(range(16))]

    async def test_the_limit_counts_eligible_ones(self, store: ScheduleStore) -> None:
        """What is not eligible does not use up the limit. (Look at a limit applied before the conditions.)"""
        await store.put([schedule(f"p{number}", next_run_at=at(-99), paused=True) for number in range(9)])
        await store.put([schedule(f"q{number}", next_run_at=at(-98), quarantined=True) for number in range(9)])
        await store.put([schedule(f"l{number}", next_run_at=at(-97)) for number in range(9)])
        await take(store, limit=9)
        await store.put([schedule("a"), schedule("b"), schedule("c")])

        assert await claimable(store, limit=2) == ["a", "b"]

    async def test_an_expired_lease_takes_its_place_in_the_order(self, store: ScheduleStore) -> None:
        """An abandoned occurrence is as old as its next_run_at says. (Look at an index that the lease end moved it in.)"""
        await store.put([schedule("abandoned", next_run_at=at(-60))])
        await take(store)
        await store.put([schedule("fresh", next_run_at=at(-30))])

        assert await claimable(store, NOW + LEASE) == ["abandoned", "fresh"]

    # -- ids -------------------------------------------------------------------------------------------------------------------

    async def test_ids_restrict_the_claim(self, store: ScheduleStore) -> None:
        """With ids, nothing else is taken, in the usual order. (Look at the where clause for ids.)"""
        await store.put([schedule("a"), schedule("b", next_run_at=at(-9)), schedule("c")])

        assert await claimable(store, ids=["a", "b", "nope"]) == ["b", "a"]
        assert await claimable(store) == ["c"]

    async def test_no_ids_are_not_all_ids(self, store: ScheduleStore) -> None:
        """An empty collection of ids takes nothing. (Look at `if ids`: only None means any.)"""
        await store.put([schedule()])

        assert await claimable(store, ids=[]) == []
        assert await claimable(store, ids=frozenset()) == []

    async def test_ids_make_nothing_eligible(self, store: ScheduleStore) -> None:
        """Naming a schedule does not make it due, unlock or resume it. (Look at a separate path for ids.)"""
        await store.put([schedule("later", next_run_at=at(1)), schedule("paused", paused=True), schedule("leased")])
        await take(store)

        assert await claimable(store, ids=["later", "paused", "leased"]) == []

    async def test_ids_and_limit(self, store: ScheduleStore) -> None:
        """The limit holds with ids too, and repeated ids count once. (Look at a separate path for ids.)"""
        await store.put([schedule("a"), schedule("b", next_run_at=at(-9)), schedule("c", next_run_at=at(-8))])

        assert await claimable(store, ids=["a", "c", "b", "b"], limit=2) == ["b", "c"]

    # -- early -----------------------------------------------------------------------------------------------------------------

    async def test_early_accepts_what_is_due_soon(self, store: ScheduleStore) -> None:
        """`early` moves the due time, to the millisecond, and nothing but that. (Look at next_run_at <= now + early.)"""
        await store.put([schedule("in", next_run_at=at(ms=1500)), schedule("out", next_run_at=at(ms=1501))])
        claims = await take(store, early=timedelta(milliseconds=1500))

        assert [claim.schedule.id for claim in claims] == ["in"]
        assert (claims[0].claimed_at, claims[0].lease_until, claims[0].schedule.next_run_at) == (NOW, at(30), at(ms=1500))

    async def test_early_shortens_no_lease(self, store: ScheduleStore) -> None:
        """A lease that ends within `early` still holds. (Look at the lease comparison: now, not now + early.)"""
        claim = await put_and_take(store, created_at=CREATED)

        assert await claimable(store, claim.lease_until - MS, early=timedelta(hours=1)) == []
        assert await claimable(store, claim.lease_until, early=timedelta(hours=1)) == ["a"]
