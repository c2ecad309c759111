"""Several processes on one file."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest

from taskiq_sources.cli import SchedulesCommand
from taskiq_sources_conformance.build import at, listed, schedule, take
from taskiq_sources_sqlite import SQLiteStore

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes"),
]

OPENERS = 20
CLAIMANTS = 4
STORED = 2_000
TIMEOUT = 60

#: Imports once and forks, for the processes to be many, cheap and ready at the same moment. Each writes its result to a file.
PROGRAM = """
import asyncio, os, sys
from datetime import timedelta
from pathlib import Path
from taskiq_sources_conformance.build import NOW, outcome
from taskiq_sources_sqlite import SQLiteStore

path, part, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def open_only(store, name):
    return ["opened"]

async def claim_all(store, name):
    claimed = []
    while claims := await store.claim(NOW, claimant=name, lease=timedelta(hours=1), limit=37):
        lost = await store.settle([outcome(claim) for claim in claims])
        assert not lost, lost
        claimed += [claim.schedule.id for claim in claims]
    return claimed

async def claim_and_hang(store, name):
    claims = await store.claim(NOW, claimant=name, lease=timedelta(seconds=30), limit=10)
    def hang(connection):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM taskiq_sources_schedules")
        print(len(claims), os.getpid(), flush=True)
        sys.stdin.readline()
    await store._session.call(hang)

async def main(name):
    store = SQLiteStore(path)
    await store.open()
    result = await globals()[part](store, name)
    await store.close()
    Path(path).with_name(name).write_text("\\n".join(result))

gate, go = os.pipe()
children = []
for number in range(count):
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(gate, 1)
        asyncio.run(main(f"process-{number}"))
        sys.exit(0)
    children.append(child)
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def start(path: Path, part: str, count: int) -> subprocess.Popen[str]:
    """Start `count` processes that open the store at the same moment, and do `part` with it."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), part, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(path: Path, part: str, count: int) -> list[list[str]]:
    """Return what each of the processes has to say, all of which have to end well."""
    processes = start(path, part, count)
    _, errors = processes.communicate(timeout=TIMEOUT)
    assert (processes.returncode, errors) == (0, "")
    return [path.with_name(f"process-{number}").read_text().split() for number in range(count)]


async def test_many_processes_open_a_new_file_at_the_same_moment(path: Path) -> None:
    assert results(path, "open_only", OPENERS) == [["opened"]] * OPENERS

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) = max(version) FROM taskiq_sources_migrations").fetchone()[0]


async def test_every_occurrence_is_claimed_by_exactly_one_process(store: SQLiteStore, path: Path) -> None:
    await store.put([schedule(f"s-{number:04d}", next_run_at=at(-(number % 50) - 1)) for number in range(STORED)])

    claimed = Counter(chain.from_iterable(results(path, "claim_all", CLAIMANTS)))

    assert claimed == {f"s-{number:04d}": 1 for number in range(STORED)}


async def test_a_process_killed_in_a_transaction_leaves_leases_that_end_and_no_lock(store: SQLiteStore, path: Path) -> None:
    await store.put([schedule(f"s-{number}") for number in range(10)])
    processes = start(path, "claim_and_hang", 1)
    assert processes.stdout is not None
    claimed, victim = processes.stdout.readline().split()
    assert claimed == "10"

    os.kill(int(victim), signal.SIGKILL)
    processes.communicate(timeout=TIMEOUT)

    assert len(await listed(store)) == 10
    assert await take(store, now=at(29)) == []
    assert len(await take(store, now=at(30))) == 10


def test_schedules_are_listed_and_paused_from_a_shell(tmp_path: Path) -> None:
    """The command is installed, and what it writes is there for the next process."""
    (tmp_path / "shop.py").write_text(
        "import asyncio\n"
        "from taskiq import InMemoryBroker, TaskiqScheduler\n"
        "from taskiq_sources_sqlite import SQLiteScheduleSource\n"
        "source = SQLiteScheduleSource('sqlite:///shop.db')\n"
        "scheduler = TaskiqScheduler(broker := InMemoryBroker(), [source])\n"
        "@broker.task\n"
        "async def report() -> None: ...\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(report.kicker().with_schedule_id('nightly').schedule_by_cron(source, '0 3 * * *'))\n"
    )

    def said(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout

    said("shop.py")

    assert "nightly" in said("-m", "taskiq", "schedules", "list", "shop:scheduler")
    assert said("-m", "taskiq", "schedules", "pause", "sqlite:///shop.db", "nightly") == "nightly: paused\n"
    assert "nightly" in said("-m", "taskiq", "schedules", "list", "shop:scheduler", "--paused")


def test_a_shell_does_not_make_a_file_for_a_mistyped_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "typo.db"

    assert SchedulesCommand().exec(["list", f"sqlite:///{path}"]) == 1

    assert f"there is no file {str(path)!r}" in capsys.readouterr().err
    assert not path.exists()
