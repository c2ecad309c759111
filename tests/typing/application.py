"""What type checkers make of an application: checked by ``nox -s typing``, not run."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from taskiq import InMemoryBroker
from typing_extensions import assert_type

from taskiq_sources import (
    CreatedSchedule,
    DurableScheduler,
    InMemoryScheduleSource,
    ManualClock,
    ManualRun,
    OnConflict,
    RunStatus,
    ScheduledTask,
    ScheduleInfo,
    ScheduleOptions,
    source_from_url,
)

broker = InMemoryBroker()
source = InMemoryScheduleSource(clock=ManualClock(datetime(2030, 1, 1, tzinfo=timezone.utc)))
scheduler = DurableScheduler(broker, [source, source_from_url("memory://")], send_timeout=timedelta(seconds=5))


@broker.task
async def greet(name: str) -> str:
    return name


@broker.task
def double(number: int) -> int:
    return 2 * number


async def use() -> None:
    async with scheduler:
        by_coroutine = await source.schedule(greet, cron="0 7 * * *", args=["x"])
        assert_type(await by_coroutine.run_now(), ManualRun[str])
        by_function = await source.schedule(double.kicker().with_labels(queue="slow"), interval=60, kwargs={"number": 2})
        assert_type(by_function, CreatedSchedule[int])
        assert_type(await by_function.run_now(), ManualRun[int])
        assert_type((await (await by_coroutine.run_now()).wait_result()).return_value, str)

        conflict: OnConflict = "keep"
        options = ScheduleOptions(misfire="skip")
        soon = datetime(2030, 1, 1, tzinfo=timezone.utc)
        await source.schedule(greet, time=soon, args=["x"], options=options, on_conflict=conflict)
        labelled = greet.kicker().with_labels(schedule_options=str(options))
        await labelled.schedule_by_cron(source, "0 8 * * *", "x")
        assert_type(await source.reschedule("x", options=options), ScheduleInfo)
        async for info in source.iter_schedules(paused=False):
            assert_type(info.task, ScheduledTask | None)
        async for run in source.runs():
            assert_type(run.status, RunStatus)
