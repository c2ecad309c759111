"""Rules for daylight saving, through real claims and settles, in Berlin in 2035.

At 01:00 UTC on 25 March clocks go from 02:00 to 03:00, at 01:00 UTC on 28 October from 03:00 back to 02:00.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from taskiq_sources import ScheduleOptions, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.source_build import DAY, HOUR, MINUTE, add, nominal, play, send_due

SPRING = datetime(2035, 3, 25, 1, tzinfo=timezone.utc)
AUTUMN = datetime(2035, 10, 28, 1, tzinfo=timezone.utc)

#: A cron on the wall clock, the policy, the change, and when it runs from two hours before the change to two hours after.
CASES: dict[str, tuple[str, str, datetime, list[Any]]] = {
    "gap-vixie": ("30 2 * * *", "vixie", SPRING, [SPRING]),
    "gap-skip": ("30 2 * * *", "skip", SPRING, []),
    "gap-twice": ("30 2 * * *", "twice", SPRING, [SPRING]),
    "before-the-gap": ("30 1 * * *", "vixie", SPRING, [SPRING - 30 * MINUTE]),
    "after-the-gap": ("0 3 * * *", "vixie", SPRING, [SPRING]),
    "gap-rhythm": ("*/30 * * * *", "vixie", SPRING, [SPRING + k * 30 * MINUTE for k in range(-4, 5)]),
    "gap-hourly": ("30 * * * *", "vixie", SPRING, [SPRING + (k * 60 + 30) * MINUTE for k in range(-2, 2)]),
    "repeat-vixie": ("30 2 * * *", "vixie", AUTUMN, [AUTUMN - 30 * MINUTE]),
    "repeat-skip": ("30 2 * * *", "skip", AUTUMN, [AUTUMN - 30 * MINUTE]),
    "repeat-twice": ("30 2 * * *", "twice", AUTUMN, [AUTUMN - 30 * MINUTE, AUTUMN + 30 * MINUTE]),
    "repeat-rhythm": ("*/30 * * * *", "vixie", AUTUMN, [AUTUMN + k * 30 * MINUTE for k in range(-4, 5)]),
    "repeat-hourly": ("30 * * * *", "vixie", AUTUMN, [AUTUMN + (k * 60 + 30) * MINUTE for k in range(-2, 2)]),
}


class DstRules:
    """A fixed time that clocks drop or repeat runs by the schedule's policy; a rhythm goes on in real time."""

    @pytest.mark.parametrize(("cron", "dst", "change", "expected"), CASES.values(), ids=list(CASES))
    async def test_when_clocks_change(
        self, source: ScheduleSource, clock: ManualClock, cron: str, dst: Any, change: datetime, expected: list[Any]
    ) -> None:
        """Around a change of clocks a cron runs when its policy says. (Look at the order of claims: equal walls differ.)"""
        clock.set(change - 2 * HOUR)
        await add(source, cron=cron, cron_offset="Europe/Berlin", schedule_options=ScheduleOptions(dst=dst))

        assert nominal(await play(source, clock, change + 2 * HOUR)) == expected

    @pytest.mark.parametrize("change", [SPRING, AUTUMN], ids=["spring", "autumn"])
    async def test_the_wall_time_stays_across_a_change(
        self, source: ScheduleSource, clock: ManualClock, change: datetime
    ) -> None:
        """07:00 in Berlin is 07:00 there before and after; an offset knows no daylight saving. (Look at `settle`.)"""
        clock.set(change - DAY)
        await add(source, "named", cron="0 7 * * *", cron_offset="Europe/Berlin")
        await add(source, "offset", cron="0 7 * * *", cron_offset="PT1H")
        sent = await play(source, clock, change + DAY)

        utc = {name: [one.scheduled_for.hour for one in sent if one.schedule_id == name] for name in ("named", "offset")}
        assert utc == {"named": [6, 5] if change == SPRING else [5, 6], "offset": [6, 6]}

    @pytest.mark.parametrize(("dst", "expected"), [("vixie", SPRING), ("skip", None)])
    async def test_downtime_over_a_gap(
        self, source: ScheduleSource, clock: ManualClock, dst: Any, expected: datetime | None
    ) -> None:
        """An occurrence in the gap that is found late is the one that the policy put there. (Look at `newest`.)"""
        clock.set(SPRING - HOUR)
        await add(source, cron="30 2 25 3 *", cron_offset="Europe/Berlin", schedule_options=ScheduleOptions(dst=dst))
        clock.set(SPRING + 5 * HOUR)

        assert nominal(await send_due(source)) == [expected] * (expected is not None)
