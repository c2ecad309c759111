"""The wall clock of a machine is stepped by an hour while a scheduler runs."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import timedelta

import pytest
from engine_harness import BACKENDS, SERVERS, Scheduler, Stage, task, until

from taskiq_sources.clock import system_now

pytestmark = pytest.mark.anyio

HOUR = 3600
SOON = 4.0  # seconds
OFTEN = 0.3  # seconds between measurements of the store's clock: as if minutes had passed since the step
TOLERANCE = 5.0  # seconds: a crowded machine


async def start_and_step(stage: Stage, step: int, **options: float) -> tuple[Scheduler, float]:
    """Start a scheduler with one-offs due in a few seconds and in half an hour, step its clock, and return when is soon."""
    only = await stage.start(app="stepped_app:scheduler", step=step, **options).ready()
    soon = time.monotonic() + SOON
    now = system_now()
    await stage.add([task("soon", time=now + timedelta(seconds=SOON)), task("half an hour", time=now + timedelta(minutes=30))])
    only.signal(signal.SIGUSR1)
    await until(lambda: bool(stage.log.of("stepped")), "the clock is stepped", stage.report)
    return only, soon


@pytest.mark.parametrize("step", [HOUR, -HOUR])
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_step_changes_nothing_at_first(stage: Stage, backend: str, step: int) -> None:
    """Between two measurements time is carried on by the monotonic clock: what is due is sent when it is due, and no more."""
    only, soon = await start_and_step(stage, step)
    await stage.until_sent(1)
    await asyncio.sleep(1)

    assert await only.stopped() == 0
    [sent] = stage.log.sent
    assert sent.schedule_id == "soon"
    assert soon - 0.05 <= sent.at <= soon + TOLERANCE


@pytest.mark.parametrize("step", [HOUR, -HOUR])
@pytest.mark.parametrize("backend", list(SERVERS))
async def test_with_a_server_a_step_never_changes_anything(stage: Stage, backend: str, step: int) -> None:
    """The server's clock decides, however often it is read."""
    only, soon = await start_and_step(stage, step, sync=OFTEN)
    await stage.until_sent(1)
    await asyncio.sleep(1)

    assert await only.stopped() == 0
    [sent] = stage.log.sent
    assert sent.schedule_id == "soon"
    assert soon - 0.05 <= sent.at <= soon + TOLERANCE


async def test_without_a_server_the_clock_of_the_machine_is_the_clock(stage: Stage) -> None:
    """SQLite has no clock but the machine's: once it is read again, what is due by the stepped clock is sent.

    So after a step forward everything up to the new time is sent, once each, within a minute; after a step back things wait until
    the clock shows their time again. Schedulers on that file read the clock at different moments: for up to a minute they may
    disagree on whether a lease has ended.
    """
    only, _ = await start_and_step(stage, HOUR, sync=OFTEN)
    await stage.until_finished()

    assert await only.stopped() == 0
    assert [sent.schedule_id for sent in stage.log.sent] == ["soon", "half an hour"]
