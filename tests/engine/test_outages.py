"""A broker or a store that is away for a while: nothing is lost, and nothing is doubled."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import place_for
from engine_harness import SERVERS, Stage, backlog, task, until

from taskiq_sources.clock import system_now
from taskiq_sources_conformance.servers import Server, ServerUnavailable, start_mongo, start_postgres, start_redis

pytestmark = pytest.mark.anyio

#: Longer than any outage in here. A store that is away for longer than a lease cannot keep a claim, of course.
LEASE = 30.0
NUMBER = 200
SLOW = {"lease": LEASE, "ack": 0.1, "scheduler": {"max_concurrent_sends": 10}}


def everything_was_sent_once(stage: Stage, number: int) -> None:
    assert Counter(message.schedule_id for message in stage.log.sent) == {f"s{index:04}": 1 for index in range(number)}


async def test_a_broker_that_is_away_for_a_while(stage: Stage) -> None:
    """While the broker refuses, a few occurrences are tried, not all; when it is back, all are sent, once each."""
    down = stage.directory / "broker-down"
    down.touch()
    await stage.add(backlog(NUMBER))
    await stage.start_many(2, scheduler={"breaker_longest_pause": 2.0, "max_concurrent_sends": 10})
    await until(lambda: len(stage.log.of("refused")) > 20, "it was tried", stage.report)
    await asyncio.sleep(5)
    tried = len(stage.log.of("refused"))
    down.unlink()
    await stage.until_finished()

    assert await stage.stop_all() == [0, 0]
    assert tried < NUMBER, "the breaker did not open"
    everything_was_sent_once(stage, NUMBER)
    assert {run.status for run in await stage.runs()} == {"sent"}


async def test_a_locked_file(stage: Stage, tmp_path: Path) -> None:
    """SQLite: another process holds the write lock for longer than anybody waits for it, in the middle of the work."""
    await stage.add(backlog(NUMBER))
    await stage.start_many(2, **SLOW)
    await stage.until_sent(20)
    with contextlib.closing(sqlite3.connect(tmp_path / "schedules.db", isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN IMMEDIATE")
        await until(lambda: any("cannot be reached" in one.text for one in stage.schedulers), "it is noticed", stage.report)
        other.execute("ROLLBACK")
    await stage.until_finished()

    assert await stage.stop_all() == [0, 0]
    everything_was_sent_once(stage, NUMBER)


START = {
    "redis": start_redis,
    "postgres": start_postgres,
    "mongo": start_mongo,
    "mongo_replica_set": lambda: start_mongo(replica_set=True),
}


@pytest.fixture(params=list(SERVERS))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of this test's own: it is going to be stopped."""
    place_for(request.param, tmp_path, url="not needed")  # skips if the backend is not installed
    try:
        started = START[request.param]()
    except ServerUnavailable as error:
        pytest.skip(f"no {request.param} server: {error}")
    with started as running:
        running.kind = request.param
        yield running


@pytest.fixture
def far_stage(server: Server, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, place_for(server.kind, tmp_path, url=server.url))  # type: ignore[attr-defined]
    yield stage
    stage.close()


@pytest.mark.parametrize("how", ["stop", "kill", "pause"])
async def test_a_server_that_is_away_for_a_while(far_stage: Stage, server: Server, how: str) -> None:
    """The server is stopped, killed, or frozen in the middle of the work, and comes back: each occurrence is sent once."""
    stage = far_stage
    await stage.add([*backlog(NUMBER), task("coming", time=system_now() + timedelta(seconds=8))])
    await stage.start_many(2, **SLOW)
    await stage.until_sent(20)
    {"stop": server.stop, "kill": server.kill, "pause": server.pause}[how]()
    await until(lambda: any("cannot be reached" in one.text for one in stage.schedulers), "it is noticed", stage.report)
    server.resume() if how == "pause" else server.start()
    await stage.until_finished()

    assert await stage.stop_all() == [0, 0]
    assert Counter(one.schedule_id for one in stage.log.sent) == {"coming": 1, **{f"s{index:04}": 1 for index in range(NUMBER)}}
