"""A scheduler that is told to stop: it ends in time and with exit code 0, records what it sent, and gives back the rest."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from engine_harness import BACKENDS, PATIENCE, Scheduler, Stage, backlog, until, verdict

pytestmark = pytest.mark.anyio

#: Longer than any test: whoever had to wait for the end of a lease would not finish.
LEASE = 10 * PATIENCE
DRAIN = 5.0
SLOW = {"lease": LEASE, "ack": 0.2, "scheduler": {"max_concurrent_sends": 20, "drain_timeout": DRAIN}}
ALONE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def seconds_to_stop(stage: Stage, scheduler: Scheduler) -> float:
    """How long the scheduler took from the signal to its end, without what the interpreter needs to go away."""
    [begun], [done] = stage.log.of("stopping", scheduler.name), stage.log.of("stopped", scheduler.name)
    return float(done["at"] - begun["at"])


async def everything_was_sent_once(stage: Stage, number: int) -> None:
    assert Counter(message.schedule_id for message in stage.log.sent) == {f"s{index:04}": 1 for index in range(number)}
    assert {(run.status, run.attempt) for run in await stage.runs()} == {("sent", 1)}


async def stop_under_load(stage: Stage, first: Scheduler, number: int) -> None:
    """Stop a scheduler with hundreds of claims; another one finishes the work."""
    await stage.add(backlog(400))
    await first.ready()
    await stage.until_sent(40)

    send_signal(first, number)
    code = await first.ended()
    second = stage.start(lease=LEASE)
    await stage.until_finished()

    assert code == 0, stage.report()
    assert seconds_to_stop(stage, first) <= DRAIN
    by_first = {(message.by, message.task_id) for message in stage.log.sent if message.by == first.name}
    assert by_first <= stage.log.settled(), "what was in flight is recorded"
    assert len(by_first) < 400, "there was nothing left for the other one"
    await everything_was_sent_once(stage, 400)
    assert await second.stopped() == 0


def send_signal(scheduler: Scheduler, number: int) -> None:
    """Send a signal to a scheduler, or to the only child of whatever it runs under."""
    pid = scheduler.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    is_wrapped = str(scheduler.process.args[0]) == ALONE[0]  # type: ignore[index]
    target = int(children.read_text().split()[0]) if is_wrapped else pid
    os.kill(target, number)


def may_be_alone() -> bool:
    """Whether this user may make a PID namespace."""
    return (
        shutil.which(ALONE[0]) is not None and not subprocess.run([*ALONE, "true"], check=False, capture_output=True).returncode
    )


@pytest.mark.parametrize("backend", BACKENDS)
async def test_sigterm_under_load(stage: Stage, backend: str) -> None:
    """SIGTERM: what is in flight ends and is recorded, what is only claimed is free for others at once, nothing is doubled."""
    await stop_under_load(stage, stage.start(**SLOW), signal.SIGTERM)


async def test_sigint_under_load(stage: Stage) -> None:
    """SIGINT, as from Ctrl-C, means the same."""
    await stop_under_load(stage, stage.start(**SLOW), signal.SIGINT)


async def test_sigterm_as_pid_1(stage: Stage) -> None:
    """As PID 1, as in a container without an init, for which the kernel ignores SIGTERM unless somebody handles it."""
    if not may_be_alone():
        pytest.skip("this user may not make a PID namespace")
    first = stage.start(command=ALONE, **SLOW)

    await stop_under_load(stage, first, signal.SIGTERM)

    [ready] = stage.log.of("ready", first.name)
    assert ready["pid"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
async def test_sigterm_while_idle(stage: Stage, backend: str) -> None:
    """With nothing to do it ends at once."""
    only = stage.start()

    assert await only.stopped() == 0
    assert seconds_to_stop(stage, only) < 2


async def test_a_second_signal_does_not_wait(stage: Stage) -> None:
    """Who signals twice does not want to wait: the process ends at once, and what it held is free when its leases end."""
    await stage.add(backlog(5))
    only = await stage.start(ack=600.0, lease=1.5, scheduler={"drain_timeout": 600.0}).ready()
    await stage.until_sent(5)
    only.signal(signal.SIGTERM)
    await until(lambda: bool(stage.log.of("stopping")), "it stops", stage.report)
    only.signal(signal.SIGTERM)

    assert await only.ended() == -signal.SIGTERM


async def test_a_hung_send_is_cut_off(stage: Stage) -> None:
    """A send that does not end in time is given up as failed, within the time to drain; the next scheduler sends it again."""
    await stage.add(backlog(5))
    first = await stage.start(ack=600.0, lease=LEASE, scheduler={"drain_timeout": 2.0}).ready()
    await stage.until_sent(5)

    assert await first.stopped() == 0
    assert seconds_to_stop(stage, first) <= 2.0
    assert {run.status for run in await stage.runs()} == {"failed"}
    second = stage.start(lease=LEASE)
    await stage.until_finished()
    assert await second.stopped() == 0
    assert {(run.status, run.attempt) for run in await stage.runs()} == {("sent", 2)}
    assert len({message.task_id for message in stage.log.sent}) == 5


async def test_sigterm_while_the_store_is_away(stage: Stage, tmp_path: Path) -> None:
    """It waits for a store for as long as it may drain, no longer. What is not on record is sent again, as the same message."""
    tasks = backlog(60)
    await stage.add(tasks)
    first = await stage.start(lease=1.5, ack=0.2, scheduler={"max_concurrent_sends": 20, "drain_timeout": 2.0}).ready()
    await stage.until_sent(20)
    with contextlib.closing(sqlite3.connect(tmp_path / "schedules.db", isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN IMMEDIATE")
        first.signal(signal.SIGTERM)
        code = await first.ended()
        other.execute("ROLLBACK")

    assert code == 0, stage.report()
    first.hits = [event["at"] for event in stage.log.of("stopped")]
    assert seconds_to_stop(stage, first) <= 2.0 + 1.5  # the engine is cut off a second later if the store never answers
    second = stage.start()
    await stage.until_finished()
    assert await second.stopped() == 0
    expected = {(one.schedule_id, one.time) for one in tasks if one.time is not None}
    result = verdict(expected, stage.log.sent, stage.log.settled(), stage.schedulers)
    assert result.holds, f"{result}\n{stage.report()}"


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_rolling_restart(stage: Stage, backend: str) -> None:
    """Three schedulers under load are replaced one after the other, as a deployment does: each occurrence is sent once."""
    await stage.add(backlog(1_000))
    old = await stage.start_many(3, lease=LEASE, ack=0.4, scheduler={"max_concurrent_sends": 5})
    await stage.until_sent(20)
    for one in old:
        stage.start(lease=LEASE, ack=0.02)
        assert await one.stopped() == 0, stage.report()

    await stage.until_finished()

    assert set(await stage.stop_all()) == {0}
    await everything_was_sent_once(stage, 1_000)
