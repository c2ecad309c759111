"""Rules for occurrences that are found late: collapsed, sent each, skipped, or missed beyond a grace."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from taskiq_sources import Run, ScheduleOptions, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.source_build import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    add,
    expected_task_id,
    ids,
    nominal,
    play,
    rows,
    send_due,
    state,
    take,
    take_one,
)

MISSED = "missed"


class MisfireRules:
    """What is late is sent late, or recorded as missed, as the schedule's options say; nothing is silently lost."""

    # -- fire_once -----------------------------------------------------------------------------------------------------------

    async def test_fire_once_sends_the_latest(self, source: ScheduleSource, clock: ManualClock) -> None:
        """By default all late ones collapse into one send of the latest; its run says how many. (Look at `coalesced`.)"""
        await add(source, interval=60)
        clock.advance(10 * MINUTE + 30 * SECOND)
        sent = await send_due(source)

        assert [(one.scheduled_for, one.coalesced) for one in sent] == [(NOW + 10 * MINUTE, 11)]
        assert await _facts(source) == [(NOW + 10 * MINUTE, "sent", 11)]
        assert (await state(source)).scheduled_for == NOW + 11 * MINUTE
        assert (await state(source)).coalesced == 1

    async def test_fire_once_on_time_collapses_nothing(self, source: ScheduleSource, clock: ManualClock) -> None:
        """An occurrence that is sent before the next is due stands for itself. (Look at `coalesced`.)"""
        await add(source, interval=60)
        clock.advance(59 * SECOND)

        assert [(one.scheduled_for, one.coalesced) for one in await send_due(source)] == [(NOW, 1)]

    async def test_fire_once_of_a_cron(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Late cron occurrences collapse like those of an interval. (Look at `coalesced`.)"""
        await add(source, cron="0 7 * * *", cron_offset="Europe/Berlin")
        clock.advance(30 * DAY)
        sent = await send_due(source)

        assert [one.coalesced for one in sent] == [30]

    async def test_fire_once_after_years(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Years of missed seconds cost no time; they are counted up to 1,000. (Look at `Timetable.newest` and `count`.)"""
        await add(source, "cron", cron="* * * * * *")
        await add(source, "interval", interval=1)
        clock.advance(5 * 365 * DAY)
        sent = await send_due(source)

        assert [(one.schedule_id, one.coalesced) for one in sent] == [("interval", 1000), ("cron", 1000)]
        assert all(NOW + 5 * 365 * DAY - one.scheduled_for < SECOND for one in sent)

    async def test_what_collapsed_is_written_down_before_it_is_sent(self, source: ScheduleSource, clock: ManualClock) -> None:
        """The chosen occurrence is stored before the send, so that a crash changes nothing of it. (Look at `release=False`.)"""
        await add(source, interval=60)
        clock.advance(3 * MINUTE)
        await take_one(source)

        found = await state(source)
        assert (found.scheduled_for, found.coalesced, found.attempt) == (NOW + 3 * MINUTE, 4, 1)
        assert found.lease_until == await clock.now() + timedelta(seconds=30)

    # -- fire_all ------------------------------------------------------------------------------------------------------------

    async def test_fire_all_sends_each_oldest_first(self, source: ScheduleSource, clock: ManualClock) -> None:
        """With `fire_all` each late occurrence is sent, oldest first, under an id of its own. (Look at `settle`.)"""
        await add(source, interval=60, schedule_options=ScheduleOptions(misfire="fire_all"))
        clock.advance(4 * MINUTE + SECOND)
        sent = await send_due(source)

        assert nominal(sent) == [NOW + k * MINUTE for k in range(5)]
        assert [one.task_id for one in sent] == [expected_task_id("a", moment) for moment in nominal(sent)]
        assert {row.coalesced for row in await rows(source)} == {1}

    async def test_fire_all_stops_at_a_thousand(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Of more than 1,000 late occurrences the newest 1,000 are sent; the others are one missed row. (Look at `newest`.)"""
        await add(source, interval=1, schedule_options=ScheduleOptions(misfire="fire_all"))
        clock.advance(1_499 * SECOND)
        first = await take_one(source)
        missed = await rows(source, status="missed")

        assert first.scheduled_for == NOW + 500 * SECOND
        assert [(row.scheduled_for, row.coalesced, row.task_id) for row in missed] == [(NOW + 499 * SECOND, 500, None)]
        await source.desk.sent(first)
        assert (await state(source)).scheduled_for == NOW + 501 * SECOND

    async def test_fire_all_across_handles(self, source: ScheduleSource, clock: ManualClock, open_source: Any) -> None:
        """Catching up is shared by schedulers: none sends what another has. (Look at `claim`.)"""
        other: ScheduleSource = await open_source()
        await add(source, interval=60, schedule_options=ScheduleOptions(misfire="fire_all"))
        clock.advance(3 * MINUTE)
        sent = []
        for handle in (source, other, source, other):
            dispatch = await take_one(handle)
            await handle.desk.sent(dispatch)
            sent.append(dispatch)

        assert nominal(sent) == [NOW + k * MINUTE for k in range(4)]
        assert await take(other) == []

    # -- skip ----------------------------------------------------------------------------------------------------------------

    async def test_skip_records_what_is_late(self, source: ScheduleSource, clock: ManualClock) -> None:
        """With `skip` what is later than a minute is one missed row, and the next occurrence is awaited. (Look at `settle`.)"""
        await add(source, interval=600, schedule_options=ScheduleOptions(misfire="skip"))
        clock.advance(25 * MINUTE)
        assert await send_due(source) == []

        assert await _facts(source) == [(NOW + 20 * MINUTE, MISSED, 3)]
        found = await state(source)
        assert (found.scheduled_for, found.run_count, found.claimant) == (NOW + 30 * MINUTE, 0, None)

    async def test_skip_sends_what_is_hardly_late(self, source: ScheduleSource, clock: ManualClock) -> None:
        """With `skip` what is late by up to a minute is sent; older ones are missed. (Look at `_plan_each`.)"""
        await add(source, interval=600, schedule_options=ScheduleOptions(misfire="skip"))
        clock.advance(21 * MINUTE)

        assert nominal(await send_due(source)) == [NOW + 20 * MINUTE]
        assert await _facts(source) == [(NOW + 10 * MINUTE, MISSED, 2), (NOW + 20 * MINUTE, "sent", 1)]

    async def test_a_skipped_one_off_is_gone(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A one-off that is skipped leaves a missed row and no schedule. (Look at `finished`.)"""
        await add(source, time=NOW, schedule_options=ScheduleOptions(misfire="skip"))
        clock.advance(MINUTE + SECOND)
        assert await send_due(source) == []

        assert await ids(source) == []
        assert await _facts(source) == [(NOW, MISSED, 1)]

    # -- grace ---------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("misfire", ["fire_once", "fire_all", "skip"])
    @pytest.mark.parametrize(("late", "is_sent"), [(5 * MINUTE, True), (5 * MINUTE + timedelta(milliseconds=1), False)], ids=str)
    async def test_grace_is_how_late_is_too_late(
        self, source: ScheduleSource, clock: ManualClock, misfire: Any, late: timedelta, is_sent: bool
    ) -> None:
        """What is later than `misfire_grace`, by a millisecond, is missed under every policy. (Look at `_is_too_late`.)"""
        options = ScheduleOptions(misfire=misfire, misfire_grace=5 * MINUTE)
        await add(source, interval=3600, schedule_options=options)
        clock.advance(late)

        assert bool(await send_due(source)) is is_sent
        assert await _facts(source) == [(NOW, "sent" if is_sent else MISSED, 1)]
        assert (await state(source)).scheduled_for == NOW + HOUR

    async def test_fire_all_within_grace(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Of several late ones, those within the grace are sent, the others are one missed row. (Look at `_plan_each`.)"""
        options = ScheduleOptions(misfire="fire_all", misfire_grace=2 * MINUTE)
        await add(source, interval=60, schedule_options=options)
        clock.advance(6 * MINUTE)

        assert nominal(await send_due(source)) == [NOW + k * MINUTE for k in (4, 5, 6)]
        assert (await _facts(source))[0] == (NOW + 3 * MINUTE, MISSED, 4)

    async def test_fire_once_within_grace_of_the_latest(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Collapsed occurrences are as late as the latest of them. (Look at `_plan_collapsed`.)"""
        await add(source, interval=60, schedule_options=ScheduleOptions(misfire_grace=MINUTE))
        clock.advance(6 * MINUTE + 30 * SECOND)

        assert [(one.scheduled_for, one.coalesced) for one in await send_due(source)] == [(NOW + 6 * MINUTE, 7)]

    async def test_a_grace_of_nothing(self, source: ScheduleSource, clock: ManualClock) -> None:
        """With no grace at all, what is sent on the instant is sent. (Look at `_is_too_late`.)"""
        await add(source, interval=60, schedule_options=ScheduleOptions(misfire_grace=timedelta(0)))

        assert nominal(await play(source, clock, NOW + MINUTE)) == [NOW, NOW + MINUTE]

    async def test_grace_counts_from_the_jittered_time(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Jitter is no lateness. (Look at `due_at`.)"""
        options = ScheduleOptions(misfire_grace=timedelta(0), jitter=30 * MINUTE)
        found = await add(source, interval=3600, schedule_options=options)
        clock.set(found.next_run_at or NOW)

        assert nominal(await send_due(source)) == [NOW]

    async def test_missed_rows_carry_no_message(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A missed row tells schedule, task, instants and who decided, and no task id. (Look at how runs are stored.)"""
        await add(source, time=NOW, schedule_options=ScheduleOptions(misfire="skip"))
        clock.advance(HOUR)
        await send_due(source)

        (row,) = await rows(source)
        assert row.task_id is None
        assert (row.schedule_id, row.task_name, row.recorded_at) == ("a", "app:report", NOW + HOUR)
        assert row.claimant is not None

    async def test_downtime_hurts_nobody_else(self, source: ScheduleSource, clock: ManualClock) -> None:
        """After downtime each schedule is treated by its own policy, in one claim. (Look at `settle` in bulk.)"""
        for misfire in ("fire_once", "fire_all", "skip"):
            await add(source, misfire, interval=3600, schedule_options={"misfire": misfire})
        await add(source, "one-off", time=NOW + MINUTE)
        clock.advance(2 * HOUR + 30 * MINUTE)
        sent = await send_due(source)

        assert sorted((one.schedule_id, one.scheduled_for) for one in sent) == [
            ("fire_all", NOW),
            ("fire_all", NOW + HOUR),
            ("fire_all", NOW + 2 * HOUR),
            ("fire_once", NOW + 2 * HOUR),
            ("one-off", NOW + MINUTE),
        ]
        assert [row.coalesced for row in await rows(source, "skip")] == [3]


async def _facts(source: ScheduleSource) -> list[tuple[datetime, str, int]]:
    """Return nominal time, status and count of all runs, by nominal time."""
    found: list[Run] = await rows(source)
    return sorted((row.scheduled_for, row.status, row.coalesced) for row in found)
