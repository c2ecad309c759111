"""``taskiq schedules …``: what it says and does. By a real process and on a real file, in ``packages/sqlite/tests``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from taskiq import InMemoryBroker, TaskiqScheduler
from taskiq.schedule_sources import LabelScheduleSource

from taskiq_sources import InMemoryScheduleSource, MergedScheduleSource, ScheduleOptions
from taskiq_sources.cli import SchedulesCommand
from taskiq_sources.clock import ManualClock
from taskiq_sources.models import RunQuery, ScheduleQuery
from taskiq_sources.tasks import ScheduledTask

NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


class App:
    """An application's module: sources, schedulers, and what a test does with them."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOON)
        self.source = InMemoryScheduleSource(clock=self.clock, claimant="web-1")
        self.second = InMemoryScheduleSource(clock=self.clock)
        self.broker = InMemoryBroker()
        self.broker.task("app:job")(_job)
        self.labels = LabelScheduleSource(self.broker)
        self.scheduler = TaskiqScheduler(self.broker, [self.labels, self.source, self.second])
        self.merged = MergedScheduleSource([self.source, self.second])
        self.foreign = TaskiqScheduler(self.broker, [self.labels])

    def add(self, name: str, source: InMemoryScheduleSource | None = None, **fields: Any) -> None:
        task = ScheduledTask(task_name="app:job", labels={}, args=[1], kwargs={"key": "value"}, schedule_id=name, **fields)
        self.do(lambda: (source or self.source).add_schedule(task))

    def do(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async def done() -> Any:
            for source in (self.source, self.second):
                await source.startup()  # the command shuts down what it has used
            return await work()

        return asyncio.run(done())

    def ids(self, source: InMemoryScheduleSource | None = None, **query: Any) -> list[str]:
        found = self.do(lambda: (source or self.source).store.page(ScheduleQuery(**query), limit=100))
        return [one.id for one in found]


async def _job(*_args: Any, **_kwargs: Any) -> None: ...


@pytest.fixture
def app() -> Iterator[App]:
    app = App()
    module = ModuleType("app_of_cli_test")
    module.__dict__.update(vars(app), asyncio=asyncio)
    sys.modules[module.__name__] = module
    yield app
    del sys.modules[module.__name__]


def run(*args: str) -> int:
    return SchedulesCommand().exec(args)


SOURCE = "app_of_cli_test:source"


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_taskiq_finds_the_command() -> None:
    [entry] = entry_points(group="taskiq_cli", name="schedules")

    assert entry.load() is SchedulesCommand


def test_a_listing_shows_when_schedules_run_and_how_they_stand(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.add("a", cron="0 7 * * *", cron_offset="Europe/Berlin")
    app.add("b", interval=90, schedule_options=ScheduleOptions(start_at=NOON + timedelta(hours=1)))
    app.add("c", time=NOON - timedelta(minutes=5))
    app.add("d", time=NOON + timedelta(minutes=5))
    app.add("e", time=NOON + timedelta(minutes=5))
    app.do(lambda: app.source.pause("d"))

    assert run("list", SOURCE) == 0

    assert rows(capsys.readouterr().out) == [
        ["ID", "TASK", "WHEN", "NEXT RUN", "STATE"],
        ["a", "app:job", "cron 0 7 * * * (Europe/Berlin)", "2030-01-02 06:00:00 UTC", "waiting"],
        ["b", "app:job", "every 0:01:30", "2030-01-01 13:00:00 UTC", "waiting"],
        ["c", "app:job", "at 2030-01-01 11:55:00 UTC", "2030-01-01 11:55:00 UTC", "due"],
        ["d", "app:job", "at 2030-01-01 12:05:00 UTC", "2030-01-01 12:05:00 UTC", "paused"],
        ["e", "app:job", "at 2030-01-01 12:05:00 UTC", "2030-01-01 12:05:00 UTC", "waiting"],
    ]


def test_a_listing_tells_who_is_sending_and_what_went_wrong(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("held", "bad"):
        app.add(name, time=NOON)

    async def spoil() -> None:
        stored = (await app.source.store.get(["bad"]))["bad"]
        await app.source.store.put([replace(stored, document="{")])
        await app.source.desk.take(limit=10)

    app.do(spoil)

    assert run("list", SOURCE) == 0

    _, bad, held = rows(capsys.readouterr().out)
    assert bad[2] == "?"
    assert bad[4].startswith("quarantined: ValueError: EOF while parsing")
    assert held[4] == "being sent by web-1"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("--task", "app:job"), ["late", "late-paused", "later"]),
        (("--task", "other"), []),
        (("--owner", "me"), ["later"]),
        (("--paused",), ["late-paused"]),
        (("--quarantined",), []),
        (("--overdue", "60"), ["late"]),
        (("--overdue", "600"), []),
    ],
)
def test_a_listing_is_restricted_by_options(
    app: App, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], expected: list[str]
) -> None:
    app.add("late", time=NOON - timedelta(minutes=5))
    app.add("late-paused", time=NOON - timedelta(minutes=5))
    app.add("later", time=NOON + timedelta(minutes=5), owner="me")
    app.do(lambda: app.source.pause("late-paused"))

    assert run("list", SOURCE, *given) == 0

    assert [row[0] for row in rows(capsys.readouterr().out)[1:]] == expected


def test_json_has_everything_one_document_a_line(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.add("a", interval=timedelta(minutes=2))
    app.add("b", time=NOON)

    assert run("list", SOURCE, "--json") == 0

    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["id"], first["next_run_at"], first["paused"]) == ("a", NOON.isoformat(), False)
    assert (first["task"]["args"], first["task"]["kwargs"]) == ([1], {"key": "value"})
    assert second["task"]["time"] == NOON.isoformat()


