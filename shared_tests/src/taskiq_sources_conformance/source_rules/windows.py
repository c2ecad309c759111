"""Rules for the limits of a schedule: `start_at`, `end_at`, `max_runs`, and how it finishes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from taskiq_sources import ScheduleExistsError, ScheduleOptions, ScheduleSource, ScheduleValidationError
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.source_build import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    NOW,
    add,
    ids,
    nominal,
    play,
    rows,
    scheduled,
    send_due,
    state,
    take_one,
)

HOURLY: dict[str, Any] = {"cron": "0 * * * *"}


class WindowRules:
    """A schedule runs within its window, as often as it may, and is deleted when nothing is left to be sent."""

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"interval": 3600}, [NOW + DAY, NOW + DAY + HOUR]),
            (HOURLY, [NOON + DAY + HOUR, NOON + DAY + 2 * HOUR]),
        ],
        ids=["interval-takes-its-phase", "cron"],
    )
    async def test_nothing_runs_before_start_at(
        self, source: ScheduleSource, clock: ManualClock, fields: dict[str, Any], expected: list[Any]
    ) -> None:
        """The first occurrence is not before `start_at`, where an interval's phase begins. (Look at `anchor`.)"""
        await add(source, schedule_options=ScheduleOptions(start_at=NOW + DAY), **fields)

        assert nominal(await play(source, clock, NOW + DAY + 2 * HOUR))[:2] == expected

    async def test_a_past_start_at_gives_the_phase(self, source: ScheduleSource, clock: ManualClock) -> None:
        """With a past `start_at` an interval runs at its next multiples, not at those before. (Look at `anchor`.)"""
        await add(source, interval=3600, schedule_options=ScheduleOptions(start_at=NOON - 90 * MINUTE))

        assert nominal(await play(source, clock, NOON + 2 * HOUR)) == [NOON + 30 * MINUTE, NOON + 90 * MINUTE]

    async def test_end_at_is_the_last_instant(self, source: ScheduleSource, clock: ManualClock) -> None:
        """An occurrence at `end_at` runs, none after; then the schedule is gone and its runs stay. (Look at `finished`.)"""
        await add(source, schedule_options=ScheduleOptions(end_at=NOON + 2 * HOUR), **HOURLY)
        sent = await play(source, clock, NOON + DAY)

        assert nominal(sent) == [NOON + HOUR, NOON + 2 * HOUR]
        assert await ids(source) == []
        assert len(await rows(source, "a")) == 2

    async def test_a_late_last_occurrence_is_sent(self, source: ScheduleSource, clock: ManualClock) -> None:
        """The last occurrence of the window is sent however late, and it is that one. (Look at `_latest_due`.)"""
        await add(source, schedule_options=ScheduleOptions(end_at=NOON + 2 * HOUR), **HOURLY)
        clock.set(NOON + DAY)

        assert nominal(await send_due(source)) == [NOON + 2 * HOUR]
        assert await ids(source) == []

    @pytest.mark.parametrize(
        ("fields", "options"),
        [
            (HOURLY, ScheduleOptions(end_at=NOW - HOUR)),
            ({"interval": 60}, ScheduleOptions(end_at=NOW - HOUR)),
            ({"interval": 60}, ScheduleOptions(start_at=NOW - DAY, end_at=NOW - HOUR)),
        ],
        ids=["cron", "interval", "interval-from-start-at"],
    )
    async def test_what_is_over_may_be_declared(
        self, source: ScheduleSource, fields: dict[str, Any], options: ScheduleOptions
    ) -> None:
        """A declaration whose `end_at` passes does not end the application at its next start. (Look at `is_over`.)"""
        await source.add_schedules([scheduled("over", schedule_options=options, **fields), scheduled("other")])

        assert await ids(source) == ["other"]

    async def test_what_is_over_is_declared_once_in_a_call(self, source: ScheduleSource) -> None:
        """As all else is. (Look at ids that are used twice.)"""
        over = scheduled("over", interval=60, schedule_options=ScheduleOptions(end_at=NOW - HOUR))
        with pytest.raises(ScheduleValidationError, match="used twice"):
            await source.add_schedules([over, over])

    @pytest.mark.parametrize("triggers", [HOURLY, {"interval": 60}, {"cron": "0 0 29 2 *"}, {"time": NOW}], ids=str)
    async def test_an_end_in_the_past_ends_what_runs(
        self, source: ScheduleSource, clock: ManualClock, triggers: dict[str, Any]
    ) -> None:
        """It neither runs on nor keeps the application from starting, however often that is. (Look at `edits.ended`.)"""
        await add(source, **HOURLY)
        declared = scheduled(schedule_options=ScheduleOptions(start_at=NOW - 2 * HOUR, end_at=NOW - HOUR), **triggers)
        assert await source.add_schedules([declared, scheduled("b", time=NOW + DAY)]) == {"a"}
        assert await source.add_schedules([declared, scheduled("b", time=NOW + DAY)]) == {"a", "b"}

        assert nominal(await play(source, clock, NOW + 2 * DAY)) == [NOW + DAY]
        assert (await state(source)).next_run_at is None

    @pytest.mark.parametrize(("policy", "sent"), [("fire_once", [2]), ("fire_all", [1, 2])])
    @pytest.mark.parametrize(
        "declared",
        [
            {**HOURLY, "end_at": NOON + 90 * MINUTE},
            {"interval": 60, "end_at": NOON + 2 * HOUR + MINUTE},
            {"cron": "30 * * * *", "end_at": NOW - DAY},
            {"cron": "30 * * * *", "start_at": NOW - 2 * DAY, "end_at": NOW - DAY - 59 * MINUTE},
        ],
        ids=["end", "interval", "cron", "never"],
    )
    async def test_an_end_in_the_past_leaves_what_is_late(
        self, source: ScheduleSource, clock: ManualClock, caplog: Any, policy: Any, sent: list[int], declared: dict[str, Any]
    ) -> None:
        """What is late is sent as it is stored, all of it, and then the schedule ends; a warning names it. (Look at `_end`.)"""
        await add(source, schedule_options=ScheduleOptions(misfire=policy), **HOURLY)
        clock.set(NOON + 2 * HOUR + 59 * MINUTE)
        triggers = {name: value for name, value in declared.items() if not name.endswith("_at")}
        window = ScheduleOptions(**{name: value for name, value in declared.items() if name.endswith("_at")})
        for _ in range(2):
            await source.add_schedule(scheduled(schedule_options=window, **triggers))

        assert "Schedule 'a' is declared otherwise than it is stored" in caplog.text
        assert nominal(await play(source, clock, NOON + DAY)) == [NOON + hour * HOUR for hour in sent]
        assert await ids(source) == []

    async def test_an_end_in_the_past_leaves_what_is_being_sent(self, source: ScheduleSource, clock: ManualClock) -> None:
        """It is neither sent again nor lost with its sender, and it is the last. (Look at what `edits.ended` writes.)"""
        await add(source, **HOURLY)
        clock.set(NOON + HOUR)
        dispatch = await take_one(source)
        await source.add_schedule(scheduled(interval=60, schedule_options=ScheduleOptions(end_at=NOW)))
        assert (await state(source)).next_run_at == NOON + HOUR
        clock.set(NOON + HOUR + 10 * MINUTE)  # its sender has died

        assert [sent.task_id for sent in await play(source, clock, NOON + DAY)] == [dispatch.task_id]
        assert await ids(source) == []

    @pytest.mark.parametrize("triggers", [HOURLY, {"interval": 3600}], ids=str)
    async def test_an_end_in_the_past_that_is_taken_back(
        self, source: ScheduleSource, clock: ManualClock, triggers: dict[str, Any]
    ) -> None:
        """A rollback has it run again as before. (Look at what the document says of a schedule that was ended.)"""
        await add(source, **triggers)
        await send_due(source)
        await add(source, schedule_options=ScheduleOptions(end_at=NOW - HOUR), **triggers)
        assert await play(source, clock, NOW + 2 * HOUR) == []
        await add(source, **triggers)

        assert len(await play(source, clock, NOW + 5 * HOUR)) == 3

    async def test_an_end_in_the_past_before_a_start_to_come(self, source: ScheduleSource, clock: ManualClock) -> None:
        """What is late is sent, also where the schedule had been put off meanwhile. (Look at the window in `edits.ended`.)"""
        await add(source, **HOURLY)
        clock.set(NOON + HOUR)
        await add(source, schedule_options=ScheduleOptions(start_at=NOW + 7 * DAY), **HOURLY)
        await add(source, schedule_options=ScheduleOptions(end_at=NOW - HOUR), **HOURLY)

        assert nominal(await play(source, clock, NOW + 10 * DAY)) == [NOON + HOUR]

    @pytest.mark.parametrize("on_conflict", ["keep", "error"])
    async def test_an_end_in_the_past_leaves_what_is_not_to_be_replaced(
        self, source: ScheduleSource, clock: ManualClock, on_conflict: Any
    ) -> None:
        """Without `replace` nothing that exists is touched. (Look at `write`.)"""
        before = await add(source, **HOURLY)
        over = scheduled(schedule_options=ScheduleOptions(end_at=NOW - HOUR), **HOURLY)
        with suppress(ScheduleExistsError):
            assert await source.add_schedules([over], on_conflict=on_conflict) == {"a"}

        assert await state(source) == before

    async def test_an_end_in_the_past_leaves_what_cannot_be_read(self, source: ScheduleSource) -> None:
        """Nor does that keep the application from starting. (Look at `former_of`.)"""
        broken = replace(await add(source, **HOURLY), document="garbage")
        await source.store.put([broken])
        await source.add_schedule(scheduled(interval=60, schedule_options=ScheduleOptions(end_at=NOW - HOUR)))

        assert (await state(source)).document == "garbage"

    async def test_an_end_in_the_past_is_refused_for_an_edit(self, source: ScheduleSource) -> None:
        """Who calls `reschedule` can be told, and is told what is wrong. (Look at `_never_runs`.)"""
        before = await add(source, **HOURLY)
        with pytest.raises(ScheduleValidationError, match=r"'a'.*end_at .*it has passed.*delete_schedule"):
            await source.reschedule("a", options=ScheduleOptions(end_at=NOW - HOUR))

        assert await state(source) == before

    async def test_a_one_off_before_a_past_end_is_sent_late(self, source: ScheduleSource) -> None:
        """It was within its window, and nothing says that it ran. (Look at `is_over`.)"""
        await add(source, time=NOW - 2 * HOUR, schedule_options=ScheduleOptions(end_at=NOW - HOUR))

        assert nominal(await send_due(source)) == [NOW - 2 * HOUR]

    async def test_the_first_of_all_times_is_past(self, source: ScheduleSource) -> None:
        """However long ago, a one-off that was not sent is due. (Look at what is subtracted from it.)"""
        await add(source, time=datetime.min.replace(tzinfo=timezone.utc))

        assert len(await send_due(source)) == 1

    async def test_what_is_over_leaves_what_is_pending(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Its last occurrence is sent though it is late and declared again meanwhile. (Look at what `add_schedules` leaves.)"""
        options = ScheduleOptions(end_at=NOON + 2 * HOUR)
        await add(source, schedule_options=options, **HOURLY)
        clock.set(NOON + DAY)
        await source.add_schedule(scheduled(schedule_options=options, **HOURLY))

        assert nominal(await send_due(source)) == [NOON + 2 * HOUR]

    async def test_max_runs(self, source: ScheduleSource, clock: ManualClock) -> None:
        """After `max_runs` sends the schedule is gone and its runs stay. (Look at `run_count` in `settle`.)"""
        await add(source, interval=60, schedule_options=ScheduleOptions(max_runs=3))
        sent = await play(source, clock, NOW + DAY)

        assert nominal(sent) == [NOW, NOW + MINUTE, NOW + 2 * MINUTE]
        assert await ids(source) == []
        assert len(await rows(source, "a")) == 3

    async def test_what_is_collapsed_counts_once(self, source: ScheduleSource, clock: ManualClock) -> None:
        """`max_runs` counts sends, not the occurrences that one send stands for. (Look at `run_count`.)"""
        await add(source, interval=60, schedule_options=ScheduleOptions(max_runs=2))
        clock.advance(10 * MINUTE)
        await send_due(source)

        assert (await state(source)).run_count == 1
        assert nominal(await play(source, clock, NOW + DAY)) == [NOW + 11 * MINUTE]

    async def test_what_is_missed_does_not_count(self, source: ScheduleSource, clock: ManualClock) -> None:
        """An occurrence that was not sent is no run. (Look at `run_count` of missed ones.)"""
        await add(source, interval=3600, schedule_options=ScheduleOptions(max_runs=1, misfire="skip"))
        clock.advance(30 * MINUTE)
        assert await send_due(source) == []

        assert nominal(await play(source, clock, NOW + DAY)) == [NOW + HOUR]

    async def test_a_source_may_limit_all(self, open_source: Any, clock: ManualClock) -> None:
        """Limits may come from the source's defaults. (Look at what `define` resolves.)"""
        source: ScheduleSource = await open_source(options=ScheduleOptions(max_runs=1))
        await add(source, interval=60)
        await play(source, clock, NOW + HOUR)

        assert await ids(source) == []

    async def test_a_finished_id_can_be_used_again(self, source: ScheduleSource) -> None:
        """After a schedule has finished, its id starts afresh. (Look at what `settle` leaves of a finished schedule.)"""
        await add(source)
        await send_due(source)
        found = await add(source, time=NOW + HOUR)

        assert (found.revision, found.run_count, found.attempt, found.claimant) == (1, 0, 0, None)
        assert found.scheduled_for == NOW + HOUR
