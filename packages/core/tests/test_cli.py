"""``taskiq schedules …``: what it says and does. By a real process and on a real file, in ``packages/sqlite/tests``."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
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
from taskiq.serializers import PickleSerializer

from taskiq_sources import InMemoryScheduleSource, MergedScheduleSource, ScheduleOptions, SourceClosedError, SourceConnectionError
from taskiq_sources.cli import SchedulesCommand
from taskiq_sources.clock import ManualClock
from taskiq_sources.models import RunQuery, ScheduleQuery
from taskiq_sources.tasks import ScheduledTask

NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


class Down(InMemoryScheduleSource):
    """A source whose server cannot be reached."""

    async def startup(self) -> None:
        raise SourceConnectionError("nobody at db:5432")


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
        self.half = TaskiqScheduler(self.broker, [Down(), self.source])

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


def with_argument(_kind: str) -> None: ...


@pytest.fixture
def app() -> Iterator[App]:
    app = App()
    module = ModuleType("app_of_cli_test")
    module.__dict__.update(vars(app), asyncio=asyncio, with_argument=with_argument)
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
    assert bad[4].startswith("quarantined: schedule 'bad': the stored record cannot be read: ValueError: EOF while parsing")
    assert held[4] == "being sent by web-1"


def test_a_listing_tells_what_cannot_be_read_from_here(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    """As from a URL, without the application's serializer: such a schedule is well, and says how it stands."""
    pickling = InMemoryScheduleSource(app.source.store._data, clock=app.clock, serializer=PickleSerializer())  # type: ignore[attr-defined]
    for name, when in (("due", NOON), ("later", NOON + timedelta(minutes=5)), ("paused", NOON)):
        given: dict[str, Any] = {"labels": {}, "args": [{1}], "kwargs": {}, "time": when, "schedule_id": name}
        asyncio.run(pickling.add_schedule(ScheduledTask(task_name="t", **given)))
    app.do(lambda: app.source.pause("paused"))

    assert run("list", SOURCE) == 0

    _, *found = rows(capsys.readouterr().out)
    assert [row[4].partition(";")[0] for row in found] == ["due", "waiting", "paused"]
    assert all("; it cannot be read here: " in row[4] for row in found)


