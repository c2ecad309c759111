"""The engine inside an application, and beside sources that are not ours under taskiq's own command."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
from engine_harness import Stage, task, until

from taskiq_sources.clock import system_now

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[2] / "examples"


def labels_sent(stage: Stage, schedule_id: str) -> list[float]:
    return [event["at"] for event in stage.log.of("sent") if event["schedule_id"] == schedule_id]


async def test_label_schedules_are_served_beside_ours(stage: Stage) -> None:
    """Ours go through the engine, with their nominal time; those of labels through taskiq's loop, as ever: each second."""
    await stage.add([task("ours", time=system_now() + timedelta(seconds=1))])
    only = stage.start(app="beside_app:scheduler")
    await until(lambda: len(labels_sent(stage, "label interval")) >= 4, "the interval ran", stage.report)
    await stage.until_finished()

    assert await only.stopped() == 0
    ours = [event for event in stage.log.of("sent") if event["schedule_id"] == "ours"]
    assert [bool(event["scheduled_for"]) for event in ours] == [True]
    theirs = [event for event in stage.log.of("sent") if event["schedule_id"] == "label interval"]
    assert {event["scheduled_for"] for event in theirs} == {None}, "labels of others are left alone"
    assert len({event["task_id"] for event in theirs}) == len(theirs)
    assert len(labels_sent(stage, "label cron")) >= 1, "taskiq sends a cron at once in its first minute"


async def test_skip_first_run_keeps_its_meaning(stage: Stage) -> None:
    """With ``--skip-first-run`` a label's cron waits for the next minute; what is due of ours does not."""
    await stage.add([task("ours", time=system_now())])
    only = stage.start(app="beside_app:scheduler", arguments=["--skip-first-run"])
    await only.ready()
    [ready] = stage.log.of("ready")
    next_minute = ready["at"] + 60 - (system_now().timestamp() - (time.monotonic() - ready["at"])) % 60
    await stage.until_finished()
    await until(lambda: len(labels_sent(stage, "label interval")) >= 3, "the loop runs", stage.report)

    assert await only.stopped() == 0
    assert all(at >= next_minute - 0.5 for at in labels_sent(stage, "label cron"))
    [ours] = labels_sent(stage, "ours")
    assert ours < next_minute or ours < ready["at"] + 5


async def test_update_interval_keeps_its_meaning(stage: Stage) -> None:
    """``--update-interval`` is how often the others are asked."""
    only = await stage.start(app="beside_app:scheduler", arguments=["--update-interval", "1"]).ready()
    await until(lambda: len(stage.log.of("listed")) >= 4, "they are asked again and again", stage.report)

    assert await only.stopped() == 0


async def test_the_others_are_asked_once_a_minute(stage: Stage) -> None:
    """Without ``--update-interval`` it is a minute, as ever: the engine asks nobody in between."""
    only = await stage.start(app="beside_app:scheduler").ready()
    await until(lambda: len(labels_sent(stage, "label interval")) >= 4, "the loop runs", stage.report)

    assert await only.stopped() == 0
    [asked] = [event["at"] for event in stage.log.of("listed")][:1]
    assert [at for at in (event["at"] for event in stage.log.of("listed")) if asked < at < asked + 59] == []


EMBEDDED = """
import asyncio, engine_app

async def main():
    async with engine_app.scheduler:
        while engine_app.scheduler.health().sources[0].last_settle_at is None:
            await asyncio.sleep(0.01)
        assert engine_app.scheduler.health().ok
    engine_app.write("left")

asyncio.run(main())
"""


async def test_inside_an_application(stage: Stage) -> None:
    """``async with scheduler:`` serves schedules in the application's own loop, and is gone with the block."""
    await stage.add([task("ours", time=system_now())])
    only = stage.start(code=EMBEDDED)

    assert await only.ended() == 0, stage.report()
    [sent] = stage.log.sent
    assert (only.name, sent.task_id) in stage.log.settled()
    assert stage.log.of("left")


@pytest.mark.skipif(find_spec("fastapi") is None, reason="fastapi is not installed")
async def test_the_fastapi_example(tmp_path: Path) -> None:
    """The example runs as it is: its lifespan starts the engine, which sends; and stops it."""
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(EXAMPLES)!r})
import fastapi_app

async def main():
    async with fastapi_app.app.router.lifespan_context(fastapi_app.app):
        await fastapi_app.remind("tea", in_seconds=0.2)
        for _ in range(1500):
            if fastapi_app.reminded:
                break
            await asyncio.sleep(0.02)
        assert fastapi_app.reminded == ["tea"], fastapi_app.reminded
        assert (await fastapi_app.health()).status_code == 200
    assert not fastapi_app.scheduler.health().running

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()
