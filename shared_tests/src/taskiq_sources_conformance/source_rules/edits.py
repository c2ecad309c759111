"""Rules for edits of a schedule while one of its occurrences is being sent."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from taskiq_sources import RevisionConflictError, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources.models import ScheduleChanges
from taskiq_sources_conformance.source_build import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    add,
    definition,
    ids,
    nominal,
    rows,
    scheduled,
    send_due,
    state,
    take,
    take_one,
)


class EditRules:
    """An edit between claim and settle is kept, the send is recorded, and nothing is sent twice for it."""

    async def test_paused_while_being_sent(self, source: ScheduleSource, clock: ManualClock) -> None:
        """The occurrence is not recalled; after it the schedule rests. (Look at `paused` in `settle`.)"""
        await add(source, interval=60)
        dispatch = await take_one(source)
        await source.pause("a")
        await source.desk.sent(dispatch)
        clock.advance(5 * MINUTE)

        found = await state(source)
        assert (found.paused, found.scheduled_for, found.claimant) == (True, NOW + MINUTE, None)
        assert [row.status for row in await rows(source)] == ["sent"]
        assert await take(source) == []

    async def test_new_arguments_while_being_sent(self, source: ScheduleSource, clock: ManualClock) -> None:
        """The settled schedule moves on and keeps the new arguments. (Look at what `settle` writes.)"""
        await add(source, interval=60, args=[1])
        dispatch = await take_one(source)
        await add(source, interval=60, args=[2])
        await source.desk.sent(dispatch)
        clock.advance(MINUTE)

        assert [(one.scheduled_for, one.task.args) for one in await send_due(source)] == [(NOW + MINUTE, [2])]

    async def test_rescheduled_while_being_sent(self, source: ScheduleSource) -> None:
        """The new triggers are kept whole, and the run of the old occurrence is recorded. (Look at `timing_revision`.)"""
        await add(source, interval=60)
        dispatch = await take_one(source)
        await source.reschedule("a", time=NOW + HOUR)
        await source.desk.sent(dispatch)

        found = await state(source)
        assert (found.scheduled_for, found.next_run_at, found.claimant) == (NOW + HOUR, NOW + HOUR, None)
        assert [(row.status, row.scheduled_for) for row in await rows(source)] == [("sent", NOW)]

    async def test_a_one_off_rescheduled_while_being_sent(self, source: ScheduleSource) -> None:
        """A finished one-off is not deleted if it was given another time meanwhile. (Look at `finished` in `settle`.)"""
        await add(source)
        dispatch = await take_one(source)
        await source.reschedule("a", time=NOW + HOUR)
        await source.desk.sent(dispatch)

        assert (await state(source)).scheduled_for == NOW + HOUR

    async def test_a_one_off_paused_while_being_sent(self, source: ScheduleSource) -> None:
        """A one-off that was sent is gone, paused or not: the pause came too late. (Look at `finished` in `settle`.)"""
        await add(source)
        dispatch = await take_one(source)
        await source.pause("a")
        await source.desk.sent(dispatch)

        assert await ids(source) == []

    async def test_replaced_by_other_triggers_while_being_sent(self, source: ScheduleSource) -> None:
        """Declared anew with other triggers, the schedule keeps those after the send. (Look at `put` and `settle`.)"""
        await add(source, interval=60)
        dispatch = await take_one(source)
        await add(source, cron="0 7 * * *")
        before = (await state(source)).scheduled_for
        await source.desk.sent(dispatch)

        assert (await state(source)).scheduled_for == before

    async def test_deleted_while_being_sent(self, source: ScheduleSource) -> None:
        """A deleted schedule does not come back with the settle. (Look at what `settle` does without a row.)"""
        await add(source, interval=60)
        dispatch = await take_one(source)
        await source.delete_schedule("a")
        await source.desk.sent(dispatch)

        assert await ids(source) == []

    async def test_deleted_and_created_again_while_being_sent(self, source: ScheduleSource) -> None:
        """A new schedule of the same id is not touched by the settle of the old one. (Look at the token in `settle`.)"""
        await add(source, interval=60)
        dispatch = await take_one(source)
        await source.delete_schedule("a")
        before = await add(source, interval=60)
        await source.desk.sent(dispatch)

        assert await state(source) == before

    async def test_rescheduled_while_a_dead_scheduler_holds_it(self, source: ScheduleSource, clock: ManualClock) -> None:
        """After a crash, the new triggers count: the old occurrence is not sent again. (Look at `update` and `claim`.)"""
        await add(source, interval=60)
        await take_one(source)
        await source.reschedule("a", time=NOW + HOUR)
        clock.advance(5 * MINUTE)
        assert await take(source) == []
        clock.set(NOW + HOUR)

        assert [(one.scheduled_for, one.claim.schedule.attempt) for one in await send_due(source)] == [(NOW + HOUR, 1)]

    async def test_new_arguments_while_a_dead_scheduler_holds_it(self, source: ScheduleSource, clock: ManualClock) -> None:
        """After a crash the same occurrence is sent, under the same id, with the arguments of now. (Look at `put`.)"""
        await add(source, interval=60, args=[1])
        first = await take_one(source)
        await add(source, interval=60, args=[2])
        clock.advance(5 * MINUTE)
        second = await take_one(source)

        assert (second.task_id, second.task.args) == (first.task_id, [2])

    async def test_an_edit_of_something_that_changed_is_repeated(
        self, source: ScheduleSource, open_source: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two edits at once are both kept: the later one is computed anew. (Look at `expected_revision` in `update`.)"""
        other: ScheduleSource = await open_source()
        await add(source, interval=60, args=[1])
        update = source.store.update
        conflicts: list[RevisionConflictError] = []

        async def interrupted(id: str, changes: ScheduleChanges, *, expected_revision: int | None = None) -> Any:  # noqa: A002
            if not conflicts:
                await other.add_schedule(scheduled(interval=60, args=[2]))
            try:
                return await update(id, changes, expected_revision=expected_revision)
            except RevisionConflictError as error:
                conflicts.append(error)
                raise

        monkeypatch.setattr(source.store, "update", interrupted)
        await source.reschedule("a", cron="0 7 * * *")

        stored = await definition(source)
        assert (stored.args, stored.cron, stored.interval) == ([2], "0 7 * * *", None)
        assert len(conflicts) == 1

    async def test_edits_do_not_shorten_a_lease(self, source: ScheduleSource, clock: ManualClock) -> None:
        """No edit frees an occurrence that is being sent. (Look at the lease in `put` and `update`.)"""
        await add(source, interval=60)
        await take_one(source)
        await source.pause("a")
        await source.resume("a")
        await add(source, interval=60, args=[2])
        clock.advance(timedelta(seconds=30) - SECOND)
        assert await take(source) == []
        clock.advance(SECOND)

        assert nominal(await take(source)) == [NOW]
