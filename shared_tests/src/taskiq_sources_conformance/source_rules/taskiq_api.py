"""Rules for taskiq's own interface: what works with any taskiq source works with ours."""

from __future__ import annotations

from datetime import timedelta

import taskiq
from taskiq.scheduler.created_schedule import CreatedSchedule as TaskiqCreatedSchedule
from taskiq.scheduler.scheduled_task import CronSpec

from taskiq_sources import CreatedSchedule, ScheduledTask, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.source_build import (
    HOUR,
    MINUTE,
    NOON,
    NOW,
    App,
    add,
    definition,
    ids,
    nominal,
    play,
    rows,
    send_due,
    state,
)


class TaskiqApiRules:
    """Kickers, plain `taskiq.ScheduledTask` objects and taskiq's handles keep working."""

    async def test_a_source_is_taskiqs(self, source: ScheduleSource) -> None:
        """Sources and what they return are instances of taskiq's classes. (Look at the bases of your source class.)"""
        await add(source, interval=60)

        assert isinstance(source, taskiq.ScheduleSource)
        assert {isinstance(task, taskiq.ScheduledTask) for task in await source.get_schedules()} == {True}

    async def test_schedule_by_time(self, source: ScheduleSource, app: App) -> None:
        """A kicker's `schedule_by_time` stores a one-off that is due at its time. (Look at `put` and `get`.)"""
        created = await app.report.schedule_by_time(source, NOW + HOUR, 11, arg2="x")

        stored = await definition(source, created.schedule_id)
        assert (stored.task_name, stored.args, stored.kwargs) == ("app:report", [11], {"arg2": "x"})
        assert (stored.time, stored.cron, stored.interval) == (NOW + HOUR, None, None)
        assert (await state(source, created.schedule_id)).next_run_at == NOW + HOUR

    async def test_schedule_by_cron(self, source: ScheduleSource, app: App) -> None:
        """A kicker's `schedule_by_cron` stores a cron that is due at its next minute. (Look at `put` and `get`.)"""
        created = await app.report.schedule_by_cron(source, "5 * * * *", 11)

        stored = await definition(source, created.schedule_id)
        assert (stored.cron, stored.time, stored.interval) == ("5 * * * *", None, None)
        assert (await state(source, created.schedule_id)).next_run_at == NOON + 5 * MINUTE

    async def test_schedule_by_cron_spec(self, source: ScheduleSource, app: App) -> None:
        """A `CronSpec` with an offset means that wall clock. (Look at the document: `cron_offset`.)"""
        created = await app.report.schedule_by_cron(source, CronSpec(minutes=0, hours=7, offset="Europe/Berlin"))

        assert (await definition(source, created.schedule_id)).cron_offset == "Europe/Berlin"
        assert (await state(source, created.schedule_id)).next_run_at == NOON + 17 * HOUR  # 07:00 in Berlin is 05:00 UTC

    async def test_schedule_by_interval(self, source: ScheduleSource, app: App) -> None:
        """A kicker's `schedule_by_interval` stores an interval that is due at once. (Look at `put` and `get`.)"""
        created = await app.report.schedule_by_interval(source, timedelta(minutes=5))

        assert (await definition(source, created.schedule_id)).interval == timedelta(minutes=5)
        assert (await state(source, created.schedule_id)).next_run_at == NOW

    async def test_a_kickers_ids_and_labels_are_kept(self, source: ScheduleSource, app: App) -> None:
        """Schedule id, task id and labels of a kicker are stored and sent. (Look at the document: `task_id`, `labels`.)"""
        kicker = app.report.kicker().with_schedule_id("mine").with_task_id("task-1").with_labels(team="billing")
        await kicker.schedule_by_time(source, NOW)

        assert await ids(source) == ["mine"]
        (sent,) = await send_due(source)
        assert sent.task_id == sent.task.task_id == "task-1"
        assert sent.task.labels == {"queue": "slow", "team": "billing"}

    async def test_taskiqs_handle_unschedules(self, source: ScheduleSource, app: App) -> None:
        """`unschedule` of the handle that taskiq returns deletes the schedule. (Look at `delete`.)"""
        created = await app.report.schedule_by_interval(source, 60)
        await created.unschedule()

        assert await ids(source) == []

    async def test_a_plain_scheduled_task_is_accepted(self, source: ScheduleSource) -> None:
        """A `taskiq.ScheduledTask`, which knows nothing of us, is stored. (Look at `definitions.define`.)"""
        plain = taskiq.ScheduledTask(
            schedule_id="a",
            task_name="app:report",
            labels={"l": "1"},
            args=[1],
            kwargs={"k": 2},
            cron="0 * * * *",
            cron_offset=timedelta(hours=2),
        )
        await source.add_schedule(plain)

        stored = await definition(source)
        assert stored.model_dump(include=set(taskiq.ScheduledTask.model_fields)) == plain.model_dump()

    async def test_add_schedule_replaces(self, source: ScheduleSource) -> None:
        """Adding an id again replaces the schedule, as in taskiq. (Look at `put`: two rows, or the old one kept.)"""
        await add(source, cron="0 * * * *", args=[1])
        await add(source, cron="0 * * * *", args=[2])

        assert await ids(source) == ["a"]
        assert (await definition(source)).args == [2]

    async def test_delete_schedule_is_idempotent(self, source: ScheduleSource) -> None:
        """Deleting an id that does not exist is no error. (Look at `delete`.)"""
        await add(source)
        await source.delete_schedule("a")
        await source.delete_schedule("a")

        assert await source.get_schedule("a") is None

    async def test_schedule_returns_a_handle(self, source: ScheduleSource, app: App) -> None:
        """`schedule` returns taskiq's handle, extended, with what was stored and its due time. (Look at `get`.)"""
        created = await source.schedule(app.report, cron="0 * * * *", args=[1], kwargs={"x": 2}, schedule_id="mine", owner="me")

        assert isinstance(created, CreatedSchedule)
        assert isinstance(created, TaskiqCreatedSchedule)
        assert isinstance(created.task, ScheduledTask)
        assert (created.schedule_id, created.task.args, created.task.kwargs) == ("mine", [1], {"x": 2})
        assert created.next_run_at == NOON + HOUR
        assert (await state(source, "mine")).owner == "me"

    async def test_schedule_takes_a_kicker(self, source: ScheduleSource, app: App) -> None:
        """`schedule` takes the ids and labels of a kicker; an explicit schedule id wins. (Look at `ScheduleSource.schedule`.)"""
        kicker = app.report.kicker().with_labels(team="billing").with_task_id("task-1").with_schedule_id("kickers")
        first = await source.schedule(kicker, interval=60)
        second = await source.schedule(kicker, interval=60, schedule_id="mine")

        assert (first.schedule_id, second.schedule_id) == ("kickers", "mine")
        assert (first.task.task_id, first.task.labels) == ("task-1", {"queue": "slow", "team": "billing"})

    async def test_the_handle_pauses_and_resumes(self, source: ScheduleSource, clock: ManualClock, app: App) -> None:
        """The handle pauses and resumes its schedule and knows when it is due. (Look at `update`.)"""
        created = await source.schedule(app.report, interval=60, schedule_id="a")
        await created.pause()
        assert (await state(source)).paused
        clock.advance(90 * MINUTE / 60)
        await created.resume()

        assert not (await state(source)).paused
        assert created.next_run_at == NOW + 2 * MINUTE

    async def test_the_handle_reschedules(self, source: ScheduleSource, app: App) -> None:
        """The handle gives its schedule other triggers and shows them. (Look at `update`.)"""
        created = await source.schedule(app.report, interval=60, schedule_id="a")
        await created.reschedule(cron="30 * * * *")

        assert (created.task.cron, created.task.interval) == ("30 * * * *", None)
        assert created.next_run_at == NOON + 30 * MINUTE

    async def test_the_handle_runs_now(self, source: ScheduleSource, app: App) -> None:
        """`run_now` of the handle returns the task of that very run. (Look at how the manual run is stored and claimed.)"""
        created = await source.schedule(app.report, time=NOW + HOUR, schedule_id="a")
        manual = await created.run_now()

        assert [dispatch.task_id for dispatch in await send_due(source)] == [manual.task_id]

    async def test_the_handle_of_a_run_calls_it_off(self, source: ScheduleSource, app: App) -> None:
        """`unschedule` of a run that was not sent deletes it, and it alone; later it says so. (Look at `ManualRun`.)"""
        created = await source.schedule(app.report, time=NOW + HOUR, schedule_id="a")
        manual = await created.run_now()

        assert manual.schedule_id in await ids(source)
        assert await manual.unschedule()
        assert await send_due(source) == []
        assert not await manual.unschedule()
        assert await ids(source) == ["a"]

    async def test_the_handle_unschedules(self, source: ScheduleSource, app: App) -> None:
        """`unschedule` of the handle deletes the schedule; doing it twice is no error. (Look at `delete`.)"""
        created = await source.schedule(app.report, interval=60)
        await created.unschedule()
        await created.unschedule()

        assert await ids(source) == []

    async def test_under_taskiqs_scheduler(self, source: ScheduleSource, clock: ManualClock, app: App) -> None:
        """`TaskiqScheduler.on_ready` sends what is due once, with the label `schedule_id` and no other. (Look at `claim`.)"""
        await source.schedule(app.report, time=NOW + MINUTE, args=[1], schedule_id="a")
        scheduler = taskiq.TaskiqScheduler(app.broker, [source])
        entry, again = await source.get_schedules(), await source.get_schedules()
        clock.advance(MINUTE)
        await scheduler.on_ready(source, entry[0])
        await scheduler.on_ready(source, again[0])

        (message,) = app.broker.messages
        assert (message.args, message.labels) == ([1], {"queue": "slow", "schedule_id": "a"})
        assert [(row.status, row.task_id) for row in await rows(source)] == [("sent", message.task_id)]

    async def test_all_kinds_of_triggers_run(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Cron, interval and time, stored side by side, all run. (Look at `claim` and `settle`.)"""
        await source.add_schedules([_plain("c", cron="*/20 * * * *"), _plain("i", interval=1800), _plain("t", time=NOW + MINUTE)])
        sent = await play(source, clock, NOW + HOUR)

        due = {name: nominal([one for one in sent if one.schedule_id == name]) for name in ("c", "i", "t")}
        assert due == {
            "c": [NOON + 20 * MINUTE, NOON + 40 * MINUTE, NOON + HOUR],
            "i": [NOW, NOW + 30 * MINUTE, NOW + HOUR],
            "t": [NOW + MINUTE],
        }


def _plain(schedule_id: str, **trigger: object) -> taskiq.ScheduledTask:
    fields = {"task_name": "app:report", "labels": {}, "args": [], "kwargs": {}}
    return taskiq.ScheduledTask.model_validate({"schedule_id": schedule_id, **fields, **trigger})
