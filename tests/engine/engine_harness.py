"""What the tests of the engine share: real scheduler processes, the log that they write, and the verdict over it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from taskiq_sources import ScheduledTask, ScheduleOptions, ScheduleSource, source_from_url
from taskiq_sources.clock import system_now
from taskiq_sources.models import Run

APPS = Path(__file__).with_name("apps")
DIED = 86

#: How long anything may take that is known to come. Far more than it needs: a crowded machine is not a failure.
PATIENCE = 150.0
POLL = 0.02

#: Package of a backend, and what its own part of a server's data is called: sources of other tests do not see it.
SERVERS: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "redis": ("taskiq_sources_redis", lambda name: {"prefix": name}),
    "postgres": ("taskiq_sources_postgres", lambda name: {"prefix": f"{name}_"}),
    "mongo": ("taskiq_sources_mongo", lambda name: {"prefix": f"{name}_"}),
    "mongo_replica_set": ("taskiq_sources_mongo", lambda name: {"prefix": f"{name}_"}),
}
BACKENDS = ["sqlite", *SERVERS]


@dataclass(frozen=True)
class Place:
    """Where schedules are kept during a test: a URL and the keyword arguments of its source."""

    kind: str
    url: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """A message that the broker took."""

    task_id: str
    schedule_id: str
    scheduled_for: datetime
    by: str
    at: float

    @property
    def occurrence(self) -> tuple[str, datetime]:
        return self.schedule_id, self.scheduled_for


class Log:
    """The file that all processes append to, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._events: list[dict[str, Any]] = []

    @property
    def events(self) -> list[dict[str, Any]]:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._offset += len(whole)
            self._events += [json.loads(line) for line in whole.splitlines()]
        return self._events

    def of(self, what: str, by: str | None = None) -> list[dict[str, Any]]:
        return [event for event in self.events if event["what"] == what and by in {None, event["by"]}]

    @property
    def sent(self) -> list[Sent]:
        return [
            Sent(
                event["task_id"],
                event["schedule_id"],
                datetime.fromisoformat(event["scheduled_for"]),
                event["by"],
                event["at"],
            )
            for event in self.of("sent")
        ]

    def settled(self) -> set[tuple[str, str]]:
        """Who recorded which send, as (scheduler, task_id)."""
        return {(event["by"], task_id) for event in self.of("settled") for task_id in event["task_ids"]}


