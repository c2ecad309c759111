"""The dispatch engine: claims what is due, sends it, settles it. Knows no database and nothing of the scheduler's command line.

::

    feeder ──claims──▶ queue ──▶ workers (bounded) ──results──▶ settler (batches)
       ▲                            ▲                              │
       └── due times, push, poll    └── watchdog (timeouts)        └── room for more claims
    heartbeat: renews the leases of everything that is held

One dispatcher serves one source, so that a slow store never holds up another. Where it may die, and what the next one finds:
before a claim, an occurrence that is due; between claim and settle, one whose lease ends, so that it is sent again under the same
``task_id``; after the settle, nothing to do.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import TypeAlias

from taskiq_sources import occurrences
from taskiq_sources.backends import portions
from taskiq_sources.breaker import Breaker
from taskiq_sources.claims import AT_ONE_GO, ClaimDesk
from taskiq_sources.clock import Clock
from taskiq_sources.errors import SourceClosedError, SourceConnectionError
from taskiq_sources.garbage import collector_waits
from taskiq_sources.held import Held, Ledger
from taskiq_sources.metrics import Metrics
from taskiq_sources.models import Claim, Outcome
from taskiq_sources.occurrences import Dispatch
from taskiq_sources.pace import Pace
from taskiq_sources.sending import Send, Senders
from taskiq_sources.settings import DispatchSettings
from taskiq_sources.store import ScheduleStore
from taskiq_sources.tasking import end, event_or_timeout, sparsely

logger = logging.getLogger("taskiq_sources")

_SHORTEST_WAIT = 0.001  # seconds, like all that follow
_GATHERING = 0.01  # for so long results are gathered, to be settled in one call, and changes, to be looked at once
_SETTLERS = 2  # one makes a call ready while that of the other is under way
_FIRST_PAUSE = 0.1  # after an error of the store, doubled up to …
_LONGEST_PAUSE = 5.0

#: For how many was asked, when (on the event loop's clock), and the claims.
_Asking: TypeAlias = tuple[int, float, "asyncio.Future[list[Claim]]"]


class Dispatcher:
    """Serves one source until it is stopped.

    Args:
        desk: Claims and settles.
        store: Says when something is due next, renews leases, tells of changes.
        clock: What decides what is due.
        send: Sends one occurrence.
        settings: How it works; `max_concurrent_sends` is this source's share.
        name: The source, for log lines.
    """

    def __init__(
        self, desk: ClaimDesk, store: ScheduleStore, clock: Clock, send: Send, settings: DispatchSettings, *, name: str
    ) -> None:
        self._desk = desk
        self._store = store
        self._clock = clock
        self._settings = settings
        self._name = name
        self.metrics = desk.metrics
        self.ledger = Ledger()
        self.store_reachable = True
        self.serving = True  # set to False by whoever has seen it fall over, until the store has answered again
        self.last_claim_at: datetime | None = None
        self.last_settle_at: datetime | None = None
        self.next_due: datetime | None = None
        self.lag = timedelta(0)
        self.overdue: timedelta = timedelta(0)
        self._wake = asyncio.Event()
        self._senders = Senders(
            send,
            self.ledger,
            limit=settings.max_concurrent_sends,
            timeout=settings.send_timeout,
            done=self._sent,
            running_low=self._wake.set,
        )
        self._ahead: _Asking | None = None
        self._results: deque[Held] = deque()
        self._results_wait = asyncio.Event()
        self._enough = asyncio.Event()
        self._settled = asyncio.Event()
        self._stop = asyncio.Event()
        self._pace = Pace(settings.max_concurrent_sends, settings.batch_size)
        self._heartbeat = desk.lease.total_seconds() / 3  # how often leases are renewed
        pauses = settings.breaker_pause, settings.breaker_longest_pause
        self.breaker = Breaker(settings.breaker_threshold, *pauses, lambda: asyncio.get_running_loop().time())

    @property
    def in_flight(self) -> int:
        """How many sends are running."""
        return self.ledger.sending

    @property
    def queued(self) -> int:
        """How many occurrences are claimed and wait to be sent."""
        return len(self._senders)

    def report_to(self, metrics: Metrics) -> None:
        """Hand all figures to `metrics` from now on."""
        self.metrics = self._desk.metrics = metrics

    def stop(self) -> None:
        """Stop claiming; `run` returns when everything that is held is settled or given back."""
        self._stop.set()
        self._wake.set()

    async def run(self) -> None:
        """Serve the source until `stop` is called, then drain. Errors of store and broker are survived, not raised."""
        settlers = (self._settle_results() for _ in range(_SETTLERS))
        others = self._renew_leases(), self._senders.watch_timeouts(), self._watch_store()
        helpers = [asyncio.ensure_future(helper) for helper in (*settlers, *others)]
        feeder = asyncio.ensure_future(self._feed())
        try:
            await asyncio.wait([feeder, *helpers], return_when=asyncio.FIRST_COMPLETED)
            for task in (feeder, *helpers):
                if task.cancelled():  # nobody did it but a driver whose own futures were cancelled
                    raise RuntimeError(f"{self._name}: a call was cancelled from within the store")
                if task.done():
                    task.result()  # a helper never ends by itself: if it did, this raises why
            await self._drain()
        finally:
            await end([feeder, *helpers, *(self._ahead or ())[2:]])
            self._ahead = None
            await self._senders.end()  # should it be run again: whatever is left would else be renewed for ever and never sent
            self._results.clear()
            self.ledger.clear()

    # -- claiming ------------------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            self._wake.clear()
            if not self.store_reachable and any(held.is_over for held in self.ledger):
                await event_or_timeout(self._wake, 1)  # what was sent is recorded first: if its lease has ended, it is due again
                continue
            try:
                wait = await self._claim_what_is_due()
            except SourceConnectionError as error:
                self._store_failed(error)
                await event_or_timeout(self._stop, pause * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            if wait > 0 and not self._stop.is_set():
                await event_or_timeout(self._wake, wait)
        if self._ahead is not None:
            try:
                await self._take(*self._ahead)
            except SourceConnectionError as error:
                self._store_failed(error)

    async def _claim_what_is_due(self) -> float:
        """Claim what there is room for; return how many seconds to wait for more, unless something happens."""
        poll = self._settings.poll_interval.total_seconds()
        asking = self._ahead or await self._ask()
        if asking is None:
            return min(poll, self.breaker.remaining or poll)
        if await self._take(*asking):
            return 0 if self._ahead or self._room() > 0 else poll  # what is waited for is room
        now = await self._clock.now()
        self.next_due = await self._store.next_due(now)
        if self.next_due is None:
            return poll
        until_due = self.next_due - await self._clock.now()
        self.overdue = max(-until_due, timedelta(0))
        return min(poll, max(until_due.total_seconds(), _SHORTEST_WAIT))

    async def _take(self, room: int, asked: float, claiming: asyncio.Future[list[Claim]]) -> bool:
        """Have claims sent, for `room` of which was asked; return whether there may be more."""
        self._ahead = None
        claims = await claiming
        self._store_answered()
        if len(claims) == room:
            self._ahead = await self._ask(coming=room)  # the store looks for more while these are made ready
        taken = await self._desk.plan(claims)
        if taken:
            self.last_claim_at = await self._clock.now()
            self.metrics.claimed(len(taken))
            self._enqueue(taken, asked)
        return len(claims) == room

    async def _ask(self, coming: int = 0) -> _Asking | None:
        """Begin to claim what there is room for beside `coming`; None if there is none."""
        room = self._room(coming)
        if room <= 0:
            return None
        if late := self._late():
            if coming:  # it is not to wait for a renewal, nor be lost with it
                return None
            await self._renew(late)
        asked = asyncio.get_running_loop().time()
        return room, asked, asyncio.ensure_future(self._desk.claim(limit=room))

    def _room(self, coming: int = 0) -> int:
        """How many occurrences may be claimed now. Never more than can be sent soon: the rest is for other schedulers."""
        state = "open" if self._stop.is_set() else self.breaker.state
        if state == "open":
            return 0
        if state == "half_open":
            return 0 if self.ledger or coming else 1
        self._pace.judge(asyncio.get_running_loop().time())
        self._senders.low_mark = self._pace.low_mark
        if len(self._results) >= 2 * self._settings.batch_size or len(self._senders) + coming > self._pace.low_mark:
            return 0
        return self._pace.batch

    def _enqueue(self, taken: list[Dispatch], asked: float) -> None:
        """Have these sent, which were asked for at that time of the event loop's clock."""
        if not self._senders:
            self._pace.begin(asyncio.get_running_loop().time())
        lease_ends = asked + self._desk.lease.total_seconds()
        with collector_waits():
            held = [self.ledger.add(dispatch, lease_ends) for dispatch in taken]
        if self._stop.is_set() or self.breaker.state == "open":  # since it was asked for
            self._results.extend(held)  # to be given back
        else:
            self._senders.put(held)

    # -- sending -------------------------------------------------------------------------------------------------------------

    def _sent(self, held: Held) -> None:
        """Take note of what is to be settled, and judge the broker by it."""
        self._results.append(held)
        self._results_wait.set()
        if len(self._results) >= self._settings.batch_size or not (self.ledger.sending or self._senders):
            self._enough.set()
        if not held.started:
            return
        self._pace.sent(held.duration)
        if held.error is None:
            self.breaker.succeeded()
        elif self.breaker.failed():
            logger.error("%s: the broker seems to be down (%s); claiming pauses.", self._name, held.error)
            self._results.extend(self._senders.take_back())

    # -- settling ------------------------------------------------------------------------------------------------------------

    async def _settle_results(self) -> None:
        while True:
            await self._results_wait.wait()
            if self.ledger.sending or self._senders:  # more is about to come, and many cost hardly more than one
                self._enough.clear()
                await event_or_timeout(self._enough, _GATHERING)
            if not self._results:
                self._results_wait.clear()
                continue
            await self._settle_batch()

    async def _settle_batch(self) -> None:
        now = await self._clock.now()
        batch = [self._results.popleft() for _ in range(min(len(self._results), self._settings.batch_size))]
        settled = [held for held in batch if not held.lost]
        outcomes: list[Outcome] = []
        with collector_waits():
            for some in portions(settled, AT_ONE_GO):
                outcomes += [self.outcome_of(held, now) for held in some]
                await asyncio.sleep(0)
        pause = _FIRST_PAUSE
        while outcomes:
            try:
                lost = await self._desk.settle(outcomes)
            except SourceConnectionError as error:
                self._store_failed(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            self._store_answered()
            self.metrics.lost(len(lost))
            break
        self.last_settle_at = now
        for held in batch:
            self.ledger.remove(held)
        self._note(settled, now)
        self._wake.set()
        self._settled.set()

    def outcome_of(self, held: Held, now: datetime) -> Outcome:
        """Return what to settle for an occurrence that was sent, cancelled, failed or given back unsent."""
        dispatch = held.dispatch
        if held.started == 0.0:
            return occurrences.released(dispatch)
        if held.cancelled:
            return occurrences.cancelled(dispatch, now)
        if held.error is None:
            return occurrences.sent(dispatch, now)
        limit = self._settings.max_attempts
        if limit is not None and dispatch.claim.schedule.attempt >= limit and dispatch.is_retried:
            logger.error("Schedule %r is quarantined after %d failed sends: %s", dispatch.schedule_id, limit, held.error)
            held.quarantined = True
            return occurrences.given_up(dispatch, now, held.error)
        logger.warning("Schedule %r could not be sent, it is tried again: %s", dispatch.schedule_id, held.error)
        return occurrences.failed(dispatch, now, held.error)

    def _note(self, settled: list[Held], now: datetime) -> None:
        sent = [held for held in settled if held.started and held.error is None and not held.cancelled]
        if sent:
            self.lag = now - sent[-1].due
            self.metrics.sent(((now - held.due).total_seconds(), held.duration) for held in sent)
        if len(sent) < len(settled):
            self.metrics.failed(sum(held.error is not None for held in settled))
            self.metrics.quarantined(sum(held.quarantined for held in settled))

    # -- leases, changes, errors ---------------------------------------------------------------------------------------------

    async def _renew_leases(self) -> None:
        while True:
            await self.ledger.busy.wait()
            await asyncio.sleep(self._heartbeat)
            try:
                await self._renew([held for held in self.ledger if not held.lost])
            except SourceConnectionError as error:
                self._store_failed(error)

    def _late(self) -> list[Held]:
        """Return what the heartbeat is late for, which is to be renewed before anything is claimed.

        After a suspension of this process, or an outage of the store, the next claim would else return what is being sent here.
        """
        now = asyncio.get_running_loop().time()
        return [held for held in self.ledger if not held.lost and held.lease_ends - now < self._heartbeat]

    async def _renew(self, held: list[Held]) -> None:
        for batch in portions(held, self._settings.batch_size):
            asked = asyncio.get_running_loop().time()
            until = await self._clock.now() + self._desk.lease
            ours = await self._store.renew([item.dispatch.claim for item in batch], until=until)
            for item in batch:
                item.lease_ends = asked + self._desk.lease.total_seconds()
                if item.dispatch.claim.schedule.id not in ours and item in self.ledger and not item.is_over:
                    item.lost = True
                    self.metrics.lost(1)
                    logger.warning("The lease of schedule %r was lost; its result is dropped.", item.dispatch.schedule_id)

    async def _watch_store(self) -> None:
        """Turn the store's push into wake-ups. Without push, or while it is broken, polling goes on."""
        if not self._store.capabilities.push:
            await asyncio.Event().wait()
        pause = _FIRST_PAUSE
        while True:
            try:
                # Each settle of each scheduler would have all others look. What is declared comes as two changes, at once.
                async with aclosing(sparsely(self._store.watch(), _GATHERING)) as changes:
                    async for _ in changes:
                        pause = _FIRST_PAUSE
                        self._wake.set()
            except (SourceConnectionError, SourceClosedError) as error:
                logger.debug("%s: watching for changes broke off: %s", self._name, error)
            except Exception:  # polling goes on without it, and so does what is being sent
                logger.exception("%s: watching for changes fell over and is begun again; please report this.", self._name)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _store_failed(self, error: SourceConnectionError) -> None:
        if self.store_reachable:
            logger.error("%s: the store cannot be reached, trying on: %s", self._name, error)
        self.store_reachable = False

    def _store_answered(self) -> None:
        if not self.store_reachable:
            logger.warning("%s: the store can be reached again.", self._name)
        self.store_reachable = self.serving = True

    # -- stopping ------------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Give back what is queued, let the sends in flight end, cut off the rest, settle everything; within `drain_timeout`."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._settings.drain_timeout.total_seconds()
        self._results.extend(self._senders.take_back())
        self._results_wait.set()
        # A quarter of the time is kept for settling what had to be cut off.
        await self._senders.drain(self._settings.drain_timeout.total_seconds() * 0.75)
        while self.ledger and loop.time() < give_up_at:
            self._settled.clear()
            self._results_wait.set()
            await event_or_timeout(self._settled, give_up_at - loop.time())
        if self.ledger:
            logger.error(
                "%s: %d claim(s) could not be settled in time; they end with their leases.", self._name, len(self.ledger)
            )
