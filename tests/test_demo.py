"""The demonstration holds, and would say so if it did not."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
START = datetime(2030, 5, 14, 12, tzinfo=timezone.utc)
KILLED, SURVIVOR = 4001, 4002


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_the_demonstration_holds() -> None:
    """With two real schedulers on one SQLite file, one of them killed while it sends, nothing is lost and nothing twice."""
    completed = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")], check=False, capture_output=True, text=True, timeout=110
    )

    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.splitlines()[-1].endswith("0 lost, 0 twice")
    assert "SIGKILL" in completed.stdout


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("examples_demo", EXAMPLES / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def occurrences(demo: ModuleType) -> list[Any]:
    return [demo.Occurrence("interval", START + timedelta(seconds=second)) for second in range(0, 10, 2)]


@pytest.fixture
def log(demo: ModuleType, occurrences: list[Any], tmp_path: Path) -> Any:
    """What a good run writes: the first half by A, which is killed, the rest by B."""
    executions = [
        demo.Execution(occurrence.task_id, occurrence.due, *(("A", KILLED) if number < 2 else ("B", SURVIVOR)))
        for number, occurrence in enumerate(occurrences)
    ]
    return demo.Log(tmp_path / "log.jsonl", executions)


@pytest.fixture
def kill(demo: ModuleType) -> Any:
    return demo.Kill(KILLED, START + timedelta(seconds=2, milliseconds=5), frozenset())


def test_a_good_run_is_told_as_such(demo: ModuleType, log: Any, occurrences: Any, kill: Any, tmp_path: Path, capsys: Any) -> None:
    """Everything once is exit code 0, and the last line says so."""
    assert demo.verdict(log, occurrences, kill, tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "5 occurrences, 5 sent, 0 lost, 0 twice"


def test_a_lost_occurrence_fails(demo: ModuleType, log: Any, occurrences: Any, kill: Any, tmp_path: Path, capsys: Any) -> None:
    """An occurrence that no task executed is lost."""
    del log.executions[3]

    assert demo.verdict(log, occurrences, kill, tmp_path) == 1
    assert "5 occurrences, 4 sent, 1 lost, 0 twice" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "by", "pid"),
    [
        pytest.param(3, "B", SURVIVOR, id="by the survivor itself"),
        pytest.param(1, "A", KILLED, id="by the killed one itself"),
        pytest.param(0, "B", SURVIVOR, id="long before the kill"),
    ],
)
def test_a_repetition_fails(
    demo: ModuleType, log: Any, occurrences: Any, kill: Any, tmp_path: Path, number: int, by: str, pid: int
) -> None:
    """A second execution that the crash does not explain is twice, although its task_id is the same."""
    log.executions.append(replace(log.executions[number], by=by, pid=pid, at=START + timedelta(seconds=9)))

    assert demo.verdict(log, occurrences, kill, tmp_path) == 1


def test_a_message_nobody_expects_fails(demo: ModuleType, log: Any, occurrences: Any, kill: Any, tmp_path: Path) -> None:
    """A task_id that no occurrence has fails the run: the same occurrence under another id would be one."""
    log.executions.append(replace(log.executions[3], task_id="another"))

    assert demo.verdict(log, occurrences, kill, tmp_path) == 1


def test_a_run_without_a_kill_fails(demo: ModuleType, log: Any, occurrences: Any, tmp_path: Path) -> None:
    """A run in which nobody was killed proves nothing."""
    assert demo.verdict(log, occurrences, None, tmp_path) == 1


def test_the_crash_window_is_told_apart(
    demo: ModuleType, log: Any, occurrences: Any, kill: Any, tmp_path: Path, capsys: Any
) -> None:
    """What was executed just before the kill and again by the survivor is not twice, but it is mentioned."""
    log.executions.append(replace(log.executions[1], by="B", pid=SURVIVOR, at=START + timedelta(seconds=9)))

    assert demo.verdict(log, occurrences, kill, tmp_path) == 0
    assert "1 message(s) came again, with the same task_id" in capsys.readouterr().out
