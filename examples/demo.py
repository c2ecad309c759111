"""Two schedulers, one database, one SIGKILL: each occurrence is sent, and sent once.

Run it with ``nox -s demo``, or with ``python examples/demo.py`` where taskiq-sources and taskiq-sources-sqlite are installed. It
takes half a minute, works in a temporary directory and leaves nothing behind. Exit code 0 means: nothing lost, nothing twice.

What was to be sent is computed in here from the definitions; what was sent is what the tasks themselves wrote down when they were
executed. The history that taskiq-sources keeps is not consulted for either.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from taskiq_sources.clock import system_now
from taskiq_sources.definitions import occurrence_id
from taskiq_sources.occurrences import task_id_of
from taskiq_sources_sqlite import SQLiteScheduleSource

HERE = Path(__file__).parent
DURATION = timedelta(seconds=17)
KILL_AFTER = timedelta(seconds=7)
PATIENCE = timedelta(seconds=15)  # for what is late at the end, on a slow machine
START_TIMEOUT = 20.0
POLL = 0.02


@dataclass(frozen=True)
class Occurrence:
    """One due time of a schedule, and the task_id that its message has to have."""

    schedule_id: str
    due: datetime

    @property
    def task_id(self) -> str:
        return task_id_of(occurrence_id(self.schedule_id, self.due))


@dataclass(frozen=True)
class Execution:
    """What a task wrote down."""

    task_id: str
    at: datetime
    by: str
    pid: int


@dataclass
class Log:
    """The file that tasks append to, read line by line."""

    path: Path
    executions: list[Execution] = field(default_factory=list)
    started: set[str] = field(default_factory=set)
    start: datetime | None = None  # of the schedules
    _read: int = 0

    def new_executions(self) -> list[Execution]:
        known = len(self.executions)
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1] if self.path.exists() else []
        for line in lines[self._read :]:
            event = json.loads(line)
            if "started" in event:
                self.started.add(event["started"])
            elif "start" in event:
                self.start = datetime.fromisoformat(event["start"])
            else:
                at = datetime.fromisoformat(event["at"])
                self.executions.append(Execution(event["executed"], at, event["by"], event["pid"]))
        self._read = len(lines)
        return self.executions[known:]


@dataclass(frozen=True)
class Kill:
    """The SIGKILL: whom it hit, when, and what that scheduler was sending."""

    pid: int
    at: datetime
    sending: frozenset[Occurrence]  # as the store shows it; for the table, not for the verdict


def expected(start: datetime, duration: timedelta) -> list[Occurrence]:
    """Return what the definitions in demo_app.add_schedules mean, worked out second by second."""
    from demo_app import INTERVAL, ONE_OFFS  # it reads the environment when it is imported

    seconds = [start + timedelta(seconds=second) for second in range(int(duration.total_seconds()) + 1)]
    by_interval = [Occurrence("interval", moment) for moment in seconds[::INTERVAL]]
    by_cron = [Occurrence("cron", moment) for moment in seconds if moment.second % 5 == 0]
    once = [Occurrence(f"one-off-{number}", start + timedelta(seconds=second)) for number, second in enumerate(ONE_OFFS, 1)]
    return sorted([*by_interval, *by_cron, *once], key=lambda occurrence: occurrence.due)


async def main() -> int:
    with tempfile.TemporaryDirectory(prefix="taskiq-sources-demo-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        os.environ.update(DEMO_DIRECTORY=name, DEMO_NAME="demo", PYTHONDONTWRITEBYTECODE="1")
        sys.dont_write_bytecode = True
        processes: dict[str, Process] = {}
        try:
            return await run(directory, processes)
        finally:
            for process in processes.values():
                if process.returncode is None:
                    process.kill()
                await process.wait()


async def run(directory: Path, processes: dict[str, Process]) -> int:
    log = Log(directory / "log.jsonl")
    for name in ("A", "B"):
        processes[name] = await start_scheduler(name, directory)
        print(f"scheduler {name}: pid {processes[name].pid}, taskiq scheduler demo_app:scheduler --update-interval 1")
    if not await both_started(log, processes):
        print_logs(directory)
        return 1

    start = await add_schedules_from_a_third_process(log)
    if start is None:
        return 1
    occurrences = expected(start, DURATION)
    schedules = len({occurrence.schedule_id for occurrence in occurrences})
    seconds = DURATION.seconds
    print(f"{len(occurrences)} occurrences of {schedules} schedules will be due in the {seconds} s from {clock(start)} UTC")
    print("taskiq's loop ticks once a second, by its own clock: up to 1.5 s early by the store's clock is accepted\n")
    print("due           sent          late     by  what", flush=True)

    kill = await watch(directory, log, occurrences, processes, start)
    await stop(processes)
    return verdict(log, occurrences, kill, directory)


async def start_scheduler(name: str, directory: Path) -> Process:
    """Start a scheduler as anybody would, with the command line of taskiq."""
    command = ["-m", "taskiq", "scheduler", "demo_app:scheduler", "--update-interval", "1"]
    with (directory / f"scheduler-{name}.log").open("wb") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=HERE,
            env={**os.environ, "DEMO_NAME": name},
            stdout=output,
            stderr=output,
        )


async def both_started(log: Log, processes: dict[str, Process]) -> bool:
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT
    while log.started != set(processes):
        log.new_executions()
        late = asyncio.get_running_loop().time() > deadline
        if late or any(process.returncode is not None for process in processes.values()):
            return False
        await asyncio.sleep(POLL)
    return True


async def add_schedules_from_a_third_process(log: Log) -> datetime | None:
    process = await asyncio.create_subprocess_exec(sys.executable, "demo_app.py", str(DURATION.total_seconds()), cwd=HERE)
    if await process.wait() != 0:
        return None
    log.new_executions()
    print(f"a third process (pid {process.pid}) added the schedules and ended")
    return log.start


async def watch(
    directory: Path,
    log: Log,
    occurrences: list[Occurrence],
    processes: dict[str, Process],
    start: datetime,
) -> Kill | None:
    """Print what is sent, kill a scheduler that is sending, and return when no schedule is left, or patience is at an end."""
    source = SQLiteScheduleSource(directory / "schedules.db")
    by_task_id = {occurrence.task_id: occurrence for occurrence in occurrences}
    kill: Kill | None = None
    left = True
    try:
        while left and system_now() < start + DURATION + PATIENCE:
            for execution in log.new_executions():
                print(line(execution, by_task_id.get(execution.task_id), kill), flush=True)
            states = [info.state async for info in source.iter_schedules()]
            left = bool(states)
            if kill is None and system_now() > start + KILL_AFTER:
                holders = [state.claimant for state in states if state.claimant is not None]
                if holders:
                    kill = await kill_scheduler(holders[0], processes[holders[0]], source)
            await asyncio.sleep(POLL)
    finally:
        await source.shutdown()
    for execution in log.new_executions():
        print(line(execution, by_task_id.get(execution.task_id), kill))
    return kill


async def kill_scheduler(name: str, process: Process, source: SQLiteScheduleSource) -> Kill:
    process.kill()
    at = system_now()
    await process.wait()
    states = [info.state async for info in source.iter_schedules()]
    sending = frozenset(
        Occurrence(state.id, state.scheduled_for)
        for state in states
        if state.claimant == name and state.scheduled_for is not None
    )
    names = ", ".join(sorted(occurrence.schedule_id for occurrence in sending))
    print(f"{clock(at)}  SIGKILL to scheduler {name}, which was sending {names or 'nothing any more'}", flush=True)
    return Kill(process.pid, at, sending)


async def stop(processes: dict[str, Process]) -> None:
    for process in processes.values():
        if process.returncode is None:
            process.terminate()
    for process in processes.values():
        try:
            await asyncio.wait_for(process.wait(), timeout=5)
        except asyncio.TimeoutError:
            process.kill()


def line(execution: Execution, occurrence: Occurrence | None, kill: Kill | None) -> str:
    if occurrence is None:
        return f"{'?':<12}  {clock(execution.at)}  {'':>6}   {execution.by:<2}  task_id {execution.task_id}, which nobody expects"
    late = (execution.at - occurrence.due).total_seconds()
    taken_over = kill is not None and occurrence in kill.sending and execution.pid != kill.pid
    note = "  (taken over: the lease has ended)" if taken_over else ""
    return f"{clock(occurrence.due)}  {clock(execution.at)}  {late:5.1f} s  {execution.by:<2}  {occurrence.schedule_id}{note}"


def clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"


def verdict(log: Log, occurrences: list[Occurrence], kill: Kill | None, directory: Path) -> int:
    """Compare what was executed with what was due, occurrence by occurrence."""
    executions: dict[str, list[Execution]] = {occurrence.task_id: [] for occurrence in occurrences}
    unexpected = [execution for execution in log.executions if execution.task_id not in executions]
    for execution in log.executions:
        executions.setdefault(execution.task_id, []).append(execution)
    due = {occurrence.task_id for occurrence in occurrences}
    sent = sum(1 for task_id in due if executions[task_id])
    repeats = [repeat for task_id in due for repeat in repetitions(executions[task_id], kill)]
    twice = sum(1 for in_crash_window in repeats if not in_crash_window)
    again = len(repeats) - twice

    by = {name: sum(1 for execution in log.executions if execution.by == name) for name in ("A", "B")}
    print(f"\nsent by A: {by['A']}, by B: {by['B']}")
    if again:
        print(
            f"The SIGKILL fell between the broker's acknowledgement and its record: {again} message(s) came again, with the same "
            "task_id.\nNo store can close that window; a consumer that remembers task ids drops the second one."
        )
    print(f"{len(due)} occurrences, {sent} sent, {len(due) - sent} lost, {twice} twice")
    holds = kill is not None and sent == len(due) and not twice and not unexpected
    if not holds:
        print_logs(directory)
    return 0 if holds else 1


def repetitions(executions: list[Execution], kill: Kill | None) -> Iterator[bool]:
    """Yield, for each execution after the first, whether it is explained by the crash between acknowledgement and record.

    That takes: the first one was by the killed scheduler, within the second before it died, and the other one was by another.
    """
    for repeat in executions[1:]:
        first = executions[0]
        yield (
            kill is not None
            and first.pid == kill.pid != repeat.pid
            and kill.at - timedelta(seconds=1) <= first.at
            and len(executions) == 2  # once more, not again and again
        )


def print_logs(directory: Path) -> None:
    for path in sorted(directory.glob("scheduler-*.log")):
        print(f"\n--- {path.name}\n{path.read_text(encoding='utf-8', errors='replace')[-4000:]}")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
