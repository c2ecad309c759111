"""Sources, a broker and schedulers in virtual time, for tests of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import taskiq
from taskiq import AsyncBroker, BrokerMessage

from taskiq_sources import DurableScheduler, InMemoryScheduleSource, ScheduledTask, ScheduleOptions, ScheduleSource
from taskiq_sources.memory import MemoryData
from taskiq_sources.models import Run
from taskiq_sources_conformance.virtual_loop import LoopClock

START = datetime(2030, 5, 14, 12, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)


class Broker(AsyncBroker):
    """Writes down what it is given and when; may be told to fail, to be slow or to hang."""

    def __init__(self, clock: LoopClock) -> None:
        super().__init__()
        self.clock = clock
        self.sent: list[tuple[datetime, taskiq.TaskiqMessage]] = []
        self.tried: list[datetime] = []
        self.fails: Callable[[taskiq.TaskiqMessage], bool] = lambda _message: False
        self.hangs: Callable[[taskiq.TaskiqMessage], bool] = lambda _message: False
        self.takes = 0.0
        self.running = 0
        self.most_running = 0

    async def kick(self, message: BrokerMessage) -> None:
        parsed = self.formatter.loads(message.message)
        self.tried.append(self.clock.read())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.hangs(parsed):
                await asyncio.sleep(10**6)
            if self.takes:
                await asyncio.sleep(self.takes)
            if self.fails(parsed):
                raise ConnectionError("no broker")
        finally:
            self.running -= 1
        self.sent.append((self.clock.read(), parsed))

    async def listen(self) -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""

    def args(self) -> list[Any]:
        return [message.args[0] for _, message in self.sent]

    def lags(self) -> list[timedelta]:
        """How long after its nominal time each message was sent."""
        return [at - datetime.fromisoformat(message.labels["scheduled_for"]) for at, message in self.sent]


class World:
    """Sources on common data, a broker, and schedulers that are stopped in the end."""

    def __init__(self) -> None:
        self.clock = LoopClock(START)
        self.broker = Broker(self.clock)
        self.data = MemoryData()
        self.source = self.another_source()
        self.schedulers: list[DurableScheduler] = []

    def another_source(self, **options: Any) -> InMemoryScheduleSource:
        return InMemoryScheduleSource(self.data, clock=self.clock, **options)

    async def scheduler(
        self, source: ScheduleSource | None = None, *, kind: type[DurableScheduler] = DurableScheduler, **options: Any
    ) -> DurableScheduler:
        scheduler = kind(self.broker, [source or self.another_source()], **options)
        self.schedulers.append(scheduler)
        await scheduler.start()
        return scheduler

    async def add(self, number: int = 1, **fields: Any) -> None:
        await self.source.add_schedules(task(str(index), args=[index], **fields) for index in range(number))

    async def runs(self) -> list[Run]:
        return [run async for run in self.source.runs()]


def task(schedule_id: str, **fields: Any) -> ScheduledTask:
    options = {name: fields.pop(name) for name in list(fields) if name in ScheduleOptions.model_fields}
    given = {"task_name": "job", "labels": {}, "args": [], "kwargs": {}, "schedule_id": schedule_id, **fields}
    return ScheduledTask(**given, schedule_options=ScheduleOptions(**options))
