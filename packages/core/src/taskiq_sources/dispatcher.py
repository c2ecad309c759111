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
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import TypeAlias

from taskiq_sources.backends import portions
from taskiq_sources.breaker import Breaker
from taskiq_sources.claims import ClaimDesk
from taskiq_sources.clock import Clock
from taskiq_sources.errors import SourceClosedError, SourceConnectionError, error_text
from taskiq_sources.garbage import collector_waits
from taskiq_sources.held import Held, Ledger
from taskiq_sources.metrics import Metrics
from taskiq_sources.models import Claim
from taskiq_sources.occurrences import Dispatch, Plan
from taskiq_sources.pace import Pace
from taskiq_sources.sending import Send, Senders
from taskiq_sources.settings import DispatchSettings
from taskiq_sources.settling import Settlers
from taskiq_sources.store import ScheduleStore
from taskiq_sources.tasking import end, event_or_timeout, sparsely

logger = logging.getLogger("taskiq_sources")

_SHORTEST_WAIT = 0.001  # seconds, like all that follow
_GATHERING = 0.01  # for so long changes are gathered, to be looked at once
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
        self.next_due: datetime | None = None
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
        self.settlers = Settlers(
            desk,
            clock,
            self.ledger,
            settings,
            is_sending=lambda: bool(self.ledger.sending or self._senders),
            failed=self._store_failed,
            settled=self._has_settled,
        )
        self._ahead: _Asking | None = None
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
        settlers = (self.settlers.work() for _ in range(_SETTLERS))
        others = self._renew_leases(), self._senders.watch_timeouts(), self._watch_store()
        helpers = [asyncio.ensure_future(helper) for helper in (*settlers, *others)]
        feeder = asyncio.ensure_future(self._feed())
        try:
            await asyncio.wait([feeder, *helpers], return_when=asyncio.FIRST_COMPLETED)
            fault = self._fault_of([feeder, *helpers])
            if fault is not None:
                await end([feeder])
            if not isinstance(fault, SourceClosedError):
                await self._drain(helpers)  # whatever fell over, what the broker has is not to be sent again
            if fault is not None:
                raise fault
        finally:
            left = await end([feeder, *helpers, *(self._ahead or ())[2:]], within=_LONGEST_PAUSE)
            if left:
                logger.error("%s: %d call(s) to the store do not end, and are left to themselves.", self._name, len(left))
            self._ahead = None
            await self._senders.end(_LONGEST_PAUSE)  # should it be run again: what is left would be renewed for ever, never sent
            self.settlers.clear()
            self.ledger.clear()
            self.overdue = timedelta(0)

    def _fault_of(self, tasks: Sequence[asyncio.Future[None]]) -> BaseException | None:
        """Return what one of these has ended with; a helper never ends by itself."""
        for task in tasks:
            if task.cancelled():  # nobody did it but a driver whose own futures were cancelled
                return RuntimeError(f"{self._name}: a call was cancelled from within the store")
            if task.done() and (fault := task.exception()) is not None:
                return fault
        return None

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
            if self.breaker.state == "open":
                await self._look()
            return min(poll, self.breaker.remaining or poll)
        if await self._take(*asking):
            return 0 if self._ahead or self._room() > 0 else poll  # what is waited for is room
        wait = await self._look()
        return poll if wait is None else min(poll, max(wait.total_seconds(), _SHORTEST_WAIT))

    async def _look(self) -> timedelta | None:
        """Ask when something is due next, and return how long that is from now: negative if it is late, None for never."""
        self.next_due = await self._store.next_due(await self._clock.now())
        wait = None if self.next_due is None else self.next_due - await self._clock.now()
        self.overdue = max(-wait, timedelta(0)) if wait is not None else timedelta(0)
        return wait

    async def _take(self, room: int, asked: float, claiming: asyncio.Future[list[Claim]]) -> bool:
        """Have claims sent, for `room` of which was asked; return whether there may be more."""
        self._ahead = None
        claims = await claiming
        self._store_answered()
        if len(claims) == room:
            self._ahead = await self._ask(coming=room)  # the store looks for more while these are made ready
        if claims:
            self.last_claim_at = now = await self._clock.now()
            self.overdue = max(now - (claims[0].schedule.next_run_at or now), timedelta(0))
        ready, collapsed = await self._desk.plan(claims)
        self._enqueue(ready, asked)
        if collapsed:
            self._enqueue(await self._settle_first(collapsed), asked)
        return len(claims) == room

    async def _settle_first(self, plans: list[Plan]) -> list[Dispatch]:
        """Record what `plans` say is to be settled before anything is sent, and return what is to be sent then.

        While the store is away, it is tried again: others may have them when their leases end, who then would not know.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._desk.settle_first(plans)
            except SourceConnectionError as error:
                self._store_failed(error)
                if self._stop.is_set():
                    return []
                await event_or_timeout(self._stop, pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _ask(self, coming: int = 0) -> _Asking | None:
        """Begin to claim what there is room for beside `coming`; None if there is none."""
        room = self._room(coming)
        if room <= 0:
            return None
        now = await self._clock.now()
        if late := self._late(now):
            if coming:  # it is not to wait for a renewal, nor be lost with it
                return None
            await self._renew(late)
        asked = asyncio.get_running_loop().time()
        return room, asked, asyncio.ensure_future(self._desk.claim(limit=room, now=now))

    def _room(self, coming: int = 0) -> int:
        """How many occurrences may be claimed now. Never more than can be sent soon: the rest is for other schedulers."""
        state = "open" if self._stop.is_set() else self.breaker.state
        if state == "open":
            return 0
        if state == "half_open":
            return 0 if self.ledger or coming else min(self.breaker.trials, self._pace.batch)
        self._pace.judge(asyncio.get_running_loop().time())
        self._senders.low_mark = self._pace.low_mark
        if len(self.settlers) >= 2 * self._settings.batch_size or len(self._senders) + coming > self._pace.low_mark:
            return 0
        return self._pace.batch

    def _enqueue(self, taken: list[Dispatch], asked: float) -> None:
        """Have these sent, which were asked for at that time of the event loop's clock."""
        if not taken:
            return
        self.metrics.claimed(len(taken))
        if not self._senders:
            self._pace.begin(asyncio.get_running_loop().time())
        lease_ends = asked + self._desk.lease.total_seconds()
        with collector_waits():
            held = [self.ledger.add(dispatch, lease_ends) for dispatch in taken]
        if self._stop.is_set() or self.breaker.state == "open":  # since it was asked for
            self.settlers.put(*held)  # to be given back
        else:
            self._senders.put(held)

    # -- sending -------------------------------------------------------------------------------------------------------------

    def _sent(self, held: Held) -> None:
        """Take note of what is to be settled, and judge the broker by it."""
        self.settlers.put(held)
        if held.started is None:
            return
        self._pace.sent(held.duration)
        if held.sent:
            self.breaker.succeeded()
        elif held.error is not None:
            schedule = held.dispatch.claim.schedule
            if self.breaker.failed(schedule.id, is_retry=schedule.attempt > 1):
                logger.error("%s: the broker seems to be down (%s); claiming pauses.", self._name, error_text(held.error))
                self.settlers.put(*self._senders.take_back())

    def _has_settled(self) -> None:
        self._store_answered()
        self._wake.set()
        self._settled.set()

    # -- leases, changes, errors ---------------------------------------------------------------------------------------------

    async def _renew_leases(self) -> None:
        while True:
            await self.ledger.busy.wait()
            await asyncio.sleep(self._heartbeat)
            try:
                await self._renew([held for held in self.ledger if not held.lost])
            except SourceConnectionError as error:
                self._store_failed(error)
            except SourceClosedError:
                raise
            except Exception:  # what is being sent goes on without it
                logger.exception("%s: renewing leases failed and is tried again; please report this.", self._name)

    def _late(self, now: datetime) -> list[Held]:
        """Return what the heartbeat is late for, which is to be renewed before anything is claimed at `now`.

        After a suspension of this process, an outage of the store, or a step of its clock, the claim would else return what is
        being sent here.
        """
        ends = asyncio.get_running_loop().time() + self._heartbeat
        until = now + timedelta(seconds=self._heartbeat)
        return [held for held in self.ledger if not held.lost and (held.lease_ends < ends or held.lease_until < until)]

    async def _renew(self, held: list[Held]) -> None:
        for batch in portions(held, self._settings.batch_size):
            asked = asyncio.get_running_loop().time()
            until = await self._clock.now() + self._desk.lease
            ours = await self._store.renew([item.dispatch.claim for item in batch], until=until)
            for item in batch:
                item.lease_ends, item.lease_until = asked + self._desk.lease.total_seconds(), until
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

    async def _drain(self, helpers: Sequence[asyncio.Future[None]]) -> None:
        """Give back what is queued, let the sends in flight end, cut off the rest, settle everything; within `drain_timeout`."""
        loop = asyncio.get_running_loop()
        patience = self._settings.drain_timeout.total_seconds()
        give_up_at = loop.time() + patience
        self.settlers.put(*self._senders.take_back())
        # A quarter of the time is kept for settling what had to be cut off.
        await self._senders.drain(patience * 0.65, patience * 0.1)
        while self.ledger and loop.time() < give_up_at and not all(settler.done() for settler in helpers[:_SETTLERS]):
            self._settled.clear()
            await event_or_timeout(self._settled, min(give_up_at - loop.time(), _LONGEST_PAUSE))
        if self.ledger:
            logger.error(
                "%s: %d claim(s) could not be settled in time; they end with their leases.", self._name, len(self.ledger)
            )
