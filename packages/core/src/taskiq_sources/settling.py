"""Settles what was sent, in batches: gathers results, makes outcomes of them, has them recorded. No database, no sends."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from taskiq_sources import occurrences
from taskiq_sources.claims import ClaimDesk
from taskiq_sources.clock import Clock
from taskiq_sources.errors import SourceClosedError, SourceConnectionError, error_text
from taskiq_sources.held import Held, Ledger
from taskiq_sources.models import Claim, Outcome
from taskiq_sources.reach import LONGEST_SETTLE_PAUSE, Reach
from taskiq_sources.settings import DispatchSettings
from taskiq_sources.tasking import event_or_timeout, in_slices

logger = logging.getLogger("taskiq_sources")

_GATHERING = 0.01  # seconds: for so long results are gathered, to be settled in one call
FIRST_PAUSE = 0.1  # seconds, after an error of the store, doubled up to …
LONGEST_PAUSE = 5.0


class Settlers:
    """Settle what is put in.

    Args:
        desk: Records outcomes.
        clock: When that is.
        ledger: What is held; what is settled is taken out.
        settings: How the engine works.
        reach: Is told of what the store answers; after an error it is tried again.
        is_sending: Whether more results are about to come.
        settled: Called when a batch is held no longer.
    """

    def __init__(
        self,
        desk: ClaimDesk,
        clock: Clock,
        ledger: Ledger,
        settings: DispatchSettings,
        reach: Reach,
        *,
        is_sending: Callable[[], bool],
        settled: Callable[[], None],
    ) -> None:
        self._desk = desk
        self._clock = clock
        self._ledger = ledger
        self._settings = settings
        self._reach = reach
        self._is_sending = is_sending
        self._settled = settled
        self._results: deque[Held] = deque()
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self.last_settle_at: datetime | None = None
        self.lag = timedelta(0)

    def __len__(self) -> int:
        """How many wait to be settled."""
        return len(self._results)

    def put(self, *held: Held) -> None:
        """Have these settled: sent, failed, cancelled, or never begun, which gives them back."""
        for one in held:
            one.is_over = True
        self._results.extend(held)
        self._some.set()
        if len(self._results) >= self._settings.batch_size or not self._is_sending():
            self._enough.set()

    def clear(self) -> None:
        """Forget what waits."""
        self._results.clear()

    async def work(self) -> None:
        """Settle whatever comes; for ever."""
        while True:
            await self._some.wait()
            if self._is_sending():  # more is about to come, and many cost hardly more than one
                self._enough.clear()
                await event_or_timeout(self._enough, _GATHERING)
            if not self._results:
                self._some.clear()
                continue
            await self._settle_batch()

    async def _settle_batch(self) -> None:
        now = await self._clock.now()
        batch = [self._results.popleft() for _ in range(min(len(self._results), self._settings.batch_size))]
        settled = [held for held in batch if not held.lost]
        outcomes = await in_slices(lambda held: self._safe_outcome_of(held, now), settled)
        await self._settle(outcomes)
        for held in batch:
            self._ledger.remove(held)
        self._settled()
        self.last_settle_at = await self._clock.now()  # later than `now` by as long as the store was away
        self._note(settled, now)
        await self._desk.prune_now_and_then()

    async def _settle(self, outcomes: list[Outcome]) -> None:
        """Have outcomes recorded, however long it takes. One that trips a bug of the store does not take the others with it."""
        if (bug := await self._bug_in_recording(outcomes)) is not None:
            problem = "Settling %d occurrence(s) failed, they are settled one by one; please report this."
            logger.error(problem, len(outcomes), exc_info=bug)
            for outcome in outcomes:
                await self._settle_one(outcome)

    async def _settle_one(self, outcome: Outcome) -> None:
        """Have an outcome recorded; if that trips a bug, have its schedule set aside, or it would be sent again and again."""
        claim = outcome.claim
        if (bug := await self._bug_in_recording([outcome])) is not None:
            problem = "Schedule %r is quarantined: what became of its occurrence cannot be recorded"
            logger.error(problem, claim.schedule.id, exc_info=bug)
            if (bug := await self._bug_in_recording([_set_aside(claim, bug)])) is not None:
                problem = "Schedule %r cannot be quarantined; it is claimed again when its lease ends"
                logger.error(problem, claim.schedule.id, exc_info=bug)
            elif not outcome.quarantined:  # else it is counted with what was to be recorded
                self._desk.metrics.quarantined(1)

    async def _bug_in_recording(self, outcomes: list[Outcome]) -> Exception | None:
        """Have outcomes recorded, however long it takes; return the bug that this trips, if it does."""
        try:
            await self._record(outcomes)
        except SourceClosedError:
            raise
        except Exception as bug:
            return bug
        return None

    async def _record(self, outcomes: list[Outcome]) -> None:
        pause, again = FIRST_PAUSE, False
        while outcomes:
            try:
                await self._desk.record(outcomes, again=again)
            except SourceConnectionError as error:
                self._reach.failed(error)
                again = True
            else:
                self._reach.answered()
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_SETTLE_PAUSE)  # before others claim it: see `Reach.others_first`

    def _safe_outcome_of(self, held: Held, now: datetime) -> Outcome:
        """Return what to settle; where it cannot be told how the schedule goes on, it is set aside with that error."""
        try:
            return self._outcome_of(held, now)
        except Exception as error:  # one schedule that trips a bug must not stop the others
            dispatch = held.dispatch
            logger.exception("Schedule %r is quarantined: what comes next cannot be told", dispatch.schedule_id)
            held.quarantined = True
            run = dispatch.run("sent" if held.sent else "failed", now, error_text(error))
            return replace(_set_aside(dispatch.claim, error), runs=(run,))

    def _outcome_of(self, held: Held, now: datetime) -> Outcome:
        """Return what to settle for an occurrence that was sent, cancelled, failed or given back unsent."""
        dispatch = held.dispatch
        if held.started is None:
            return occurrences.given_back(dispatch.claim) if held.as_claimed else occurrences.released(dispatch)
        if held.sent:
            return occurrences.sent(dispatch, now)
        if held.cancelled:
            return occurrences.cancelled(dispatch, now)
        error = error_text("the send ended in an unknown way" if held.error is None else held.error)
        if not dispatch.is_retried:
            logger.error("Schedule %r could not be sent, and is not tried again (at_most_once): %s", dispatch.schedule_id, error)
            return occurrences.failed(dispatch, now, error)
        limit = self._settings.max_attempts
        if limit is not None and not held.drained and occurrences.failures_with(dispatch) >= limit:
            logger.error("Schedule %r is quarantined after %d failed sends: %s", dispatch.schedule_id, limit, error)
            held.quarantined = True
            return occurrences.given_up(dispatch, now, error)
        logger.warning("Schedule %r could not be sent, it is tried again: %s", dispatch.schedule_id, error)
        outcome, schedule = occurrences.failed(dispatch, now, error), dispatch.claim.schedule
        if held.drained:  # it counts as tried, but is nobody's failure
            return replace(outcome, attempt=max(1, schedule.attempt - 1), last_error=schedule.last_error)
        return outcome

    def _note(self, settled: Iterable[Held], now: datetime) -> None:
        sent, failed, quarantined = [], 0, 0
        for held in settled:
            if held.sent:
                sent.append(held)
            elif held.error is not None:
                failed += 1
            quarantined += held.quarantined
        metrics = self._desk.metrics
        if sent:
            self.lag = (self.last_settle_at or now) - sent[-1].due
            metrics.sent(((now - held.due).total_seconds(), held.duration) for held in sent)
        if failed:
            metrics.failed(failed)
        if quarantined:
            metrics.quarantined(quarantined)


def _set_aside(claim: Claim, error: Exception) -> Outcome:
    """Return the outcome of a claim that was sent, or may have been, and so counts, whose schedule is quarantined."""
    return replace(occurrences.quarantined(claim, error), attempt=claim.schedule.attempt)
