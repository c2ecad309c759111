"""Moments of the engine that a real clock hits now and then, hit every time in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from engine_harness import task
from taskiq import AsyncBroker, BrokerMessage

from taskiq_sources import DurableScheduler, InMemoryScheduleSource
from taskiq_sources.memory import MemoryData
from taskiq_sources_conformance.virtual import outage
from taskiq_sources_conformance.virtual_loop import LoopClock, VirtualEventLoop

pytestmark = pytest.mark.anyio

START = datetime(2030, 5, 14, 12, tzinfo=timezone.utc)
SEND = 1.0  # seconds that each send takes


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualEventLoop}


class SlowBroker(AsyncBroker):
    """Takes a second for each message."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    async def kick(self, message: BrokerMessage) -> None:
        self.sent.append(message.task_id)
        await asyncio.sleep(SEND)

    async def listen(self) -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""


@pytest.mark.parametrize("turns", range(12))
async def test_a_claim_that_arrives_as_the_last_worker_ends_is_sent(turns: int) -> None:
    """Whenever within an instant a claim's answer comes, before or after the last sends have ended, somebody sends it.

    A claim that nobody sends would be renewed for as long as the process lives.
    """
    clock, broker = LoopClock(START), SlowBroker()
    source = InMemoryScheduleSource(MemoryData(), clock=clock)
    await source.add_schedules([task("a", time=START), task("b", time=START + timedelta(seconds=SEND / 2))])
    claim = source.store.claim

    async def late_claim(*args: Any, **kwargs: Any) -> Any:
        claims = await claim(*args, **kwargs)
        if [one.schedule.id for one in claims] == ["b"]:
            await asyncio.sleep((START + timedelta(seconds=SEND) - await clock.now()).total_seconds())
            for _ in range(turns):
                await asyncio.sleep(0)
        return claims

    source.store.claim = late_claim  # type: ignore[method-assign]
    async with DurableScheduler(broker, [source], max_concurrent_sends=1):
        await asyncio.sleep(10)

        assert len(broker.sent) == 2


async def test_a_renewal_that_crosses_a_record_is_no_loss(caplog: pytest.LogCaptureFixture) -> None:
    """A lease that cannot be renewed because its claim is being settled was not lost: nobody is warned, nothing is dropped."""
    clock, broker = LoopClock(START), SlowBroker()
    source = InMemoryScheduleSource(MemoryData(), clock=clock, lease=timedelta(seconds=3 * SEND))
    await source.add_schedules([task("a", time=START)])
    settle, renew = source.store.settle, source.store.renew

    async def slow_reply(*args: Any) -> Any:
        lost = await settle(*args)
        await asyncio.sleep(SEND)
        return lost

    async def late_renewal(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(SEND / 2)
        return await renew(*args, **kwargs)

    source.store.settle, source.store.renew = slow_reply, late_renewal  # type: ignore[method-assign]
    async with DurableScheduler(broker, [source]):
        await asyncio.sleep(10)

    assert len(broker.sent) == 1
    assert not caplog.records


@pytest.mark.parametrize("seconds", [45, 100, 290])
async def test_a_send_is_recorded_before_it_can_be_claimed_again(seconds: int) -> None:
    """After an outage longer than the lease, a scheduler records what it has sent before it claims: it was due again by then."""
    clock, broker = LoopClock(START), SlowBroker()
    source = InMemoryScheduleSource(MemoryData(), clock=clock, lease=timedelta(seconds=30))
    await source.add_schedules([task(f"{number}", time=START) for number in range(50)])
    async with DurableScheduler(broker, [source]):
        await asyncio.sleep(SEND / 2)
        async with outage(source.store):
            await asyncio.sleep(seconds)
        await asyncio.sleep(60)
        attempts = {run.attempt async for run in source.runs()}

    assert len(broker.sent) == 50
    assert attempts == {1}
