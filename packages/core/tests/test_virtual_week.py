"""A week of a few hundred schedules through the real engine, compared with an expansion that shares no code with it.

The oracle walks through the week minute by minute, on the wall clock that :mod:`zoneinfo` shows, and matches fields itself.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from taskiq import AsyncBroker, BrokerMessage

from taskiq_sources import DurableScheduler, InMemoryScheduleSource, ScheduledTask
from taskiq_sources.memory import MemoryData
from taskiq_sources_conformance.virtual_loop import LoopClock, VirtualEventLoop

pytestmark = pytest.mark.anyio

WEEK = timedelta(days=7)
MINUTE = timedelta(minutes=1)
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualEventLoop}


class CountingBroker(AsyncBroker):
    """Counts (schedule, nominal time), and keeps the largest lag."""

    def __init__(self, clock: LoopClock) -> None:
        super().__init__()
        self.clock = clock
        self.counts: Counter[tuple[str, datetime]] = Counter()
        self.worst = timedelta(0)

    async def kick(self, message: BrokerMessage) -> None:
        labels = self.formatter.loads(message.message).labels
        nominal = datetime.fromisoformat(labels["scheduled_for"])
        self.counts[labels["schedule_id"], nominal] += 1
        self.worst = max(self.worst, self.clock.read() - nominal)

    async def listen(self) -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""


@dataclass(frozen=True)
class Wall:
    """A cron of fixed hour and minute, or with ``*`` for the hour, on some weekdays; Sunday is 0."""

    minute: int
    hour: int | None
    weekdays: tuple[int, ...]
    zone: str

    @property
    def cron(self) -> str:
        hour = "*" if self.hour is None else str(self.hour)
        return f"{self.minute} {hour} * * {','.join(map(str, self.weekdays))}"

    def expand(self, walls: list[tuple[datetime, datetime]]) -> list[datetime]:
        """Return the instants at which it runs; `walls` are consecutive minutes, as instants and as naive wall times."""
        found: dict[datetime, None] = {}
        done: set[datetime] = set()  # wall times, for those that come twice
        for (_, before), (moment, wall) in itertools.pairwise(walls):
            if self.hour is not None and wall > before + MINUTE:
                # Wall times that the clock has jumped over run now, right after the gap.
                skipped = (before + step * MINUTE for step in range(1, int((wall - before) / MINUTE)))
                if any(self._matches(each) for each in skipped):
                    found[moment] = None
            if self._matches(wall) and (self.hour is None or wall not in done):
                found[moment] = None
                done.add(wall)
        return list(found)

    def _matches(self, wall: datetime) -> bool:
        return (
            wall.minute == self.minute
            and (self.hour is None or wall.hour == self.hour)
            and wall.isoweekday() % 7 in self.weekdays
        )


@pytest.mark.parametrize("start", [datetime(2030, 3, 29, tzinfo=timezone.utc), datetime(2030, 10, 25, tzinfo=timezone.utc)])
async def test_a_week_agrees_with_an_independent_expansion(start: datetime) -> None:
    """Through a week with a change of clocks, each of 300 schedules is sent exactly when the expansion says, within 10 ms."""
    random_ = random.Random(start.year + start.month)
    crons = {
        f"cron-{index}": Wall(
            minute=random_.choice([0, 30, random_.randrange(60)]),
            hour=random_.choice([None, 1, 2, 3, random_.randrange(24)]),
            weekdays=tuple(sorted(random_.sample(range(7), random_.randint(1, 7)))),
            zone=random_.choice(ZONES),
        )
        for index in range(200)
    }
    intervals = {f"interval-{index}": timedelta(minutes=random_.randint(40, 4000)) for index in range(60)}
    times = {
        f"time-{index}": start + timedelta(milliseconds=random_.randrange(int(WEEK.total_seconds() * 1000)))
        for index in range(40)
    }
    walls = {zone: _walls(zone, start) for zone in ZONES}
    expected = {(name, moment) for name, wall in crons.items() for moment in wall.expand(walls[wall.zone])}
    expected |= {(name, start + step * size) for name, size in intervals.items() for step in range(int(WEEK / size) + 1)}
    expected |= set(times.items())

    clock = LoopClock(start)
    broker = CountingBroker(clock)
    data = MemoryData()
    source = InMemoryScheduleSource(data, clock=clock)
    fields: dict[str, Any] = {"task_name": "job", "labels": {}, "args": [], "kwargs": {}}
    await source.add_schedules(
        [
            *(ScheduledTask(**fields, schedule_id=name, cron=wall.cron, cron_offset=wall.zone) for name, wall in crons.items()),
            *(ScheduledTask(**fields, schedule_id=name, interval=size) for name, size in intervals.items()),
            *(ScheduledTask(**fields, schedule_id=name, time=moment) for name, moment in times.items()),
        ]
    )
    quiet = timedelta(hours=1)  # no polling in between: the engine has to wake by itself
    first = DurableScheduler(broker, [source], poll_interval=quiet)
    second = DurableScheduler(broker, [InMemoryScheduleSource(data, clock=clock)], poll_interval=quiet)
    async with first, second:
        await asyncio.sleep(WEEK.total_seconds() + 0.5)

    assert set(broker.counts) == expected
    assert set(broker.counts.values()) == {1}
    assert broker.worst <= timedelta(milliseconds=10)


def _walls(zone: str, start: datetime) -> list[tuple[datetime, datetime]]:
    """Return every minute of the week, and the one before it, as an instant and as what a clock on the wall shows."""
    minutes = (start + index * MINUTE for index in range(-1, int(WEEK / MINUTE) + 1))
    return [(moment, moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)) for moment in minutes]