@dataclass
class Scheduler:
    """A ``taskiq scheduler`` process."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path
    log: Log
    #: When it was paused, and when it was killed, on the monotonic clock that all processes share.
    hits: list[float] = field(default_factory=list)
    #: From when until when it was paused.
    pauses: list[tuple[float, float]] = field(default_factory=list)
    killed: bool = False

    @property
    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"scheduler {self.name} ended with {self.process.returncode}:\n{self.text}")
        return bool(self.log.of("ready", self.name))

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    async def ready(self) -> Scheduler:
        await until(lambda: self.is_ready, f"scheduler {self.name} is ready", lambda: self.text)
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.hits.append(time.monotonic())
        self.killed = True

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)  # from here on it does nothing
        self.hits.append(time.monotonic())

    def resume(self) -> None:
        self.pauses.append((self.hits[-1], time.monotonic()))
        self.signal(signal.SIGCONT)

    async def stopped(self) -> int:
        """Tell it to stop once it is ready, and return how it ended."""
        await self.ready()
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        await until(lambda: self.process.poll() is not None, f"scheduler {self.name} has ended", lambda: self.text)
        return int(self.process.returncode)


class Stage:
    """A store, a directory, and the scheduler processes that a test starts."""

    def __init__(self, directory: Path, place: Place) -> None:
        self.directory = directory
        self.place = place
        self.log = Log(directory / "log.jsonl")
        self.schedulers: list[Scheduler] = []
        self._numbers = itertools.count(1)

    def start(
        self,
        *,
        app: str = "engine_app:scheduler",
        lease: float = 3.0,
        source: dict[str, Any] | None = None,
        scheduler: dict[str, Any] | None = None,
        command: Iterable[str] = (),
        arguments: Iterable[str] = (),
        code: str | None = None,
        **config: Any,
    ) -> Scheduler:
        """Start a scheduler. Options that are floating-point numbers are seconds.

        Args:
            app: What to start.
            lease: The lease of its source, in seconds.
            source: Further options of its source.
            scheduler: Options of `DurableScheduler`.
            command: A command to run it under.
            arguments: More arguments of ``taskiq scheduler``.
            code: A program to run instead of ``taskiq scheduler``.
            **config: What else the application is told; see there.
        """
        name = f"S{next(self._numbers)}"
        output = self.directory / f"{name}.out"
        told = {
            "name": name,
            "directory": str(self.directory),
            "url": self.place.url,
            "source": {"lease": lease, **self.place.options, **(source or {})},
            "scheduler": {"drain_timeout": 5.0, **(scheduler or {})},
            **config,
        }
        program = ["-m", "taskiq", "scheduler", app, "--app-dir", str(APPS), *arguments] if code is None else ["-c", code]
        path = os.pathsep.join(filter(None, [str(APPS), os.environ.get("PYTHONPATH")]))
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*command, sys.executable, *program],
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, "ENGINE_CONFIG": json.dumps(told)},
            )
        started = Scheduler(name, process, output, self.log)
        self.schedulers.append(started)
        return started

    async def start_many(self, number: int, **options: Any) -> list[Scheduler]:
        started = [self.start(**options) for _ in range(number)]
        return [await one.ready() for one in started]

    @property
    def living(self) -> list[Scheduler]:
        return [one for one in self.schedulers if one.process.poll() is None]

    @asynccontextmanager
    async def source(self, **options: Any) -> AsyncIterator[ScheduleSource]:
        """The same schedules, seen from the test's own process."""
        source = source_from_url(self.place.url, **{**self.place.options, **options})
        await source.startup()
        try:
            yield source
        finally:
            await source.shutdown()

    async def add(self, tasks: Iterable[ScheduledTask], **options: Any) -> None:
        async with self.source(**options) as source:
            await source.add_schedules(tasks)

    async def runs(self) -> list[Run]:
        async with self.source() as source:
            return [run async for run in source.runs()]

    async def until_finished(self) -> None:
        """Wait until the store is empty: every schedule has run its course."""
        deadline = time.monotonic() + PATIENCE
        async with self.source() as source:
            while left := [info async for info in source.iter_schedules()]:
                assert time.monotonic() < deadline, f"still there after {PATIENCE:.0f} s: {left[:3]}\n{self.report()}"
                await asyncio.sleep(5 * POLL)

    async def until_sent(self, number: int) -> None:
        """Wait until the broker has taken `number` messages."""
        await until(lambda: len(self.log.sent) >= number, f"{number} messages are sent", self.report)

    async def stop_all(self) -> list[int]:
        """Tell all that live to stop, one after the other, and return how all ended that nobody has killed."""
        for one in self.living:
            await one.stopped()
        return [await one.ended() for one in self.schedulers if not one.killed]

    def report(self) -> str:
        """What to show when something went wrong."""
        counts: dict[str, int] = defaultdict(int)
        for event in self.log.events:
            counts[f"{event['by']} {event['what']}"] += 1
        hits = {one.name: one.hits for one in self.schedulers if one.hits}
        outputs = "".join(f"\n--- {one.name}\n{one.text[-1500:]}" for one in self.schedulers)
        return f"hit: {hits}\ncounts: {dict(counts)}{outputs}"

    def close(self) -> None:
        for one in self.schedulers:
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait()


async def until(condition: Callable[[], bool], what: str, report: Callable[[], str], patience: float = PATIENCE) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"not after {patience:.0f} s: {what}\n{report()}"
        await asyncio.sleep(POLL)


