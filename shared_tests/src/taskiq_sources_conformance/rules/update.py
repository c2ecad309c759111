"""Rules for `update`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from taskiq_sources.errors import RevisionConflictError, ScheduleNotFoundError
from taskiq_sources.models import ScheduleChanges
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
)

FIELDS: list[tuple[str, Any]] = [
    ("document", '{"version": 9}'),
    ("timing", "moved"),
    ("scheduled_for", at(777)),
    ("scheduled_for", None),
    ("next_run_at", at(778)),
    ("next_run_at", None),
    ("anchor", at(-779)),
    ("coalesced", 77),
    ("attempt", 0),
    ("attempt", 78),
    ("run_count", 0),
    ("run_count", 79),
    ("paused", True),
    ("quarantined", True),
    ("last_error", "boom"),
    ("last_error", None),
]
WHEN = ("timing", "scheduled_for", "next_run_at")
EDITED = at(5)


class UpdateRules:
    """`update` writes what it is given and nothing else, or refuses."""

    @pytest.mark.parametrize(
        ("name", "value"), FIELDS, ids=[f"{name}={'None' if value is None else 'value'}" for name, value in FIELDS]
    )
    async def test_update_writes_the_given_field_only(self, store: ScheduleStore, name: str, value: Any) -> None:
        """An edit of one field leaves the others alone, and None is a value. (Look at how UNSET is told from None.)"""
        await store.put([rich_schedule()])
        returned = await store.update("a", ScheduleChanges(updated_at=EDITED, **{name: value}))

        expected = replace(
            rich_schedule(), updated_at=EDITED, revision=2, timing_revision=2 if name in WHEN else 1, **{name: value}
        )
        assert await read(store) == expected
        assert returned == expected

    @pytest.mark.parametrize("name", ["paused", "quarantined"])
    async def test_flags_can_be_taken_back(self, store: ScheduleStore, name: str) -> None:
        """False is written as well as True. (Look at how UNSET is told from False.)"""
        raised: dict[str, Any] = {name: True}
        lowered: dict[str, Any] = {name: False}
        await store.put([schedule(**raised)])
        await store.update("a", ScheduleChanges(updated_at=EDITED, **lowered))

        assert getattr(await read(store), name) is False
        assert await claimable(store) == ["a"]

    async def test_update_of_everything_at_once(self, store: ScheduleStore) -> None:
        """All fields can be edited in one step. (Look at the assignment list: a field left out.)"""
        values: dict[str, Any] = {name: value for name, value in FIELDS if value is not None}
        await store.put([rich_schedule()])
        await store.update("a", ScheduleChanges(updated_at=EDITED, **values))

        assert await read(store) == replace(rich_schedule(), updated_at=EDITED, revision=2, timing_revision=2, **values)

    async def test_an_update_of_nothing_is_an_edit(self, store: ScheduleStore) -> None:
        """Changes without a field still bump the revision. (Look at a shortcut for empty changes.)"""
        await store.put([schedule()])

        assert await store.update("a", ScheduleChanges(updated_at=EDITED)) == schedule(updated_at=EDITED, revision=2)

    @pytest.mark.parametrize("name", WHEN)
    async def test_an_edit_to_the_same_when_is_an_edit_of_when(self, store: ScheduleStore, name: str) -> None:
        """Setting a field of *when* moves timing_revision, even to what it was. (Look at a comparison of old and new.)"""
        await store.put([schedule()])
        changes: dict[str, Any] = {name: getattr(schedule(), name)}
        await store.update("a", ScheduleChanges(updated_at=EDITED, **changes))

        assert (await read(store)).timing_revision == 2

    async def test_timing_revision_follows_the_last_edit_of_when(self, store: ScheduleStore) -> None:
        """timing_revision is the revision of the last edit of *when*. (Look at its assignment: plus one in place of revision.)"""
        await store.put([schedule()])
        await store.update("a", ScheduleChanges(updated_at=EDITED, document="one"))
        await store.update("a", ScheduleChanges(updated_at=EDITED, document="two"))
        found = await store.update("a", ScheduleChanges(updated_at=EDITED, next_run_at=at(9)))
        assert (found.revision, found.timing_revision) == (4, 4)
        found = await store.update("a", ScheduleChanges(updated_at=EDITED, paused=True))
        assert (found.revision, found.timing_revision) == (5, 4)

    async def test_update_keeps_the_lease(self, store: ScheduleStore) -> None:
        """An edit leaves the schedule in the hands that hold it. (Look at the assignment list: lease or token touched.)"""
        claim = await put_and_take(store)
        found = await store.update("a", ScheduleChanges(updated_at=EDITED, timing="moved", next_run_at=at(-5)))

        assert (found.claimant, found.lease_until) == ("scheduler-1", at(30))
        assert await claimable(store, NOW + LEASE / 2) == []
        assert await store.renew([claim], until=at(60)) == {"a"}

    async def test_an_unknown_id_is_an_error(self, store: ScheduleStore) -> None:
        """Editing what does not exist raises ScheduleNotFoundError and creates nothing. (Look for an upsert.)"""
        with pytest.raises(ScheduleNotFoundError) as caught:
            await store.update("nope", ScheduleChanges(updated_at=EDITED, paused=True))

        assert caught.value.schedule_id == "nope"
        assert await listed(store) == []

    async def test_an_unknown_id_is_not_a_conflict(self, store: ScheduleStore) -> None:
        """What does not exist is not found, also with an expected revision. (Look at the order of the two checks.)"""
        with pytest.raises(ScheduleNotFoundError):
            await store.update("nope", ScheduleChanges(updated_at=EDITED), expected_revision=1)

    async def test_the_expected_revision_is_edited(self, store: ScheduleStore) -> None:
        """With the revision that is stored, the edit is made. (Look at the comparison with expected_revision.)"""
        await store.put([schedule()])
        found = await store.update("a", ScheduleChanges(updated_at=EDITED, paused=True), expected_revision=1)

        assert found == schedule(updated_at=EDITED, paused=True, revision=2)
        assert await read(store) == found

    @pytest.mark.parametrize("expected", [0, 1, 3, 99])
    async def test_another_revision_is_refused(self, store: ScheduleStore, expected: int) -> None:
        """With another revision than expected, nothing changes. (Look at the where clause, and at 0 taken for None.)"""
        await store.put([schedule()])
        await store.put([schedule()])
        before = await read(store)
        with pytest.raises(RevisionConflictError) as caught:
            await store.update("a", ScheduleChanges(updated_at=EDITED, document="lost"), expected_revision=expected)

        assert (caught.value.schedule_id, caught.value.expected, caught.value.found) == ("a", expected, 2)
        assert await read(store) == before

    async def test_update_touches_no_other_schedule(self, store: ScheduleStore) -> None:
        """An edit is of one schedule. (Look at the where clause.)"""
        await store.put([schedule("a"), schedule("b"), schedule("A")])
        await store.update("a", ScheduleChanges(updated_at=EDITED, paused=True))

        assert await store.get(["b", "A"]) == {"b": schedule("b"), "A": schedule("A")}

    async def test_rescheduling_takes_effect_at_once(self, store: ScheduleStore) -> None:
        """A moved next_run_at is what `claim` and `next_due` go by. (Look at an index of due times beside the schedule.)"""
        await store.put([schedule()])
        await store.update("a", ScheduleChanges(updated_at=EDITED, next_run_at=at(60)))
        assert await store.next_due(NOW) == at(60)
        assert await claimable(store, at(59)) == []
        await store.update("a", ScheduleChanges(updated_at=EDITED, next_run_at=at(-60)))
        assert await store.next_due(NOW) == at(-60)
        assert await claimable(store) == ["a"]

    async def test_a_quarantine_is_lifted_by_an_outcome_that_has_none(self, store: ScheduleStore) -> None:
        """It is part of what is settled, not of *when*, whoever set it meanwhile. (Look at the assignment list: quarantined.)"""
        claim = await put_and_take(store)
        await store.update("a", ScheduleChanges(updated_at=NOW, quarantined=True, last_error="by hand"))
        assert await store.settle([outcome(claim, next_run_at=at(2))]) == frozenset()

        found = await read(store)
        assert (found.quarantined, found.last_error) == (False, None)
        assert await claimable(store, at(2)) == ["a"]
