"""Schedules that several processes declare while others send them: whatever the order of their calls to the store."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from seeds import seeds

from taskiq_sources import ScheduledTask, ScheduleOptions, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources.memory import MemoryData, MemoryStore

pytestmark = pytest.mark.anyio

NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
JOBS = 4

#: The random orders that are tried. There are faults that one in a thousand shows: ``nox -s races`` tries others, and more.
SEEDS = seeds("0-60")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Contended(MemoryStore):
    """Lets others call it before each call, a few or many."""

    def __init__(self, data: MemoryData, chance: random.Random) -> None:
        super().__init__(data)
        self._chance = chance

    async def others_first(self) -> None:
        for _ in range(self._chance.choice([0, 1, 2, 5, 20])):
            await asyncio.sleep(0)


def _contended(name: str) -> Callable[..., Any]:
    async def call(self: Contended, *args: Any, **options: Any) -> Any:
        await self.others_first()
        result = await getattr(MemoryStore, name)(self, *args, **options)
        await self.others_first()
        return result

    return call


for _name in ("put", "get", "update", "delete", "claim", "settle", "runs"):
    setattr(Contended, _name, _contended(_name))


def _job(number: int, **fields: Any) -> ScheduledTask:
    return ScheduledTask(
        task_name="job", labels={}, kwargs={}, schedule_id=f"job-{number}", **{"args": [], "time": NOON} | fields
    )


class World:
    """Sources on the same data, each as of another process; and what was sent."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.data = MemoryData()
        self.clock = ManualClock(NOON)
        self.sent: Counter[tuple[str, datetime]] = Counter()
        self.all_sent = asyncio.Event()

    def source(self) -> ScheduleSource:
        return ScheduleSource(Contended(self.data, self.chance), clock=self.clock)

    async def declare(self, **fields: Any) -> None:
        source = self.source()
        await source.add_schedules([_job(number, **fields) for number in range(JOBS)])

    async def send(self, looks: int) -> None:
        source = self.source()
        await source.startup()
        for _ in range(looks):
            for dispatch in await source.desk.take(limit=self.chance.randint(1, JOBS)):
                self.sent[dispatch.schedule_id, dispatch.scheduled_for] += 1
                await source.desk.sent(dispatch)
                if len(self.data.runs) == JOBS:
                    self.all_sent.set()
            await asyncio.sleep(0)


@pytest.mark.parametrize("args", [[], [1]], ids=["as-they-were", "changed"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_what_several_declare_while_others_send_it_is_sent_once(seed: int, args: list[int]) -> None:
    """Two replicas of an application start while a third has declared the same, and two schedulers run."""
    world = World(seed)
    if seed % 2:
        await world.declare()

    await asyncio.gather(world.declare(args=args), world.declare(args=args), world.send(40), world.send(40))
    world.clock.advance(timedelta(hours=1))
    await world.send(JOBS + 1)

    assert world.sent == {(f"job-{number}", NOON): 1 for number in range(JOBS)}
    assert world.data.schedules == {}


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_takes_the_id_of_something_that_is_declared_is_sent(seed: int) -> None:
    """As a task that schedules itself for later, while an application that starts declares what it was."""
    world = World(seed)
    later = NOON + timedelta(minutes=30)

    async def again() -> None:
        await world.all_sent.wait()
        await world.declare(time=later)

    await world.declare()
    await asyncio.gather(world.declare(), world.send(60), again())
    world.clock.advance(timedelta(hours=1))
    await world.send(JOBS + 1)

    assert world.sent == {(f"job-{number}", time): 1 for number in range(JOBS) for time in (NOON, later)}


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_is_given_other_options_while_others_send_it_is_sent_once(seed: int) -> None:
    """Two replicas of different releases start while schedulers run: nothing that is due is lost, and nothing comes twice."""
    world = World(seed)
    day = timedelta(days=1)
    cron: dict[str, Any] = {"time": None, "cron": "0 12 * * *"}
    releases = [ScheduleOptions(end_at=NOON + 9 * day), ScheduleOptions(dst="skip", max_runs=9), ScheduleOptions(misfire="skip")]

    world.clock.set(NOON - timedelta(hours=1))
    await world.declare(**cron)
    for days in range(3):
        world.clock.set(NOON + days * day)
        starts = [world.declare(**cron, schedule_options=world.chance.choice(releases)) for _ in range(2)]
        await asyncio.gather(*starts, world.send(40), world.send(40))
        await world.send(JOBS + 1)

    assert world.sent == {(f"job-{number}", NOON + days * day): 1 for number in range(JOBS) for days in range(3)}


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_what_people_pause_and_change_while_it_is_declared_is_sent_once(seed: int, delivery: Any) -> None:
    """Whoever pauses, resumes and changes options in between, and whichever of them holds what."""
    world = World(seed)
    day = timedelta(days=1)
    cron: dict[str, Any] = {"time": None, "cron": "0 12 * * *"}
    releases = [ScheduleOptions(delivery=delivery, end_at=end_at) for end_at in (None, NOON + 99 * day)]

    async def person() -> None:
        source = world.source()
        for _ in range(3):
            name = f"job-{world.chance.randrange(JOBS)}"
            if world.chance.random() < 0.5:
                await source.pause(name)
                await source.resume(name, catch_up=True)
            else:
                await source.reschedule(name, options=ScheduleOptions(misfire_grace=world.chance.choice([day / 2, day / 3])))

    world.clock.set(NOON - timedelta(hours=1))
    await world.declare(**cron, schedule_options=releases[0])
    for days in range(3):
        world.clock.set(NOON + days * day)
        starts = [world.declare(**cron, schedule_options=world.chance.choice(releases)) for _ in range(2)]
        await asyncio.gather(*starts, person(), world.send(40), world.send(40))
        await world.send(JOBS + 1)

    assert world.sent == {(f"job-{number}", NOON + days * day): 1 for number in range(JOBS) for days in range(3)}
    assert {(one.attempt, one.lease_until, one.run_count) for one in world.data.schedules.values()} == {(0, None, 3)}


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_is_given_another_pace_while_others_send_it_is_not_lost(seed: int) -> None:
    """An interval that a new release makes longer: what is due is sent, and from then on it runs at the new pace."""
    world = World(seed)
    hour = timedelta(hours=1)
    await world.declare(time=None, interval=hour)
    await world.send(JOBS + 1)

    world.clock.set(NOON + hour)
    starts = [world.declare(time=None, interval=2 * hour) for _ in range(2)]
    await asyncio.gather(*starts, world.send(40), world.send(40))
    await world.send(JOBS + 1)
    for hours in (2, 3):
        world.clock.set(NOON + hours * hour)
        await world.send(JOBS + 1)

    jobs = [f"job-{number}" for number in range(JOBS)]
    assert set(world.sent) == {(job, NOON + hours * hour) for job in jobs for hours in (0, 1, 3)}
    assert all(world.sent[job, NOON + hours * hour] == 1 for job in jobs for hours in (0, 3))
