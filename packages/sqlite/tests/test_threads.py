"""The connection's thread: cancelled calls, event loops that end, and interpreters that exit."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from taskiq_sources.sql.columns import schedule_columns
from taskiq_sources_conformance.build import TIMEOUT, listed, schedule
from taskiq_sources_sqlite import SQLiteStore
from taskiq_sources_sqlite.file import File
from taskiq_sources_sqlite.operations import run

pytestmark = pytest.mark.anyio

EXIT_TIMEOUT = 120


class Gate:
    """Work for the connection's thread that waits inside a transaction until it is let through."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        self.entered.set()
        assert self.opened.wait(TIMEOUT)
        connection.execute("ROLLBACK")


async def until_set(event: threading.Event) -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, event.wait, TIMEOUT)


async def test_a_cancelled_call_returns_at_once_and_leaves_no_transaction_open(store: SQLiteStore, path: Path) -> None:
    gate = Gate()
    waiting = asyncio.ensure_future(store._session.call(gate))
    await until_set(gate.entered)
    writing = asyncio.ensure_future(store.put([schedule("a"), schedule("b")]))
    await asyncio.sleep(0)  # let it begin

    for task in (waiting, writing):
        task.cancel()
    cancelled = await asyncio.wait_for(asyncio.gather(waiting, writing, return_exceptions=True), TIMEOUT / 2)
    gate.opened.set()

    assert all(isinstance(result, asyncio.CancelledError) for result in cancelled)
    assert await listed(store) in ([], ["a", "b"])
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # raises if somebody holds the lock
        other.execute("ROLLBACK")


async def test_close_waits_for_what_was_asked_for(store: SQLiteStore) -> None:
    writing = asyncio.ensure_future(store.put([schedule()]))
    await asyncio.sleep(0)  # let it begin
    await store.close()

    assert await writing == frozenset()
    await store.open()
    assert await listed(store) == ["a"]


async def test_a_cancelled_open_leaves_no_thread_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(threading.enumerate())
    entered, let_through = threading.Event(), threading.Event()

    def slow_prepare(*_: object, **__: object) -> None:
        entered.set()
        assert let_through.wait(TIMEOUT)

    monkeypatch.setattr("taskiq_sources_sqlite.file.prepare", slow_prepare)
    opening = asyncio.ensure_future(SQLiteStore(path).open())
    await asyncio.sleep(0)  # let it begin
    await until_set(entered)
    opening.cancel()
    let_through.set()

    with pytest.raises(asyncio.CancelledError):
        await opening

    left = {thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("asyncio_")}
    for thread in left:
        thread.join(TIMEOUT)
    assert not [thread for thread in left if thread.is_alive()]


def test_an_error_in_the_middle_rolls_back(database: sqlite3.Connection) -> None:
    broken = schedule_columns([schedule("a"), schedule("b", task_name=None)])

    with pytest.raises(sqlite3.IntegrityError):
        run(database, "put", {**broken, "replace": True})

    assert not database.in_transaction
    assert database.execute("SELECT count(*) FROM taskiq_sources_schedules").fetchone()[0] == 0


PRELUDE = """
import asyncio, sys
from taskiq_sources_conformance.build import schedule
from taskiq_sources_sqlite import SQLiteStore
from taskiq_sources_sqlite.file import File
store = SQLiteStore(sys.argv[1])
"""


def run_python(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code, str(path)], capture_output=True, text=True, timeout=EXIT_TIMEOUT, check=False
    )


def test_a_process_that_forgets_to_close_still_exits_and_loses_nothing(path: Path) -> None:
    forgetful = run_python(
        """
async def main():
    await store.open()
    await store.put([schedule()])
asyncio.run(main())
print("end of main")
""",
        path,
    )

    assert (forgetful.returncode, forgetful.stdout) == (0, "end of main\n")
    assert forgetful.stderr == ""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM taskiq_sources_schedules").fetchall() == [("a",)]


def test_an_event_loop_that_ends_in_the_middle_of_a_call_waits_for_it(path: Path) -> None:
    interrupted = run_python(
        """
import threading, time
started = threading.Event()
def slow(connection):
    started.set()
    time.sleep(0.2)
    print("done")
async def main():
    await store.open()
    calling = asyncio.ensure_future(store._session.call(slow))
    await asyncio.get_running_loop().run_in_executor(None, started.wait)
asyncio.run(main())
print("end of main")
""",
        path,
    )

    assert (interrupted.returncode, interrupted.stdout, interrupted.stderr) == (0, "done\nend of main\n", "")


def test_a_store_can_be_used_from_one_event_loop_after_another(path: Path) -> None:
    store = SQLiteStore(path)

    asyncio.run(store.open())
    asyncio.run(store.put([schedule()]))
    found = asyncio.run(listed(store))
    asyncio.run(store.close())

    assert found == ["a"]


async def test_the_thread_gets_the_interpreter_soon_but_only_during_a_call(store: SQLiteStore) -> None:
    before = sys.getswitchinterval()

    assert await store._session.call(lambda _: sys.getswitchinterval()) < before
    assert sys.getswitchinterval() == pytest.approx(before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_store_is_closed_after_a_loop_that_was_closed_over_its_watcher(path: Path) -> None:
    """The watcher cannot be told any more, and the file is closed all the same."""
    store = SQLiteStore(path)

    async def watch(looked: asyncio.Event) -> None:
        async for _ in store.watch():
            looked.set()

    async def begin() -> tuple[File, asyncio.Future[None]]:
        looked = asyncio.Event()
        await store.open()
        watcher = asyncio.ensure_future(watch(looked))
        await looked.wait()  # it waits for the next look by now
        return store._session, watcher

    loop = asyncio.new_event_loop()
    file, watcher = loop.run_until_complete(begin())
    loop.close()

    asyncio.run(store.close())

    assert file._connection is None
    del watcher
    gc.collect()  # Python complains of the watcher here, and not in the next test
