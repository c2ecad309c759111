"""Rules for `run_now`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from taskiq_sources import ScheduleDecodeError, ScheduleNotFoundError, ScheduleOptions, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources.occurrences import failed
from taskiq_sources_conformance.source_build import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    add,
    ids,
    info,
    rows,
    send_due,
    state,
    take,
    take_one,
)


class ManualRunRules:
    """`run_now` has a schedule sent once more, beside its own occurrences."""

    async def test_it_is_sent_at_once(self, source: ScheduleSource) -> None:
        """A manual run is due now and carries the schedule's task, arguments, labels and id. (Look at `manual_of`.)"""
        await add(source, time=NOW + HOUR, args=[1], kwargs={"k": 2}, labels={"l": "x"})
        task_id = await source.run_now("a")

        (sent,) = await send_due(source)
        assert (sent.task_id, sent.task.task_id) == (task_id, task_id)
        assert (sent.schedule_id, sent.task.schedule_id) == ("a", "a")
        task = sent.task
        assert (task.task_name, task.args, task.kwargs, task.labels) == ("app:report", [1], {"k": 2}, {"l": "x"})

    async def test_the_schedule_itself_is_not_affected(self, source: ScheduleSource) -> None:
        """The schedule keeps its pending occurrence, counters and revision. (Look at what `run_now` writes.)"""
        before = await add(source, interval=3600, schedule_options=ScheduleOptions(max_runs=1, start_at=NOW + DAY))
        for _ in range(3):
            await source.run_now("a")
        assert len(await send_due(source)) == 3

        assert await state(source) == before
        assert await ids(source) == ["a"]

    async def test_each_run_is_a_message_of_its_own(self, source: ScheduleSource) -> None:
        """Runs told at one instant, and the occurrence of that instant, have ids of their own. (Look at the manual's id.)"""
        await add(source, interval=3600, task_id="fixed")
        asked = [await source.run_now("a") for _ in range(3)]
        sent = [dispatch.task_id for dispatch in await send_due(source)]

        assert len(set(asked)) == 3
        assert sorted(sent) == sorted([*asked, "fixed"])

    async def test_a_paused_schedule_can_be_run(self, source: ScheduleSource) -> None:
        """A manual run does not care for the pause, and does not end it. (Look at `paused` of the manual's row.)"""
        await add(source, interval=60)
        await source.pause("a")
        task_id = await source.run_now("a")

        assert [dispatch.task_id for dispatch in await send_due(source)] == [task_id]
        assert (await state(source)).paused

    async def test_its_history_is_the_schedules(self, source: ScheduleSource) -> None:
        """A manual run is found in the history of the schedule that was told to run. (Look at `schedule_id` in `runs`.)"""
        await add(source, time=NOW + HOUR)
        task_id = await source.run_now("a")
        await send_due(source)

        assert [(row.schedule_id, row.task_id, row.status) for row in await rows(source, "a")] == [("a", task_id, "sent")]

    async def test_a_failed_manual_run_is_retried(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A manual run is tried until it is sent, as the same message. (Look at `settle`.)"""
        await add(source, time=NOW + DAY)
        task_id = await source.run_now("a")
        (dispatch,) = await take(source)
        await source.desk.settle([failed(dispatch, NOW, "the broker is away")])
        clock.advance(MINUTE)

        assert [one.task_id for one in await send_due(source)] == [task_id]
        assert await ids(source) == ["a"]

    @pytest.mark.parametrize("options", [{"misfire": "skip"}, {"misfire_grace": MINUTE}, {"end_at": NOW + MINUTE}], ids=str)
    async def test_it_is_not_subject_to_the_schedules_limits(
        self, source: ScheduleSource, clock: ManualClock, options: dict[str, Any]
    ) -> None:
        """Who asks for a run gets it, however late, and outside of the window. (Look at `edits.manual_run`.)"""
        await add(source, interval=60, schedule_options=ScheduleOptions(**options))
        await source.pause("a")
        clock.advance(HOUR)
        task_id = await source.run_now("a")
        clock.advance(HOUR)

        assert [one.task_id for one in await send_due(source)] == [task_id]

    async def test_at_most_once_holds_for_it_too(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A manual run is delivered as the schedule is. (Look at `delivery` of the manual's row.)"""
        await add(source, time=NOW + DAY, schedule_options=ScheduleOptions(delivery="at_most_once"))
        await source.run_now("a")
        await take(source)
        clock.advance(HOUR)

        assert await send_due(source) == []
        assert [row.status for row in await rows(source, "a")] == ["unknown"]

    async def test_a_run_of_a_run(self, source: ScheduleSource) -> None:
        """Running a pending manual run again runs the schedule it came from. (Look at `manual_of`.)"""
        await add(source, time=NOW + DAY)
        await source.run_now("a")
        (manual,) = [schedule_id for schedule_id in await ids(source) if schedule_id != "a"]
        await source.run_now(manual)

        assert [dispatch.schedule_id for dispatch in await send_due(source)] == ["a", "a"]

    async def test_it_survives_the_schedule(self, source: ScheduleSource) -> None:
        """A run that was asked for is sent, even if the schedule was deleted meanwhile. (Look at how it is stored.)"""
        await add(source, time=NOW + DAY)
        task_id = await source.run_now("a")
        await source.delete_schedule("a")

        assert [dispatch.task_id for dispatch in await send_due(source)] == [task_id]

    async def test_it_can_be_called_off(self, source: ScheduleSource) -> None:
        """Until it is sent, a run is a schedule, and its id follows from the message's. (Look at `edits.manual_id`.)"""
        await add(source, time=NOW + DAY)
        task_id = await source.run_now("a")
        kept = await source.run_now("a")

        assert await source.delete_schedules([f"manual-{task_id}"]) == {f"manual-{task_id}"}
        assert [dispatch.task_id for dispatch in await send_due(source)] == [kept]
        assert await source.delete_schedules([f"manual-{kept}"]) == set()

    async def test_a_listing_tells_whose_run_it_is(self, source: ScheduleSource) -> None:
        """Whoever deletes a schedule finds the runs of it that are pending. (Look at `manual_of` of `ScheduleInfo`.)"""
        await add(source, time=NOW + DAY, owner="reports")
        task_id = await source.run_now("a")

        found = {one.state.id: one.manual_of async for one in source.iter_schedules()}
        assert found == {"a": None, f"manual-{task_id}": "a"}
        assert await ids(source, owner="reports") == ["a"]  # who prunes what they declared leaves runs alone

    async def test_a_quarantined_schedule_stays_so(self, source: ScheduleSource) -> None:
        """What cannot be read cannot be run, and says so. (Look at `run_now`.)"""
        await source.store.put([replace(await add(source), document="garbage")])
        await take(source)
        with pytest.raises(ScheduleDecodeError, match="'a'"):
            await source.run_now("a")

        assert await ids(source) == ["a"]
        assert (await info(source)).state.quarantined

    async def test_running_an_unknown_id(self, source: ScheduleSource) -> None:
        """Running what does not exist raises ScheduleNotFoundError. (Look at `_stored`.)"""
        with pytest.raises(ScheduleNotFoundError, match="'nobody'"):
            await source.run_now("nobody")

    async def test_every_scheduler_may_send_it(self, source: ScheduleSource, open_source: Any) -> None:
        """A manual run that one process asks for is sent by another. (Look at what is kept in the handle.)"""
        other: ScheduleSource = await open_source()
        await add(source, "b", time=NOW + DAY)
        task_id = await source.run_now("b")
        (manual,) = [schedule_id for schedule_id in await ids(other) if schedule_id != "b"]

        assert (await take_one(other, manual)).task_id == task_id
