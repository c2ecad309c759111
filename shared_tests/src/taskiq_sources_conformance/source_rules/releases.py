"""Rules for releases of an application that follow one another, are taken back, and overlap."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskiq_sources import ScheduleOptions, ScheduleSource, ScheduleValidationError, SourceConnectionError
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.source_build import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    NOW,
    SECOND,
    add,
    ids,
    nominal,
    play,
    rows,
    scheduled,
    send_due,
    state,
    take,
    take_one,
)


class ReleaseRules:
    """Whatever is declared, and declared otherwise, and declared again, nothing is sent twice, and nothing is lost in silence."""

    # -- amid a send that hangs ----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "last",
        [
            {"time": NOON + HOUR},
            {"cron": "0 13 * * *", "schedule_options": ScheduleOptions(max_runs=1)},
            {"cron": "0 13 * * *", "schedule_options": ScheduleOptions(end_at=NOON + 2 * HOUR)},
        ],
        ids=["one-off", "max_runs", "end_at"],
    )
    @pytest.mark.parametrize("lives", [False, True], ids=["dies", "lives"])
    async def test_the_last_occurrence_gets_other_arguments(
        self, source: ScheduleSource, clock: ManualClock, last: dict[str, Any], lives: bool
    ) -> None:
        """If its sender has died, it is sent when the lease has ended; else it was sent. (Look at `_is_last`.)

        With them, unless the declaration has no occurrence left and so ends what is stored.
        """
        await add(source, args=["old"], **last)
        clock.set(NOON + HOUR)
        dispatch = await take_one(source)
        clock.advance(5 * SECOND)
        await source.add_schedule(scheduled(args=["new"], **last))
        if lives:
            await source.desk.sent(dispatch)
        sent = await play(source, clock, NOON + DAY)

        ended = last.get("schedule_options", ScheduleOptions()).end_at is not None
        assert [each.definition.args for each in sent] == ([] if lives else [["old" if ended else "new"]])
        assert [(row.status, row.scheduled_for) for row in await rows(source)] == [("sent", dispatch.scheduled_for)]
        assert await source.get_schedule("a") is None

    # -- taken back ----------------------------------------------------------------------------------------------------------

    async def test_a_pace_that_is_taken_back(self, source: ScheduleSource, clock: ManualClock) -> None:
        """An interval that got another period, and has it no more, runs when it would have. (Look at `_at_another_pace`.)"""
        await add(source, interval=3600)
        await send_due(source)
        clock.advance(10 * MINUTE)
        await add(source, interval=7200)
        await add(source, interval=3600)

        assert nominal(await play(source, clock, NOW + 2 * HOUR)) == [NOW + HOUR, NOW + 2 * HOUR]

    async def test_a_pace_that_is_taken_back_while_it_is_sent(self, source: ScheduleSource) -> None:
        """What was moved on already is not moved on again. (Look at the attempts in `_is_being_sent`.)"""
        await add(source, interval=3600)
        dispatch = await take_one(source)
        for interval in (7200, 3600, 7200, 3600):
            await add(source, interval=interval)
        await source.desk.sent(dispatch)

        found = await state(source)
        assert (found.scheduled_for, found.run_count) == (NOW + HOUR, 1)

    async def test_a_start_that_is_taken_back(self, source: ScheduleSource, clock: ManualClock) -> None:
        """What was put off runs again from now on. (Look at what is compared with what in `continued`.)"""
        await add(source, cron="0 12 * * *")
        clock.set(NOON + DAY + SECOND)
        await add(source, cron="0 12 * * *", schedule_options=ScheduleOptions(start_at=NOON + 10 * DAY))
        assert nominal(await send_due(source)) == [NOON + DAY]
        await add(source, cron="0 12 * * *")

        assert nominal(await play(source, clock, NOON + 3 * DAY)) == [NOON + 2 * DAY, NOON + 3 * DAY]

    # -- the end -------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("sent", [True, False], ids=["over", "late"])
    async def test_the_last_hours_before_the_end(self, source: ScheduleSource, clock: ManualClock, sent: bool) -> None:
        """An application starts though what it declares has no occurrence left. (Look at `may_be_over`.)"""
        given: dict[str, Any] = {"cron": "0 12 * * *", "schedule_options": ScheduleOptions(end_at=NOON + 2 * DAY + 11 * HOUR)}
        await add(source, **given)
        await play(source, clock, NOON + 2 * DAY - HOUR)
        clock.set(NOON + 2 * DAY + HOUR)
        if sent:
            assert nominal(await send_due(source)) == [NOON + 2 * DAY]
        await source.add_schedules([scheduled(**given), scheduled("b", interval=60)])

        assert await ids(source) == (["b"] if sent else ["a", "b"])

    async def test_a_new_schedule_that_never_runs_is_refused(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Without a past it is a mistake. (Look at `_have_run`.)"""
        clock.set(NOON + 2 * DAY + HOUR)
        with pytest.raises(ScheduleValidationError, match="never runs"):
            await add(source, cron="0 12 * * *", schedule_options=ScheduleOptions(end_at=NOON + 2 * DAY + 11 * HOUR))

    # -- limits --------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("before", "after"), [(2, 10), (None, 2)], ids=["raised", "reached"])
    async def test_a_limit_that_changes_while_the_last_run_is_sent(
        self, source: ScheduleSource, clock: ManualClock, before: int | None, after: int
    ) -> None:
        """The new limit holds, counting that run. (Look at `_is_last`.)"""
        await add(source, interval=3600, schedule_options=ScheduleOptions(max_runs=before))
        await send_due(source)
        clock.advance(HOUR)
        dispatch = await take_one(source)
        await source.add_schedule(scheduled(interval=3600, schedule_options=ScheduleOptions(max_runs=after)))
        await source.desk.sent(dispatch)

        assert len(await play(source, clock, NOW + 30 * HOUR)) == after - 2

    @pytest.mark.parametrize("triggers", [{"interval": 7200}, {"cron": "30 * * * *"}], ids=str)
    async def test_a_run_that_is_being_sent_counts(
        self, source: ScheduleSource, clock: ManualClock, triggers: dict[str, Any]
    ) -> None:
        """Also if the schedule is given other times meanwhile. (Look at `run_count` in `_edit`.)"""
        options = ScheduleOptions(max_runs=3)
        await add(source, interval=3600, schedule_options=options)
        dispatch = await take_one(source)
        await source.add_schedule(scheduled(**triggers, schedule_options=options))
        await source.desk.sent(dispatch)

        assert len(await play(source, clock, NOW + 30 * HOUR)) == 2

    @pytest.mark.parametrize(("limit", "sent"), [(2, 0), (5, 2)], ids=["lower", "higher"])
    async def test_another_task_with_another_limit(
        self, source: ScheduleSource, clock: ManualClock, limit: int, sent: int
    ) -> None:
        """A rename does not keep a new limit from counting. (Look at what follows the `put` in `_redeclare`.)"""
        await add(source, interval=3600)
        await play(source, clock, NOW + 2 * HOUR)
        await add(source, interval=3600, task_name="app:new", owner="me", schedule_options=ScheduleOptions(max_runs=limit))

        assert len(await play(source, clock, NOW + 30 * HOUR)) == sent

    async def test_a_limit_that_was_reached_is_raised_with_another_task(self, source: ScheduleSource, clock: ManualClock) -> None:
        """It runs again, from its next occurrence on. (Look at what follows the `put` in `_redeclare`.)"""
        await add(source, interval=3600)
        await play(source, clock, NOW + HOUR)
        await add(source, interval=3600, schedule_options=ScheduleOptions(max_runs=2))
        await add(source, interval=3600, task_name="app:new", schedule_options=ScheduleOptions(max_runs=3))

        assert nominal(await play(source, clock, NOW + 30 * HOUR)) == [NOW + 2 * HOUR]

    # -- what was done, and what is late -------------------------------------------------------------------------------------

    async def test_a_time_that_has_passed_is_not_sent_again(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A single time beside a cron was sent, whatever the cron becomes. (Look at `definition.time` in `begun`.)"""
        options = ScheduleOptions(delivery="at_most_once")
        await add(source, cron="0 9 * * *", time=NOON + HOUR, schedule_options=options)
        assert nominal(await play(source, clock, NOON + 5 * HOUR)) == [NOON + HOUR]
        await add(source, cron="0 10 * * *", time=NOON + HOUR, schedule_options=options)
        await source.reschedule("a", cron_offset="Europe/Berlin")

        assert await take(source) == []

    async def test_what_was_sent_early_is_not_sent_again(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Another cron may name the instant that has just been sent. (Look at `_not_done`.)"""
        await add(source, cron="0 * * * *")
        clock.set(NOON + 2 * HOUR - SECOND)
        await send_due(source)
        [dispatch] = await take(source, early=1.5 * SECOND)
        await source.desk.sent(dispatch)
        await add(source, cron="0 */2 * * *")

        assert nominal(await play(source, clock, NOON + 4 * HOUR)) == [NOON + 4 * HOUR]

    @pytest.mark.parametrize("misfire", ["fire_all", "fire_once", "skip"])
    async def test_another_pace_invents_no_occurrences(self, source: ScheduleSource, clock: ManualClock, misfire: Any) -> None:
        """Three days late, a daily interval that becomes one of minutes is three runs late. (Look at `_at_another_pace`.)"""
        options = ScheduleOptions(misfire=misfire)
        await add(source, interval=DAY, schedule_options=options)
        await send_due(source)
        clock.set(NOW + 3 * DAY + HOUR)
        await add(source, interval=300, schedule_options=options)
        await send_due(source)

        late = [(row.status, row.coalesced) for row in await rows(source) if row.scheduled_for > NOW]
        assert late == [("missed" if misfire == "skip" else "sent", 3)]

    @pytest.mark.parametrize("misfire", ["fire_all", "fire_once"])
    async def test_another_pace_and_another(self, source: ScheduleSource, clock: ManualClock, misfire: Any) -> None:
        """What was late when the pace changed first is still counted when it changes again. (Look at `due_until`.)"""
        options = ScheduleOptions(misfire=misfire)
        await add(source, interval=DAY, schedule_options=options)
        await send_due(source)
        clock.set(NOW + 3 * DAY + HOUR)
        await add(source, interval=300, schedule_options=options)
        clock.set(NOW + 3 * DAY + HOUR + 10 * MINUTE)
        await add(source, interval=600, schedule_options=options)

        assert [one.coalesced for one in await send_due(source)] == [5]

    @pytest.mark.parametrize("triggers", [{"interval": 7200}, {"cron": "30 9 * * *"}], ids=str)
    async def test_all_that_is_late_is_accounted_for(
        self, source: ScheduleSource, clock: ManualClock, triggers: dict[str, Any]
    ) -> None:
        """Also where each late occurrence would have been sent. (Look at `drops`.)"""
        options = ScheduleOptions(misfire="fire_all")
        await add(source, cron="0 12 * * *", schedule_options=options)
        clock.set(NOON + 5 * DAY + SECOND)
        await source.add_schedule(scheduled(**triggers, schedule_options=options))

        assert [(row.status, row.scheduled_for, row.coalesced) for row in await rows(source)] == [("missed", NOON + 5 * DAY, 5)]

    @pytest.mark.parametrize("misfire", ["fire_all", "fire_once"])
    async def test_what_is_late_before_a_later_start(self, source: ScheduleSource, clock: ManualClock, misfire: Any) -> None:
        """It is sent as one, which says for how many it stands. (Look at `_kept`.)"""
        await add(source, cron="0 * * * *", schedule_options=ScheduleOptions(misfire=misfire))
        clock.set(NOON + 10 * HOUR + SECOND)
        await add(source, cron="0 * * * *", schedule_options=ScheduleOptions(misfire=misfire, start_at=NOON + 2 * DAY))

        assert [(one.scheduled_for, one.coalesced) for one in await send_due(source)] == [(NOON + 10 * HOUR, 10)]

    async def test_what_waits_for_its_jitter_is_recorded(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Its time has come, though it is not due yet. (Look at `early` in `Changing`.)"""
        await add(source, cron="0 12 * * *", schedule_options=ScheduleOptions(jitter=10 * HOUR))
        clock.set(NOON + DAY + SECOND)
        assert (await state(source)).next_run_at != NOON + DAY
        await add(source, cron="0 9 * * *")

        assert [(row.status, row.scheduled_for) for row in await rows(source)] == [("missed", NOON + DAY)]

    async def test_who_died_while_it_changed_a_schedule_is_not_taken_for_its_sender(
        self, source: ScheduleSource, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who comes next waits for the end of that claim, and records what is late. (Look at `Changing.hold`.)"""

        async def fails(*_args: Any, **_options: Any) -> Any:
            raise SourceConnectionError("the process ends here")

        await add(source, cron="0 12 * * *")
        clock.set(NOON + DAY + SECOND)
        with monkeypatch.context() as patch:
            patch.setattr(source.store, "settle", fails)
            with pytest.raises(SourceConnectionError):
                await source.add_schedule(scheduled(cron="0 9 * * *"))
        changing = asyncio.ensure_future(source.add_schedule(scheduled(cron="0 9 * * *")))
        for _ in range(5):
            await asyncio.sleep(0)
        clock.advance(MINUTE)
        await changing

        [row] = await rows(source)
        assert row.status in {"missed", "unknown"}  # that nobody was sending it is not seen any more
        assert row.scheduled_for == NOON + DAY
        assert (await state(source)).scheduled_for == NOON + DAY + 21 * HOUR
