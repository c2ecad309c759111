"""Rules for ids that exist: replace, keep, error, and schedules that are declared anew at every start."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

import pytest

from taskiq_sources import ScheduleExistsError, ScheduleOptions, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources.occurrences import failed
from taskiq_sources_conformance.source_build import (
    HOUR,
    MINUTE,
    NOON,
    NOW,
    SECOND,
    App,
    add,
    definition,
    ids,
    nominal,
    scheduled,
    send_due,
    state,
    take,
    take_one,
)

#: Two ways of writing the same triggers.
SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"interval": 90}, {"interval": timedelta(seconds=90)}),
    ({"cron": "0 7 * * *", "cron_offset": timedelta(hours=2)}, {"cron": "0 7 * * *", "cron_offset": "PT2H"}),
    ({"cron": "0 7 * * *"}, {"cron": "0 7 * * *", "cron_offset": "UTC"}),
    ({"time": NOW + HOUR}, {"time": (NOW + HOUR).replace(tzinfo=None)}),
]

#: Two definitions with different triggers.
DIFFERENT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"interval": 90}, {"cron": "* * * * *"}),
    ({"cron": "* * * * *"}, {"interval": 90}),
    ({"interval": 90}, {"interval": 91, "cron": "0 7 * * *"}),
    ({"cron": "0 7 * * *"}, {"cron": "0 8 * * *"}),
    ({"cron": "0 7 * * *"}, {"cron": "0 7 * * *", "cron_offset": "Europe/Berlin"}),
    ({"cron": "0 7 * * *"}, {"cron": "0 7 * * *", "time": NOW + HOUR}),
    ({"time": NOW}, {"time": NOW + HOUR}),
    ({"interval": 90}, {"interval": 90, "schedule_options": ScheduleOptions(start_at=NOW + HOUR)}),
]


class ConflictRules:
    """An application may declare its schedules at every start, and loses nothing by it."""

    async def test_replace(self, source: ScheduleSource) -> None:
        """`replace` overwrites and tells which ids existed. (Look at what `put` returns.)"""
        await add(source, "old", interval=60, args=[1])
        existed = await source.add_schedules([scheduled("old", interval=60, args=[2]), scheduled("new")], on_conflict="replace")

        assert existed == {"old"}
        assert (await definition(source, "old")).args == [2]
        assert await ids(source) == ["new", "old"]

    async def test_keep(self, source: ScheduleSource) -> None:
        """`keep` leaves existing schedules alone, adds the others and tells which existed. (Look at `put(replace=False)`.)"""
        before = await add(source, "old", interval=60, args=[1])
        existed = await source.add_schedules([scheduled("old", cron="0 7 * * *"), scheduled("new")], on_conflict="keep")

        assert existed == {"old"}
        assert await state(source, "old") == before
        assert await ids(source) == ["new", "old"]

    async def test_error(self, source: ScheduleSource) -> None:
        """`error` names the existing ids, leaves them alone and adds the others. (Look at `put(replace=False)`.)"""
        before = await add(source, "old", interval=60, args=[1])
        with pytest.raises(ScheduleExistsError) as caught:
            await source.add_schedules([scheduled("old", cron="0 7 * * *"), scheduled("new")], on_conflict="error")

        assert caught.value.schedule_ids == {"old"}
        assert await state(source, "old") == before
        assert await ids(source) == ["new", "old"]

    async def test_schedule_with_keep_returns_the_kept_one(self, source: ScheduleSource, app: App) -> None:
        """With `keep`, the handle is that of the schedule that was kept. (Look at `ScheduleSource.schedule`.)"""
        await add(source, interval=60, args=[1])
        created = await source.schedule(app.report, cron="0 7 * * *", args=[2], schedule_id="a", on_conflict="keep")

        assert (created.task.interval, created.task.args, created.next_run_at) == (60, [1], NOW)

    @pytest.mark.parametrize("policy", ["keep", "error"])
    async def test_schedule_under_a_new_id(self, source: ScheduleSource, app: App, policy: Literal["keep", "error"]) -> None:
        """Where nothing is in the way, all policies store. (Look at `put(replace=False)`.)"""
        created = await source.schedule(app.report, interval=60, schedule_id="a", on_conflict=policy)

        assert created.next_run_at == (await state(source)).next_run_at == NOW

    # -- the same again ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("first", "second"), SAME, ids=str)
    async def test_declaring_the_same_changes_nothing_of_when(
        self, source: ScheduleSource, clock: ManualClock, first: dict[str, Any], second: dict[str, Any]
    ) -> None:
        """Triggers that mean the same, however written, keep phase and pending occurrence. (Look at `timing` in `put`.)"""
        before = await add(source, args=[1], **first)
        clock.advance(47 * SECOND)
        after = await add(source, args=[2], **second)

        assert (after.scheduled_for, after.next_run_at, after.anchor) == (before.scheduled_for, before.next_run_at, before.anchor)
        assert (await definition(source)).args == [2]

    async def test_an_interval_keeps_its_phase(self, source: ScheduleSource, clock: ManualClock) -> None:
        """An interval that is declared at every start neither starts again nor drifts. (Look at `anchor` in `put`.)"""
        sent = []
        for _ in range(5):
            await add(source, interval=60)
            sent += nominal(await send_due(source))
            clock.advance(47 * SECOND)

        assert sent == [NOW, NOW + MINUTE, NOW + 2 * MINUTE, NOW + 3 * MINUTE]

    async def test_an_overdue_occurrence_is_kept(self, source: ScheduleSource, clock: ManualClock) -> None:
        """What fell due during downtime is still sent after the application declared it again. (Look at `put`.)"""
        await add(source, cron="0 7 * * *")
        clock.set(NOON + 19 * HOUR + MINUTE)
        await add(source, cron="0 7 * * *")

        assert nominal(await send_due(source)) == [NOON + 19 * HOUR]

    async def test_a_retry_is_kept(self, source: ScheduleSource) -> None:
        """A failed send stays pending, with its back-off and its error. (Look at `attempt` and `last_error` in `put`.)"""
        await add(source, interval=3600)
        await source.desk.settle([failed(await take_one(source), NOW, "the broker is away")])
        before = await state(source)
        after = await add(source, interval=3600)

        assert (after.scheduled_for, after.next_run_at, after.attempt) == (NOW, before.next_run_at, 1)
        assert after.last_error == before.last_error
        assert after.last_error is not None

    async def test_a_pause_is_kept(self, source: ScheduleSource) -> None:
        """A person's pause survives a deployment. (Look at `paused` in `put`.)"""
        await add(source, interval=60)
        await source.pause("a")
        await add(source, interval=60)
        await add(source, interval=90)

        assert (await state(source)).paused
        assert await send_due(source) == []

    async def test_counted_runs_are_kept(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A schedule limited to some runs is not given as many again by a restart. (Look at `run_count` in `put`.)"""
        options = ScheduleOptions(max_runs=3)
        for _ in range(2):
            await add(source, interval=60, schedule_options=options)
            await send_due(source)
            clock.advance(MINUTE)
        await add(source, interval=60, schedule_options=options)

        assert (await state(source)).run_count == 2
        assert len(await send_due(source)) == 1
        assert await ids(source) == []

    async def test_declaring_while_being_sent(self, source: ScheduleSource) -> None:
        """Declared again between claim and settle, the occurrence is not sent twice. (Look at the lease in `put`.)"""
        await add(source, interval=60)
        dispatch = await take_one(source)
        await add(source, interval=60)
        assert await send_due(source) == []
        await source.desk.sent(dispatch)

        assert (await state(source)).scheduled_for == NOW + MINUTE

    # -- something else ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("first", "second"), DIFFERENT, ids=str)
    async def test_a_changed_trigger_starts_anew(
        self, source: ScheduleSource, clock: ManualClock, first: dict[str, Any], second: dict[str, Any]
    ) -> None:
        """Other triggers count from their declaration, as if the schedule were new. (Look at `timing` in `put`.)"""
        await add(source, "a", **first)
        await source.desk.settle([failed(dispatch, NOW, "away") for dispatch in await take(source)])
        clock.advance(10 * SECOND)
        after = await add(source, "a", **second)
        fresh = await add(source, "b", **second)

        assert after.scheduled_for == fresh.scheduled_for
        assert (after.anchor, after.attempt, after.last_error, after.run_count) == (fresh.anchor, 0, None, 0)

    async def test_creation_time_is_kept(self, source: ScheduleSource, clock: ManualClock) -> None:
        """`created_at` stays when a schedule is replaced, `updated_at` moves. (Look at `put`.)"""
        await add(source, interval=60)
        clock.advance(HOUR)
        found = await add(source, interval=90)

        assert (found.created_at, found.updated_at, found.revision) == (NOW, NOW + HOUR, 2)
