"""What the engine takes for a failure: not that schedulers die, stop or were cut off; but what other people's code keeps back."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import timedelta
from typing import Any

import anyio
import pytest
import taskiq
from engine_world import SECOND, START, World

from taskiq_sources import DurableScheduler, InMemoryScheduleSource, SourceConnectionError
from taskiq_sources.clock import floor_ms
from taskiq_sources.reach import Reach
from taskiq_sources_conformance.virtual import outage
from taskiq_sources_conformance.virtual_loop import VirtualEventLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualEventLoop}


async def test_who_dies_does_not_use_up_attempts(world: World) -> None:
    """What only waited to be sent when its schedulers died has not failed yet."""
    await world.add(8, time=START)
    for _ in range(3):
        claims = await world.source.store.claim(floor_ms(world.clock.read()), claimant="died", lease=SECOND, limit=8)
        assert len(claims) == 8
        await asyncio.sleep(1)
    down_until = world.clock.read() + SECOND / 2
    world.broker.fails = lambda _message: world.clock.read() < down_until

    await world.scheduler(max_attempts=2)
    await asyncio.sleep(30)

    assert sorted(world.broker.args()) == list(range(8))


@pytest.mark.parametrize("max_attempts", [1, None])
async def test_who_stops_does_not_quarantine(world: World, max_attempts: int | None) -> None:
    """A send that does not end before the scheduler has to is tried again by the next one."""
    await world.add(time=START)
    world.broker.takes = 8.0
    scheduler = await world.scheduler(max_attempts=max_attempts, drain_timeout=timedelta(seconds=4))
    await asyncio.sleep(1)
    await scheduler.stop()
    info = await world.source.get_schedule("0")
    assert info is not None
    assert not info.state.quarantined

    await world.scheduler(max_attempts=max_attempts)
    await asyncio.sleep(30)

    assert world.broker.args() == [0]


async def test_stops_are_no_failures(world: World) -> None:
    """However often a send is cut off by them."""
    await world.add(time=START)
    world.broker.takes = 8.0
    for _ in range(3):
        scheduler = await world.scheduler(max_attempts=2, drain_timeout=timedelta(seconds=4))
        await asyncio.sleep(2)
        await scheduler.stop()
    down_until = world.clock.read() + 9 * SECOND
    world.broker.fails = lambda _message: world.clock.read() < down_until

    await world.scheduler(max_attempts=2)
    await asyncio.sleep(60)

    assert world.broker.args() == [0]


class Quiet(DurableScheduler):
    """Tells of errors elsewhere."""

    async def on_ready(self, source: taskiq.ScheduleSource, task: taskiq.ScheduledTask) -> None:
        try:
            await super().on_ready(source, task)
        except Exception:
            return


async def test_an_error_that_is_kept_back_is_a_failure(world: World) -> None:
    """It looks like a send that was called off, and would never be tried again."""
    down_until = START + 20 * SECOND
    world.broker.fails = lambda _message: world.clock.read() < down_until
    await world.add(time=START)
    await world.scheduler(kind=Quiet)
    await asyncio.sleep(10)
    [failed] = await world.runs()
    await asyncio.sleep(60)

    assert (failed.status, failed.error) == ("failed", "ConnectionError: no broker")
    assert world.broker.args() == [0]


class Impatient(DurableScheduler):
    """Has a time-out of its own, and keeps it to itself."""

    async def on_ready(self, source: taskiq.ScheduleSource, task: taskiq.ScheduledTask) -> None:
        with anyio.move_on_after(2):
            await super().on_ready(source, task)


async def test_a_time_out_that_is_kept_back_is_a_failure(world: World) -> None:
    world.broker.takes = 8.0
    await world.add(time=START)
    await world.scheduler(kind=Impatient)
    await asyncio.sleep(10)
    [failed] = await world.runs()
    world.broker.takes = 0.1
    await asyncio.sleep(60)

    assert (failed.status, failed.error) == ("failed", "TimeoutError: the send was cut off")
    assert world.broker.args() == [0]


async def test_tracebacks_are_told_without_credentials(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Where the log has them: what other people's hooks raise may quote a URL."""

    class Source(InMemoryScheduleSource):
        async def post_send(self, task: taskiq.ScheduledTask) -> None:
            await super().post_send(task)
            raise ConnectionError("cannot reach redis://user:hunter2@cache:6379/0")

    await world.add(time=START)
    await world.scheduler(Source(world.data, clock=world.clock))
    await asyncio.sleep(5)

    said = [logging.Formatter().format(record) for record in caplog.records if record.exc_info]
    assert len(said) == 1
    assert "Traceback" in said[0]
    assert "redis://***@cache" in said[0]
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("away", [0.2, *(20.0 + tenths / 10 for tenths in range(0, 100, 3))])
async def test_who_has_sent_settles_before_others_claim(world: World, away: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage in which all leases have ended, what was sent is not taken for what is due, whoever looks first."""
    monkeypatch.setattr(random, "uniform", lambda low, _high: low)
    sending, idle = (world.another_source(lease=timedelta(seconds=4)) for _ in range(2))
    world.broker.takes = 1.5
    await world.add(50, time=START)
    await world.scheduler(sending, max_concurrent_sends=50)
    await asyncio.sleep(0.5)
    await world.scheduler(idle)
    await asyncio.sleep(0.5)
    async with outage(sending.store), outage(idle.store):
        await asyncio.sleep(away)
    await asyncio.sleep(60)

    assert sorted(world.broker.args()) == list(range(50))


def test_others_come_first_after_an_outage_that_leases_did_not_survive() -> None:
    """Nobody waits after a call that broke, nor at the start."""
    now = 100.0
    reach = Reach(timedelta(seconds=8), lambda: now, name="it")  # leases of 4 s
    reach.answered()
    assert reach.others_first <= 0

    for away, waits in ((1.0, False), (5.0, True)):
        reach.failed(SourceConnectionError("it is away"))
        now += away
        reach.answered()
        assert (reach.others_first > 0) == waits
        now += 2
        reach.answered()
        assert reach.others_first <= 0
