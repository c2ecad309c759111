"""Stores with exactly one defect each, and their conformance classes. Run by test_broken_stores.py, in a pytest of its own.

Not collected by itself: a store in here that passes is what would be wrong.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import Phase, settings

from taskiq_sources.memory import MemoryData, MemoryStore
from taskiq_sources.models import (
    UNSET,
    Capabilities,
    Claim,
    Outcome,
    Run,
    RunQuery,
    ScheduleChanges,
    ScheduleQuery,
    StoredSchedule,
)
from taskiq_sources_conformance import StoreConformance, StoreStateMachine
from taskiq_sources_conformance.rules import push


class IntactStore(MemoryStore):
    """The reference store; within one event loop, handles on the same data are as good as shared and durable."""

    capabilities: ClassVar[Capabilities] = Capabilities(shared=True, durable=True, push=True)

    #: The rules that have to fail on this store.
    caught_by: ClassVar[tuple[str, ...]] = ()
    #: Whether the state machine has to fail too: it sees what one caller at a time can see.
    caught_by_machine: ClassVar[bool] = True

    def edit(self, schedule_id: str, **values: Any) -> None:
        self._data.schedules[schedule_id] = replace(self._data.schedules[schedule_id], **values)


# -- claims --------------------------------------------------------------------------------------------------------------------


class DoubleClaim(IntactStore):
    """Reads what is free, lets others run, and writes its leases over theirs."""

    caught_by = (
        "test_parallel_claims_never_overlap",
        "test_parallel_claims_of_one_schedule_have_one_winner",
        "test_parallel_take_overs_have_one_winner",
    )
    caught_by_machine = False

    async def claim(self, now: datetime, **arguments: Any) -> list[Claim]:
        read = dict(self._data.schedules)
        await asyncio.sleep(0)
        self._data.schedules.update(read)
        return await super().claim(now, **arguments)


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

    caught_by = ("test_a_cancelled_settle_leaves_the_store_usable",)
    caught_by_machine = False

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        tokens = self._data.tokens
        current = [one for one in outcomes if tokens.get(one.claim.schedule.id) == one.claim.token]
        self._data.runs.update({row.occurrence_id: row for one in current for row in one.runs})
        await asyncio.sleep(0)
        return await super().settle(outcomes)


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


# -- definitions ---------------------------------------------------------------------------------------------------------------


class ReplaceUnpauses(IntactStore):
    """An application's start undoes what a person did."""

    caught_by = ("test_replace_keeps_paused",)

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        existing = await super().put(schedules, replace=replace)
        for schedule in schedules:
            if replace and schedule.id in existing:
                self.edit(schedule.id, paused=schedule.paused)
        return existing


class EqualTimingLosesOccurrence(IntactStore):
    """An application's start moves every schedule to its next occurrence."""

    caught_by = ("test_equal_timing_keeps_the_pending_occurrence", "test_a_mixed_put")

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        existing = await super().put(schedules, replace=replace)
        for schedule in schedules:
            if replace and schedule.id in existing:
                self.edit(schedule.id, scheduled_for=schedule.scheduled_for, next_run_at=schedule.next_run_at)
        return existing


class KeepReplaces(IntactStore):
    """Replaces what was to be kept."""

    caught_by = ("test_keep_changes_nothing",)

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        return await super().put(schedules)


class ExpectedRevisionIgnored(IntactStore):
    """The last writer wins."""

    caught_by = ("test_another_revision_is_refused", "test_parallel_edits_of_one_revision_have_one_winner")

    async def update(self, id: str, changes: ScheduleChanges, **arguments: Any) -> StoredSchedule:  # noqa: A002
        return await super().update(id, changes)


class LostUpdate(IntactStore):
    """Reads the row, lets others run, and writes the whole row back."""

    caught_by = ("test_parallel_edits_are_all_counted", "test_parallel_edits_of_different_fields_are_all_kept")
    caught_by_machine = False

    async def update(self, id: str, changes: ScheduleChanges, **arguments: Any) -> StoredSchedule:  # noqa: A002
        read = self._data.schedules.get(id)
        await asyncio.sleep(0)
        if read is not None:
            self._data.schedules[id] = read
        return await super().update(id, changes, **arguments)


