"""A bounded number of workers that send what is queued, and a watchdog over them. Knows no store and settles nothing."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TypeAlias

from taskiq.exceptions import ScheduledTaskCancelledError

from taskiq_sources.held import Held, Ledger
from taskiq_sources.occurrences import Dispatch
from taskiq_sources.tasking import SLICE, end, uncancel

logger = logging.getLogger("taskiq_sources")

#: Sends one occurrence; returns False if the application cancelled it.
Send: TypeAlias = Callable[[Dispatch], Awaitable[bool]]

_WATCHDOG_INTERVAL = 0.25
_CUT_OFF_GRACE = 5.0  # seconds for a send to heed that it was cut off
_UNHEEDED = "the send did not end in time, nor when it was cut off"


class CancelledAfterSend(asyncio.CancelledError):
    """What a send is ended with by a cancellation, when the broker has the message already."""


class Senders:
    """Sends what is put in, several at a time.

    Args:
        send: Sends one occurrence.
        ledger: What is held.
        limit: How many sends may run at the same time.
        timeout: After this long a send is cut off.
        done: Called with each that was sent, has failed, or may not be sent any more because its lease is over.
        running_low: Called when no more than `low_mark` wait to be sent.
    """

    def __init__(
        self,
        send: Send,
        ledger: Ledger,
        *,
        limit: int,
        timeout: timedelta,
        done: Callable[[Held], None],
        running_low: Callable[[], None],
    ) -> None:
        self._send = send
        self._ledger = ledger
        self._limit = limit
        self._timeout = timeout.total_seconds()
        self._done = done
        self._running_low = running_low
        self.low_mark = 0
        self._queue: deque[Held] = deque()
        self._workers: set[asyncio.Future[None]] = set()
        self._will_staff = False

    def __len__(self) -> int:
        """How many wait to be sent."""
        return len(self._queue)

    def put(self, held: Iterable[Held]) -> None:
        """Send these, when it is their turn."""
        self._queue.extend(held)
        self._staff()

    def take_back(self, keep: int = 0) -> list[Held]:
        """Return what waits, but for the first `keep`, and forget it."""
        return [self._queue.pop() for _ in range(len(self._queue) - keep)]

    async def watch_timeouts(self) -> None:
        """Cut off sends that take too long; for ever."""
        while True:
            await self._ledger.busy.wait()
            pause = min(_WATCHDOG_INTERVAL, self._timeout)
            slept_since = asyncio.get_running_loop().time()
            await asyncio.sleep(pause)
            now = asyncio.get_running_loop().time()
            if now - slept_since > 4 * pause:
                continue  # this process was suspended: what has ended meanwhile gets a chance to say so
            for held in self._ledger.running():
                self._watch(held, now)

    def _watch(self, held: Held, now: float) -> None:
        if held.worker is None or held.started is None:
            return
        took = now - held.started
        if took > self._timeout and not held.timed_out:
            held.timed_out = True
            held.worker.cancel()
        elif held.timed_out and took > self._timeout + _CUT_OFF_GRACE:
            logger.error(
                "The send of schedule %r does not end though it was cut off; it is left to itself.", held.dispatch.schedule_id
            )
            self._workers.discard(held.worker)
            self._over(held, sent=False, error=TimeoutError(_UNHEEDED))
            self._staff()

    async def drain(self, patience: float, grace: float) -> None:
        """Let sends in flight end within `patience` seconds, and cut off the rest, which has `grace` seconds to heed it."""
        if self._workers:
            await asyncio.wait(self._workers, timeout=patience)
        for held in self._ledger.running():
            held.timed_out = held.drained = True
        await self._cut_off(grace)
        for held in self._ledger.running():
            self._over(held, sent=False, error=TimeoutError(_UNHEEDED))

    async def end(self, grace: float) -> None:
        """Forget what waits, and end all workers at once; those that do not heed it in time are left to themselves."""
        for held in self._ledger.running():  # first: that they are cut off is not the broker's failure
            self._leave(held)
        await self._cut_off(grace)

    async def _cut_off(self, grace: float) -> None:
        self._queue.clear()
        if left := await end(list(self._workers), within=grace):
            self._workers -= left
            logger.error("%d send(s) do not end though they were cut off, and are left to themselves.", len(left))

    def _staff(self) -> None:
        """Start workers if all there are wait for the broker while more is queued: as many again, up to the limit.

        A broker that never makes anybody wait is served by one worker. More of them would take turns without the event loop
        looking for answers of the store in between.
        """
        self._will_staff = False
        if self._ledger.sending < len(self._workers):
            return
        for _ in range(min(max(len(self._workers), 1), self._limit - len(self._workers), len(self._queue))):
            worker = asyncio.ensure_future(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._worker_ended)

    def _staff_soon(self) -> None:
        """Look whether more workers are needed when the one that is running waits."""
        if not self._will_staff and self._queue and len(self._workers) < self._limit:
            self._will_staff = True
            asyncio.get_running_loop().call_soon(self._staff)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled():
            worker.exception()  # which is told as that of its send
        self._staff()  # a broker whose own futures are cancelled ends it early: what is queued is not to wait for ever

    async def _work(self) -> None:
        """Send what is queued, one after the other, until nothing is left."""
        clock = asyncio.get_running_loop().time
        worker = asyncio.current_task()
        now = clock()
        pause_at = now + SLICE
        while self._queue:
            held = self._queue.popleft()
            if len(self._queue) == self.low_mark:
                self._running_low()
            if held.lost:
                self._ledger.remove(held)
                continue
            if now >= held.lease_ends:  # this process was suspended, or cannot renew: somebody else may be sending it
                self._done(held)
                continue
            self._staff_soon()
            await self._send_one(held, worker, now)
            if worker not in self._workers:  # it was given up, and another one works in its place
                return
            now = clock()
            if now > pause_at:
                await asyncio.sleep(0)
                now = clock()
                pause_at = now + SLICE
        if worker is not None:
            self._workers.discard(worker)  # at once: what is queued before its callback runs needs a worker

    async def _send_one(self, held: Held, worker: asyncio.Task[None] | None, started: float) -> None:
        held.worker, held.started = worker, started
        self._ledger.sending += 1
        sent = False
        error: BaseException | None = None
        try:
            sent = await self._send(held.dispatch)
        except ScheduledTaskCancelledError:
            pass
        except asyncio.CancelledError as cancellation:
            sent = isinstance(cancellation, CancelledAfterSend)
            late, cancelled = "the send did not end in time", "the send was cancelled from within the broker"
            error = TimeoutError(late) if held.timed_out else asyncio.CancelledError(cancelled)
            if not held.timed_out:
                raise
        except BaseException as failure:  # whatever the broker raises, it is this occurrence's failure only
            error = failure
            if not isinstance(failure, Exception):
                raise
        finally:
            if held.timed_out:  # whether the broker heeds it, or makes something else of it
                uncancel(worker)
            if held.worker is worker:  # else it was given up long ago
                self._over(held, sent=sent, error=error)

    def _over(self, held: Held, *, sent: bool, error: BaseException | None) -> None:
        held.sent = sent
        held.error = None if sent else error
        held.cancelled = not sent and error is None
        held.duration = asyncio.get_running_loop().time() - (held.started or 0.0)
        self._leave(held)
        self._done(held)

    def _leave(self, held: Held) -> None:
        held.worker = None
        self._ledger.sending -= 1
