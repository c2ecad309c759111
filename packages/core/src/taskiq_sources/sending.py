"""A bounded number of workers that send what is queued, and a watchdog over them. Knows no store and settles nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TypeAlias

from taskiq.exceptions import ScheduledTaskCancelledError

from taskiq_sources.held import Held, Ledger
from taskiq_sources.occurrences import Dispatch
from taskiq_sources.tasking import end, uncancel

#: Sends one occurrence; returns False if the application cancelled it.
Send: TypeAlias = Callable[[Dispatch], Awaitable[bool]]

_SLICE = 0.0005  # seconds that a worker may keep event loop and interpreter when no broker makes it wait; threads need both
_WATCHDOG_INTERVAL = 0.25


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
        self._workers: set[asyncio.Task[None]] = set()
        self._will_staff = False

    def __len__(self) -> int:
        """How many wait to be sent."""
        return len(self._queue)

    def put(self, held: Iterable[Held]) -> None:
        """Send these, when it is their turn."""
        self._queue.extend(held)
        self._staff()

    def take_back(self) -> list[Held]:
        """Return what waits, and forget it."""
        waiting = list(self._queue)
        self._queue.clear()
        return waiting

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
                if held.worker is not None and not held.timed_out and now - held.started > self._timeout:
                    held.timed_out = True
                    held.worker.cancel()

    async def drain(self, patience: float) -> None:
        """Let sends in flight end within `patience` seconds, and cut off the rest as failed."""
        if self._workers:
            await asyncio.wait(self._workers, timeout=patience)
        for held in self._ledger.running():
            held.timed_out = True
        await self.end()

    async def end(self) -> None:
        """Forget what waits, and end all workers at once."""
        self._queue.clear()
        await end(list(self._workers))

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
        self._staff()  # a broker whose own futures are cancelled ends it early: what is queued is not to wait for ever

    async def _work(self) -> None:
        """Send what is queued, one after the other, until nothing is left."""
        clock = asyncio.get_running_loop().time
        worker = asyncio.current_task()
        now = clock()
        pause_at = now + _SLICE
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
            now = clock()
            if now > pause_at:
                await asyncio.sleep(0)
                now = clock()
                pause_at = now + _SLICE
        if worker is not None:
            self._workers.discard(worker)  # at once: what is queued before its callback runs needs a worker

    async def _send_one(self, held: Held, worker: asyncio.Task[None] | None, started: float) -> None:
        held.worker, held.started = worker, started
        self._ledger.sending += 1
        try:
            held.cancelled = not await self._send(held.dispatch)
        except ScheduledTaskCancelledError:
            held.cancelled = True
        except asyncio.CancelledError:
            if not held.timed_out:
                held.error = asyncio.CancelledError("the send was cancelled from within the broker")
                raise
            held.error = TimeoutError("the send did not end in time")
            uncancel(worker)
        except Exception as error:  # whatever the broker raises, it is this occurrence's failure only
            held.error = error
        finally:
            held.duration = asyncio.get_running_loop().time() - started
            held.worker = None
            self._ledger.sending -= 1
            self._done(held)
