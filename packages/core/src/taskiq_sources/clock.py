"""The present moment: the only module that may ask for it.

The store's clock decides (one clock for all schedulers), so a source measures its offset to it and derives ``now`` from the
monotonic clock in between. A local wall clock that is stepped changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Final, Protocol

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.tasking import LoopLock

logger = logging.getLogger("taskiq_sources")

UTC = timezone.utc
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

#: What is wrong with an instant whose UTC overflows.
OUT_OF_RANGE: Final = "it is outside of what a datetime in UTC can be"

#: How long a measured offset is trusted. Quartz oscillators drift by less than 0.1 ms/s: 6 ms in this time.
SYNC_INTERVAL = timedelta(seconds=60)

_REMEMBERED = 4096  # instants; a batch of schedules has thousands of them, mostly the same ones

_SYNC_RETRY = timedelta(seconds=5)  # after a failed measurement
_LONG_ROUND_TRIP = 0.25  # seconds; what is due may be taken to be so half of that too early or too late
_MORE_TRIES = 2

#: From here on the local clock is so wrong that other parts of the user's system will suffer: worth a warning.
OFFSET_WARNING = timedelta(seconds=5)


class Clock(Protocol):
    """Whatever can tell the present moment as an aware UTC datetime in whole milliseconds."""

    async def now(self) -> datetime:
        """Return the present moment."""
        ...


class StoreClock:
    """The store's clock, read over the network once a minute and carried on by the local monotonic clock.

    Args:
        read: Asks the store for its present moment (``ScheduleStore.now``).
        monotonic: Seconds of a clock that is never stepped; replaced in tests only.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[datetime]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._monotonic = monotonic
        self._store_at_zero: datetime | None = None  # what the store's clock showed at monotonic() == 0
        self._synced_at = 0.0
        self._lock = LoopLock()
        self._warned = False
        #: Store clock minus local wall clock, as of the last measurement.
        self.offset = timedelta(0)

    async def now(self) -> datetime:
        """Return the store's present moment, measuring the offset again when the last measurement is old.

        While the store cannot be reached, the last measurement is carried on.

        Raises:
            SourceConnectionError: The store cannot be reached, and never was.
        """
        if self._is_old():
            async with self._lock.here():
                if self._is_old():
                    await self._sync_if_possible()
        return floor_ms(self._epoch() + timedelta(seconds=self._monotonic()))

    async def sync(self) -> None:
        """Measure the offset now. The store is taken to have answered in the middle of the round trip.

        A long one tells little: because a connection is made, say. Then it is measured again, and the shortest counts; if all are
        long, an earlier measurement is carried on, unless they prove that the clock was stepped.
        """
        measured = await self._measure()
        for _ in range(_MORE_TRIES):
            if measured[0] <= _LONG_ROUND_TRIP:
                break
            measured = min(measured, await self._measure())
        took, middle, store_now = measured
        after = self._monotonic()
        if took > _LONG_ROUND_TRIP and self._store_at_zero is not None:
            moved = abs(store_now - (self._store_at_zero + timedelta(seconds=middle)))
            if moved <= timedelta(seconds=took / 2):  # it may be what it was, and a step would be more
                self._synced_at = after
                return
        self._store_at_zero = store_now - timedelta(seconds=middle)
        self._synced_at = after
        self.offset = store_now + timedelta(seconds=after - middle) - datetime.now(UTC)
        too_far = abs(self.offset) > OFFSET_WARNING
        if too_far and not self._warned:
            logger.warning(
                "The local clock is %.1f s %s the clock of the schedule store, which decides. Check NTP on this machine.",
                abs(self.offset).total_seconds(),
                "behind" if self.offset > timedelta(0) else "ahead of",
            )
        self._warned = too_far

    async def _measure(self) -> tuple[float, float, datetime]:
        """Return how long the store took to answer, when on the monotonic clock the middle of that was, and the answer."""
        before = self._monotonic()
        store_now = await self._read()
        after = self._monotonic()
        return after - before, (before + after) / 2, store_now

    def _is_old(self) -> bool:
        return self._store_at_zero is None or self._monotonic() - self._synced_at > SYNC_INTERVAL.total_seconds()

    async def _sync_if_possible(self) -> None:
        try:
            await self.sync()
        except SourceConnectionError:
            if self._store_at_zero is None:
                raise
            self._synced_at = self._monotonic() - (SYNC_INTERVAL - _SYNC_RETRY).total_seconds()
            logger.debug("The store's clock cannot be read; carrying on the last measurement.", exc_info=True)

    def _epoch(self) -> datetime:
        if self._store_at_zero is None:
            msg = "the clock was not synchronised"
            raise RuntimeError(msg)
        return self._store_at_zero


class ManualClock:
    """A clock that stands still until it is told to move: virtual time for tests and simulations."""

    def __init__(self, now: datetime) -> None:
        self._now = floor_ms(now)

    async def now(self) -> datetime:
        """Return the instant the clock was set to."""
        return self._now

    def advance(self, delta: timedelta) -> None:
        """Move the clock by `delta`."""
        self._now = floor_ms(self._now + delta)

    def set(self, now: datetime) -> None:
        """Set the clock to `now`, an aware datetime."""
        self._now = floor_ms(now)


def system_now() -> datetime:
    """Return this machine's wall clock, for stores that have no server: aware UTC in whole milliseconds."""
    return floor_ms(datetime.now(UTC))


def floor_ms(moment: datetime) -> datetime:
    """Return `moment` in UTC, cut to whole milliseconds: the precision that every backend can keep."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


@lru_cache(maxsize=_REMEMBERED)
def to_ms(moment: datetime) -> int:
    """Return milliseconds since the Unix epoch, exactly (no floating point), of an instant in UTC."""
    return (moment - EPOCH) // MILLISECOND


@lru_cache(maxsize=_REMEMBERED)
def from_ms(milliseconds: int) -> datetime:
    """Return the aware UTC datetime of `milliseconds` since the Unix epoch."""
    return EPOCH + milliseconds * MILLISECOND


class MonotonicTimer:
    """How long ago something was, unmoved by steps of the wall clock."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def elapsed(self) -> timedelta:
        """Return the time since this timer was made."""
        return timedelta(seconds=time.monotonic() - self._started)