# -- the verdict -------------------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What was really sent, compared with what should have been."""

    lost: list[tuple[str, datetime]] = field(default_factory=list)
    unexpected: list[Sent] = field(default_factory=list)
    #: Twins of an occurrence that carry different task ids, or a task id that another occurrence has.
    misnamed: list[list[Sent]] = field(default_factory=list)
    #: Sent again although every earlier send was on record, or was made by a scheduler that nobody had hit.
    doubled: list[list[Sent]] = field(default_factory=list)
    #: Sent again because a scheduler was hit between the broker's acknowledgement and its record: nobody can avoid that.
    repeated: list[list[Sent]] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not (self.lost or self.unexpected or self.misnamed or self.doubled)


#: How long before a kill or a pause a send can at most have been made without being on record, on a crowded machine. What was
#: on record is told exactly by the log; this bounds what it may excuse.
CRASH_WINDOW = 30.0

#: How long after it goes on a scheduler may hand over the one message that it was about to, when it was paused. It looks at its
#: lease before each send; between that look and the broker nobody can stop it.
LAST_WORD = 1.0


def verdict(
    expected: set[tuple[str, datetime]],
    sent: list[Sent],
    settled: set[tuple[str, str]],
    schedulers: Iterable[Scheduler],
) -> Verdict:
    """Judge a run.

    Args:
        expected: All occurrences that were due.
        sent: What the broker took.
        settled: Who recorded which send.
        schedulers: All that took part.
    """
    by_name = {one.name: one for one in schedulers}
    spoken: set[tuple[str, float]] = set()
    result = Verdict()
    by_occurrence: dict[tuple[str, datetime], list[Sent]] = defaultdict(list)
    by_task_id: dict[str, set[tuple[str, datetime]]] = defaultdict(set)
    for message in sorted(sent, key=lambda message: message.at):
        by_occurrence[message.occurrence].append(message)
        by_task_id[message.task_id].add(message.occurrence)
    result.lost = sorted(expected - by_occurrence.keys())
    result.unexpected = [message for message in sent if message.occurrence not in expected]
    for twins in by_occurrence.values():
        if len({twin.task_id for twin in twins}) > 1 or len(by_task_id[twins[0].task_id]) > 1:
            result.misnamed.append(twins)
        if len(twins) > 1:
            excused = all(
                _fell_into_crash_window(one, later, settled, by_name[one.by])
                or _is_last_word(one, later[0], by_name[later[0].by], spoken)
                for one, *later in (twins[place:] for place in range(len(twins) - 1))
            )
            (result.repeated if excused else result.doubled).append(twins)
    return result


def _fell_into_crash_window(message: Sent, later: list[Sent], settled: set[tuple[str, str]], sender: Scheduler) -> bool:
    was_hit = any(hit - CRASH_WINDOW <= message.at <= hit for hit in sender.hits)
    return was_hit and not _is_on_record(message, later, settled)


def _is_last_word(message: Sent, twin: Sent, sender: Scheduler, spoken: set[tuple[str, float]]) -> bool:
    """Whether the twin is the one message that its sender was about to hand over when it was paused, and another one sent it."""
    for begin, end in sender.pauses:
        if begin <= message.at <= end <= twin.at <= end + LAST_WORD and (twin.by, begin) not in spoken:
            spoken.add((twin.by, begin))
            return True
    return False


def _is_on_record(message: Sent, later: list[Sent], settled: set[tuple[str, str]]) -> bool:
    """Whether its sender recorded it. One that sent the occurrence again, after a pause, may have recorded that."""
    return (message.by, message.task_id) in settled and message.by not in {twin.by for twin in later}


# -- schedules ---------------------------------------------------------------------------------------------------------------


def task(schedule_id: str, *, options: dict[str, Any] | None = None, **fields: Any) -> ScheduledTask:
    """Return a schedule of the application's task."""
    given = {"task_name": "job", "labels": {}, "args": [], "kwargs": {}, "schedule_id": schedule_id, **fields}
    return ScheduledTask(**given, schedule_options=ScheduleOptions(**options) if options else None)


def backlog(number: int, *, late: timedelta = timedelta(minutes=1), **fields: Any) -> list[ScheduledTask]:
    """Return one-offs that have been due for a while."""
    moment = system_now() - late
    return [task(f"s{index:04}", time=moment + timedelta(milliseconds=index), **fields) for index in range(number)]
