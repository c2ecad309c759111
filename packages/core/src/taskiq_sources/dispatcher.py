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
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

from taskiq_sources.breaker import Breaker
from taskiq_sources.claims import ClaimDesk
from taskiq_sources.clock import Clock
from taskiq_sources.errors import SourceClosedError, SourceConnectionError, error_text
from taskiq_sources.following import follow
from taskiq_sources.held import Held, Ledger
from taskiq_sources.leases import Leases
from taskiq_sources.metrics import Metrics
from taskiq_sources.models import Claim
from taskiq_sources.occurrences import Dispatch, Plan, unsent
from taskiq_sources.pace import Pace
from taskiq_sources.reach import NotedClock, Reach
from taskiq_sources.sending import Send, Senders
from taskiq_sources.settings import DispatchSettings
from taskiq_sources.settling import FIRST_PAUSE, LONGEST_PAUSE, Settlers
from taskiq_sources.store import ScheduleStore
from taskiq_sources.tasking import end, event_or_timeout, fault_of

logger = logging.getLogger("taskiq_sources")

_SHORTEST_WAIT = 0.001  # seconds, like all that follow
_SETTLERS = 2  # one makes a call ready while that of the other is under way
_LAST_CALL = 2.0  # for a call that is cut off

_USEFUL = 2  # leases; the answer of a call that takes longer is of no use

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
        self._settings = settings
        self._name = name
        self.metrics = desk.metrics
        self.ledger = Ledger()
        self.last_claim_at: datetime | None = None
        self.next_due: datetime | None = None
        self.overdue: timedelta = timedelta(0)
        monotonic = asyncio.get_running_loop().time  # other threads may ask by it
        self.reach = Reach(_USEFUL * desk.lease, monotonic, name=name)
        self._clock = clock = NotedClock(clock, self.reach)
        desk.calling = self.reach.calling
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
            self.reach,
            is_sending=lambda: bool(self.ledger.sending or self._senders),
            settled=self._has_settled,
        )
        self._leases = Leases(desk, store, clock, self.ledger, settings.batch_size, self.reach, name=name)
        self._ahead: _Asking | None = None
        self._settled = asyncio.Event()
        self._stop = asyncio.Event()
        self._is_stopped = False  # by `stop`
        self._pace = Pace(settings.max_concurrent_sends, settings.batch_size)
        pauses = settings.breaker_pause, settings.breaker_longest_pause
        self.breaker = Breaker(settings.breaker_threshold, *pauses, monotonic)

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
        self._is_stopped = True
        self._stop.set()
        self._wake.set()

    async def run(self) -> None:
        """Serve the source until `stop` is called, then drain. Errors of store and broker are survived, not raised."""
        settlers = (self.settlers.work() for _ in range(_SETTLERS))
        others = self._leases.keep(), self._senders.watch_timeouts(), follow(self._store, self._wake.set, name=self._name)
        helpers = [asyncio.ensure_future(helper) for helper in (*settlers, *others)]
        feeder = asyncio.ensure_future(self._feed())
        stopping = asyncio.ensure_future(self._stop.wait())
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait([feeder, stopping, *helpers], return_when=asyncio.FIRST_COMPLETED)
            patience = self._settings.drain_timeout.total_seconds()
            give_up_at = loop.time() + patience
            self._stop.set()  # also if something fell over: what is about to be claimed is given back
            await asyncio.wait([feeder], timeout=patience / 2)
            fault = fault_of([feeder, *helpers], name=self._name)
            if fault is not None:  # whatever fell over, what the broker has, or is given, is not to be sent again
                give_up_at += self._settings.send_timeout.total_seconds()
            await end([feeder], within=_LAST_CALL)
            if not isinstance(fault, SourceClosedError):
                await self._drain(helpers, give_up_at)
            if fault is not None:
                raise fault
        finally:
            self.ledger.rest()  # before anything is waited for: the event loop may be gone
            left = await end([feeder, stopping, *helpers, *(self._ahead or ())[2:]], within=LONGEST_PAUSE)
            if left:
                logger.error("%s: %d call(s) to the store do not end, and are left to themselves.", self._name, len(left))
            self._ahead = None
            await self._senders.end(LONGEST_PAUSE)  # should it be run again: what is left would be renewed for ever, never sent
            self.settlers.clear()
            self.ledger.clear()
            self.overdue = timedelta(0)
            if not self._is_stopped:
                self._stop.clear()

    # -- claiming ------------------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        try:
            await self._claim_until_stopped()
        finally:
            await self._forgo()

    async def _claim_until_stopped(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            self._wake.clear()
            try:
                wait = await self._claim_what_is_due()
            except SourceConnectionError as error:
                self.reach.failed(error)
                wait = None
            except SourceClosedError:
                raise
            except Exception:
                logger.exception("%s: claiming failed and is tried again; please report this.", self._name)
                self.reach.serving, wait = False, None
            if wait is None:
                await event_or_timeout(self._stop, pause * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            if wait > 0 and not self._stop.is_set():
                await event_or_timeout(self._wake, wait)

    async def _claim_what_is_due(self) -> float:
        """Claim what there is room for; return how many seconds to wait for more, unless something happens."""
        if self.reach.has_failed:
            if any(held.is_over for held in self.ledger):
                await self._forgo()
                return 1  # what was sent is recorded first: if its lease has ended, it is due again
            await self._look()
        if (pause := self.reach.others_first) > 0:
            await self._forgo()
            return pause
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
        now = await self._clock.now()
        with self.reach.calling():
            self.next_due = await self._store.next_due(now)
        self.reach.answered()
        wait = None if self.next_due is None else self.next_due - await self._clock.now()
        self.overdue = max(-wait, timedelta(0)) if wait is not None else timedelta(0)
        return wait

    async def _take(self, room: int, asked: float, claiming: asyncio.Future[list[Claim]]) -> bool:
        """Have claims sent, for `room` of which was asked; return whether there may be more."""
        self._ahead = None
        claims = await claiming
        self.reach.answered()
        fault: Exception | None = None
        try:
            if len(claims) == room:
                self._ahead = await self._ask(coming=room)  # the store looks for more while these are made ready
            if claims:
                self.last_claim_at = now = await self._clock.now()
                self.overdue = max(now - (claims[0].schedule.next_run_at or now), timedelta(0))
        except Exception as error:  # what is claimed is not to be lost with a look ahead
            fault = error
        ready, collapsed = await self._desk.plan(claims)
        self._enqueue(self._hold(ready, asked))
        self.metrics.claimed(len(ready))
        if collapsed:
            await self._settle_first(collapsed, asked)
        if fault is not None:
            raise fault
        return len(claims) == room

    async def _settle_first(self, plans: list[Plan], asked: float) -> None:
        """Record what `plans` say is to be settled before anything is sent, and have the rest sent then.

        While the store is away it is tried again, and what waits is renewed: another who claims it would not know. What is not
        recorded in the end is given back.
        """
        firsts = [plan.settle_first for plan in plans if plan.settle_first is not None]
        given = [plan.dispatch or unsent(first.claim) for plan, first in zip(plans, firsts, strict=True)]
        waiting = self._hold(given, asked)
        for held in waiting:
            held.as_claimed = True
        pause, recorded = FIRST_PAUSE, None
        try:
            while recorded is None:
                try:
                    recorded = await self._settled_first(plans)
                except SourceConnectionError as error:
                    self.reach.failed(error)
                    if self._stop.is_set():
                        return
                    await event_or_timeout(self._stop, pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            if recorded is None:
                self.settlers.put(*waiting)
        sendable = {dispatch.claim.schedule.id for dispatch in recorded}
        for held in waiting:
            held.as_claimed = False
            if held.dispatch.claim.schedule.id not in sendable:
                self.ledger.remove(held)
        self.metrics.claimed(len(sendable))
        self._enqueue([held for held in waiting if held in self.ledger])

    async def _settled_first(self, plans: list[Plan]) -> list[Dispatch]:
        settling = asyncio.ensure_future(self._desk.settle_first(plans))
        try:
            await asyncio.wait([settling], timeout=self._leases.heartbeat.total_seconds())
            if not settling.done() or settling.exception() is not None:
                await self._forgo()
            return await settling
        finally:
            await end([settling], within=_LAST_CALL)  # nothing is to go on behind the back of who gives the rest back

    async def _forgo(self) -> None:
        """Give back what was asked for ahead and is not to be sent soon: nobody renews it, so others would take it over."""
        if self._ahead is None:
            return
        (_, asked, claiming), self._ahead = self._ahead, None
        try:
            forgone = self._hold(map(unsent, await claiming), asked)
        except SourceConnectionError as error:
            self.reach.failed(error)
            return
        for held in forgone:
            held.as_claimed = True
        self.settlers.put(*forgone)

    async def _ask(self, coming: int = 0) -> _Asking | None:
        """Begin to claim what there is room for beside `coming`; None if there is none."""
        room = self._room(coming)
        if room <= 0:
            return None
        asked, now = await self._now()
        if late := self._leases.late(now):
            if coming:  # it is not to wait for a renewal, nor be lost with it
                return None
            await self._leases.renew(late)
            asked, now = await self._now()
        return room, asked, asyncio.ensure_future(self._desk.claim(limit=room, now=now))

    async def _now(self) -> tuple[float, datetime]:
        """Return the present on the event loop's clock, and on the store's, which may have been asked for it: not before that."""
        asked = asyncio.get_running_loop().time()
        return asked, await self._clock.now()

    def _room(self, coming: int = 0) -> int:
        """How many occurrences may be claimed now. Never more than can be sent soon: the rest is for other schedulers."""
        state = "open" if self._stop.is_set() else self.breaker.state
        if state == "open":
            return 0
        if state == "half_open":
            return 0 if self._trying() or coming else min(self.breaker.trials, self._pace.batch)
        self._pace.judge(asyncio.get_running_loop().time())
        self._senders.low_mark = self._pace.low_mark
        if surplus := self._senders.take_back(keep=self._pace.most):
            self.settlers.put(*surplus)
        if len(self.settlers) >= 2 * self._settings.batch_size or len(self._senders) + coming > self._pace.low_mark:
            return 0
        return self._pace.batch

    def _trying(self) -> int:
        """How many sends are tried on a broker that was down. It may keep others waiting for their end since before that."""
        since = self.breaker.half_open_since
        return sum(held.started is None or held.started >= since for held in self.ledger)

    def _hold(self, dispatches: Iterable[Dispatch], asked: float) -> list[Held]:
        """Hold what was claimed at that time of the event loop's clock, from now on."""
        lease_ends = asked + self._desk.lease.total_seconds()
        return [self.ledger.add(dispatch, lease_ends) for dispatch in dispatches]

    def _enqueue(self, held: list[Held]) -> None:
        """Have these sent; what the breaker does not allow any more, since it was asked for, is given back."""
        if not held:
            return
        if not self._senders:
            self._pace.begin(asyncio.get_running_loop().time())
        allowed = len(held)
        if self._stop.is_set() or self.breaker.state == "open":
            allowed = 0
        elif self.breaker.state == "half_open":
            allowed = max(self.breaker.trials - (self._trying() - len(held)), 0)
        self._senders.put(held[:allowed])
        if allowed < len(held):
            self.settlers.put(*held[allowed:])

    # -- sending -------------------------------------------------------------------------------------------------------------

    def _sent(self, held: Held) -> None:
        """Take note of what is to be settled, and judge the broker by it."""
        self.settlers.put(held)
        if held.started is None:
            return
        self._pace.sent(held.duration)
        schedule_id = held.dispatch.claim.schedule.id
        if held.sent:
            self.breaker.succeeded(schedule_id, held.started)
        elif held.error is not None and self.breaker.failed(schedule_id, held.started):
            logger.error("%s: the broker seems to be down (%s); claiming pauses.", self._name, error_text(held.error))
            self.settlers.put(*self._senders.take_back())

    def _has_settled(self) -> None:
        self._wake.set()
        self._settled.set()

    # -- stopping ------------------------------------------------------------------------------------------------------------

    async def _drain(self, helpers: Sequence[asyncio.Future[None]], give_up_at: float) -> None:
        """Give back what is queued, let the sends in flight end, cut off the rest, settle everything; until then."""
        loop = asyncio.get_running_loop()
        patience = max(give_up_at - loop.time(), 0.0)
        self.settlers.put(*self._senders.take_back())
        # A quarter of the time is kept for settling what had to be cut off.
        await self._senders.drain(patience * 0.65, patience * 0.1)
        while self.ledger and loop.time() < give_up_at and not all(settler.done() for settler in helpers[:_SETTLERS]):
            self._settled.clear()
            await event_or_timeout(self._settled, min(give_up_at - loop.time(), LONGEST_PAUSE))
        if self.ledger:
            logger.error(
                "%s: %d claim(s) could not be settled in time; they end with their leases.", self._name, len(self.ledger)
            )
