"""The wall clock of a machine is stepped by an hour while a scheduler runs."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import timedelta

import pytest
from engine_harness import SERVERS, Scheduler, Stage, task, until

from taskiq_sources.clock import system_now

pytestmark = pytest.mark.anyio

HOUR = 3600
SOON = 4.0  # seconds
OFTEN = 0.3  # seconds between measurements of the store's clock: as if minutes had passed since the step
EARLY = 0.1  # seconds: how well the store's clock is known, which is half a round trip


async def start_and_step(stage: Stage, step: int, **options: float) -> tuple[Scheduler, float]:
    """Start a scheduler, step its clock, and store one-offs due in a few seconds and in half an hour; return when is soon."""
    only = await stage.start(app="stepped_app:scheduler", step=step, **options).ready()
    await stage.add([task("before", time=system_now())])
    await stage.until_sent(1)  # so the clock of the store has been read
    only.signal(signal.SIGUSR1)
    await until(lambda: bool(stage.log.of("stepped")), "the clock is stepped", stage.report)
    soon, now = time.monotonic() + SOON, system_now()
    await stage.add([task("soon", time=now + timedelta(seconds=SOON)), task("half an hour", time=now + timedelta(minutes=30))])
    return only, soon


async def soon_is_sent_and_nothing_else(stage: Stage, only: Scheduler, soon: float) -> None:
    """Check that what is due soon is sent then, not earlier; had the clock gone back, it would take an hour."""
    await stage.until_sent(2)
    await asyncio.sleep(1)

    assert await only.stopped() == 0
    before, sent = stage.log.sent
    assert (before.schedule_id, sent.schedule_id) == ("before", "soon")
    assert sent.at >= soon - EARLY


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_a_step_changes_nothing_at_first(stage: Stage, step: int) -> None:
    """Between two measurements time is carried on by the monotonic clock: what is due is sent when it is due, and no more."""
    only, soon = await start_and_step(stage, step)
    await soon_is_sent_and_nothing_else(stage, only, soon)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
@pytest.mark.parametrize("backend", list(SERVERS))
async def test_with_a_server_a_step_never_changes_anything(stage: Stage, backend: str, step: int) -> None:
    """The server's clock decides, however often it is read."""
    only, soon = await start_and_step(stage, step, sync=OFTEN)
    await soon_is_sent_and_nothing_else(stage, only, soon)


async def test_without_a_server_the_clock_of_the_machine_is_the_clock(stage: Stage) -> None:
    """SQLite has no clock but the machine's: once it is read again, what is due by the stepped clock is sent.

    So after a step forward everything up to the new time is sent, once each, within a minute; after a step back things wait until
    the clock shows their time again. Schedulers on that file read the clock at different moments: for up to a minute they may
    disagree on whether a lease has ended.
    """
    only, _ = await start_and_step(stage, HOUR, sync=OFTEN)
    await stage.until_finished()

    assert await only.stopped() == 0
    assert [sent.schedule_id for sent in stage.log.sent] == ["before", "soon", "half an hour"]