def test_a_listing_tells_whose_run_was_asked_for(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.add("a", cron="@daily")
    task_id = app.do(lambda: app.source.run_now("a"))

    assert run("list", SOURCE) == 0

    _, _, manual = rows(capsys.readouterr().out)
    assert manual[0] == f"manual-{task_id}"
    assert manual[2] == "at 2030-01-01 12:00:00 UTC (a run of a)"


@pytest.mark.parametrize("limit", ["-1", "some", "²", "1.5", ""])
def test_history_of_less_than_nothing_makes_no_sense(app: App, capsys: pytest.CaptureFixture[str], limit: str) -> None:
    with pytest.raises(SystemExit) as exited:
        run("runs", SOURCE, f"--limit={limit}")

    assert exited.value.code == 2
    assert "is not a whole number, 0 or more" in capsys.readouterr().err


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


def test_json_is_json_whatever_a_serializer_has_stored(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments may be of any type; those that JSON lacks are text."""
    source = InMemoryScheduleSource(clock=app.clock, serializer=PickleSerializer())
    endless: list[Any] = []
    endless.append(endless)
    sys.modules["app_of_cli_test"].__dict__["pickling"] = source
    task = ScheduledTask(
        task_name="t",
        labels={},
        args=[float("nan"), [float("inf")], {1}, NOON, 1 << 20_000, {1 << 20_000}, endless],
        kwargs={"d": {(1, 2): 3, 4: (5.5, None, True), 1 << 20_000: 6}},
        schedule_id="a",
        cron="@daily",
    )
    asyncio.run(source.add_schedule(task))

    assert run("list", "app_of_cli_test:pickling", "--json") == 0

    stored = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["task"]
    huge = f"0x1{'0' * 5_000}"
    assert stored["args"][:6] == ["nan", ["inf"], "{1}", NOON.isoformat(), huge, "<set>"]
    assert stored["kwargs"] == {"d": {"(1, 2)": 3, "4": [5.5, None, True], huge: 6}}


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
        ["RECORDED", "SCHEDULE", "SCHEDULED FOR", "STATUS", "COALESCED", "ATTEMPT", "ERROR"],
        ["2030-01-01 12:02:00 UTC", "a", "2030-01-01 12:02:00 UTC", "sent", "1", "1"],
        ["2030-01-01 12:01:00 UTC", "a", "2030-01-01 12:01:00 UTC", "sent", "1", "1"],
    ]
    assert run("runs", SOURCE, "--status", "failed", "--json") == 0
    assert capsys.readouterr().out == ""


def test_history_tells_for_how_many_occurrences_a_row_stands(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.add("a", interval=60)
    app.clock.advance(timedelta(minutes=3))
    app.do(lambda: _sent(app))

    assert run("runs", SOURCE) == 0

    _, row = rows(capsys.readouterr().out)
    assert row[3:] == ["sent", "4", "1"]


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
        ("app_of_cli_test:with_argument", "cannot be called without arguments"),
        ("./app.py:source", "module:variable"),
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


@pytest.mark.parametrize(
    "args",
    [
        ("list", "postgres:/bob:s3cret@127.0.0.1:1/db"),
        ("list", "postgresql:bob:s3cret@host/db"),
        ("list", "postgresql//bob:s3cret@host/db"),
        ("list", "bob:s3cret@host:5432/db"),
        ("list", "bob:s3cret@db"),
        ("list", "postgres:/host/db?password=s3cret"),
        ("list", "postgresql://bob:", "s3cret@host/db"),  # with a blank in it, and no quotes around it
        ("postgresql://bob:s3cret@host/db", "list"),
        ("postgres:/bob:s3cret@host/db", "list"),
        ("runs", "app_of_cli_test:source", "--limit", "postgresql://bob:s3cret@host/db"),
        ("list", "app_of_cli_test:source", "--overdue", "postgresql://bob:s3cret@host/db"),
        ("list", "app_of_cli_test:source", "postgresql://bob:s3cret@host/db"),
        ("list", "app_of_cli_test:source", "--paused=postgresql://bob:s3cret@host/db"),
    ],
)
def test_a_password_in_the_wrong_place_is_not_printed(
    app: App, capsys: pytest.CaptureFixture[str], args: tuple[str, ...]
) -> None:
    """URLs are mistyped, and take the place of another argument."""
    with pytest.raises(SystemExit) as left:
        run(*args)

    assert left.value.code == 2
    said = "".join(capsys.readouterr())
    assert "s3cret" not in said
    assert "may hold a password" in said


def test_a_url_for_an_id_is_told_without_its_password(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pause", SOURCE, "postgresql://bob:s3cret@host/db") == 1

    assert "s3cret" not in "".join(capsys.readouterr())


def test_a_store_in_memory_is_refused_because_it_is_another_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "memory://") == 1

    assert "memory of another process" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["inf", "nan", "1e11", "-1", "soon"])
def test_what_is_no_length_of_time_is_refused(app: App, capsys: pytest.CaptureFixture[str], given: str) -> None:
    with pytest.raises(SystemExit) as left:
        run("list", SOURCE, "--overdue", given)

    assert left.value.code == 2
    assert f"argument --overdue: '{given}' is not a number of seconds from 0 to" in capsys.readouterr().err


def test_nothing_is_later_than_the_longest_time_that_is_taken(app: App) -> None:
    assert run("list", SOURCE, "--overdue", "3155760000") == 0


@pytest.mark.parametrize("name", ["make_scheduler", "make_source", "make_later"])
def test_a_function_that_returns_a_scheduler_or_a_source_is_called(
    app: App, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """In the event loop, as taskiq does it."""

    def make_scheduler() -> TaskiqScheduler:
        asyncio.get_running_loop()
        return app.scheduler

    def make_source() -> InMemoryScheduleSource:
        return app.source

    async def make_later() -> TaskiqScheduler:
        return app.scheduler

    app.add("a", cron="@daily")
    sys.modules["app_of_cli_test"].__dict__.update(make_scheduler=make_scheduler, make_source=make_source, make_later=make_later)

    assert run("list", f"app_of_cli_test:{name}") == 0

    assert [row[0] for row in rows(capsys.readouterr().out)] == ["ID", "a"]


@pytest.mark.parametrize("option", ["--app-dir", "-d"])
def test_modules_are_found_in_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # taskiq leaves the directory in it
    name = f"elsewhere_of_cli_test_{len(option)}"
    (tmp_path / f"{name}.py").write_text("from taskiq_sources import InMemoryScheduleSource as S\nsource = S()\n")

    assert run("list", f"{name}:source", option, str(tmp_path)) == 0

    assert rows(capsys.readouterr().out) == [["ID", "TASK", "WHEN", "NEXT RUN", "STATE"]]


# -- a source that is down ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "found"), [("list", ["ID", "a"]), ("runs", ["RECORDED", "2030-01-01 12:00:00 UTC"])])
def test_a_source_that_is_down_is_told_and_the_others_are_listed(
    app: App, capsys: pytest.CaptureFixture[str], command: str, found: list[str]
) -> None:
    app.add("a", interval=60)
    app.do(lambda: _sent(app))

    assert run(command, "app_of_cli_test:half") == 1

    told = capsys.readouterr()
    assert told.err == "SourceConnectionError: nobody at db:5432\n"
    assert [row[0] for row in rows(told.out)] == found


def test_schedules_are_found_behind_a_source_that_is_down(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told once: the next id is not looked for there again. What is found nowhere may be there."""
    app.add("a", cron="@daily")
    app.add("b", cron="@daily")

    assert run("pause", "app_of_cli_test:half", "a", "nope", "b") == 1

    told = capsys.readouterr()
    assert told.out == "a: paused\nb: paused\n"
    down, missing = told.err.splitlines()
    assert down == "SourceConnectionError: nobody at db:5432"
    assert "'nope' was not found where it could be looked for" in missing
    assert app.ids(paused=True) == ["a", "b"]


def test_a_source_that_is_not_needed_may_be_down(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.add("a", cron="@daily")
    app.half.sources.reverse()

    assert run("pause", "app_of_cli_test:half", "a") == 0

    assert capsys.readouterr().err == ""


def test_a_source_that_does_not_close_is_told_and_the_others_are_closed(
    app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail() -> None:
        raise SourceConnectionError("it has hung up")

    monkeypatch.setattr(app.source, "shutdown", fail)
    app.add("a", app.second, cron="@daily")

    assert run("pause", "app_of_cli_test:scheduler", "a") == 1

    assert capsys.readouterr() == ("a: paused\n", "SourceConnectionError: it has hung up\n")
    with pytest.raises(SourceClosedError):
        asyncio.run(app.second.get_schedules())


# -- output ------------------------------------------------------------------------------------------------------------------


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


def test_characters_that_the_output_lacks_are_escaped(app: App) -> None:
    """A command must not fail half-way because of the name of a schedule."""
    for name in ("漢字", "ü"):
        app.add(name, cron="@daily")
    with redirect_stdout(io.TextIOWrapper(written := io.BytesIO(), encoding="latin-1")):
        assert run("pause", SOURCE, "漢字", "ü") == 0
        assert written.getvalue() == b"\\u6f22\\u5b57: paused" + os.linesep.encode() + b"\xfc: paused" + os.linesep.encode()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error_of_one_line(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("/dev/full").open("w") as full, redirect_stdout(full):
        assert run("list", SOURCE) == 1

    assert capsys.readouterr().err == "standard output cannot be written: [Errno 28] No space left on device\n"


def test_output_that_the_shell_has_closed_is_no_error(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``taskiq schedules pause … >&-`` does."""
    app.add("a", cron="@daily")
    monkeypatch.setattr(sys, "stdout", None)

    assert run("pause", SOURCE, "a") == 0


@pytest.mark.skipif(sys.platform == "win32", reason="another process cannot be sent SIGINT alone")
def test_an_interrupt_while_connecting_ends_the_command_quietly(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(
        "import asyncio\n"
        "from taskiq_sources import InMemoryScheduleSource\n"
        "class Hanging(InMemoryScheduleSource):\n"
        "    async def startup(self):\n"
        "        print('connecting', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "source = Hanging()\n"
    )
    # A process that a shell runs in the background is told to ignore interrupts, as a run of tests may be, and hands that on.
    heeding = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heeding}; runpy.run_module('taskiq', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", program, "schedules", "list", "hanging:source"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connecting\n"
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=30)

    assert told == ("", "")
    assert process.returncode == 130
