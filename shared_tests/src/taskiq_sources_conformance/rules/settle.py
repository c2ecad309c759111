"""Rules for `settle`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from taskiq_sources.models import Claim, RunQuery, ScheduleChanges
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import (
    CREATED,
    LEASE,
    MS,
    NOW,
    at,
    claimable,
    listed,
    outcome,
    put_and_take,
    read,
    record,
    recorded,
    rich_schedule,
    run,
    schedule,
    take,
    take_one,
)

EVERYTHING: dict[str, Any] = {
    "scheduled_for": at(600),
    "next_run_at": at(601),
    "coalesced": 11,
    "attempt": 12,
    "run_count": 13,
    "last_error": "TimeoutError: broker did not answer",
    "quarantined": True,
}
ROW = run("a@1")


async def edit_when(store: ScheduleStore, how: str) -> None:
    """Edit the *when* of schedule ``a``, in one of the ways there are."""
    if how == "put":
        await store.put([schedule(timing="moved", scheduled_for=at(70), next_run_at=at(71))])
    else:
        values: dict[str, Any] = {"timing": "moved", "scheduled_for": at(70), "next_run_at": at(71)}
        names = [how] if how in values else list(values)
        await store.update("a", ScheduleChanges(updated_at=NOW, **{name: values[name] for name in names}))


class SettleRules:
    """`settle` applies what the holder of the current token says, whole, and nothing of what anybody else says."""

    async def test_settle_nothing(self, store: ScheduleStore) -> None:
        """`settle` of no outcomes does nothing. (Look at the statement: an empty list.)"""
        claim = await put_and_take(store)

        assert await store.settle([]) == frozenset()
        assert await read(store) == claim.schedule

    # -- an outcome that applies -----------------------------------------------------------------------------------------------

    async def test_settle_moves_the_schedule_on(self, store: ScheduleStore) -> None:
        """The outcome's seven fields are written, the lease ends, the rest stays. (Look at the assignment list.)"""
        await store.put([rich_schedule()])
        claim = await take_one(store)

        assert await store.settle([outcome(claim, **EVERYTHING)]) == frozenset()
        assert await read(store) == replace(rich_schedule(), **EVERYTHING)

    async def test_settle_clears_what_is_none(self, store: ScheduleStore) -> None:
        """None in an outcome is written: nothing pending, no error. (Look at COALESCE or a skipped None.)"""
        await store.put([rich_schedule()])
        claim = await take_one(store)
        await store.settle([outcome(claim, scheduled_for=None, next_run_at=None, last_error=None)])

        found = await read(store)
        assert (found.scheduled_for, found.next_run_at, found.last_error) == (None, None, None)
        assert await store.next_due(NOW) is None

    async def test_settle_changes_neither_revision_nor_updated_at(self, store: ScheduleStore) -> None:
        """Settling is no edit. (Look at the assignment list: revision, timing_revision, updated_at.)"""
        await store.put([schedule()])
        await store.put([schedule(timing="moved")])
        await store.settle([outcome(await take_one(store))])

        found = await read(store)
        assert (found.revision, found.timing_revision, found.updated_at) == (2, 2, CREATED)

    async def test_settle_applies_after_the_lease_has_ended(self, store: ScheduleStore) -> None:
        """A late outcome applies while nobody took over. (Look at the condition: token, not time.)"""
        claim = await put_and_take(store)
        late = run(recorded_at=claim.lease_until + LEASE)

        assert await store.settle([outcome(claim, runs=(late,))]) == frozenset()
        assert (await read(store)).next_run_at == at(3600)
        assert await recorded(store) == ["a@1"]

    async def test_a_failed_send_is_tried_again(self, store: ScheduleStore) -> None:
        """After a back-off the same occurrence is claimed again, one attempt later. (Look at how attempt is carried on.)"""
        claim = await put_and_take(store)
        again = outcome(
            claim, scheduled_for=claim.schedule.scheduled_for, next_run_at=at(2), attempt=claim.schedule.attempt, last_error="no"
        )
        await store.settle([again])

        assert await claimable(store, at(2) - MS) == []
        retried = await take_one(store, now=at(2))
        assert (retried.schedule.attempt, retried.schedule.scheduled_for, retried.schedule.last_error) == (2, at(-1), "no")

    async def test_quarantine_sets_the_schedule_aside(self, store: ScheduleStore) -> None:
        """A quarantined schedule keeps its error and is not claimed any more. (Look at the assignment list: quarantined.)"""
        claim = await put_and_take(store)
        await store.settle([outcome(claim, next_run_at=at(-1), quarantined=True, last_error="not a task")])

        found = await read(store)
        assert (found.quarantined, found.last_error) == (True, "not a task")
        assert await claimable(store) == []
        assert await store.next_due(NOW) is None

    async def test_finished_deletes_the_schedule(self, store: ScheduleStore) -> None:
        """A finished schedule is deleted, its history stays. (Look at the delete branch, and at indexes left behind.)"""
        claim = await put_and_take(store)

        assert await store.settle([outcome(claim, finished=True, runs=(ROW,))]) == frozenset()
        assert await listed(store) == []
        assert await store.next_due(NOW) is None
        assert await claimable(store, at(10**6)) == []
        assert await recorded(store) == ["a@1"]

    async def test_paused_meanwhile_stays_paused(self, store: ScheduleStore) -> None:
        """A pause during the send neither stops the schedule from moving on nor is lost. (Look at the assignment list.)"""
        claim = await put_and_take(store)
        await store.update("a", ScheduleChanges(updated_at=at(1), paused=True))

        assert await store.settle([outcome(claim)]) == frozenset()
        found = await read(store)
        assert (found.paused, found.next_run_at, found.lease_until) == (True, at(3600), None)

    # -- edited meanwhile ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("how", ["put", "update", "timing", "scheduled_for", "next_run_at"])
    @pytest.mark.parametrize("finished", [False, True], ids=["moves-on", "finished"])
    async def test_an_edit_of_when_is_kept_whole(self, store: ScheduleStore, how: str, finished: bool) -> None:
        """If *when* was edited after the claim, only the lease ends. (Look at timing_revision > the claim's revision.)"""
        claim = await put_and_take(store)
        await edit_when(store, how)
        edited = await read(store)

        assert await store.settle([outcome(claim, finished=finished, runs=(ROW,), **EVERYTHING)]) == frozenset()
        assert await read(store) == replace(edited, claimant=None, lease_until=None)
        assert await recorded(store) == ["a@1"]

    @pytest.mark.parametrize("how", ["put", "update"])
    async def test_an_edit_of_arguments_still_moves_on(self, store: ScheduleStore, how: str) -> None:
        """An edit of the document keeps the new document and moves on all the same. (Look at revision for timing_revision.)"""
        claim = await put_and_take(store)
        if how == "put":
            await store.put([schedule(document="edited", updated_at=at(1))])
        else:
            await store.update("a", ScheduleChanges(updated_at=at(1), document="edited"))

        assert await store.settle([outcome(claim, **EVERYTHING)]) == frozenset()
        assert await read(store) == schedule(document="edited", updated_at=at(1), revision=2, **EVERYTHING)

    async def test_an_edit_of_arguments_does_not_keep_a_finished_schedule(self, store: ScheduleStore) -> None:
        """A finished schedule is deleted although its document was edited. (Look at the condition of the delete branch.)"""
        claim = await put_and_take(store)
        await store.update("a", ScheduleChanges(updated_at=NOW, document="edited"))
        await store.settle([outcome(claim, finished=True)])

        assert await listed(store) == []

    async def test_an_edit_before_the_claim_is_not_meanwhile(self, store: ScheduleStore) -> None:
        """Only edits after the claim count. (Look at timing_revision > the claim's revision: >= or the wrong revision.)"""
        await store.put([schedule()])
        await edit_when(store, "put")
        claim = await take_one(store, now=at(71))
        await store.settle([outcome(claim)])

        assert (await read(store)).next_run_at == at(3600)

    async def test_a_document_edit_on_top_of_an_edit_of_when(self, store: ScheduleStore) -> None:
        """The edit of *when* is remembered whatever is edited after it. (Look at what timing_revision is compared with.)"""
        claim = await put_and_take(store)
        await edit_when(store, "update")
        await store.update("a", ScheduleChanges(updated_at=NOW, document="edited"))
        await store.settle([outcome(claim)])

        assert (await read(store)).next_run_at == at(71)

    # -- lost ------------------------------------------------------------------------------------------------------------------

    async def test_a_token_settles_once(self, store: ScheduleStore) -> None:
        """A second outcome for the same claim is lost. (Look at the token: it dies with the lease.)"""
        claim = await put_and_take(store)
        await store.settle([outcome(claim)])
        before = await read(store)

        assert await store.settle([outcome(claim, next_run_at=at(5), runs=(ROW,))]) == {"a"}
        assert await read(store) == before
        assert await recorded(store) == []

    @pytest.mark.parametrize("finished", [False, True], ids=["moves-on", "finished"])
    async def test_an_outcome_after_a_take_over_is_lost(self, store: ScheduleStore, finished: bool) -> None:
        """The stale token of a lease that was taken over changes nothing. (Look at the where clause: id without token.)"""
        stale = await put_and_take(store)
        current = await take_one(store, now=stale.lease_until)

        assert await store.settle([outcome(stale, finished=finished, runs=(ROW,), **EVERYTHING)]) == {"a"}
        assert await read(store) == current.schedule
        assert await recorded(store) == []
        assert await store.settle([outcome(current)]) == frozenset()

    async def test_an_outcome_is_lost_although_the_successor_is_done(self, store: ScheduleStore) -> None:
        """A stale token stays stale after its successor has settled. (Look at a comparison with a missing token.)"""
        stale = await put_and_take(store)
        current = await take_one(store, now=stale.lease_until)
        await store.settle([outcome(current)])

        assert await store.settle([outcome(stale, next_run_at=at(5))]) == {"a"}
        assert (await read(store)).next_run_at == at(3600)

    async def test_an_outcome_after_a_delete_is_lost(self, store: ScheduleStore) -> None:
        """Settling a deleted schedule does not bring it back and writes no history. (Look at an upsert in place of update.)"""
        claim = await put_and_take(store)
        await store.delete(["a"])

        assert await store.settle([outcome(claim, runs=(ROW,))]) == {"a"}
        assert await listed(store) == []
        assert await recorded(store) == []

    async def test_an_outcome_for_a_schedule_stored_anew_is_lost(self, store: ScheduleStore) -> None:
        """Old claims do not touch a schedule that was deleted and stored anew. (Look at tokens left behind by `delete`.)"""
        claim = await put_and_take(store)
        await store.delete(["a"])
        await store.put([schedule()])

        assert await store.settle([outcome(claim, finished=True, runs=(ROW,))]) == {"a"}
        assert await read(store) == schedule()
        assert await recorded(store) == []

    async def test_an_outcome_for_a_schedule_claimed_anew_is_lost(self, store: ScheduleStore) -> None:
        """Nor one that was claimed again since. (Look at tokens that start over for a new schedule.)"""
        old = await put_and_take(store)
        await store.delete(["a"])
        new = await put_and_take(store)

        assert await store.settle([outcome(old, finished=True, runs=(ROW,))]) == {"a"}
        assert await read(store) == new.schedule
        assert await store.settle([outcome(new)]) == frozenset()

    @pytest.mark.parametrize("token", ["", "0", "None", "null", "invented"])
    async def test_an_invented_token_is_lost(self, store: ScheduleStore, token: str) -> None:
        """A token that no claim returned opens nothing, claimed or not. (Look at how "no token" is stored and compared.)"""
        await store.put([schedule("free")])
        claim = await put_and_take(store)
        free = replace(claim, schedule=schedule("free"), token=token)

        assert await store.settle([outcome(replace(claim, token=token), finished=True), outcome(free, finished=True)]) == {
            "a",
            "free",
        }
        assert await read(store) == claim.schedule
        assert await read(store, "free") == schedule("free")

    # -- release=False ---------------------------------------------------------------------------------------------------------

    async def test_without_release_the_claim_goes_on(self, store: ScheduleStore) -> None:
        """With release=False the fields are written and the lease stays as it was. (Look at the lease columns.)"""
        claim = await put_and_take(store)
        fields: dict[str, Any] = {**EVERYTHING, "quarantined": False}

        assert await store.settle([outcome(claim, release=False, runs=(ROW,), **fields)]) == frozenset()
        assert await read(store) == replace(claim.schedule, **fields)
        assert await recorded(store) == ["a@1"]

    async def test_without_release_the_token_stays_valid(self, store: ScheduleStore) -> None:
        """After release=False the same claim renews and settles again. (Look at the token: changed or dropped.)"""
        claim = await put_and_take(store)
        await store.settle([outcome(claim, release=False, scheduled_for=at(-1), next_run_at=at(-1), runs=(run("a@1"),))])

        assert await claimable(store, claim.lease_until - MS) == []
        assert await store.renew([claim], until=at(90)) == {"a"}
        assert await claimable(store, at(90) - MS) == []
        assert await store.settle([outcome(claim, runs=(run("a@2"),))]) == frozenset()
        assert await read(store) == schedule(scheduled_for=at(3600), next_run_at=at(3600), run_count=1)
        assert await recorded(store) == ["a@2", "a@1"]

    async def test_without_release_the_lease_still_ends(self, store: ScheduleStore) -> None:
        """A claim that went on is taken over when its lease ends, like any other. (Look at the index that claims go by.)"""
        claim = await put_and_take(store)
        await store.settle([outcome(claim, release=False, scheduled_for=at(2), next_run_at=at(2), attempt=1)])

        assert await store.next_due(NOW) == claim.lease_until
        taken = await take_one(store, now=claim.lease_until)
        assert taken.schedule.attempt == 2
        assert await store.settle([outcome(claim)]) == {"a"}

    @pytest.mark.parametrize("how", ["put", "update", "timing", "scheduled_for", "next_run_at"])
    async def test_without_release_an_edit_of_when_ends_the_claim(self, store: ScheduleStore, how: str) -> None:
        """An edit of *when* ends a claim that was to go on, and says so. (Look at release=False in the branch of edits.)"""
        claim = await put_and_take(store)
        await edit_when(store, how)
        edited = await read(store)

        assert await store.settle([outcome(claim, release=False, runs=(ROW,), **EVERYTHING)]) == {"a"}
        assert await read(store) == replace(edited, claimant=None, lease_until=None)
        assert await recorded(store) == ["a@1"]
        assert await store.renew([claim], until=at(90)) == frozenset()

    async def test_without_release_a_stale_token_is_lost(self, store: ScheduleStore) -> None:
        """release=False gives a stale token no rights. (Look at the condition of that branch.)"""
        stale = await put_and_take(store)
        current = await take_one(store, now=stale.lease_until)

        assert await store.settle([outcome(stale, release=False, runs=(ROW,))]) == {"a"}
        assert await read(store) == current.schedule
        assert await recorded(store) == []

    # -- history and batches ---------------------------------------------------------------------------------------------------

    async def test_settle_writes_every_row(self, store: ScheduleStore) -> None:
        """All rows of an outcome are written, with all their fields. (Look at the insert of history rows.)"""
        rows = [run(f"a@{number}", recorded_at=at(number), status="missed", coalesced=number + 1) for number in range(3)]
        await store.settle([outcome(await put_and_take(store), runs=tuple(rows))])

        assert await store.runs(RunQuery(), limit=10) == rows[::-1]

    async def test_a_known_row_is_replaced(self, store: ScheduleStore) -> None:
        """A later attempt at an occurrence replaces its row. (Look at the insert's conflict clause.)"""
        claim = await put_and_take(store)
        failed = run(status="failed", error="away")
        sent = run(status="sent", attempt=2, recorded_at=at(4), task_id="id-1", claimant="scheduler-2")
        await store.settle([outcome(claim, next_run_at=at(2), attempt=1, runs=(failed,))])
        await store.settle([outcome(await take_one(store, now=at(2)), runs=(sent,))])

        assert await store.runs(RunQuery(), limit=10) == [sent]

    async def test_rows_of_one_call_may_replace_each_other(self, store: ScheduleStore) -> None:
        """Of two rows for one occurrence in a call, the later stays. (Look at an insert that meets one key twice.)"""
        claim = await put_and_take(store)
        await store.settle([outcome(claim, runs=(run(status="failed"), run(status="sent", attempt=2)))])

        assert await store.runs(RunQuery(), limit=10) == [run(status="sent", attempt=2)]

    async def test_each_outcome_is_judged_alone(self, store: ScheduleStore) -> None:
        """One call may hold every kind of outcome. (Look at conditions that hold for the whole list.)"""
        ids = ["applied", "deleted", "edited", "ended", "finished", "goes-on", "taken"]
        await store.put([schedule(schedule_id) for schedule_id in ids])
        claims: dict[str, Claim] = {claim.schedule.id: claim for claim in await take(store)}
        await store.delete(["deleted"])
        for schedule_id in ("edited", "ended"):
            await store.update(schedule_id, ScheduleChanges(updated_at=NOW, next_run_at=at(9)))
        await take_one(store, "taken", now=NOW + LEASE)

        lost = await store.settle(
            [
                outcome(
                    claims[schedule_id],
                    finished=schedule_id == "finished",
                    release=schedule_id not in ("ended", "goes-on"),
                    runs=(run(f"{schedule_id}@1", schedule_id=schedule_id),),
                )
                for schedule_id in ids
            ]
        )

        assert lost == {"deleted", "ended", "taken"}
        assert await recorded(store) == [
            f"{schedule_id}@1" for schedule_id in ("goes-on", "finished", "ended", "edited", "applied")
        ]
        found = await store.get(ids)
        assert {schedule_id: (one.next_run_at, one.lease_until) for schedule_id, one in found.items()} == {
            "applied": (at(3600), None),
            "edited": (at(9), None),
            "ended": (at(9), None),
            "goes-on": (at(3600), NOW + LEASE),
            "taken": (at(-1), NOW + 2 * LEASE),
        }

    async def test_settle_touches_no_other_schedule(self, store: ScheduleStore) -> None:
        """What was not settled stays claimed or free as it was. (Look at the where clause.)"""
        await record(store, run("z@1", schedule_id="z"))
        await store.put([schedule("b"), schedule("c", next_run_at=at(5))])
        claim = await put_and_take(store)
        held = await take_one(store, "b")
        await store.settle([outcome(claim)])

        assert await store.get(["b", "c"]) == {"b": held.schedule, "c": schedule("c", next_run_at=at(5))}
        assert await store.renew([held], until=at(50)) == {"b"}