class UpdateSkipsNone(IntactStore):
    """Takes None for "leave it as it is"."""

    caught_by = ("test_update_writes_the_given_field_only",)

    async def update(self, id: str, changes: ScheduleChanges, **arguments: Any) -> StoredSchedule:  # noqa: A002
        nones = {field.name: UNSET for field in fields(changes) if getattr(changes, field.name) is None}
        return await super().update(id, replace(changes, **nones), **arguments)


class DeleteDropsHistory(IntactStore):
    """History goes with its schedule."""

    caught_by = ("test_history_stays",)

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        self._data.runs = {key: row for key, row in self._data.runs.items() if row.schedule_id not in ids}
        return await super().delete(ids)


# -- lists ---------------------------------------------------------------------------------------------------------------------


class PageOrderedAsUtf16(IntactStore):
    """Orders ids as JavaScript does."""

    caught_by = ("test_page_is_ordered_by_code_points",)

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        def key(text: str) -> bytes:
            return text.encode("utf-16-be")

        found = sorted(await super().page(query, limit=10**6), key=lambda schedule: key(schedule.id))
        return [schedule for schedule in found if after is None or key(schedule.id) > key(after)][:limit]


class PageIgnoresOwner(IntactStore):
    """Leaves one filter out."""

    caught_by = ("test_filters", "test_filters_see_edits")
    caught_by_machine = False

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        return await super().page(replace(query, owner=None), after=after, limit=limit)


class PageSkips(IntactStore):
    """Reads a page, then filters it: a page of others looks like the end."""

    caught_by = ("test_the_limit_counts_matching_schedules", "test_filters")
    caught_by_machine = False

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        matching = {schedule.id for schedule in await super().page(query, limit=10**6)}
        return [found for found in await super().page(ScheduleQuery(), after=after, limit=limit) if found.id in matching]


class HistoryOldestFirst(IntactStore):
    """Returns history in the order it was written."""

    caught_by = ("test_newest_first",)

    async def runs(self, query: RunQuery, *, after: Run | None = None, limit: int) -> list[Run]:
        return (await super().runs(query, after=after, limit=limit))[::-1]


class PruneKeepsOneMore(IntactStore):
    """Counts from zero."""

    caught_by = ("test_prune",)

    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        return await super().prune_runs(before=before, keep=keep + 1)


# -- time ----------------------------------------------------------------------------------------------------------------------


class NextDueForgetsLeases(IntactStore):
    """Nobody wakes to take over from a dead scheduler."""

    caught_by = ("test_a_lease_counts_with_its_end", "test_claim_agrees")

    async def next_due(self, now: datetime) -> datetime | None:
        return min(
            (
                found.next_run_at
                for found in self._data.schedules.values()
                if found.next_run_at and found.claimant is None and not found.paused and not found.quarantined
            ),
            default=None,
        )


class NaiveDatetimes(IntactStore):
    """Returns UTC without saying so."""

    caught_by = ("test_every_returned_datetime_is_clean",)
    caught_by_machine = False  # it reads pages, which are clean

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        found = await super().get(ids)
        return {key: replace(one, created_at=one.created_at.replace(tzinfo=None)) for key, one in found.items()}


class WholeSeconds(IntactStore):
    """Stores Unix time as an integer."""

    caught_by = ("test_a_millisecond_decides_the_order", "test_eligible_2_due_at_this_very_millisecond")

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        return await super().put([_cut(schedule) for schedule in schedules], replace=replace)


def _cut(schedule: StoredSchedule) -> StoredSchedule:
    return replace(schedule, next_run_at=schedule.next_run_at and schedule.next_run_at.replace(microsecond=0))


class LooksAtTheClock(IntactStore):
    """Leases end by the server's clock."""

    caught_by = ("test_time_is_what_the_caller_says",)
    caught_by_machine = False  # it lives in one year only, in which this store's clock happens to be right

    async def claim(self, now: datetime, **arguments: Any) -> list[Claim]:
        return await super().claim(max(now, await self.now()), **arguments)


# -- payloads ------------------------------------------------------------------------------------------------------------------


