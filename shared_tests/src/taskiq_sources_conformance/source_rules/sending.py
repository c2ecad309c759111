"""Rules for `pre_send` and `post_send`, through which taskiq's own scheduler sends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import taskiq
from taskiq.exceptions import ScheduledTaskCancelledError

from taskiq_sources import ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources.models import Outcome
from taskiq_sources_conformance.source_build import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    add,
    expected_task_id,
    ids,
    rows,
    state,
)
from taskiq_sources_conformance.virtual import lose_an_answer


class SendingRules:
    """`pre_send` claims what is due or cancels the send; `post_send` settles it."""

    async def test_a_due_occurrence_is_claimed_and_settled(self, source: ScheduleSource) -> None:
        """`pre_send` takes the lease and sets the task id, `post_send` records the run and moves on. (Look at `claim`.)"""
        await add(source, interval=60)
        entry = await _entry(source)
        await source.pre_send(entry)
        assert (await state(source)).claimant is not None
        assert (entry.task_id, entry.schedule_id) == (expected_task_id("a", NOW), "a")
        await source.post_send(entry)

        found = await state(source)
        assert (found.claimant, found.scheduled_for, found.run_count) == (None, NOW + MINUTE, 1)
        assert [(row.status, row.task_id) for row in await rows(source)] == [("sent", expected_task_id("a", NOW))]

    async def test_only_one_of_many_sends(self, source: ScheduleSource, open_source: Any) -> None:
        """Of several schedulers with the same list one sends; the others are cancelled, before and after. (Look at `claim`.)"""
        other: ScheduleSource = await open_source()
        await add(source, interval=60)
        entries = [(handle, await _entry(handle)) for handle in (source, other, source)]
        await source.pre_send(entries[0][1])
        await _assert_cancelled(*entries[1])
        await source.post_send(entries[0][1])

        await _assert_cancelled(*entries[1])
        await _assert_cancelled(*entries[2])
        assert len(await rows(source)) == 1

    async def test_what_changed_since_the_list_was_read_is_cancelled(self, source: ScheduleSource) -> None:
        """Deleted, paused or rescheduled after the list was read, an entry is not sent. (Look at `claim(ids=…)`.)"""
        for schedule_id in ("deleted", "paused", "rescheduled"):
            await add(source, schedule_id, time=NOW)
        entries = {task.schedule_id: task for task in await source.get_schedules()}
        await source.delete_schedule("deleted")
        await source.pause("paused")
        await source.reschedule("rescheduled", time=NOW + HOUR)

        for schedule_id in ("deleted", "paused", "rescheduled"):
            await _assert_cancelled(source, entries[schedule_id])
        assert await rows(source) == []

    async def test_what_is_stored_is_sent(self, source: ScheduleSource) -> None:
        """An entry of an old list is sent with the arguments and labels of now. (Look at `pre_send`.)"""
        await add(source, interval=60, args=[1])
        entry = await _entry(source)
        await add(source, interval=60, args=[2], kwargs={"k": 1}, labels={"l": "x"}, task_name="app:renamed", task_id="mine")
        await source.pre_send(entry)

        assert (entry.args, entry.kwargs, entry.labels) == ([2], {"k": 1}, {"l": "x"})
        assert (entry.task_name, entry.task_id) == ("app:renamed", "mine")

    @pytest.mark.parametrize(("early", "is_sent"), [(1500, True), (1501, False)])
    async def test_a_second_and_a_half_early_is_accepted(
        self, source: ScheduleSource, clock: ManualClock, early: int, is_sent: bool
    ) -> None:
        """An occurrence is accepted up to 1.5 s early, for the loop has another clock. (Look at `early` in `claim`.)"""
        await add(source, time=NOW + HOUR)
        entry = await _entry(source)
        clock.set(NOW + HOUR - timedelta(milliseconds=early))
        if is_sent:
            await source.pre_send(entry)
            await source.post_send(entry)
        else:
            await _assert_cancelled(source, entry)

        assert [row.scheduled_for for row in await rows(source)] == [NOW + HOUR] * is_sent

    async def test_a_send_that_is_not_finished_is_repeated_after_its_lease(
        self, source: ScheduleSource, clock: ManualClock, open_source: Any
    ) -> None:
        """Without `post_send` the occurrence is free after its lease, for any handle, as the same message. (Look at `claim`.)"""
        other: ScheduleSource = await open_source()
        await add(source, interval=3600)
        first = await _entry(source)
        await source.pre_send(first)
        clock.advance(29 * SECOND)
        await _assert_cancelled(other, await _entry(other))
        clock.advance(SECOND)
        second = await _entry(other)
        await other.pre_send(second)

        assert second.task_id == first.task_id

    async def test_a_one_off_is_gone_after_post_send(self, source: ScheduleSource) -> None:
        """A one-off that was sent is deleted; its run stays. (Look at `finished` in `settle`.)"""
        await add(source)
        entry = await _entry(source)
        await source.pre_send(entry)
        assert await ids(source) == ["a"]
        await source.post_send(entry)

        assert await ids(source) == []
        assert len(await rows(source, "a")) == 1

    async def test_what_a_settle_that_broke_off_has_recorded_is_not_called_lost(
        self, source: ScheduleSource, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its answer got lost, and the next one finds no claim to settle: that nobody took over. (Look at `settle`.)"""
        await add(source, time=NOW)
        entry = await _entry(source)
        await source.pre_send(entry)
        lose_an_answer(source.store)
        monkeypatch.setattr("taskiq_sources.stock._FIRST_PAUSE", 0)
        caplog.set_level(logging.INFO, "taskiq_sources")
        await source.post_send(entry)

        assert [row.status for row in await rows(source)] == ["sent"]
        assert "taken over" not in caplog.text
        assert "recorded by a call that broke off" in caplog.text

    async def test_a_send_that_is_cut_off_after_the_broker_had_it_is_settled(
        self, source: ScheduleSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By taskiq's ``--send-timeout``, say; shutting the source down waits for it. (Look at `post_send`, `shutdown`.)"""
        settle, is_settling, may_settle = source.store.settle, asyncio.Event(), asyncio.Event()

        async def settles(outcomes: Sequence[Outcome]) -> frozenset[str]:
            is_settling.set()
            await may_settle.wait()
            return await settle(outcomes)

        await add(source, time=NOW)
        entry = await _entry(source)
        await source.pre_send(entry)
        monkeypatch.setattr(source.store, "settle", settles)
        sending = asyncio.ensure_future(source.post_send(entry))
        await is_settling.wait()
        sending.cancel()
        await asyncio.wait([sending])
        asyncio.get_running_loop().call_soon(may_settle.set)
        await source.shutdown()
        await source.startup()

        assert [row.status for row in await rows(source)] == ["sent"]

    async def test_shutting_down_waits_for_what_is_being_sent(self, source: ScheduleSource) -> None:
        """The loop of taskiq is cancelled, but not its sends: they are settled before it is closed. (Look at `shutdown`.)"""
        await add(source, time=NOW)
        entry, has_claimed, broker_takes = await _entry(source), asyncio.Event(), asyncio.Event()

        async def send() -> None:
            await source.pre_send(entry)
            has_claimed.set()
            await broker_takes.wait()
            await source.post_send(entry)

        sending = asyncio.ensure_future(send())
        await has_claimed.wait()
        asyncio.get_running_loop().call_soon(broker_takes.set)
        await source.shutdown()
        await sending
        await source.startup()

        assert [row.status for row in await rows(source)] == ["sent"]

    async def test_a_schedule_that_cannot_be_read_is_quarantined_when_it_is_due(
        self, source: ScheduleSource, clock: ManualClock
    ) -> None:
        """A garbled record is shown, cancelled when it is due, and set aside with its error. (Look at `settle`: quarantined.)"""
        row = await add(source, time=NOW + MINUTE)
        await source.store.put([replace(row, document="garbage")])
        (entry,) = await source.get_schedules()
        await _assert_cancelled(source, entry)
        assert not (await state(source)).quarantined
        clock.advance(MINUTE)
        await _assert_cancelled(source, entry)

        assert (await state(source)).quarantined
        assert await source.get_schedules() == []

    async def test_a_manual_run_carries_the_schedules_id(self, source: ScheduleSource) -> None:
        """The message of a manual run names the schedule that was told to run. (Look at `manual_of`.)"""
        await add(source, time=NOW + HOUR)
        task_id = await source.run_now("a")
        entry = next(task for task in await source.get_schedules() if task.time == NOW)
        await source.pre_send(entry)

        assert (entry.schedule_id, entry.task_id) == ("a", task_id)


async def _entry(source: ScheduleSource) -> taskiq.ScheduledTask:
    """Return the first entry that the source hands out."""
    return (await source.get_schedules())[0]


async def _assert_cancelled(source: ScheduleSource, entry: taskiq.ScheduledTask) -> None:
    with pytest.raises(ScheduledTaskCancelledError):
        await source.pre_send(entry)
