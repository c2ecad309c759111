"""Rules for `renew`."""

from __future__ import annotations

from dataclasses import replace

from taskiq_sources.models import ScheduleChanges
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import (
    LEASE,
    MS,
    NOW,
    at,
    claimable,
    listed,
    outcome,
    put_and_take,
    read,
    schedule,
    take,
    take_one,
)

UNTIL = at(100)


class RenewRules:
    """`renew` lengthens leases that are still the caller's, and says which are."""

    async def test_renew_nothing(self, store: ScheduleStore) -> None:
        """`renew` of no claims does nothing. (Look at the statement: an empty list.)"""
        claim = await put_and_take(store)

        assert await store.renew([], until=UNTIL) == frozenset()
        assert await read(store) == claim.schedule

    async def test_renew_moves_the_end_of_the_lease(self, store: ScheduleStore) -> None:
        """A renewed lease holds until the given instant; nothing else changes. (Look at the assignment list.)"""
        claim = await put_and_take(store)

        assert await store.renew([claim], until=UNTIL) == {"a"}
        assert await read(store) == replace(claim.schedule, lease_until=UNTIL)
        assert await claimable(store, UNTIL - MS) == []
        assert await claimable(store, UNTIL) == ["a"]

    async def test_renew_again_and_again(self, store: ScheduleStore) -> None:
        """The claim as it was returned can be renewed any number of times. (Look at a token that a renewal changes.)"""
        claim = await put_and_take(store)

        for number in range(1, 5):
            assert await store.renew([claim], until=NOW + number * LEASE) == {"a"}
        assert await claimable(store, NOW + 4 * LEASE - MS) == []
        assert await store.settle([outcome(claim)]) == frozenset()

    async def test_renew_may_shorten(self, store: ScheduleStore) -> None:
        """The lease lasts until the given instant also if that is sooner. (Look at a maximum of old and new.)"""
        claim = await put_and_take(store)
        await store.renew([claim], until=at(1))

        assert (await read(store)).lease_until == at(1)
        assert await claimable(store, at(1)) == ["a"]

    async def test_an_ended_lease_nobody_took_can_be_renewed(self, store: ScheduleStore) -> None:
        """Late is not lost: without a take-over the lease is still ours. (Look at the condition: token, not time.)"""
        claim = await put_and_take(store)
        assert await claimable(store, claim.lease_until + LEASE, ids=[]) == []

        assert await store.renew([claim], until=UNTIL) == {"a"}
        assert await claimable(store, UNTIL - MS) == []

    async def test_a_lease_taken_over_is_lost(self, store: ScheduleStore) -> None:
        """After a take-over the old claim renews nothing. (Look at the condition: it compares ids or claimants, not tokens.)"""
        claim = await put_and_take(store)
        taken = await take_one(store, now=claim.lease_until)

        assert await store.renew([claim], until=UNTIL) == frozenset()
        assert await read(store) == taken.schedule

    async def test_a_settled_lease_is_lost(self, store: ScheduleStore) -> None:
        """A settled claim cannot be renewed. (Look at `settle`: a token left behind.)"""
        claim = await put_and_take(store)
        await store.settle([outcome(claim)])
        before = await read(store)

        assert await store.renew([claim], until=UNTIL) == frozenset()
        assert await read(store) == before

    async def test_a_deleted_lease_is_lost(self, store: ScheduleStore) -> None:
        """Renewing the lease of a deleted schedule brings nothing back. (Look at an upsert in place of an update.)"""
        claim = await put_and_take(store)
        await store.delete(["a"])

        assert await store.renew([claim], until=UNTIL) == frozenset()
        assert await listed(store) == []
        assert await store.next_due(NOW) is None

    async def test_a_lease_on_a_schedule_stored_anew_is_lost(self, store: ScheduleStore) -> None:
        """A schedule that was deleted and stored anew owes nothing to old claims. (Look at tokens left behind by `delete`.)"""
        claim = await put_and_take(store)
        await store.delete(["a"])
        await store.put([schedule()])

        assert await store.renew([claim], until=UNTIL) == frozenset()
        assert await read(store) == schedule()

    async def test_edits_do_not_end_leases(self, store: ScheduleStore) -> None:
        """A claim is renewed although its schedule was edited or paused. (Look at the condition: revision or paused in it.)"""
        claim = await put_and_take(store)
        await store.update("a", ScheduleChanges(updated_at=NOW, paused=True, timing="moved", next_run_at=at(5)))

        assert await store.renew([claim], until=UNTIL) == {"a"}
        assert (await read(store)).lease_until == UNTIL

    async def test_each_claim_is_judged_alone(self, store: ScheduleStore) -> None:
        """Of many claims, those that are ours are renewed and returned. (Look at all-or-nothing conditions.)"""
        await store.put([schedule(schedule_id) for schedule_id in ("deleted", "ours", "settled", "taken")])
        claims = {claim.schedule.id: claim for claim in await take(store)}
        await store.delete(["deleted"])
        await store.settle([outcome(claims["settled"])])
        await take_one(store, "taken", now=NOW + LEASE)

        assert await store.renew(list(claims.values()), until=UNTIL) == {"ours"}
        assert (await read(store, "ours")).lease_until == UNTIL
        assert (await read(store, "settled")).lease_until is None
        assert (await read(store, "taken")).lease_until == NOW + 2 * LEASE

    async def test_a_stale_claim_beside_the_current_one(self, store: ScheduleStore) -> None:
        """An old and the current claim of one schedule may be renewed together. (Look at claims looked up by id alone.)"""
        stale = await put_and_take(store)
        current = await take_one(store, now=stale.lease_until)

        assert await store.renew([current, stale], until=UNTIL) == {"a"}
        assert await store.renew([stale, current], until=UNTIL + LEASE) == {"a"}
        assert (await read(store)).lease_until == UNTIL + LEASE
