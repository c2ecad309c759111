"""Rules for `reschedule`."""

from __future__ import annotations

import asyncio
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from taskiq_sources import ScheduleNotFoundError, ScheduleOptions, ScheduleSource, SourceConnectionError
from taskiq_sources.clock import ManualClock
from taskiq_sources.occurrences import failed, quarantined
from taskiq_sources_conformance.source_build import (
    HOUR,
    MINUTE,
    NOON,
    NOW,
    SECOND,
    add,
    definition,
    nominal,
    play,
    rows,
    send_due,
    state,
    take_one,
)


class ReschedulingRules:
    """`reschedule` gives other triggers, as if the schedule were created now, and leaves all else as it is."""

    @pytest.mark.parametrize("call", ["claim", "settle"])
    async def test_an_edit_that_is_broken_off_holds_nothing(
        self, source: ScheduleSource, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        """By a time-out around it: what is at most once would count as sent, and be lost. (Look at `to_the_end` in `held`.)"""
        await add(source, time=NOW + 5 * SECOND, schedule_options=ScheduleOptions(delivery="at_most_once"))
        real, has_begun, may_answer = getattr(source.store, call), asyncio.Event(), asyncio.Event()

        async def slow(*args: Any, **options: Any) -> Any:
            done = await real(*args, **options)
            has_begun.set()
            await may_answer.wait()
            return done

        monkeypatch.setattr(source.store, call, slow)
        editing = asyncio.ensure_future(source.reschedule("a", time=NOW + 8 * SECOND))
        await has_begun.wait()
        editing.cancel()
        asyncio.get_running_loop().call_soon(may_answer.set)
        await asyncio.wait([editing])
        clock.advance(15 * SECOND)

        assert editing.cancelled()
        assert len(await send_due(source)) == 1

    async def test_an_edit_gives_back_what_it_held_though_the_store_is_away_for_a_moment(
        self, source: ScheduleSource, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One call that fails costs no occurrence. (Look at `let_go`.)"""
        await add(source, time=NOW + 5 * SECOND, schedule_options=ScheduleOptions(delivery="at_most_once"))
        settle = source.store.settle

        async def fails(*_: Any) -> Any:
            monkeypatch.setattr(source.store, "settle", settle)
            raise SourceConnectionError("no answer")

        monkeypatch.setattr(source.store, "settle", fails)
        monkeypatch.setattr("taskiq_sources.changing._TRY_AGAIN", (0, 0))
        await source.reschedule("a", time=NOW + 8 * SECOND)
        clock.advance(8 * SECOND)

        assert len(await send_due(source)) == 1

    @pytest.mark.parametrize(
        ("triggers", "due"),
        [
            ({"cron": "30 * * * *"}, NOON + 30 * MINUTE),
            ({"cron": "0 7 * * *", "cron_offset": "Europe/Berlin"}, NOON + 17 * HOUR),
            ({"cron": "0 7 * * *", "cron_offset": ZoneInfo("Europe/Berlin")}, NOON + 17 * HOUR),
            ({"interval": 600}, NOW + SECOND),
            ({"time": NOW + 2 * HOUR}, NOW + 2 * HOUR),
            ({"time": NOW - HOUR}, NOW - HOUR),
            ({"cron": "30 * * * *", "interval": 600}, NOW + SECOND),
        ],
        ids=str,
    )
    async def test_other_triggers(self, source: ScheduleSource, clock: ManualClock, triggers: dict[str, Any], due: Any) -> None:
        """The new triggers count from now; those that are not given are gone. (Look at `update`.)"""
        await add(source, cron="0 0 * * *", cron_offset="PT1H", time=NOW + 9 * HOUR)
        clock.advance(SECOND)
        info = await source.reschedule("a", **triggers)

        stored = await definition(source)
        given = {"cron": None, "interval": None, "time": None, **triggers}
        assert (stored.cron, stored.interval, stored.time) == (given["cron"], given["interval"], given["time"])
        zone = triggers.get("cron_offset", "PT1H") if stored.cron else None
        assert str(stored.cron_offset) == str(zone if zone != "PT1H" else HOUR)
        assert info.state.scheduled_for == info.state.next_run_at == due
        assert info == await source.get_schedule("a")

    async def test_options_may_be_a_dictionary(self, source: ScheduleSource) -> None:
        """As they may wherever a schedule is written. (Look at `from_label`.)"""
        options: Any = {"misfire": "skip"}
        await add(source, interval=60, schedule_options=options)
        assert (await definition(source)).schedule_options == ScheduleOptions(misfire="skip")

        options["max_runs"] = 3
        await source.reschedule("a", interval=60, options=options)

        assert (await definition(source)).schedule_options == ScheduleOptions(misfire="skip", max_runs=3)

    async def test_all_else_stays(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Task, arguments, labels, ids, owner, options and a pause stay. (Look at `edits.rescheduled`.)"""
        options = ScheduleOptions(misfire="skip", max_runs=5)
        await add(
            source, interval=60, args=[1], kwargs={"k": 2}, labels={"l": "x"}, task_id="t", owner="me", schedule_options=options
        )
        before = await definition(source)
        await source.pause("a")
        clock.advance(MINUTE)
        await source.reschedule("a", cron="0 7 * * *")

        after = await definition(source)
        assert after == before.model_copy(update={"cron": "0 7 * * *", "interval": None})
        found = await state(source)
        assert (found.paused, found.owner, found.created_at, found.updated_at) == (True, "me", NOW, NOW + MINUTE)

    @pytest.mark.parametrize("default", ["UTC", "Asia/Tokyo"])
    async def test_other_arguments_leave_the_zone(self, open_source: Any, default: str) -> None:
        """What is read, and stored with other arguments, runs when it did, by whatever source. (Look at `_info`.)"""
        writer: ScheduleSource = await open_source(default_timezone=default)
        before = await add(writer, cron="0 7 * * *")
        editor: ScheduleSource = await open_source(default_timezone="Europe/Berlin")
        task = await definition(editor)
        await editor.add_schedule(task.model_copy(update={"args": ["other"]}))

        after = await state(editor)
        assert (after.next_run_at, after.anchor) == (before.next_run_at, before.anchor)
        assert (await definition(writer)).args == ["other"]

    async def test_options_stay_whatever_the_sources_defaults(self, open_source: Any) -> None:
        """Options that were in force stay, also if they equal a default that this source does not have. (Look at `redefine`.)"""
        writer: ScheduleSource = await open_source()
        await add(writer, "explicit", interval=60, schedule_options=ScheduleOptions(misfire="fire_once"))
        await add(writer, "implied", interval=60)
        editor: ScheduleSource = await open_source(options=ScheduleOptions(misfire="skip", max_runs=1))
        for schedule_id in ("explicit", "implied"):
            await editor.reschedule(schedule_id, interval=90)

            assert (await definition(writer, schedule_id)).schedule_options == ScheduleOptions()

    async def test_the_time_zone_stays_whatever_the_sources_default(self, open_source: Any) -> None:
        """A cron keeps the zone that it was written for. (Look at `redefine`.)"""
        writer: ScheduleSource = await open_source(default_timezone="Europe/Berlin")
        editor: ScheduleSource = await open_source(default_timezone="Asia/Tokyo")
        await add(writer, cron="0 8 * * *")
        info = await editor.reschedule("a", cron="0 7 * * *")

        assert info.state.scheduled_for == NOON + 17 * HOUR

    async def test_options_given_change_only_those(self, source: ScheduleSource) -> None:
        """Given options change what they set, and nothing else. (Look at `ScheduleOptions.over`.)"""
        await add(source, interval=60, schedule_options=ScheduleOptions(misfire="skip", max_runs=5))
        await source.reschedule("a", interval=60, options=ScheduleOptions(max_runs=7, start_at=NOW + HOUR))

        options = (await definition(source)).schedule_options
        assert options == ScheduleOptions(misfire="skip", max_runs=7, start_at=NOW + HOUR)
        assert (await state(source)).scheduled_for == NOW + HOUR

    async def test_an_intervals_phase_starts_anew(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A rescheduled interval counts from the edit, also with the same period. (Look at `anchor` in `update`.)"""
        await add(source, interval=60)
        clock.advance(37 * SECOND)
        await source.reschedule("a", interval=60)

        start = NOW + 37 * SECOND
        assert nominal(await play(source, clock, start + 2 * MINUTE)) == [start, start + MINUTE, start + 2 * MINUTE]

    async def test_what_was_pending_is_dropped(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Retries and errors belong to the old triggers. (Look at `update`.)"""
        await add(source, interval=60, schedule_options=ScheduleOptions(max_runs=2))
        await send_due(source)
        clock.advance(MINUTE)
        await source.desk.settle([failed(await take_one(source), NOW, "the broker is away")])
        found = (await source.reschedule("a", interval=3600)).state

        assert (found.attempt, found.last_error, found.run_count, found.coalesced) == (0, None, 1, 1)
        assert len(await rows(source)) == 2

    async def test_a_manual_quarantine_ends(self, source: ScheduleSource) -> None:
        """`reschedule` lets a quarantined schedule run again. (Look at `quarantined` in `update`.)"""
        await add(source, interval=60)
        dispatch = await take_one(source)
        await source.desk.settle([quarantined(dispatch.claim, "it was told to be")])
        assert (await state(source)).quarantined
        await source.reschedule("a", interval=60)

        assert nominal(await send_due(source)) == [NOW]

    async def test_rescheduling_an_unknown_id(self, source: ScheduleSource) -> None:
        """Rescheduling what does not exist raises ScheduleNotFoundError. (Look at `_stored`.)"""
        with pytest.raises(ScheduleNotFoundError, match="'nobody'"):
            await source.reschedule("nobody", interval=60)
