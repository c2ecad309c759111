"""Whether a store answers. Calls nothing itself: whoever calls a store tells of that here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from taskiq_sources.clock import Clock
from taskiq_sources.errors import SourceConnectionError

logger = logging.getLogger("taskiq_sources")

#: Seconds between two tries to record what was sent, at most.
LONGEST_SETTLE_PAUSE: Final = 1.0

_OTHERS_FIRST: Final = 1.5 * LONGEST_SETTLE_PAUSE


class Reach:
    """Takes note of what calls to a store end with, and of those that do not end.

    Args:
        longest: After this long without an answer the store is taken to be out of reach; what it answers then is of no use.
        monotonic: Seconds of a clock that is never stepped.
        name: The source, for log lines.
    """

    def __init__(self, longest: timedelta, monotonic: Callable[[], float], *, name: str) -> None:
        self._longest = longest.total_seconds()
        self._monotonic = monotonic
        self._name = name
        self._calls: dict[object, float] = {}
        self._answered_at = self._back_at = monotonic() - self._longest
        #: Whether the last call to end was not answered.
        self.has_failed = False
        #: Set to False by whoever has seen fall over what serves the source, until the store has answered again.
        self.serving = True

    @property
    def others_first(self) -> float:
        """For how many seconds nothing is to be claimed yet: others are settling what they sent before the store went away.

        They could not renew their leases, and what they sent looks as if it was due.
        """
        return self._back_at + _OTHERS_FIRST - self._monotonic()

    @property
    def hangs(self) -> bool:
        """Whether a call waits for its answer for too long."""
        begun = list(self._calls.values())  # at once: other threads ask, too
        return bool(begun) and self._monotonic() - min(begun) > self._longest

    @property
    def reachable(self) -> bool:
        """Whether the last call was answered, and none waits for too long."""
        return not (self.has_failed or self.hangs)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Take note of how long a call waits for its answer. It is told once, and not cut off: who knows what it has done."""
        call = object()
        self._calls[call] = self._monotonic()
        telling = asyncio.get_running_loop().call_later(self._longest, self._tell)
        try:
            yield
        finally:
            telling.cancel()
            del self._calls[call]

    def _tell(self) -> None:
        logger.error(
            "%s: a call has been waiting for the store's answer for %g s, and goes on waiting; give its client a "
            "shorter time-out. This process may have to be started again.",
            self._name,
            self._longest,
        )

    def failed(self, error: SourceConnectionError) -> None:
        """Take note of an error that says that the store cannot be reached."""
        if not self.has_failed:
            logger.error("%s: the store cannot be reached, trying on: %s", self._name, error)
        self.has_failed = True

    def answered(self) -> None:
        """Take note of an answer."""
        now = self._monotonic()
        if self.has_failed:
            logger.warning("%s: the store can be reached again.", self._name)
            if now - self._answered_at > self._longest / 4:  # half a lease: it is renewed when a third has passed
                self._back_at = now
        self._answered_at = now
        self.has_failed, self.serving = False, True


class NotedClock:
    """A clock that may ask the store, which is noted.

    Args:
        clock: The clock.
        reach: Takes note of it.
    """

    def __init__(self, clock: Clock, reach: Reach) -> None:
        self._clock = clock
        self._reach = reach

    async def now(self) -> datetime:
        """Return the present moment."""
        with self._reach.calling():
            return await self._clock.now()
