"""Rules for schedules that exist and are given another definition: by a new release of an application, or by a person."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import pytest

from taskiq_sources import ScheduleOptions, ScheduleSource, ScheduleValidationError, SourceConnectionError
from taskiq_sources.clock import ManualClock
from taskiq_sources.occurrences import failed
from taskiq_sources_conformance.source_build import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    NOW,
    SECOND,
    add,
    definition,
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

How = Literal["declared", "rescheduled"]

#: Options that say more of when a schedule runs.
OF_WHEN: list[dict[str, Any]] = [
    {"jitter": 10 * SECOND},
    {"end_at": NOW + 9 * DAY},
    {"start_at": NOW - DAY},
    {"dst": "skip"},
    {"max_runs": 5},
]


async def give(source: ScheduleSource, how: How, former: dict[str, Any], **options: Any) -> None:
    """Give a schedule other options, either way."""
    if how == "declared":
        await source.add_schedule(scheduled(**former, schedule_options=ScheduleOptions(**options)))
    else:
        await source.reschedule("a", options=ScheduleOptions(**options))


async def change(source: ScheduleSource, how: How, **triggers: Any) -> None:
    """Give a schedule other triggers, either way."""
    if how == "declared":
        await source.add_schedule(scheduled(**triggers))
    else:
        await source.reschedule("a", **triggers)


class ChangingRules:
    """Whatever a schedule is changed into: what was due is sent or recorded, nothing is sent again, and it is not forgotten."""

    @pytest.fixture(params=["declared", "rescheduled"])
    def how(self, request: pytest.FixtureRequest) -> How:
        """Return who changes it: an application that starts, or a person."""
        how: How = request.param
        return how

    # -- other options -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("options", OF_WHEN, ids=str)
    async def test_other_options_keep_what_is_due(
        self, source: ScheduleSource, clock: ManualClock, how: How, options: dict[str, Any]
    ) -> None:
        """What was due before it was given other options is sent. (Look at `continued`.)"""
        await add(source, cron="* * * * *")
        assert nominal(await play(source, clock, NOON + MINUTE)) == [NOON + MINUTE]
        clock.set(NOON + 2 * MINUTE + 20 * SECOND)
        await give(source, how, {"cron": "* * * * *"}, **options)

        assert nominal(await send_due(source)) == [NOON + 2 * MINUTE]
        assert (await definition(source)).schedule_options == ScheduleOptions(**options)
        found = await state(source)
        assert (found.run_count, found.scheduled_for) == (2, NOON + 3 * MINUTE)

    @pytest.mark.parametrize("options", [{"jitter": 10 * SECOND}, {"end_at": NOW + 9 * DAY}, {"max_runs": 5}], ids=str)
    async def test_other_options_keep_the_phase(
        self, source: ScheduleSource, clock: ManualClock, how: How, options: dict[str, Any]
    ) -> None:
        """An interval with other options is not sent at once, but when it is its turn. (Look at `anchor` in `continued`.)"""
        await add(source, interval=3600)
        await send_due(source)
        clock.advance(10 * MINUTE)
        await give(source, how, {"interval": 3600}, **options)

        assert await take(source) == []
        found = await state(source)
        assert (found.anchor, found.scheduled_for, found.run_count) == (NOW, NOW + HOUR, 1)

    async def test_other_options_keep_a_retry(self, source: ScheduleSource, clock: ManualClock, how: How) -> None:
        """What has failed is tried again as the same occurrence, at its time. (Look at `attempt` in `continued`.)"""
        await add(source, interval=3600)
        await source.desk.settle([failed(await take_one(source), NOW, "the broker is away")])
        before = await state(source)
        await give(source, how, {"interval": 3600}, jitter=MINUTE)

        after = await state(source)
        assert (after.attempt, after.last_error, after.next_run_at) == (1, before.last_error, before.next_run_at)
        clock.advance(MINUTE)
        assert [(one.scheduled_for, one.claim.schedule.attempt) for one in await send_due(source)] == [(NOW, 2)]

    async def test_other_options_while_it_is_being_sent(self, source: ScheduleSource, clock: ManualClock, how: How) -> None:
        """That occurrence is not sent again, and the options are in force then. (Look at `timing_revision`, `continued`.)"""
        await add(source, interval=3600)
        dispatch = await take_one(source)
        await give(source, how, {"interval": 3600}, jitter=MINUTE)
        await source.desk.sent(dispatch)
        clock.advance(MINUTE)

        assert await take(source) == []
        assert (await state(source)).scheduled_for == NOW + HOUR
        assert (await definition(source)).schedule_options == ScheduleOptions(jitter=MINUTE)

    async def test_a_window_that_opens_sooner(self, source: ScheduleSource, how: How) -> None:
        """A cron whose start is brought forward runs from then on. (Look at what is pending in `continued`.)"""
        await add(source, cron="0 7 * * *", schedule_options=ScheduleOptions(start_at=NOON + 10 * DAY))
        await give(source, how, {"cron": "0 7 * * *"}, start_at=NOON + 2 * DAY)

        assert (await state(source)).scheduled_for == NOON + 2 * DAY + 19 * HOUR

    async def test_a_window_that_is_closed_sooner(self, source: ScheduleSource, clock: ManualClock, how: How) -> None:
        """Nothing is sent after the new end. (Look at what is pending in `continued`.)"""
        await add(source, cron="0 7 * * *")
        await send_due(source)
        await give(source, how, {"cron": "0 7 * * *"}, end_at=NOON + 2 * DAY)

        assert nominal(await play(source, clock, NOON + 5 * DAY)) == [NOON + 19 * HOUR, NOON + DAY + 19 * HOUR]

    # -- how often it has run ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("triggers", [{"cron": "30 * * * *"}, {"interval": 7200}, {"interval": 3600}], ids=str)
    async def test_its_runs_go_on_being_counted(
        self, source: ScheduleSource, clock: ManualClock, how: How, triggers: dict[str, Any]
    ) -> None:
        """`max_runs` is how often it runs in all, whatever it is changed into. (Look at `run_count` in `_edit`.)"""
        options = ScheduleOptions(max_runs=3)
        await add(source, interval=3600, schedule_options=options)
        sent = await play(source, clock, NOW + HOUR)
        clock.advance(MINUTE)
        if how == "declared":
            await source.add_schedule(scheduled(**triggers, schedule_options=options))
        else:
            await source.reschedule("a", **triggers)
        sent += await play(source, clock, NOW + 9 * DAY)

        assert len(sent) == 3
        assert await ids(source) == []

    async def test_a_limit_that_is_reached_already(self, source: ScheduleSource, clock: ManualClock, how: How) -> None:
        """With a lower `max_runs` it does not run any more; with a higher one it does again. (Look at `_is_used_up`.)"""
        await add(source, interval=3600)
        await play(source, clock, NOW + HOUR)
        await give(source, how, {"interval": 3600}, max_runs=2)
        assert await play(source, clock, NOW + 9 * HOUR) == []
        assert (await state(source)).next_run_at is None
        await give(source, how, {"interval": 3600}, max_runs=3)

        assert nominal(await play(source, clock, NOW + 20 * HOUR)) == [NOW + 10 * HOUR]

    # -- another pace --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("interval", [1800, 7200])
    async def test_a_declared_interval_goes_on_at_another_pace(
        self, source: ScheduleSource, clock: ManualClock, interval: int
    ) -> None:
        """Its next occurrence is the new interval after its last, not at once. (Look at `_at_another_pace`.)"""
        await add(source, interval=3600)
        await play(source, clock, NOW + HOUR + 10 * MINUTE)
        await source.add_schedule(scheduled(interval=interval))

        following = NOW + HOUR + interval * SECOND
        assert nominal(await play(source, clock, following + interval * SECOND)) == [following, following + interval * SECOND]

    async def test_a_late_interval_at_another_pace(self, source: ScheduleSource, clock: ManualClock) -> None:
        """What is late is sent once, and the new interval counts from it. (Look at `_at_another_pace`.)"""
        await add(source, interval=3600)
        await send_due(source)
        clock.set(NOW + HOUR + 10 * MINUTE)
        await source.add_schedule(scheduled(interval=7200))

        assert nominal(await play(source, clock, NOW + 3 * HOUR)) == [NOW + HOUR, NOW + 3 * HOUR]

    async def test_a_pace_that_is_overtaken(self, source: ScheduleSource, clock: ManualClock) -> None:
        """An interval so short that it would have passed by now counts from now. (Look at `_at_another_pace`.)"""
        await add(source, interval=3600)
        await send_due(source)
        clock.advance(10 * MINUTE)
        await source.add_schedule(scheduled(interval=60))

        start = NOW + 10 * MINUTE
        assert nominal(await play(source, clock, start + MINUTE)) == [start, start + MINUTE]

    async def test_another_pace_while_it_is_being_sent(self, source: ScheduleSource) -> None:
        """That occurrence is not sent again. (Look at the lease in `_at_another_pace`.)"""
        await add(source, interval=3600)
        dispatch = await take_one(source)
        await source.add_schedule(scheduled(interval=7200))
        await source.desk.sent(dispatch)

        assert await take(source) == []
        assert (await state(source)).scheduled_for == NOW + 2 * HOUR

    # -- other triggers ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("triggers", [{"cron": "0 9 * * *"}, {"time": NOW + 9 * DAY}], ids=str)
    async def test_what_other_triggers_overtake_is_recorded_as_missed(
        self, source: ScheduleSource, clock: ManualClock, how: How, triggers: dict[str, Any]
    ) -> None:
        """What was due and is not sent any more is in the history, with its number. (Look at `drops`, `_record_as_missed`.)"""
        await add(source, cron="0 7 * * *")
        clock.set(NOON + 2 * DAY)
        await change(source, how, **triggers)

        [row] = await rows(source)
        assert (row.status, row.scheduled_for, row.coalesced) == ("missed", NOON + DAY + 19 * HOUR, 2)
        assert "other triggers" in str(row.error)
        assert await send_due(source) == []
        found = await state(source)
        assert found.scheduled_for == triggers.get("time", NOON + 2 * DAY + 21 * HOUR)
        assert (found.lease_until, found.attempt, found.coalesced) == (None, 0, 1)

    async def test_a_process_that_dies_while_it_changes_triggers(
        self, source: ScheduleSource, clock: ManualClock, how: How, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The former triggers go on, and what was due is recorded. (Look at `overtaken`.)"""

        async def fails(*_args: Any, **_options: Any) -> Any:
            raise SourceConnectionError("the process ends here")

        await add(source, cron="0 7 * * *")
        clock.set(NOON + DAY)
        with monkeypatch.context() as patch:
            patch.setattr(source.store, "update", fails)
            with pytest.raises(SourceConnectionError):
                await change(source, how, cron="0 9 * * *")

        assert [(row.status, row.scheduled_for) for row in await rows(source)] == [("missed", NOON + 19 * HOUR)]
        assert nominal(await play(source, clock, NOON + 2 * DAY)) == [NOON + DAY + 19 * HOUR]

    async def test_a_one_off_that_is_moved_is_not_missed(self, source: ScheduleSource, clock: ManualClock, how: How) -> None:
        """It is the same, at another time. (Look at `drops`.)"""
        await add(source, time=NOW)
        clock.advance(HOUR)
        await change(source, how, time=NOW + 2 * HOUR)

        assert await rows(source) == []
        assert nominal(await play(source, clock, NOW + DAY)) == [NOW + 2 * HOUR]

    async def test_nothing_is_missed_of_a_paused_schedule(self, source: ScheduleSource, clock: ManualClock, how: How) -> None:
        """It was not to run. (Look at `drops`.)"""
        await add(source, cron="0 7 * * *")
        await source.pause("a")
        clock.set(NOON + 2 * DAY)
        await change(source, how, cron="0 9 * * *")

        assert await rows(source) == []
        assert (await state(source)).paused

    # -- of a person ---------------------------------------------------------------------------------------------------------

    async def test_another_cron_keeps_its_zone(self, source: ScheduleSource) -> None:
        """A cron that is rescheduled is meant for the same wall clock. (Look at `cron_offset` in `rescheduled`.)"""
        await add(source, cron="0 9 * * *", cron_offset="Europe/Berlin")
        info = await source.reschedule("a", cron="0 10 * * *")

        assert info.state.scheduled_for == NOON + 20 * HOUR
        assert (await definition(source)).cron_offset == "Europe/Berlin"

    async def test_another_zone_keeps_the_cron(self, source: ScheduleSource) -> None:
        """A zone alone moves the cron that there is. (Look at `cron_offset` in `rescheduled`.)"""
        await add(source, cron="0 9 * * *")
        info = await source.reschedule("a", cron_offset="Europe/Berlin")

        assert info.state.scheduled_for == NOON + 19 * HOUR
        assert (await definition(source)).cron == "0 9 * * *"

    async def test_a_change_of_nothing_is_refused(self, source: ScheduleSource) -> None:
        """It is a mistake, and nothing is changed. (Look at `rescheduled`.)"""
        before = await add(source, cron="0 9 * * *")
        with pytest.raises(ScheduleValidationError, match="cron, interval, time"):
            await source.reschedule("a")

        assert await state(source) == before

    # -- all else ------------------------------------------------------------------------------------------------------------

    async def test_another_task_keeps_what_is_due(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A task that is renamed, with other options too: what was due is sent under the new name. (Look at `put`.)"""
        await add(source, cron="* * * * *")
        clock.set(NOON + MINUTE + 20 * SECOND)
        await source.add_schedule(
            scheduled(cron="* * * * *", task_name="app:renamed", owner="me", schedule_options=ScheduleOptions(jitter=SECOND))
        )

        sent = await send_due(source)
        assert [(one.scheduled_for, one.task.task_name) for one in sent] == [(NOON + MINUTE, "app:renamed")]
        assert (await state(source)).owner == "me"

    async def test_what_is_as_it_was_is_not_written(self, source: ScheduleSource, clock: ManualClock) -> None:
        """An application that starts with what is stored writes nothing. (Look at `_is_as_declared`.)"""
        before = await add(source, cron="* * * * *")
        clock.advance(SECOND)

        assert await source.add_schedules([scheduled(cron="* * * * *")]) == {"a"}
        assert await state(source) == before

    @pytest.mark.parametrize("time", [NOW, NOW - DAY], ids=["now", "past"])
    async def test_a_one_off_whose_id_looks_made_up_is_not_sent_again(
        self, source: ScheduleSource, clock: ManualClock, time: datetime
    ) -> None:
        """An application may use ``uuid4().hex`` itself, and ask twice. (Look at `_MADE_UP` in `declare`.)"""
        schedule_id = "0f8fad5bd9cb469fa16570867728950e"
        await add(source, schedule_id, time=time)
        assert nominal(await send_due(source)) == [time]
        clock.advance(SECOND)
        await source.add_schedule(scheduled(schedule_id, time=time))

        assert await send_due(source) == []
        assert await ids(source) == []
