"""Claiming and settling: where the store's claims meet what they mean.

Both ways of sending use it, taskiq's stock loop (`taskiq_sources.stock`) and an engine that sends in batches. Knows no database
and does not send.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta

from taskiq.abc.serializer import TaskiqSerializer

from taskiq_sources import definitions, occurrences
from taskiq_sources.clock import Clock
from taskiq_sources.definitions import Defaults
from taskiq_sources.errors import ScheduleDecodeError, SourceClosedError, SourceConnectionError, error_text
from taskiq_sources.interpreter import collector_waits
from taskiq_sources.metrics import Metrics
from taskiq_sources.models import Claim, Outcome
from taskiq_sources.occurrences import Dispatch, Plan
from taskiq_sources.store import ScheduleStore
from taskiq_sources.tasking import in_slices

logger = logging.getLogger("taskiq_sources")

#: How often the history is cut to its limits, at most. Far below any sensible retention, and cheap.
PRUNE_INTERVAL = timedelta(minutes=10)


class ClaimDesk:
    """Takes due occurrences from a store, ready to be sent, and records what became of them.

    Args:
        store: Where schedules live.
        clock: What decides what is due.
        defaults: How documents are read.
        claimant: Who claims, for people to read.
        lease: How long a claim holds others off.
        run_retention: How long history rows are kept.
        max_run_rows: How many history rows are kept at most.
    """

    def __init__(
        self,
        store: ScheduleStore,
        clock: Clock,
        defaults: Defaults,
        *,
        claimant: str,
        lease: timedelta,
        run_retention: timedelta,
        max_run_rows: int,
    ) -> None:
        self.lease = lease
        self._store = store
        self._clock = clock
        self._defaults = defaults
        self._claimant = claimant
        self._run_retention = run_retention
        self._max_run_rows = max_run_rows
        self._pruned_at: datetime | None = None
        self._is_pruning = False
        #: Takes figures of what is not sent; replaced by an engine that reports them.
        self.metrics = Metrics()
        #: Entered while the store is waited for; replaced by an engine that reports stores that do not answer.
        self.calling: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def serializer(self) -> TaskiqSerializer | None:
        """How arguments that are not JSON are stored; None if there are none."""
        return self._defaults.serializer

    async def take(
        self,
        *,
        limit: int,
        ids: Collection[str] | None = None,
        early: timedelta = timedelta(0),
    ) -> list[Dispatch]:
        """Claim up to `limit` due occurrences and return those that are to be sent.

        What the misfire policy drops is recorded, what cannot be read is quarantined: both count towards `limit` but are not
        returned.

        Args:
            limit: How many to claim at most.
            ids: Consider only these schedules.
            early: Accept occurrences up to this long before they are due.

        Raises:
            SourceConnectionError: The store cannot be reached. What was claimed by then is free again when its lease ends.
        """
        ready, collapsed = await self.plan(await self.claim(limit=limit, ids=ids, early=early))
        return ready + (await self.settle_first(collapsed) if collapsed else [])

    async def claim(
        self,
        *,
        limit: int,
        ids: Collection[str] | None = None,
        early: timedelta = timedelta(0),
        now: datetime | None = None,
    ) -> list[Claim]:
        """Claim due occurrences, as `take` does, at `now` (None: the present), and leave what they mean to `plan`."""
        now = now or await self._clock.now()
        with self.calling():
            return await self._store.claim(now, claimant=self._claimant, lease=self.lease, limit=limit, ids=ids, early=early)

    async def plan(self, claims: Iterable[Claim]) -> tuple[list[Dispatch], list[Plan]]:
        """Return what is to be sent of `claims`, and of what else something is to be settled first, by `settle_first`."""
        with collector_waits():
            plans = await in_slices(self._plan, claims)
        ready = [plan.dispatch for plan in plans if plan.settle_first is None and plan.dispatch is not None]
        return ready, [plan for plan in plans if plan.settle_first is not None]

    async def settle_first(self, plans: Sequence[Plan]) -> list[Dispatch]:
        """Record what is missed, collapsed or quarantined by `plans`, and return what is to be sent then.

        One that trips a bug of the store does not take the others with it: it is not sent.
        """
        try:
            with self.calling():
                lost = await self._store.settle([plan.settle_first for plan in plans if plan.settle_first is not None])
        except (SourceConnectionError, SourceClosedError):
            raise
        except Exception:
            if len(plans) > 1:
                return [dispatch for plan in plans for dispatch in await self.settle_first([plan])]
            named = [plan.settle_first.claim.schedule.id for plan in plans if plan.settle_first is not None]
            logger.exception("What is late of schedule %r cannot be settled, and is not sent.", *named)
            return []
        dispatches = []
        for plan in plans:
            if plan.settle_first is None or plan.settle_first.claim.schedule.id in lost:
                continue
            self._tell_of(plan, plan.settle_first)  # now that it is so: what is given back is planned anew
            if plan.dispatch is not None:
                dispatches.append(plan.dispatch)
        return dispatches

    async def sent(self, dispatch: Dispatch, *, again: bool = False) -> Outcome:
        """Record that the broker took an occurrence, `again` as for `record`; return where the schedule goes from there."""
        outcome = occurrences.sent(dispatch, await self._clock.now())
        await self.settle([outcome], again=again)
        return outcome

    async def settle(self, outcomes: Sequence[Outcome], *, again: bool = False) -> frozenset[str]:
        """Do what `record` does, and cut the history when it is time."""
        lost = await self.record(outcomes, again=again)
        await self.prune_now_and_then()
        return lost

    async def record(self, outcomes: Sequence[Outcome], *, again: bool = False) -> frozenset[str]:
        """Record outcomes, and return the ids of the lost ones (see `ScheduleStore.settle`).

        Args:
            outcomes: What to record.
            again: Whether a call before this one broke off: it may have recorded what is lost now.
        """
        with self.calling():
            lost = await self._store.settle(outcomes)
        if again and lost:
            logger.info("%d outcome(s) were recorded by a call that broke off, or came too late to be recorded.", len(lost))
            return lost
        self.metrics.lost(len(lost))
        for schedule_id in lost:
            logger.warning(
                "Schedule %r was taken over, edited or deleted while one of its occurrences was being sent; if it is sent again, "
                "the message has the same task_id.",
                schedule_id,
            )
        return lost

    async def prune_now_and_then(self) -> None:
        """Cut the history to its limits, when it is time."""
        if self._is_pruning:  # it may take minutes, or for ever: only one of those who settle is to wait for it
            return
        now = await self._clock.now()
        if self._pruned_at is not None and abs(now - self._pruned_at) < PRUNE_INTERVAL:  # the clock may have been set back
            return
        self._pruned_at, self._is_pruning = now, True
        try:
            await self._store.prune_runs(before=now - self._run_retention, keep=self._max_run_rows)
        except Exception as error:  # the occurrence is settled; housekeeping can wait for the next time
            is_bug = not isinstance(error, SourceConnectionError)
            problem = "The run history could not be pruned: %s; trying again in %s."
            logger.warning(problem, error_text(error), PRUNE_INTERVAL, exc_info=is_bug)
        finally:
            self._is_pruning = False

    def _plan(self, claim: Claim) -> Plan:
        try:
            return occurrences.plan(claim, definitions.read(claim.schedule, self._defaults.serializer), claim.claimed_at)
        except ScheduleDecodeError as error:  # a traceback would not help anybody
            return Plan(settle_first=occurrences.quarantined(claim, error))
        except Exception as error:  # one schedule that trips a bug must not stop the others
            logger.exception("Planning an occurrence of schedule %r failed", claim.schedule.id)
            return Plan(settle_first=occurrences.quarantined(claim, error))

    def _tell_of(self, plan: Plan, settled: Outcome) -> None:
        schedule_id = settled.claim.schedule.id
        if settled.quarantined:
            self.metrics.quarantined(1)
            logger.error("Schedule %r is quarantined: %s", schedule_id, settled.last_error)
        for run in settled.runs:
            if run.status == "missed":
                self.metrics.missed(run.coalesced)
            logger.warning(
                "Schedule %r: %d occurrence(s) up to %s %s: %s.",
                schedule_id,
                run.coalesced,
                run.scheduled_for.isoformat(),
                "not sent" if run.status == "missed" else "not sent again",
                run.error or "later than the misfire policy allows",
            )
        if plan.dispatch is not None and plan.dispatch.coalesced > 1:
            late, latest = plan.dispatch.coalesced, plan.dispatch.scheduled_for.isoformat()
            logger.info("Schedule %r: %d late occurrences are sent as one, that of %s.", schedule_id, late, latest)
