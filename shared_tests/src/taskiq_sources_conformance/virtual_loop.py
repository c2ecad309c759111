"""An event loop whose time is virtual: it jumps to the next timer when nothing is left to do.

For what runs in this process alone (the in-memory store, an engine, a broker that does nothing): days pass in a moment, and every
run is the same. Not for stores that wait for a socket or a thread: the loop would not wait for them.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from taskiq_sources.clock import floor_ms


class _ImpatientSelector(selectors.BaseSelector):
    """Never waits: what the loop would have waited for, it adds to the virtual time."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.time = 0.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.unregister(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._selector.select(0)
        if timeout is None and not ready:
            msg = "every task waits for something that will not happen: there is no timer left"
            raise RuntimeError(msg)
        if not ready and timeout is not None and timeout > 0:
            self.time += timeout
        return ready

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._selector.get_map() or {}

    def close(self) -> None:
        self._selector.close()


class VirtualEventLoop(asyncio.SelectorEventLoop):
    """See the module's text. Time starts at 1000 s, so that nothing mistakes 0 for "never"."""

    def __init__(self) -> None:
        self._virtual = _ImpatientSelector()
        self._virtual.time = 1000.0
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._virtual.time

    def suspend(self, seconds: float) -> None:
        """Let time pass in which nothing here runs, as when the process is stopped and goes on."""
        self._virtual.time += seconds


class LoopClock:
    """The clock of a source that lives in a `VirtualEventLoop`.

    Args:
        start: What the clock shows when it is made, in a running loop; aware.
    """

    def __init__(self, start: datetime) -> None:
        self._epoch = floor_ms(start) - timedelta(seconds=asyncio.get_running_loop().time())

    async def now(self) -> datetime:
        """Return the present moment."""
        return self.read()

    def read(self) -> datetime:
        """Return the present moment."""
        return floor_ms(self._epoch + timedelta(seconds=asyncio.get_running_loop().time()))
