"""Virtual time for taskiq's own scheduler loop: its unmodified code runs for hours of scheduled time in a moment.

`SchedulerLoop.run` asks ``datetime.now`` and ``asyncio.sleep`` of its module. Both are replaced, for the length of a test, by a
clock that moves on only when every loop sleeps and every send is done. The store is real and is not told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any

import pytest
from taskiq import AsyncBroker, BrokerMessage, ScheduleSource, TaskiqScheduler
from taskiq.cli.scheduler import run as loop_module
from taskiq.cli.scheduler.run import SchedulerLoop

from taskiq_sources.clock import ManualClock
from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.models import Outcome
from taskiq_sources.store import ScheduleStore

#: How long, in real seconds, the loops may need to come to rest before the test is taken to hang.
_PATIENCE = 120.0

_STORE_METHODS = ("now", "put", "get", "page", "delete", "update", "claim", "renew", "settle", "next_due", "runs", "prune_runs")


@dataclass(frozen=True)
class Message:
    """What a broker was given, and when by the virtual clock."""

    sent_at: datetime
    task_id: str
    task_name: str
    labels: dict[str, Any]
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def schedule_id(self) -> str:
        """The label that tells which schedule it was."""
        return str(self.labels["schedule_id"])


class RecordingBroker(AsyncBroker):
    """A broker that writes down what it is given, and refuses it on demand."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self.messages: list[Message] = []
        self.refused: list[Message] = []
        self.fail_next = 0

    async def kick(self, message: BrokerMessage) -> None:
        """Take a message, or refuse it while ``fail_next`` lasts."""
        parsed = self.formatter.loads(message.message)
        entry = Message(await self._clock.now(), parsed.task_id, parsed.task_name, parsed.labels, parsed.args, parsed.kwargs)
        if self.fail_next > 0:
            self.fail_next -= 1
            self.refused.append(entry)
            msg = "the broker is told to fail"
            raise ConnectionError(msg)
        self.messages.append(entry)

    async def listen(self) -> AsyncGenerator[bytes, None]:
        """Wait forever: nothing is executed, what counts is what was sent."""
        await asyncio.Event().wait()
        yield b""

    def sent_at(self, schedule_id: str) -> list[datetime]:
        """Return when messages of a schedule were taken."""
        return [message.sent_at for message in self.messages if message.schedule_id == schedule_id]


class _EventLoop:
    """The event loop as the scheduler loop sees it: it keeps the tasks, and their errors, so that a test can wait for them."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[Any]] = set()
        self.errors: list[BaseException] = []

    def create_task(self, coroutine: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self.running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)


@dataclass
class _Runner:
    loop: SchedulerLoop
    task: asyncio.Task[None]
    event_loop: _EventLoop
    wakes_at: datetime | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class _LoopAsyncio:
    """``asyncio`` as the loop's module sees it: everything as ever, except that sleeping takes virtual time."""

    def __init__(self, world: VirtualTime) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, delay: float) -> None:
        await self._world.sleep_virtually(delay)


