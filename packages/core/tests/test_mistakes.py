"""Arguments of the wrong kind are refused where they are given, by errors that say what to give instead."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from taskiq import InMemoryBroker

from taskiq_sources import (
    DurableScheduler,
    InMemoryScheduleSource,
    ManualClock,
    MergedScheduleSource,
    ScheduledTask,
    ScheduleOptions,
    ScheduleValidationError,
    source_from_url,
)
from taskiq_sources.models import Run

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
BEFORE_TIME = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
AFTER_TIME = datetime.max.replace(tzinfo=timezone(timedelta(hours=-10)))

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
        (lambda: source(lease=timedelta(microseconds=1)), "lease: at least a second"),
        (lambda: source(lease=timedelta.max), "lease"),
        (lambda: source(lease=None), "lease: None"),
        (lambda: source(run_retention=timedelta.max), "run_retention: at most a century"),
        (lambda: source(stale_for=timedelta.max), "stale_for"),
        (lambda: source(max_run_rows="many"), "max_run_rows: 'many'"),
        (lambda: source(max_run_rows=True), "max_run_rows: True"),
        (lambda: source(serializer="json"), "serializer: 'json'"),
        (lambda: source(clock=5), "clock: 5"),
        (lambda: source(clock=datetime), "clock"),
        (lambda: source(claimant=5), "claimant: 5"),
        (lambda: source(claimant="x" * 256), "claimant"),
        (lambda: source_from_url(5), "url: 5"),  # type: ignore[arg-type]
        (lambda: ScheduleOptions(start_at=BEFORE_TIME), "start_at"),
        (lambda: ScheduleOptions(end_at=AFTER_TIME), "end_at"),
        (lambda: DurableScheduler(InMemoryBroker(), source()), "a list of sources"),
        (lambda: MergedScheduleSource(source()), "a list of sources"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(construct: Callable[[], Any], named: str) -> None:
    with pytest.raises(ScheduleValidationError) as caught:
        construct()
    assert all(part in str(caught.value) for part in named.split(": "))


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


ID_TAKERS: dict[str, Callable[[Any, Any], Awaitable[Any]]] = {
    "get_schedule": lambda source, given: source.get_schedule(given),
    "pause": lambda source, given: source.pause(given),
    "resume": lambda source, given: source.resume(given),
    "reschedule": lambda source, given: source.reschedule(given, interval=5),
    "run_now": lambda source, given: source.run_now(given),
    "delete_schedule": lambda source, given: source.delete_schedule(given),
    "delete_schedules": lambda source, given: source.delete_schedules([given]),
    "runs": lambda source, given: anext(source.runs(given)),
}


@pytest.mark.parametrize("given", [5, b"a", uuid.UUID(int=0)], ids=repr)
@pytest.mark.parametrize("call", ID_TAKERS.values(), ids=list(ID_TAKERS))
async def test_an_id_is_text(call: Callable[[Any, Any], Awaitable[Any]], given: Any) -> None:
    with pytest.raises(ScheduleValidationError, match="use the id of a schedule, which is text") as caught:
        await call(source(), given)
    assert caught.value.value == given


def row(occurrence_id: Any) -> Run:
    given: dict[str, Any] = {"schedule_id": "a", "task_name": "t", "status": "sent", "scheduled_for": NOW, "recorded_at": NOW}
    return Run(occurrence_id=occurrence_id, **given)


CALLS: dict[str, tuple[Callable[[Any, Any], Awaitable[Any]], str, str]] = {
    "args-dictionary": (lambda source, job: source.schedule(job, interval=5, args={"a": 1}), "args", "list of arguments"),
    "args-set": (lambda source, job: source.schedule(job, interval=5, args={1}), "args", "list of arguments"),
    "args-generator": (lambda source, job: source.schedule(job, interval=5, args=(n for n in [1])), "args", "list of arguments"),
    "args-none": (lambda source, job: source.schedule(job, interval=5, args=None), "args", "list of arguments"),
    "kwargs-list": (lambda source, job: source.schedule(job, interval=5, kwargs=[1]), "kwargs", "dictionary"),
    "kwargs-names": (lambda source, job: source.schedule(job, interval=5, kwargs={1: 2}), "kwargs", "names of arguments"),
    "paused": (lambda source, job: source.schedule(job, interval=5, paused="no"), "paused", "True or False"),
    "paused-none": (lambda source, job: source.schedule(job, interval=5, paused=None), "paused", "True or False"),
    "catch-up": (lambda source, job: source.resume("a", catch_up="no"), "catch_up", "True or False"),
    "schedules-dictionary": (lambda source, job: source.add_schedules([{"cron": "@daily"}]), "schedules[0]", "ScheduledTask"),
    "schedules-number": (lambda source, job: source.add_schedules(5), "schedules", "list"),
    "schedule-none": (lambda source, job: source.add_schedule(None), "schedules[0]", "ScheduledTask"),
    "ids-number": (lambda source, job: source.delete_schedules(5), "schedule_ids", "list of ids"),
    "ids-numbers": (lambda source, job: source.delete_schedules(["a", 2]), "schedule_ids[1]", "text"),
    "list-paused": (lambda source, job: anext(source.iter_schedules(paused="yes")), "paused", "True or False"),
    "list-quarantined": (lambda source, job: anext(source.iter_schedules(quarantined=0)), "quarantined", "True or False"),
    "list-task": (lambda source, job: anext(source.iter_schedules(task_name=5)), "task_name", "text"),
    "list-owner": (lambda source, job: anext(source.iter_schedules(owner=5)), "owner", "text"),
    "list-due": (lambda source, job: anext(source.iter_schedules(due_before="now")), "due_before", "aware datetime"),
    "list-due-when": (lambda source, job: anext(source.iter_schedules(due_before=AFTER_TIME)), "due_before", "outside"),
    "runs-after-nul": (lambda source, job: anext(source.runs(after=row("a\x00"))), "after.occurrence_id", "NUL"),
    "runs-after-no-text": (lambda source, job: anext(source.runs(after=row(5))), "after.occurrence_id", "text"),
    "runs-since": (lambda source, job: anext(source.runs(since=5)), "since", "aware datetime"),
    "runs-until": (lambda source, job: anext(source.runs(until=BEFORE_TIME)), "until", "outside"),
    "jitter": (
        lambda source, job: source.schedule(job, time=NOW, options=ScheduleOptions(jitter=timedelta.max)),
        "jitter",
        "366 days",
    ),
    "offset-of-an-interval": (lambda source, job: source.reschedule("a", cron_offset="UTC"), "cron_offset", "no cron"),
    "offset-for-an-interval": (
        lambda source, job: source.reschedule("a", interval=7, cron_offset="UTC"),
        "cron_offset",
        "no cron",
    ),
}


@pytest.mark.parametrize(("call", "field", "fix"), CALLS.values(), ids=list(CALLS))
async def test_a_wrong_argument_of_a_method_is_refused(call: Callable[[Any, Any], Awaitable[Any]], field: str, fix: str) -> None:
    broker, here = InMemoryBroker(), source(clock=ManualClock(NOW))

    @broker.task("job")
    async def job(*_: Any) -> None: ...

    before = await here.schedule(job, interval=5, schedule_id="a")
    with pytest.raises(ScheduleValidationError) as caught:
        await call(here, job)

    assert caught.value.field == field
    assert fix in str(caught.value)
    assert [info.task async for info in here.iter_schedules()] == [before.task]


@pytest.mark.parametrize("triggers", [{"cron": "@yearly"}, {"interval": 60}, {"time": NOW}], ids=str)
async def test_a_window_may_be_all_of_time(triggers: dict[str, Any]) -> None:
    always = ScheduleOptions(start_at=datetime.min.replace(tzinfo=timezone.utc), end_at=datetime.max.replace(tzinfo=timezone.utc))
    here = source(clock=ManualClock(NOW))

    for _ in range(2):
        task = ScheduledTask(task_name="t", labels={}, args=[], kwargs={}, schedule_id="a", schedule_options=always, **triggers)
        await here.add_schedules([task])

    assert (await here.get_schedule("a")).state.next_run_at is not None


async def test_a_jitter_ends_with_time() -> None:
    last = datetime.max.replace(tzinfo=timezone.utc)
    here = source(clock=ManualClock(NOW))
    options = ScheduleOptions(jitter=timedelta(days=366))
    task = ScheduledTask(task_name="t", labels={}, args=[], kwargs={}, schedule_id="a", schedule_options=options, time=last)
    await here.add_schedule(task)

    found = (await here.get_schedule("a")).state
    assert found.scheduled_for <= found.next_run_at <= last