class DocumentsAreParsed(IntactStore):
    """Keeps documents in a JSON column."""

    caught_by = ("test_documents_come_back_exactly",)
    caught_by_machine = False

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        return await super().put([_parsed(schedule) for schedule in schedules], replace=replace)


def _parsed(schedule: StoredSchedule) -> StoredSchedule:
    try:
        return replace(schedule, document=json.dumps(json.loads(schedule.document)))
    except ValueError:
        return schedule


class IdsAreTrimmed(IntactStore):
    """Compares ids as a CHAR column does."""

    caught_by = ("test_similar_ids_are_different",)
    caught_by_machine = False

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        return await super().put([_trimmed(schedule) for schedule in schedules], replace=replace)


def _trimmed(schedule: StoredSchedule) -> StoredSchedule:
    return replace(schedule, id=schedule.id.rstrip() or schedule.id)


# -- declarations --------------------------------------------------------------------------------------------------------------


class OpenWipes(IntactStore):
    """Starts with a clean table."""

    caught_by = ("test_open_is_idempotent", "test_open_never_deletes", "test_what_was_written_survives_every_handle")
    caught_by_machine = False

    async def open(self) -> None:
        self._data.schedules.clear()
        await super().open()


class DeclaresPushWithoutWatch(IntactStore):
    """Promises what it has not."""

    caught_by = ("test_push_is_true", "test_the_first_value_comes_at_once")
    caught_by_machine = False

    def watch(self) -> AsyncIterator[None]:
        raise NotImplementedError("no push")


class WatchNeverWakes(IntactStore):
    """Promises push, and says nothing after the first value."""

    caught_by = ("test_changes_of_another_handle_wake", "test_changes_of_the_same_handle_wake")
    caught_by_machine = False

    async def watch(self) -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()


class WatchOutlivesTheStore(IntactStore):
    """Leaves its watchers waiting."""

    caught_by = ("test_watch_ends_when_the_store_is_closed",)
    caught_by_machine = False

    async def close(self) -> None:
        self._open = False


class SilentWatchUndeclared(IntactStore):
    """Declares no push, and lets callers wait for ever instead of telling them."""

    capabilities = Capabilities(shared=True, durable=True, push=False)
    caught_by = ("test_push_is_refused_where_not_declared",)
    caught_by_machine = False

    async def watch(self) -> AsyncIterator[None]:
        yield


class DeclaresSharedAlone(IntactStore):
    """Promises sharing, and keeps each handle's schedules to itself."""

    caught_by = ("test_shared_is_true", "test_another_handle_sees_everything")
    caught_by_machine = False

    def __init__(self, data: MemoryData) -> None:
        super().__init__(MemoryData())


class DeclaresDurableForgets(IntactStore):
    """Promises durability, and forgets when the last handle closes."""

    caught_by = ("test_what_was_written_survives_every_handle", "test_leases_survive_every_handle")
    caught_by_machine = False

    async def close(self) -> None:
        await super().close()
        self._data.schedules.clear()


# -- conformance classes -------------------------------------------------------------------------------------------------------


class HastyStateMachine(StoreStateMachine):
    """Stops at the first failure: that there is one is enough, the shortest is not needed."""

    default_settings = settings(StoreStateMachine.default_settings, phases=[Phase.generate], report_multiple_bugs=False)


class BrokenConformance(StoreConformance):
    state_machine = HastyStateMachine
    broken: ClassVar[type[IntactStore]]

    @pytest.fixture(autouse=True)
    def impatience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(push, "TIMEOUT", 0.5)  # watchers that never wake are among the defects

    @pytest.fixture
    def make_store(self) -> Callable[[], IntactStore]:
        data = MemoryData()
        return lambda: self.broken(data)


DEFECTS: dict[str, type[IntactStore]] = {defect.__name__: defect for defect in IntactStore.__subclasses__()}

for _name, _store in {"IntactStore": IntactStore, **DEFECTS}.items():
    globals()[f"Test{_name}"] = type(
        f"Test{_name}", (BrokenConformance,), {"broken": _store, "backend": _name, "__module__": __name__}
    )
