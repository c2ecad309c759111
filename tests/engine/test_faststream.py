"""taskiq-faststream's scheduler under the engine. Release 0.4.1 needs taskiq below 0.13: an environment of its own."""

from __future__ import annotations

import secrets
from datetime import timedelta
from importlib.util import find_spec

import pytest
from engine_harness import Stage, task, until

from taskiq_sources.clock import system_now
from taskiq_sources_conformance.servers import url_or_skip

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(find_spec("taskiq_faststream") is None, reason="taskiq-faststream is not installed"),
]


async def test_faststream_messages_are_published_as_they_were_scheduled(stage: Stage) -> None:
    """Labels reach ``publish`` untouched: any that we added would be an argument it does not know, and no send would succeed."""
    channel = f"engine-{secrets.token_hex(6)}"
    labels = {"message": "hello", "channel": channel}
    now = system_now()
    await stage.add(
        [
            task("one", task_name="greet", labels=labels, time=now),
            task("many", task_name="greet", labels=labels, interval=1, options={"start_at": now, "max_runs": 3}),
            task("late", task_name="greet", labels=labels, time=now - timedelta(hours=1)),
        ]
    )
    only = await stage.start(app="stream_app:scheduler", redis=url_or_skip("redis"), channel=channel).ready()
    await stage.until_finished()
    runs = await stage.runs()
    await until(lambda: len(stage.log.of("received")) >= len(runs), "all were delivered", stage.report)

    assert await only.stopped() == 0
    assert {(run.status, run.attempt) for run in runs} == {("sent", 1)}
    assert {run.schedule_id for run in runs} == {"one", "many", "late"}
    assert [event["message"] for event in stage.log.of("received")] == ["hello"] * len(runs)
