"""Rules for the limits of a schedule: `start_at`, `end_at`, `max_runs`, and how it finishes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from taskiq_sources import ScheduleOptions, ScheduleSource, ScheduleValidationError
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

    async def test_an_end_in_the_past_is_refused_for_what_runs(self, source: ScheduleSource) -> None:
        """It would run on if that were passed over. (Look at what is stored of it.)"""
        await add(source, **HOURLY)
        with pytest.raises(ScheduleValidationError, match="never runs"):
            await source.add_schedules([scheduled(schedule_options=ScheduleOptions(end_at=NOW - HOUR), **HOURLY), scheduled("b")])

        assert await ids(source) == ["a"]

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
