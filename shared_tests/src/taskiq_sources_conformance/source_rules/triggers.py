"""Rules for when things run, seen through claims and settles: cron, interval and time, and all of them together."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from taskiq_sources import ScheduleSource
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
    send_due,
    state,
    take,
    take_one,
)

UTC = timezone.utc

#: Crons and their next three occurrences after Friday, 15 June 2035, 12:00:00.123 UTC.
CRONS: dict[str, tuple[dict[str, Any], list[datetime]]] = {
    "minutes": ({"cron": "*/20 * * * *"}, [NOON + 20 * MINUTE, NOON + 40 * MINUTE, NOON + HOUR]),
    "seconds-first": ({"cron": "*/20 * * * * *"}, [NOON + 20 * SECOND, NOON + 40 * SECOND, NOON + MINUTE]),
    "alias": ({"cron": "@daily"}, [NOON + 12 * HOUR, NOON + 36 * HOUR, NOON + 60 * HOUR]),
    "weekday-name": ({"cron": "0 0 * * mon"}, [datetime(2035, 6, 18, tzinfo=UTC) + k * 7 * DAY for k in range(3)]),
    "sunday-is-7": ({"cron": "0 0 * * 7"}, [datetime(2035, 6, 17, tzinfo=UTC) + k * 7 * DAY for k in range(3)]),
    "last-day": ({"cron": "0 0 L * *"}, [datetime(2035, month, day, tzinfo=UTC) for month, day in ((6, 30), (7, 31), (8, 31))]),
    "second-friday": ({"cron": "0 0 * * fri#2"}, [datetime(2035, m, d, tzinfo=UTC) for m, d in ((7, 13), (8, 10), (9, 14))]),
    "day-or-weekday": ({"cron": "0 0 20 * mon"}, [datetime(2035, 6, day, tzinfo=UTC) for day in (18, 20, 25)]),
    "leap-day": ({"cron": "0 0 29 2 *"}, [datetime(year, 2, 29, tzinfo=UTC) for year in (2036, 2040, 2044)]),
    "berlin": ({"cron": "0 7 * * *", "cron_offset": "Europe/Berlin"}, [NOON + 17 * HOUR + k * DAY for k in range(3)]),
    "half-hour-zone": ({"cron": "0 18 * * *", "cron_offset": "Asia/Kolkata"}, [NOON + 30 * MINUTE + k * DAY for k in range(3)]),
    "offset": ({"cron": "0 7 * * *", "cron_offset": timedelta(hours=-6)}, [NOON + HOUR + k * DAY for k in range(3)]),
}


class TriggerRules:
    """Occurrences are where their definition puts them, whenever they are sent."""

    @pytest.mark.parametrize(("fields", "expected"), CRONS.values(), ids=list(CRONS))
    async def test_a_cron_runs_at_its_times(
        self, source: ScheduleSource, clock: ManualClock, fields: dict[str, Any], expected: list[datetime]
    ) -> None:
        """A cron's occurrences follow one another as written, from the first after its creation. (Look at `settle`.)"""
        await add(source, **fields)

        assert nominal(await play(source, clock, expected[-1])) == expected

    async def test_the_sources_time_zone(self, open_source: Any, clock: ManualClock) -> None:
        """A cron without an offset means the source's `default_timezone`, daylight saving included. (Look at `timezone`.)"""
        source: ScheduleSource = await open_source(default_timezone="Europe/Berlin")
        await add(source, cron="0 7 1 * *")

        expected = [datetime(2035, month, 1, 5, tzinfo=UTC) for month in (7, 8, 9, 10)] + [datetime(2035, 11, 1, 6, tzinfo=UTC)]
        assert nominal(await play(source, clock, expected[-1])) == expected

    async def test_an_offset_wins_over_the_sources_time_zone(self, open_source: Any) -> None:
        """`cron_offset` says otherwise than `default_timezone`, and UTC is an offset too. (Look at `Definition.zone`.)"""
        source: ScheduleSource = await open_source(default_timezone="Asia/Tokyo")
        await add(source, cron="0 13 * * *", cron_offset="UTC")

        assert (await state(source)).scheduled_for == NOON + HOUR

    async def test_a_cron_occurrence_at_the_very_creation(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A cron that is created at one of its instants runs then. (Look at `Timetable.first`.)"""
        clock.set(NOON)
        await add(source, cron="0 12 * * *")

        assert nominal(await send_due(source)) == [NOON]

    async def test_an_interval_runs_first_at_its_creation(self, source: ScheduleSource, clock: ManualClock) -> None:
        """An interval's first occurrence is its creation, to the millisecond, then each period after. (Look at `anchor`.)"""
        await add(source, interval=90)

        assert nominal(await play(source, clock, NOW + 5 * MINUTE)) == [NOW + k * 90 * SECOND for k in range(4)]

    async def test_an_interval_never_drifts(self, source: ScheduleSource, clock: ManualClock) -> None:
        """However late each occurrence is sent, the next one keeps the phase. (Look at `scheduled_for` in `settle`.)"""
        await add(source, interval=60)
        sent = []
        for late in (0, 1, 17, 59, 3, 30):
            clock.set((await state(source)).scheduled_for or NOW)
            clock.advance(late * SECOND)
            sent += nominal(await send_due(source))

        assert sent == [NOW + k * MINUTE for k in range(6)]

    async def test_an_interval_keeps_its_phase_through_failures(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A lease that ran out and a long downtime leave the phase as it was. (Look at `anchor`.)"""
        await add(source, interval=3600)
        await take_one(source)
        clock.advance(100 * DAY + 7 * MINUTE)
        await send_due(source)

        found = await state(source)
        assert (found.anchor, found.scheduled_for) == (NOW, NOW + 100 * DAY + HOUR)

    async def test_a_one_off_runs_once_and_is_gone(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A one-off is not due before its time, is sent then, and is deleted; its run stays. (Look at `finished`.)"""
        await add(source, time=NOW + HOUR)
        clock.set(NOW + HOUR - timedelta(milliseconds=1))
        assert await take(source) == []
        clock.set(NOW + HOUR)

        assert nominal(await send_due(source)) == [NOW + HOUR]
        assert await ids(source) == []
        assert [row.status for row in await rows(source, "a")] == ["sent"]

    async def test_a_past_time_is_due_at_once(self, source: ScheduleSource) -> None:
        """A one-off in the past is due as soon as it is stored, under its own nominal time. (Look at `Timetable.first`.)"""
        await add(source, time=NOW - 1000 * DAY)

        assert nominal(await send_due(source)) == [NOW - 1000 * DAY]

    async def test_time_and_cron(self, source: ScheduleSource, clock: ManualClock) -> None:
        """With time and cron, each runs at its own instants, and one they share once. (Look at `Timetable`.)"""
        await add(source, "a", cron="0 * * * *", time=NOON + 90 * MINUTE)
        await add(source, "b", cron="0 * * * *", time=NOON + HOUR)
        sent = await play(source, clock, NOON + 2 * HOUR)

        times = {name: nominal([one for one in sent if one.schedule_id == name]) for name in ("a", "b")}
        assert times == {
            "a": [NOON + HOUR, NOON + 90 * MINUTE, NOON + 2 * HOUR],
            "b": [NOON + HOUR, NOON + 2 * HOUR],
        }

    async def test_a_past_time_beside_a_cron(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A past time runs once, for itself: a cron has no occurrences before it was created. (Look at `Timetable`.)"""
        await add(source, cron="0 * * * *", time=NOW - DAY)

        assert nominal(await play(source, clock, NOON + HOUR)) == [NOW - DAY, NOON + HOUR]
        assert [row.coalesced for row in await rows(source)] == [1, 1]

    async def test_a_past_time_beside_an_interval(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A past time runs for itself beside an interval that starts now. (Look at `Timetable`.)"""
        await add(source, interval=3600, time=NOW - DAY, schedule_options={"misfire": "fire_all"})

        assert nominal(await play(source, clock, NOW + HOUR)) == [NOW - DAY, NOW, NOW + HOUR]

    async def test_equal_due_times_are_all_sent(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Many schedules at one instant are all sent then, each once. (Look at `claim` and `settle` in bulk.)"""
        for number in range(50):
            await add(source, f"{number:02}", cron="0 * * * *")
        sent = await play(source, clock, NOON + HOUR)

        assert [dispatch.schedule_id for dispatch in sent] == [f"{number:02}" for number in range(50)]
        assert set(nominal(sent)) == {NOON + HOUR}
