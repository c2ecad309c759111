"""Processes that are forked while a source is open: they are told so, and their parents go on."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes"),
]

TIMEOUT = 60

#: A parent that opens the file and forks, and goes on when its child has ended. A child that hangs is ended by an alarm.
PROGRAM = """
import asyncio, multiprocessing, os, signal, sys
from taskiq_sources import SourceClosedError
from taskiq_sources_conformance.build import listed, schedule
from taskiq_sources_sqlite import SQLiteStore

path, before, after, how = sys.argv[1:]
store = SQLiteStore(path)

async def put(name):
    await store.open()
    await store.put([schedule(name)])

async def use():
    await store.open()
    return await listed(store)

async def use_anew():
    await store.close()
    return await use()

async def use_another():
    global store
    store = SQLiteStore(path)
    return await use()

def child():
    signal.alarm(20)
    try:
        print("child", asyncio.run(globals()[after]()), flush=True)
    except SourceClosedError as error:
        print("child", error, flush=True)
        assert "after the fork" in str(error)

async def fork():
    loop = asyncio.get_running_loop()
    await put("a")
    if os.fork() == 0:
        asyncio.events._set_running_loop(None)
        child()
        os._exit(0)
    assert os.wait()[1] == 0
    await put("b")

if before == "in a loop":
    asyncio.run(fork())
else:
    asyncio.run(put("a"))
    if before == "closed":
        asyncio.run(store.close())
    if how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0, process.exitcode
    elif os.fork() == 0:
        child()
        sys.exit(0)  # and so with all that an interpreter does when it ends
    else:
        assert os.wait()[1] == 0
    asyncio.run(put("b"))
print("parent", asyncio.run(listed(store)))
asyncio.run(store.close())
"""


def forked(path: Path, before: str, after: str, how: str = "os") -> list[str]:
    """Run the program, and return what child and parent have printed."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM, str(path), before, after, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return done.stdout.splitlines()


@pytest.mark.parametrize("how", ["os", "multiprocessing"])
@pytest.mark.parametrize("after", ["use", "use_anew", "use_another"])
def test_a_child_is_told_that_its_parent_had_the_file_open(path: Path, after: str, how: str) -> None:
    """Whatever it does: with the parent's connection there is no way to use that file safely."""
    child, parent = forked(path, "open", after, how)

    assert child.startswith(f"child the database {str(path)!r} was open when this process was forked")
    assert parent == "parent ['a', 'b']"


def test_a_child_of_a_running_event_loop_is_told_so(path: Path) -> None:
    """Its parent goes on in the same loop."""
    child, parent = forked(path, "in a loop", "use")

    assert "was open when this process was forked" in child
    assert parent == "parent ['a', 'b']"


@pytest.mark.parametrize("after", ["use", "use_another"])
def test_a_child_may_use_what_was_closed_before(path: Path, after: str) -> None:
    """A store that was shut down before the fork is opened after it."""
    assert forked(path, "closed", after) == ["child ['a']", "parent ['a', 'b']"]
