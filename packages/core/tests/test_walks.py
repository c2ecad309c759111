"""Whatever befalls a schedule, in random order: each occurrence is accounted for once, and none is sent twice for no reason."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from seeds import seeds

from taskiq_sources import InMemoryScheduleSource, ScheduledTask, ScheduleOptions, changing, occurrences
from taskiq_sources.clock import ManualClock
from taskiq_sources.occurrences import Dispatch

pytestmark = pytest.mark.anyio

NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
LEASE = timedelta(minutes=50)
STEPS = 60

#: The minutes of an hour in which each cron has an occurrence: no time of day, so that a day of theirs can be counted by hand.
CRONS = {"*/10 * * * *": range(0, 60, 10), "*/15 * * * *": range(0, 60, 15), "7 * * * *": [7], "*/6 * * * *": range(0, 60, 6)}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Walk:
    """One schedule with a cron, what befalls it, and how many occurrences there have been."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = ManualClock(NOON + SECOND)  # at no occurrence of any, and so it stays
        self.source = InMemoryScheduleSource(clock=self.clock, lease=LEASE, max_run_rows=10**6)
        self.cron = self.chance.choice([*CRONS])
        self.options: dict[str, Any] = {"misfire": self.chance.choice(["fire_once", "fire_all"])}
        self.delivery = self.chance.choice(["at_least_once", "at_most_once"])
        self.version = 0
        self.due = 0
        self.held: list[Dispatch] = []
        self.is_overtaken = False
        self.told: list[str] = []

    async def declare(self) -> None:
        options = ScheduleOptions(delivery=self.delivery, **self.options)
        await self.source.add_schedule(
            ScheduledTask(
                task_name="job",
                labels={},
                args=[self.version],
                kwargs={},
                schedule_id="a",
                cron=self.cron,
                schedule_options=options,
            )
        )

    async def step(self) -> None:
        """Let one thing happen. What is being sent when it gets another cron is sent in time: else it has no row (ADR 0015)."""
        happens = ["sent", "sent", "arguments", "options", "cron", "moment"]
        if not self.is_overtaken:
            happens += ["wait", "wait", "wait for long", "take", "take", "failed", "died", "pause"]
        what = self.chance.choice(happens)
        self.told.append(what)
        await getattr(self, f"_{what.replace(' ', '_')}")()

    async def _pass(self, duration: timedelta) -> None:
        now = await self.clock.now()
        self.clock.advance(duration)
        hours = range(-1, 2 + (duration // timedelta(hours=1)))
        hour = now.replace(minute=0, second=0)
        times = (hour + timedelta(hours=number, minutes=minute) for number in hours for minute in CRONS[self.cron])
        self.due += sum(now < time <= now + duration for time in times)

    async def _wait(self) -> None:
        await self._pass(self.chance.choice([5, 20, 40]) * MINUTE)

    async def _wait_for_long(self) -> None:
        await self._pass(self.chance.randrange(1, 400) * MINUTE)

    async def _moment(self) -> None:
        if self.held and await self.clock.now() + 7 * MINUTE < self.held[0].claim.lease_until:
            await self._pass(7 * MINUTE)

    async def _take(self) -> None:
        if not self.held:
            self.held = await self.source.desk.take(limit=1)

    async def _sent(self) -> None:
        if self.held:
            await self.source.desk.sent(self.held.pop(0))
            self.is_overtaken = False

    async def _failed(self) -> None:
        if self.held:
            await self.source.desk.settle([occurrences.failed(self.held.pop(0), await self.clock.now(), "no broker")])

    async def _died(self) -> None:
        if self.held:
            self.held.pop(0)
            await self._pass(LEASE * 2)

    async def _arguments(self) -> None:
        self.version += 1
        await self.declare()

    async def _options(self) -> None:
        self.options["misfire"] = self.chance.choice(["fire_once", "fire_all"])
        self.options["misfire_grace"] = self.chance.choice([None, timedelta(hours=2)])
        self.options["end_at"] = self.chance.choice([None, NOON + timedelta(days=99)])
        self.options["max_runs"] = self.chance.choice([None, 10**6])
        await self.declare()

    async def _cron(self) -> None:
        self.cron = self.chance.choice([*CRONS])
        self.is_overtaken = bool(self.held)
        await self.declare()

    async def _pause(self) -> None:
        await self.source.pause("a")
        await self._pass(self.chance.randrange(1, 90) * MINUTE)
        await self.source.resume("a", catch_up=True)


@pytest.mark.parametrize("seed", seeds("0-200"))
async def test_each_occurrence_is_accounted_for_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent, missed or unknown, or counted by another one; what failed last is pending still, or is not tried again."""
    monkeypatch.setattr(changing, "_PATIENCE", 0.0)  # nobody else does anything meanwhile
    walk = Walk(seed)
    await walk.declare()
    for _ in range(STEPS):
        await walk.step()
    if walk.is_overtaken:
        await walk._sent()

    info = await walk.source.get_schedule("a")
    assert info is not None
    pending = info.state.scheduled_for
    rows = [row async for row in walk.source.runs("a")]
    over = [row for row in rows if row.scheduled_for != pending]
    now = await walk.clock.now()
    assert pending is not None
    still_due = sum(time <= now for time in _from(pending, walk.cron, now))
    extra = info.state.coalesced - 1
    assert sum(row.coalesced for row in over) + extra + still_due == walk.due, walk.told
    assert info.state.run_count == sum(row.status == "sent" for row in over), walk.told


def _from(pending: datetime, cron: str, now: datetime) -> list[datetime]:
    """Return the occurrences from the pending one to now."""
    times, time = [], pending
    while time <= now:
        if time == pending or time.minute in CRONS[cron]:
            times.append(time)
        time += MINUTE
    return times
