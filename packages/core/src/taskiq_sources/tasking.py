"""What asyncio of Python 3.10 leaves out. No engine, no store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from typing import Any


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


async def end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait until they have ended, however they do. Those of an event loop that was closed have ended with it."""
    ending = [task for task in tasks if not task.get_loop().is_closed()]
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def sparsely(changes: AsyncIterable[None], every: float) -> AsyncIterator[None]:
    """Yield what comes, but after two that came soon after one another no more than one each `every` seconds."""
    loop, last = asyncio.get_running_loop(), -2 * every
    async for change in changes:
        yield change
        is_soon, last = loop.time() - last < 2 * every, loop.time()
        if is_soon:
            await asyncio.sleep(every)


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


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` as a whole: whoever is cancelled meanwhile waits for its end first. A second cancellation ends the waiting."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


def uncancel(task: asyncio.Task[Any] | None) -> None:
    """Tell Python 3.11 and later that a cancellation was meant for something inside the task and has been dealt with."""
    function: Callable[[], int] | None = getattr(task, "uncancel", None)
    if function is not None:
        function()
