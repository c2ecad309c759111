"""What asyncio of Python 3.10 leaves out. No engine, no store."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

#: Seconds that a task may keep event loop and interpreter when nothing makes it wait: threads need both, and a driver takes
#: several turns of the loop to read an answer.
SLICE: Final = 0.0003

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


async def in_slices(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Return what `work` makes of each of `items`. Others get their turn by time, not by number: one may take long."""
    results: list[_Result] = []
    pause_at = time.perf_counter() + SLICE
    for item in items:
        results.append(work(item))
        if time.perf_counter() > pause_at:
            await asyncio.sleep(0)
            pause_at = time.perf_counter() + SLICE
    return results


async def event_or_timeout(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set, or for `seconds`.

    Not by `asyncio.wait_for`: before Python 3.12 it forgets a cancellation that comes just after the event.
    """
    if event.is_set():
        return
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=seconds)
    finally:
        waiting.cancel()


async def end(tasks: Iterable[asyncio.Future[Any]], *, within: float | None = None) -> set[asyncio.Future[Any]]:
    """Cancel tasks, and wait until they have ended, however they do. Those of an event loop that has ended have ended with it.

    Args:
        tasks: The tasks.
        within: For how many seconds to wait at most; None for as long as it takes.

    Returns:
        Those that have not ended.
    """
    ending: list[asyncio.Future[Any]] = [task for task in tasks if task.get_loop() is asyncio.get_running_loop()]
    for task in ending:
        task.cancel()
    if not ending:
        return set()
    done: set[asyncio.Future[Any]]
    left: set[asyncio.Future[Any]]
    done, left = await asyncio.wait(ending, timeout=within)
    for task in done:
        if not task.cancelled():
            task.exception()  # which is told elsewhere, if at all
    return left


def fault_of(tasks: Iterable[asyncio.Future[None]], *, name: str) -> BaseException | None:
    """Return what the first of these that did not end by itself has ended with.

    Args:
        tasks: The tasks; whoever works for ever never ends by itself.
        name: The source, for errors.
    """
    for task in tasks:
        if task.cancelled():  # nobody did it but a driver whose own futures were cancelled
            return RuntimeError(f"{name}: a call was cancelled from within the store")
        if task.done() and (fault := task.exception()) is not None:
            if isinstance(fault, GeneratorExit):  # which would be taken for the end of whoever waits for this
                return RuntimeError(f"{name}: a call raised GeneratorExit")
            return fault
    return None


async def sparsely(changes: AsyncIterator[None], every: float) -> AsyncGenerator[None, None]:
    """Yield what comes, but after two that came soon after one another no more than one each `every` seconds.

    When this is closed, so is `changes`.
    """
    loop, last = asyncio.get_running_loop(), -2 * every
    try:
        async for change in changes:
            yield change
            is_soon, last = loop.time() - last < 2 * every, loop.time()
            if is_soon:
                await asyncio.sleep(every)
    finally:
        if isinstance(changes, AsyncGenerator):
            await changes.aclose()


class Background:
    """Has things done to their end though nobody waits for it, whatever they end with."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()  # the event loop does not keep them

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Have `work` done."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()


class Turnstile:
    """Lets so many in at once, the others in the order in which they have come. Of use in one event loop only.

    Not asyncio's semaphore or lock: these know no bound on waiting, and `asyncio.wait_for` before Python 3.12 loses a turn, or a
    cancellation, that comes with the other; nor do they tell whether a turn could be had at once.

    Args:
        at_once: How many.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()  # nobody does while a turn is free

    async def take(self, *, within: float) -> bool:
        """Wait for a turn, for `within` seconds at most; return whether it has come. Who has it calls `pass_on` in the end."""
        if self._free:
            self._free -= 1
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait({turn}, timeout=within)
        except BaseException:
            if turn.done():
                self.pass_on()
            raise
        finally:
            if not turn.done():
                self._waiting.remove(turn)
        return turn.done()

    def pass_on(self) -> None:
        """Give the turn to the one who has waited longest."""
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._free += 1


class LoopLock:
    """A lock for what is used in one event loop after another: asyncio's own stays with the first loop that waited for it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    def here(self) -> asyncio.Lock:
        """Return the lock for the running loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock


class LoopEvent:
    """An event for what is waited for in one event loop after another. Who waited in one that was closed waits no more."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._is_set

    def set(self) -> None:
        """Wake all who wait."""
        self._is_set = True
        waiters, self._waiters = self._waiters, set()
        for loop, event in waiters:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def wait(self, seconds: float) -> None:
        """Wait until it has happened, or for `seconds`."""
        if self._is_set:
            return
        waiter = asyncio.get_running_loop(), asyncio.Event()
        self._waiters.add(waiter)
        try:
            await event_or_timeout(waiter[1], seconds)
        finally:
            self._waiters.discard(waiter)


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` as a whole: whoever is cancelled meanwhile waits for its end first. A second cancellation ends the waiting."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        with _shielded():
            await asyncio.wait([working])
        raise


def _shielded() -> AbstractContextManager[object]:
    """Return what keeps anyio, if it is used, from cancelling again and again: that would be the second time."""
    anyio = sys.modules.get("anyio")
    return nullcontext() if anyio is None else anyio.CancelScope(shield=True)


def uncancel(task: asyncio.Task[Any] | None) -> None:
    """Tell Python 3.11 and later that a cancellation was meant for something inside the task and has been dealt with."""
    function: Callable[[], int] | None = getattr(task, "uncancel", None)
    if function is not None:
        function()
