"""Schedulers that are killed and paused at any instant, on one store: nothing is lost, and nothing is sent twice unexcused."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import datetime, timedelta
from typing import NamedTuple

import pytest
from engine_harness import BACKENDS, Scheduler, Stage, task, verdict

from taskiq_sources import ScheduledTask
from taskiq_sources.clock import ManualClock, system_now

pytestmark = pytest.mark.anyio

KIND = 100  # schedules of each kind of trigger
PAST = timedelta(seconds=180)  # scheduled time that has passed when the first scheduler starts
COMING = timedelta(seconds=16)  # and that is still to come then
LEASE = 3.0
KILL_EVERY = 1.8  # seconds
SLOW = {"ack": 0.05, "lease": LEASE, "scheduler": {"max_concurrent_sends": 6}}  # so that a kill hits somebody at work

#: Cron expressions with seconds, each beside what it means: the expected set is computed from the latter, second by second.
CRONS = [
    ("*/7 * * * * *", lambda at: at.second % 7 == 0),
    ("13,43 * * * * *", lambda at: at.second in {13, 43}),
    ("* * * * *", lambda at: at.second == 0),
    ("5 */2 * * * *", lambda at: at.second == 5 and at.minute % 2 == 0),
    ("*/20 * * * * *", lambda at: at.second % 20 == 0),
]


class Plan(NamedTuple):
    """Schedules, and what has to come of them."""

    tasks: list[ScheduledTask]
    expected: set[tuple[str, datetime]]


def plan(start: datetime, end: datetime, seed: int) -> Plan:
    """Return crons, intervals and one-offs from `start` to `end`, and their occurrences by arithmetic of its own."""
    choice = random.Random(seed)
    tasks: list[ScheduledTask] = []
    expected: set[tuple[str, datetime]] = set()
    span = (end - start) // timedelta(milliseconds=1)
    whole_seconds = [start.replace(microsecond=0) + timedelta(seconds=second) for second in range(span // 1000 + 2)]
    window = {"start_at": start, "end_at": end, "misfire": "fire_all"}
    for number in range(KIND):
        name, (cron, fires) = f"cron-{number}", CRONS[number % len(CRONS)]
        tasks.append(task(name, cron=cron, options=window))
        expected |= {(name, at) for at in whole_seconds if start <= at <= end and fires(at)}

        name, seconds = f"interval-{number}", choice.randint(9, 60)
        first = start + timedelta(milliseconds=choice.randrange(9_000))
        tasks.append(task(name, interval=seconds, options={**window, "start_at": first}))
        expected |= {(name, at) for step in range(span // 1000) if (at := first + timedelta(seconds=step * seconds)) <= end}

        name, at = f"time-{number}", start + timedelta(milliseconds=choice.randrange(span))
        tasks.append(task(name, time=at))
        expected.add((name, at))
    return Plan(tasks, expected)


async def prepare(stage: Stage, seed: int) -> Plan:
    """Store the schedules as if it were a few minutes ago."""
    now = system_now().replace(microsecond=500_000)  # no cron second lies on an edge
    made = plan(now - PAST, now + COMING, seed)
    await stage.add(made.tasks, clock=ManualClock(now - PAST))
    return made


async def kill_and_replace(stage: Stage, choice: random.Random) -> None:
    """Kill a scheduler that has been sending, and start another."""
    at_work = {message.by for message in stage.log.sent}
    victims = [one for one in stage.living if one.name in at_work]
    if victims:
        choice.choice(victims).kill()
        stage.start(**SLOW)


async def pause_beyond_its_lease(scheduler: Scheduler) -> None:
    scheduler.pause()
    await asyncio.sleep(LEASE + 1.5)
    scheduler.resume()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_chaos_loses_nothing_and_doubles_nothing(stage: Stage, backend: str) -> None:
    """Of 300 schedules over three minutes, with a SIGKILL every two seconds and a SIGSTOP beyond the lease, all are sent.

    A message that came again has the same task_id, and its first sender was hit after the broker took it and before the store
    could know. If this fails: `Stage.report` counts what each process did.
    """
    seed = random.SystemRandom().randrange(10**6)
    choice = random.Random(seed)
    made = await prepare(stage, seed)
    schedulers = await stage.start_many(3, **SLOW)
    end = time.monotonic() + COMING.total_seconds()
    pausing = asyncio.ensure_future(pause_beyond_its_lease(schedulers[0]))

    while time.monotonic() < end:
        await asyncio.sleep(KILL_EVERY * choice.uniform(0.5, 1.5))
        if pausing.done() or schedulers[0] not in stage.living:
            await kill_and_replace(stage, choice)
        else:  # the paused one is to live to see what it has missed
            others = [one for one in stage.living if one is not schedulers[0] and stage.log.of("settled", one.name)]
            if others:
                choice.choice(others).kill()
                stage.start(**SLOW)
    await pausing
    await stage.until_finished()
    codes = await stage.stop_all()

    result = verdict(made.expected, stage.log.sent, stage.log.settled(), stage.schedulers)
    kills = sum(one.killed for one in stage.schedulers)
    (stage.directory / "figures").write_text(f"{seed=} {len(made.expected)=} {kills=} {len(result.repeated)=}")
    assert result.holds, f"seed {seed}: {result}\n{stage.report()}"
    assert kills >= 3, stage.report()
    assert set(codes) == {0}, stage.report()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_without_a_kill_each_occurrence_is_sent_exactly_once(stage: Stage, backend: str) -> None:
    """Three schedulers that nobody hits send every occurrence once: no store call, lease or race doubles one."""
    made = await prepare(stage, seed=1)
    await stage.start_many(3, lease=30.0)

    await stage.until_finished()
    codes = await stage.stop_all()

    assert sorted(message.occurrence for message in stage.log.sent) == sorted(made.expected)
    assert len({message.by for message in stage.log.sent}) > 1, "one scheduler did all the work"
    assert codes == [0, 0, 0], stage.report()
