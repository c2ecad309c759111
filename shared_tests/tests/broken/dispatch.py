"""Stores with one defect each in what claims, renewals and outcomes do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from intact import IntactStore, conformance_classes, defects_of

from taskiq_sources.memory import MemoryData
from taskiq_sources.models import (
    Claim,
    Outcome,
)

# -- claims --------------------------------------------------------------------------------------------------------------------


class DoubleClaim(IntactStore):
    """Reads what is free, lets others run, and writes its leases over theirs."""

    caught_by = (
        "test_parallel_claims_never_overlap",
        "test_parallel_claims_of_one_schedule_have_one_winner",
        "test_parallel_take_overs_have_one_winner",
        "test_a_call_amid_a_call",
    )
    caught_by_machine = False

    async def claim(self, now: datetime, **arguments: Any) -> list[Claim]:
        read = dict(self._data.schedules)
        await self.others_run()
        self._data.schedules.update(read)
        return await super().claim(now, **arguments)


class ClaimTellsWhatItHasRead(IntactStore):
    """Reads what is due, lets others run, takes it, and tells what it has read."""

    caught_by = ("test_catching_up_side_by_side",)
    caught_by_machine = False

    async def claim(self, now: datetime, **arguments: Any) -> list[Claim]:
        read = dict(self._data.schedules)
        await self.others_run()
        claims = await super().claim(now, **arguments)
        found = [read.get(claim.schedule.id, claim.schedule).scheduled_for for claim in claims]
        return [
            replace(claim, schedule=replace(claim.schedule, scheduled_for=scheduled_for))
            for claim, scheduled_for in zip(claims, found, strict=True)
        ]


class ClaimLooksWhereAllLook(IntactStore):
    """Sees who is the oldest, lets others run, takes it if it is still there, and else looks for the oldest again, some times."""

    caught_by = ("test_a_claim_that_others_come_before",)
    caught_by_machine = False

    async def claim(self, now: datetime, *, ids: Collection[str] | None = None, **arguments: Any) -> list[Claim]:
        if ids is not None:
            return await super().claim(now, ids=ids, **arguments)
        for _ in range(10):
            rehearsal = IntactStore(MemoryData(dict(self._data.schedules), dict(self._data.tokens)))
            await rehearsal.open()
            oldest = await rehearsal.claim(now, **arguments)
            await self.others_run()
            if claims := await super().claim(now, ids=[found.schedule.id for found in oldest], **arguments):
                return claims
        return []


class ExpiredLeaseNeverClaimable(IntactStore):
    """A scheduler that dies takes its occurrences with it."""

    caught_by = ("test_eligible_3_an_ended_lease_holds_nobody_off",)

    async def claim(self, now: datetime, *, ids: Collection[str] | None = None, **arguments: Any) -> list[Claim]:
        free = [key for key, found in self._data.schedules.items() if found.lease_until is None and (ids is None or key in ids)]
        return await super().claim(now, ids=free, **arguments)


class LeaseHoldsAtItsEnd(IntactStore):
    """Compares lease_until < now, not <=."""

    caught_by = ("test_eligible_3_an_ended_lease_holds_nobody_off", "test_claim_agrees")

    async def claim(self, now: datetime, *, ids: Collection[str] | None = None, **arguments: Any) -> list[Claim]:
        free = [key for key, found in self._data.schedules.items() if found.lease_until != now and (ids is None or key in ids)]
        return await super().claim(now, ids=free, **arguments)


class EarlyShortensLeases(IntactStore):
    """Moves the whole claim into the future instead of the due time only."""

    caught_by = ("test_early_shortens_no_lease",)

    async def claim(
        self, now: datetime, *, early: timedelta = timedelta(0), lease: timedelta = timedelta(0), **arguments: Any
    ) -> list[Claim]:
        claims = await super().claim(now + early, lease=lease, **arguments)
        for claim in claims:
            self.edit(claim.schedule.id, lease_until=now + lease)
        schedules = self._data.schedules
        return [
            replace(claim, schedule=schedules[claim.schedule.id], claimed_at=now, lease_until=now + lease) for claim in claims
        ]


class LimitIgnored(IntactStore):
    """Takes all that is due."""

    caught_by = ("test_the_limit_takes_the_oldest", "test_ids_and_limit")

    async def claim(self, now: datetime, *, limit: int, **arguments: Any) -> list[Claim]:
        return await super().claim(now, limit=10**6, **arguments)


class NoIdsAreAllIds(IntactStore):
    """Takes an empty collection of ids for None."""

    caught_by = ("test_no_ids_are_not_all_ids",)

    async def claim(self, now: datetime, *, ids: Collection[str] | None = None, **arguments: Any) -> list[Claim]:
        return await super().claim(now, ids=ids or None, **arguments)


class ClaimsInOrderOfIds(IntactStore):
    """Returns the rows as the index on ids has them."""

    caught_by = ("test_claims_come_oldest_first",)

    async def claim(self, now: datetime, **arguments: Any) -> list[Claim]:
        return sorted(await super().claim(now, **arguments), key=lambda claim: claim.schedule.id)


class ClaimBumpsRevision(IntactStore):
    """Counts a claim as an edit."""

    caught_by = ("test_claim_writes_lease_and_attempt_only",)

    async def claim(self, now: datetime, **arguments: Any) -> list[Claim]:
        claims = await super().claim(now, **arguments)
        for claim in claims:
            self.edit(claim.schedule.id, revision=claim.schedule.revision + 1)
        return [replace(claim, schedule=self._data.schedules[claim.schedule.id]) for claim in claims]


class TokenReusedAfterRePut(IntactStore):
    """Counts claims for each schedule, and starts over for a new one."""

    caught_by = ("test_tokens_are_fresh_after_a_delete", "test_an_outcome_for_a_schedule_claimed_anew_is_lost")

    async def claim(self, now: datetime, **arguments: Any) -> list[Claim]:
        claims = []
        for claim in await super().claim(now, **arguments):
            counter = f"\0{claim.schedule.id}"
            token = str(int(self._data.tokens.get(counter, "0")) + 1)
            self._data.tokens.update({counter: token, claim.schedule.id: token})
            claims.append(replace(claim, token=token))
        return claims

    def _drop(self, schedule_id: str) -> None:
        self._data.tokens.pop(f"\0{schedule_id}", None)
        super()._drop(schedule_id)


# -- renewals and outcomes -----------------------------------------------------------------------------------------------------


class RenewAfterTakeOver(IntactStore):
    """Renews by id."""

    caught_by = ("test_a_lease_taken_over_is_lost",)

    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        current = [replace(claim, token=self._data.tokens.get(claim.schedule.id, "")) for claim in claims]
        return await super().renew(current, until=until)


class RenewRefusesEndedLease(IntactStore):
    """Takes an ended lease for a lost one: refuses to move the end of a lease by more than half a minute."""

    caught_by = ("test_an_ended_lease_nobody_took_can_be_renewed",)
    caught_by_machine = False

    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        fresh = [claim for claim in claims if until - claim.lease_until <= timedelta(seconds=69)]
        return await super().renew(fresh, until=until)


class StaleTokenAccepted(IntactStore):
    """Settles by id."""

    caught_by = (
        "test_an_outcome_after_a_take_over_is_lost",
        "test_an_outcome_for_a_schedule_claimed_anew_is_lost",
        "test_without_release_a_stale_token_is_lost",
    )

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        tokens = self._data.tokens
        return await super().settle(
            [replace(one, claim=replace(one.claim, token=tokens.get(one.claim.schedule.id, ""))) for one in outcomes]
        )


class LostOutcomeWritesRows(IntactStore):
    """Writes history before it looks at the token."""

    caught_by = ("test_an_outcome_after_a_take_over_is_lost", "test_an_outcome_after_a_delete_is_lost")

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        self._data.runs.update({row.occurrence_id: row for one in outcomes for row in one.runs})
        return await super().settle(outcomes)


class SettleWithoutRows(IntactStore):
    """Forgets history."""

    caught_by = ("test_settle_writes_every_row", "test_finished_deletes_the_schedule", "test_a_row_comes_back_as_written")

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        return await super().settle([replace(one, runs=()) for one in outcomes])


class RowsWithoutSettle(IntactStore):
    """Writes history in one transaction and the schedule in another."""

    caught_by = ("test_a_cancelled_settle_leaves_the_store_usable", "test_a_call_amid_a_call", "test_a_call_that_is_broken_off")
    caught_by_machine = False

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        tokens = self._data.tokens
        current = [one for one in outcomes if tokens.get(one.claim.schedule.id) == one.claim.token]
        self._data.runs.update({row.occurrence_id: row for one in current for row in one.runs})
        await self.others_run()
        return await super().settle(outcomes)


class RowsShowFirst(IntactStore):
    """Writes history, lets others run, and then the schedule, or takes the history back."""

    caught_by = ("test_a_call_amid_a_call",)
    caught_by_machine = False

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        before = dict(self._data.runs)
        tokens = self._data.tokens
        current = [one for one in outcomes if tokens.get(one.claim.schedule.id) == one.claim.token]
        rows = {row.occurrence_id: row for one in current for row in one.runs}
        self._data.runs.update(rows)
        try:
            await self.others_run()
        finally:
            for key in [key for key, row in rows.items() if self._data.runs[key] is row]:
                del self._data.runs[key]
                self._data.runs.update({key: before[key]} if key in before else {})
        return await super().settle(outcomes)


class SettleLooksFirst(IntactStore):
    """Looks whose the claims are, lets others run, and records what was said of them."""

    caught_by = ("test_a_call_amid_a_call",)
    caught_by_machine = False

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        tokens = self._data.tokens
        held = [one for one in outcomes if tokens.get(one.claim.schedule.id) == one.claim.token]
        await self.others_run()
        await super().settle(
            [replace(one, claim=replace(one.claim, token=tokens.get(one.claim.schedule.id, ""))) for one in held]
        )
        return frozenset(one.claim.schedule.id for one in outcomes if one not in held)


class GoingOnIsLookedUpLater(IntactStore):
    """Settles, lets others run, and then looks which claims go on."""

    caught_by = ("test_a_call_amid_a_settle_that_goes_on",)
    caught_by_machine = False

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        lost = await super().settle(outcomes)
        await self.others_run()
        going = [one.claim for one in outcomes if not one.release]
        return lost.union(one.schedule.id for one in going if self._data.tokens.get(one.schedule.id) != one.token)


class LostOutcomeUnreported(IntactStore):
    """Keeps to itself that an outcome was lost."""

    caught_by = ("test_a_token_settles_once", "test_an_outcome_after_a_delete_is_lost")

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        await super().settle(outcomes)
        return frozenset()


class SettleOverwritesEdits(IntactStore):
    """Does not look whether the schedule was edited meanwhile."""

    caught_by = ("test_an_edit_of_when_is_kept_whole", "test_without_release_an_edit_of_when_ends_the_claim")

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        blind = [replace(one, claim=replace(one.claim, schedule=replace(one.claim.schedule, revision=10**6))) for one in outcomes]
        return await super().settle(blind)


class AnyEditKeepsTheOccurrence(IntactStore):
    """Compares revision where timing_revision is meant: an edit of arguments sends the occurrence again."""

    caught_by = ("test_an_edit_of_arguments_still_moves_on", "test_an_edit_of_arguments_does_not_keep_a_finished_schedule")

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        for one in outcomes:
            found = self._data.schedules.get(one.claim.schedule.id)
            if found is not None and found.revision > one.claim.schedule.revision:
                self.edit(found.id, timing_revision=found.revision)
        return await super().settle(outcomes)


class ReleaseAlways(IntactStore):
    """Ends the lease although it was to go on."""

    caught_by = ("test_without_release_the_claim_goes_on", "test_without_release_the_token_stays_valid")

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        return await super().settle([replace(one, release=True) for one in outcomes])


DEFECTS = defects_of(__name__)
globals().update(conformance_classes(__name__, DEFECTS.values()))
