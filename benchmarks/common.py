"""What the benchmarks share: places for data, rows, a broker that does nothing, scheduler processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from taskiq import AsyncBroker, BrokerMessage

from taskiq_sources import ScheduledTask, ScheduleSource, definitions, source_from_url
from taskiq_sources.definitions import Defaults
from taskiq_sources.memory import InMemoryScheduleSource, MemoryData
from taskiq_sources.models import StoredSchedule
from taskiq_sources.settings import DispatchSettings
from taskiq_sources_conformance.servers import url_of

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)

#: Backends, and the kind of server that each runs on.
BACKENDS = {
    "memory": "",
    "sqlite": "",
    "redis": "redis",
    "postgres": "postgres",
    "mongo": "mongo_replica_set",
}

#: Sends at once, unless a scheduler is told otherwise.
AT_ONCE = DispatchSettings().max_concurrent_sends

_CHILD = Path(__file__).with_name("child.py")


class NullBroker(AsyncBroker):
    """Takes messages, notes when, and does nothing with them.

    Args:
        takes: Seconds that it takes for each.
    """

    def __init__(self, takes: float = 0.0) -> None:
        super().__init__()
        self._takes = takes
        self.sent: list[float] = []

    async def kick(self, message: BrokerMessage) -> None:
        del message
        if self._takes:
            await asyncio.sleep(self._takes)
        self.sent.append(time.perf_counter())

    async def listen(self) -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""


@dataclass(frozen=True)
class Place:
    """Where a benchmark keeps its schedules, and how sources on them are made.

    Attributes:
        backend: The backend.
        url: The URL; None for memory.
        options: Keyword arguments of the source that make the place this benchmark's own.
        make: Returns a new source.
    """

    backend: str
    url: str | None
    options: dict[str, Any]
    make: Callable[..., ScheduleSource]


def new_place(backend: str, directory: Path) -> Place:
    """Return a place that is empty."""
    name = f"bench_{uuid.uuid4().hex[:8]}_"
    if backend == "memory":
        data = MemoryData()
        return Place(backend, None, {}, lambda **options: InMemoryScheduleSource(data, **options))
    url = f"sqlite:///{directory}/{name}.db" if backend == "sqlite" else url_of(BACKENDS[backend])
    own = {} if backend == "sqlite" else {"prefix": name}
    return Place(backend, url, own, lambda **options: source_from_url(url, **own, **options))


def rows(number: int, *, due: datetime | None) -> list[StoredSchedule]:
    """Return one-offs due then, or in a year."""
    given = {"task_name": "bench:task", "labels": {"queue": "a"}, "args": [1, "two"], "kwargs": {"three": 3}}
    made = []
    for _ in range(number):
        task = ScheduledTask(**given, schedule_id=uuid.uuid4().hex, time=due or NOW + timedelta(days=365))
        made.append(definitions.store_form(definitions.define(task, Defaults()), NOW, Defaults()))
    return made


async def put(source: ScheduleSource, schedules: list[StoredSchedule]) -> None:
    """Store rows."""
    for start in range(0, len(schedules), 1000):
        await source.store.put(schedules[start : start + 1000])


async def fill(source: ScheduleSource, number: int) -> None:
    """Store so many schedules that are not due."""
    for start in range(0, number, 20_000):
        await put(source, rows(min(20_000, number - start), due=None))


async def burst_of(source: ScheduleSource, number: int, due: datetime) -> None:
    """Store one-offs that are due at one instant, as an application would."""
    fields = {"task_name": "bench:task", "labels": {}, "args": [1, "two"], "kwargs": {"three": 3}, "time": due}
    await source.add_schedules(ScheduledTask(**fields) for _ in range(number))


@dataclass
class Child:
    """A scheduler in a process of its own."""

    process: subprocess.Popen[str]

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100  # utime and stime, in hundredths (man 5 proc)

    def memory(self) -> float:
        """Return the MiB that it has in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        [resident] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(resident.split()[1]) / 1024

    def stopped(self) -> dict[str, Any]:
        """Stop it, and return what it has done."""
        output, _ = self.process.communicate("", timeout=60)
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        return result


@contextmanager
def child(place: Place, *, takes: float = 0.0, at_once: int = AT_ONCE, watched: bool = False) -> Iterator[Child]:
    """Run a scheduler on a place; it is ready when this is entered. One that is watched tells when it had settled everything."""
    options = {"takes": takes, "at_once": at_once, "watched": watched}
    settings = json.dumps({"url": place.url, "options": place.options, **options})
    process = subprocess.Popen(
        [sys.executable, str(_CHILD), settings],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Child(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