class VirtualTime:
    """Runs any number of scheduler loops in virtual time.

    Args:
        clock: The clock of the sources; moved on by `run_for`.
        skew: How far the loops' local wall clock is ahead of it.
    """

    def __init__(self, clock: ManualClock, skew: timedelta = timedelta(0)) -> None:
        self.clock = clock
        self.skew = skew
        self._now: datetime | None = None
        self._runners: dict[asyncio.Task[None], _Runner] = {}

    @contextmanager
    def installed(self) -> Iterator[VirtualTime]:
        """Replace what the loop's module knows of time, for the length of the block."""
        world = self

        class LoopDatetime(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # plain datetimes, as the loop's own
                return world.local_now().astimezone(tz)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop_module, "datetime", LoopDatetime)
            patch.setattr(loop_module, "asyncio", _LoopAsyncio(self))
            yield self

    def local_now(self) -> datetime:
        """Return the loops' local wall clock."""
        if self._now is None:
            msg = "run_for() has not been called yet"
            raise RuntimeError(msg)
        return self._now + self.skew

    async def sleep_virtually(self, delay: float) -> None:
        """Sleep on the virtual clock."""
        task = asyncio.current_task()
        runner = self._runners.get(task) if task is not None else None
        if runner is None or self._now is None:
            msg = "only a loop that was started with start() sleeps virtually"
            raise RuntimeError(msg)
        runner.wakes_at = self._now + timedelta(seconds=max(delay, 0))
        runner.wake.clear()
        await runner.wake.wait()

    async def start(self, scheduler: TaskiqScheduler, **arguments: Any) -> SchedulerLoop:
        """Start a loop as ``taskiq scheduler`` does, with the arguments of `SchedulerLoop.run`."""
        self._now = await self.clock.now()
        event_loop = _EventLoop()
        loop = SchedulerLoop(scheduler, event_loop=event_loop)  # type: ignore[arg-type]  # create_task is all that it calls
        task = asyncio.create_task(loop.run(**arguments))
        self._runners[task] = _Runner(loop, task, event_loop)
        await self._come_to_rest()
        return loop

    async def kill(self, loop: SchedulerLoop) -> None:
        """End a loop at once: what it was sending is cut off where it stands."""
        runner = next(runner for runner in self._runners.values() if runner.loop is loop)
        del self._runners[runner.task]
        doomed = [runner.task, *runner.event_loop.running]
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)

    async def kill_all(self) -> None:
        """End all loops."""
        for runner in list(self._runners.values()):
            await self.kill(runner.loop)

    async def run_for(self, duration: timedelta) -> None:
        """Let `duration` pass; loops tick whenever they are due. Without a loop, time just passes."""
        self._now = await self.clock.now()
        end = self._now + duration
        while True:
            await self._come_to_rest()
            wakes = [runner.wakes_at for runner in self._runners.values() if runner.wakes_at is not None]
            self._now = min([end, *wakes])
            self.clock.set(self._now)
            due = [runner for runner in self._runners.values() if runner.wakes_at is not None and runner.wakes_at <= self._now]
            if self._now >= end and not due:
                return
            for runner in due:
                runner.wakes_at = None
                runner.wake.set()

    async def _come_to_rest(self) -> None:
        """Wait until every loop sleeps, and nothing is being sent or refreshed."""
        give_up_at = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            await asyncio.sleep(0)
            for runner in self._runners.values():
                if runner.task.done():
                    await runner.task  # a loop that fell over: its error is the test's error
            busy = [task for runner in self._runners.values() for task in runner.event_loop.running]
            if busy:
                await asyncio.wait(busy, timeout=1)
            elif all(runner.wakes_at is not None for runner in self._runners.values()):
                return
            if asyncio.get_running_loop().time() > give_up_at:
                pytest.fail(f"the scheduler loops do not come to rest: {busy}")


@asynccontextmanager
async def outage(store: ScheduleStore) -> AsyncIterator[None]:
    """Let every call of this store handle fail, for the length of the block, as if its server were gone."""

    async def gone(*_args: object, **_kwargs: object) -> None:
        msg = "the store is told to be gone"
        raise SourceConnectionError(msg)

    for name in _STORE_METHODS:
        setattr(store, name, gone)
    try:
        yield
    finally:
        for name in _STORE_METHODS:
            delattr(store, name)


def lose_an_answer(store: ScheduleStore) -> None:
    """Let the next `settle` of this store handle fail when it is done, as if the connection broke before the answer came."""

    async def settle(outcomes: Sequence[Outcome]) -> frozenset[str]:
        del store.settle
        await store.settle(outcomes)
        msg = "the answer is told to be lost"
        raise SourceConnectionError(msg)

    store.settle = settle  # type: ignore[method-assign]


class ForeignSource(ScheduleSource):
    """A source of somebody else's, with schedules that never change."""

    def __init__(self, schedules: list[Any]) -> None:
        self._schedules = schedules

    async def get_schedules(self) -> list[Any]:
        """Return the schedules."""
        return [schedule.model_copy(deep=True) for schedule in self._schedules]
