"""Arguments of the wrong kind are refused where they are given, by errors that say what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from taskiq import InMemoryBroker

from taskiq_sources import DurableScheduler, InMemoryScheduleSource, MergedScheduleSource, ScheduleValidationError

pytestmark = pytest.mark.anyio

source: Any = InMemoryScheduleSource


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("construct", "named"),
    [
        (lambda: source(lease=30), "lease: 30"),
        (lambda: source(lease=timedelta(0)), "lease"),
        (lambda: source(look_ahead=0), "look_ahead"),
        (lambda: source(options={"misfire": "never"}), "misfire"),
        (lambda: source(options=3), "schedule_options"),
        (lambda: source("memory:"), "source_from_url"),
        (lambda: DurableScheduler(InMemoryBroker(), source()), "a list of sources"),
        (lambda: MergedScheduleSource(source()), "a list of sources"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(construct: Callable[[], Any], named: str) -> None:
    with pytest.raises(ScheduleValidationError) as caught:
        construct()
    assert named.replace(": ", " ") in str(caught.value).replace(": ", " ")


def test_options_may_be_a_dictionary_for_a_source_too() -> None:
    assert source(options={"misfire": "skip"}).desk._defaults.options.misfire == "skip"


@pytest.mark.parametrize("task", ["app:report", lambda: None, None])
async def test_what_is_no_task_cannot_be_scheduled(task: Any) -> None:
    with pytest.raises(ScheduleValidationError, match=r"@broker\.task"):
        await source().schedule(task, interval=5)


async def test_text_is_no_list_of_arguments() -> None:
    broker = InMemoryBroker()

    @broker.task("job")
    async def job(*_: Any) -> None: ...

    with pytest.raises(ScheduleValidationError, match="list of arguments"):
        await source().schedule(job, interval=5, args="abc")


async def test_a_status_that_does_not_exist_is_not_looked_for() -> None:
    with pytest.raises(ScheduleValidationError, match="sent, failed, missed, unknown"):
        [run async for run in source().runs(status="snt")]