def test_a_scheduler_and_a_merged_source_are_asked_for_all_sources_of_ours(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.add("a", cron="@daily")
    app.add("b", app.second, cron="@daily")

    for name in ("scheduler", "merged"):
        assert run("list", f"app_of_cli_test:{name}") == 0
        assert [row[0] for row in rows(capsys.readouterr().out)] == ["ID", "a", "b"]


def test_schedules_are_paused_and_resumed_in_the_source_that_has_them(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.add("a", cron="@daily")
    app.add("b", app.second, cron="@daily")

    assert run("pause", "app_of_cli_test:scheduler", "a", "b") == 0
    assert capsys.readouterr().out == "a: paused\nb: paused\n"
    assert (app.ids(paused=True), app.ids(app.second, paused=True)) == (["a"], ["b"])

    assert run("resume", "app_of_cli_test:scheduler", "b") == 0
    assert (app.ids(paused=True), app.ids(app.second, paused=True)) == (["a"], [])


@pytest.mark.parametrize(("given", "scheduled_for"), [((), NOON + timedelta(hours=3)), (("--catch-up",), NOON)])
def test_what_fell_into_a_pause_is_made_up_if_asked_for(app: App, given: tuple[str, ...], scheduled_for: datetime) -> None:
    app.add("a", cron="0 * * * *")
    run("pause", SOURCE, "a")
    app.clock.advance(timedelta(hours=2, minutes=30))

    assert run("resume", SOURCE, "a", *given) == 0

    assert app.do(lambda: app.source.store.get(["a"]))["a"].scheduled_for == scheduled_for


def test_a_run_asked_for_is_due_at_once_and_its_task_id_told(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.add("a", cron="@daily")

    assert run("run", SOURCE, "a") == 0

    app.do(lambda: _sent(app))
    [row] = app.do(lambda: app.source.store.runs(RunQuery(), limit=10))
    assert capsys.readouterr().out == f"a: will be sent with the task id {row.task_id}\n"


def test_deleting_keeps_the_history_which_is_listed_newest_first(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.add("a", interval=60)
    for _ in range(3):
        app.do(lambda: _sent(app))
        app.clock.advance(timedelta(minutes=1))
    assert run("delete", SOURCE, "a") == 0
    assert app.ids() == []
    capsys.readouterr()

    assert run("runs", SOURCE, "a", "--limit", "2") == 0

    assert rows(capsys.readouterr().out) == [
        ["RECORDED", "SCHEDULE", "SCHEDULED FOR", "STATUS", "ATTEMPT", "ERROR"],
        ["2030-01-01 12:02:00 UTC", "a", "2030-01-01 12:02:00 UTC", "sent", "1"],
        ["2030-01-01 12:01:00 UTC", "a", "2030-01-01 12:01:00 UTC", "sent", "1"],
    ]
    assert run("runs", SOURCE, "--status", "failed", "--json") == 0
    assert capsys.readouterr().out == ""


async def _sent(app: App) -> None:
    for task in await app.source.get_schedules():
        await app.scheduler.on_ready(app.source, task)  # cancelled by the source if it is not due


def test_what_cannot_be_done_is_told_and_the_rest_is_done(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.add("a", cron="@daily")

    assert run("pause", SOURCE, "nope", "a") == 1

    told = capsys.readouterr()
    assert "ScheduleNotFoundError: schedule 'nope'" in told.err
    assert told.out == "a: paused\n"


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("app_of_cli_test", "module:variable"),
        ("no_such_module_at_all:source", "No module named"),
        ("app_of_cli_test:sauce", "sauce"),
        ("app_of_cli_test:broker", "no source of taskiq-sources"),
        ("app_of_cli_test:foreign", "no source of taskiq-sources"),
    ],
)
def test_a_place_without_sources_is_refused_by_name(app: App, capsys: pytest.CaptureFixture[str], where: str, told: str) -> None:
    with pytest.raises(SystemExit) as left:
        run("list", where)

    assert left.value.code == 2
    assert where in (said := capsys.readouterr().err)
    assert told in said


def test_a_url_that_nobody_serves_is_told_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "nope://user:secret@host/1") == 1

    said = capsys.readouterr().err
    assert "UnknownBackendError" in said
    assert "secret" not in said


def test_names_cannot_steer_the_terminal(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.add("a\x1b[2Jb\nc", cron="@daily")

    assert run("list", SOURCE) == 0

    assert rows(capsys.readouterr().out)[1][0] == "a\\x1b[2Jb\\nc"


def test_a_long_listing_is_printed_as_it_is_read(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [
        ScheduledTask(task_name="t", labels={}, args=[], kwargs={}, schedule_id=f"{n:04}", cron="@daily") for n in range(1200)
    ]
    app.do(lambda: app.source.add_schedules(tasks))

    assert run("list", SOURCE) == 0

    assert [row[0] for row in rows(capsys.readouterr().out)] == ["ID", *(task.schedule_id for task in tasks)]


def test_a_reader_that_has_enough_ends_the_listing(app: App, tmp_path: Path) -> None:
    """As ``taskiq schedules list … | head -1`` does."""
    tasks = [
        ScheduledTask(task_name="t", labels={}, args=[], kwargs={}, schedule_id=f"{n:04}", cron="@daily") for n in range(1200)
    ]
    app.do(lambda: app.source.add_schedules(tasks))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, redirect_stdout(pipe):
        assert run("list", SOURCE) == 0
