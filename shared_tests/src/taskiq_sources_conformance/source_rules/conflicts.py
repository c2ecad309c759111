"""Rules for ids that exist: replace, keep, error, and schedules that are declared anew at every start."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any, Literal

import pytest

from taskiq_sources import ScheduleExistsError, ScheduleOptions, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources.occurrences import failed
from taskiq_sources_conformance.source_build import (
    DAY,
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

    @pytest.mark.parametrize("time", [NOW, NOW - DAY, NOW + HOUR], ids=["now", "past", "later"])
    async def test_a_one_off_that_was_sent_is_not_sent_again(
        self, source: ScheduleSource, clock: ManualClock, time: datetime
    ) -> None:
        """It is declared still, but it is over. (Look at `_done_before` in `add_schedules`.)"""
        await add(source, time=time)
        clock.set(NOW + HOUR)
        assert nominal(await send_due(source)) == [time]

        assert await source.add_schedules([scheduled(time=time), scheduled("b", time=NOW)]) == set()

        assert await ids(source) == ["b"]
        assert [dispatch.schedule_id for dispatch in await send_due(source)] == ["b"]

    async def test_a_one_off_that_was_sent_may_be_given_another_time(self, source: ScheduleSource, clock: ManualClock) -> None:
        """That is another occurrence; the first of them in the history does not hide it. (Look at the occurrence's id.)"""
        await add(source, time=NOW)
        await send_due(source)
        clock.set(NOW + MINUTE)

        await source.add_schedule(scheduled(time=NOW + SECOND))

        assert nominal(await send_due(source)) == [NOW + SECOND]

    async def test_an_id_may_be_used_ever_again(self, source: ScheduleSource, clock: ManualClock, monkeypatch: Any) -> None:
        """Of its history no more is read than from about the new time on. (Look at `since` in `_done_before`.)"""
        read: list[Any] = []
        runs = source.store.runs

        async def noted(*args: Any, **options: Any) -> Any:
            read.extend(found := await runs(*args, **options))
            return found

        for number in range(10):
            clock.set(NOW + number * HOUR)
            await add(source, time=NOW + number * HOUR)
            await send_due(source)
        monkeypatch.setattr(source.store, "runs", noted)
        clock.set(NOW + 10 * HOUR)
        await source.add_schedule(scheduled(time=NOW + 10 * HOUR))

        assert read == []
        assert nominal(await send_due(source)) == [NOW + 10 * HOUR]

    async def test_a_one_off_that_was_sent_early_is_not_sent_again(self, source: ScheduleSource, clock: ManualClock) -> None:
        """As taskiq's loop may, before its time by the store's clock. (Look at what is looked up in the history.)"""
        await add(source, time=NOW + SECOND)
        [dispatch] = await source.desk.take(limit=1, early=SECOND)
        await source.desk.sent(dispatch)

        await source.add_schedule(scheduled(time=NOW + SECOND))

        clock.set(NOW + MINUTE)
        assert await send_due(source) == []

    async def test_a_time_that_was_done_with_does_not_displace_another(self, source: ScheduleSource) -> None:
        """What was given another time meanwhile keeps it, though the old one is declared. (Look at what is stored.)"""
        await add(source, time=NOW - HOUR)
        await send_due(source)
        await source.add_schedule(scheduled(time=NOW + HOUR))

        assert await source.add_schedules([scheduled(time=NOW - HOUR)]) == {"a"}
        with pytest.raises(ScheduleExistsError):
            await source.add_schedules([scheduled(time=NOW - HOUR)], on_conflict="error")

        assert (await state(source)).scheduled_for == NOW + HOUR

    @pytest.mark.parametrize("status", ["failed", "unknown"])
    async def test_what_is_sent_at_most_once_is_not_sent_again(
        self, source: ScheduleSource, clock: ManualClock, status: str
    ) -> None:
        """Whether it arrived or not: that is not known, and the schedule is gone. (Look at the statuses that count.)"""
        options = ScheduleOptions(delivery="at_most_once")
        await add(source, time=NOW, schedule_options=options)
        dispatch = await take_one(source)
        if status == "failed":
            await source.desk.settle([failed(dispatch, NOW, "no broker")])
        else:
            clock.advance(HOUR)
            assert await send_due(source) == []
        assert await ids(source) == []

        await source.add_schedule(scheduled(time=NOW, schedule_options=options))

        assert await ids(source) == []

    @pytest.mark.parametrize("args", [[], [1]], ids=["as-it-was", "changed"])
    @pytest.mark.parametrize("moment", ["before-it-is-written", "when-it-is-written"])
    async def test_what_is_sent_while_it_is_declared_is_over(
        self, source: ScheduleSource, clock: ManualClock, monkeypatch: Any, moment: str, args: list[Any]
    ) -> None:
        """Whenever that is, and whatever other schedulers do meanwhile. (Look at what is written before the last look.)"""
        await add(source, time=NOW)
        put = source.store.put
        sent: list[Any] = []

        async def sent_meanwhile(*args: Any, **options: Any) -> Any:
            if moment == "before-it-is-written":
                sent.extend(await send_due(source))
            existing = await put(*args, **options)
            sent.extend(await send_due(source))
            return existing

        monkeypatch.setattr(source.store, "put", sent_meanwhile)
        await source.add_schedule(scheduled(time=NOW, args=args))
        clock.advance(HOUR)
        sent += await send_due(source)

        assert nominal(sent) == [NOW]

    async def test_what_takes_the_id_while_it_is_declared_stays(self, source: ScheduleSource, monkeypatch: Any) -> None:
        """As of a task that schedules itself again under its own id. (Look at what is deleted after the last look.)"""
        await add(source, time=NOW)
        put, runs, looks = source.store.put, source.store.runs, 0

        async def sent_before(*args: Any, **options: Any) -> Any:
            await send_due(source)
            return await put(*args, **options)

        async def taken_after(*args: Any, **options: Any) -> Any:
            nonlocal looks
            looks += 1
            found = await runs(*args, **options)
            if looks == 2:  # the last one
                monkeypatch.undo()
                await source.add_schedule(scheduled(time=NOW + HOUR))
            return found

        monkeypatch.setattr(source.store, "put", sent_before)
        monkeypatch.setattr(source.store, "runs", taken_after)
        await source.add_schedule(scheduled(time=NOW))

        assert (await state(source)).scheduled_for == NOW + HOUR

    async def test_a_process_that_dies_while_it_declares_a_one_off_delays_it(
        self, source: ScheduleSource, clock: ManualClock, monkeypatch: Any
    ) -> None:
        """It is sent within a minute or so though nobody comes back to it. (Look at what is written first.)"""
        store = source.store

        async def dies(*_args: Any, **_options: Any) -> Any:
            raise asyncio.CancelledError

        monkeypatch.setattr(store, "update", dies)
        with pytest.raises(asyncio.CancelledError):
            await source.add_schedule(scheduled(time=NOW))
        monkeypatch.undo()
        assert await send_due(source) == []

        clock.advance(MINUTE)

        assert nominal(await send_due(source)) == [NOW]

    async def test_who_edits_a_one_off_while_it_is_declared_delays_nothing(
        self, source: ScheduleSource, monkeypatch: Any
    ) -> None:
        """What is neither another time nor a deletion leaves it due. (Look at what is done when the revision has moved.)"""
        update = source.store.update

        async def paused_before(*args: Any, **options: Any) -> Any:
            monkeypatch.undo()
            await source.pause("a")
            return await update(*args, **options)

        monkeypatch.setattr(source.store, "update", paused_before)
        await source.add_schedule(scheduled(time=NOW))
        assert (await state(source)).paused
        await source.resume("a")

        assert nominal(await send_due(source)) == [NOW]

    async def test_a_one_off_that_failed_is_stored_again(self, source: ScheduleSource) -> None:
        """Only what was sent or given up for good is over. (Look at the statuses that count.)"""
        await add(source, time=NOW)
        claim = await take_one(source)
        await source.desk.settle([failed(claim, NOW, "no broker")])
        await source.delete_schedule("a")

        await source.add_schedule(scheduled(time=NOW))

        assert nominal(await send_due(source)) == [NOW]

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
