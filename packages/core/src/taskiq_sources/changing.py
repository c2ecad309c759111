"""Changes of schedules while others may be sending them: held by claims meanwhile, where something is due."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from taskiq_sources import occurrences
from taskiq_sources.clock import Clock
from taskiq_sources.codec import Definition
from taskiq_sources.continuing import CHANGING, dropped, is_held, is_in_flight
from taskiq_sources.errors import RevisionConflictError, ScheduleNotFoundError, SourceConnectionError
from taskiq_sources.models import UNSET, Claim, Outcome, ScheduleChanges, StoredSchedule
from taskiq_sources.store import ScheduleStore
from taskiq_sources.tasking import to_the_end

logger = logging.getLogger("taskiq_sources")

_LEASE: Final = timedelta(seconds=10)  # many times as long as it takes to change a batch
_PATIENCE: Final = 0.5  # seconds: a send takes milliseconds
_LOOK_EVERY: Final = 0.05
_TRY_AGAIN: Final = (0.05, 0.2, 0.5)  # seconds
_NONE: Final = timedelta(0)


class Changing:
    """Schedules that are held while they are changed, so that nobody sends them, or stores them anew, between look and edit.

    Args:
        store: Where they are.
        clock: What decides what is due.
        near: How long before its time a schedule is held: longer before that, it is not sent before it is changed.
    """

    def __init__(self, store: ScheduleStore, clock: Clock, near: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._near = near
        self._claims: dict[str, Claim] = {}
        self._ends: dict[str, Outcome] = {}

    @property
    def claims(self) -> list[Claim]:
        """What is held."""
        return list(self._claims.values())

    def end(self, outcome: Outcome) -> None:
        """Let a claim end otherwise than with all as it was before."""
        self._ends[outcome.claim.schedule.id] = outcome

    async def hold(self, schedules: Collection[StoredSchedule]) -> None:
        """Claim those of which something is due, or will be soon. What is in flight is waited for, for a while.

        While another one is changing some of them, none are held, so that two never wait for each other.
        """
        waited = 0.0
        while left := await self._claim(schedules):
            # Who changes one, and has died over it, perhaps, was not sending it: then what is due can be held soon.
            is_changed = any(one.claimant == CHANGING for one in left)
            if waited >= (_LEASE.total_seconds() if is_changed else _PATIENCE):
                return
            if is_changed:
                await self.let_go()
            waited += await _a_while()

    async def let_go(self) -> None:
        """End the claims: all that was not edited is as it was before. Tried again a few times while the store is away."""
        ends = [self._ends.get(name, occurrences.given_back(claim)) for name, claim in self._claims.items()]
        self._claims.clear()
        if not ends:
            return
        for pause in _TRY_AGAIN:
            with suppress(SourceConnectionError):
                await self._store.settle(ends)
                return
            await asyncio.sleep(pause)
        await self._store.settle(ends)

    def seen(self, stored: StoredSchedule, *, is_counted: bool = True) -> StoredSchedule:
        """Return a schedule as it is without a claim of ours, or of another who changes it, which its attempts count."""
        if stored.claimant != CHANGING:
            return stored
        return replace(stored, attempt=max(0, stored.attempt - is_counted), claimant=None, lease_until=None)

    async def edit(
        self,
        stored: StoredSchedule | None,
        change: Callable[[StoredSchedule], Awaitable[tuple[ScheduleChanges, Definition | None] | None]],
    ) -> StoredSchedule | None:
        """Write a change at the revision it is for, anew if somebody else has edited the schedule, and return how it is then.

        Args:
            stored: The schedule as it was read.
            change: Returns what to write, and the former definition, of a schedule as it is without our claim; None for nothing.
        """
        while (stored := await self._held(stored)) is not None and (wanted := await change(self.seen(stored))) is not None:
            changes, former = wanted
            await self._record_as_missed(stored, former, changes)
            try:
                edited = await self._store.update(stored.id, changes, expected_revision=stored.revision)
                return self.seen(edited, is_counted=changes.attempt is UNSET)
            except (RevisionConflictError, ScheduleNotFoundError):
                stored = (await self._store.get([stored.id])).get(stored.id)
        return stored

    async def _held(self, stored: StoredSchedule | None) -> StoredSchedule | None:
        """Return the schedule as it is when we hold it, if it could not be held before: it may have been paused then."""
        waited = 0.0
        while stored is not None and stored.id not in self._claims and waited < _PATIENCE:
            if not self._near_of([stored], await self._clock.now()):
                return stored
            left = await self._claim([stored])
            # It is read anew also where it could not be held: what was settled since is told by no revision.
            fresh = (await self._store.get([stored.id])).get(stored.id)
            if not left and (fresh == stored or stored.id in self._claims):
                return fresh
            stored = fresh
            waited += await _a_while()
        return stored

    async def _claim(self, schedules: Collection[StoredSchedule]) -> list[StoredSchedule]:
        """Claim what is due, or will be soon, and return what somebody else holds, or has let go in this instant."""
        now = await self._clock.now()
        wanted = [one for one in self._near_of(schedules, now) if one.id not in self._claims]
        if not wanted:
            return []
        early = max(_NONE, max((one.next_run_at or now) for one in wanted) - now)
        ids = [one.id for one in wanted]
        # To the end: what was claimed and is not given back, because nobody waited for the answer, looks as if it had been sent.
        await to_the_end(self._claim_these(ids, now, early))
        left = [name for name in ids if name not in self._claims]
        found = (await self._store.get(left)).values() if left else ()
        return [one for one in self._near_of(found, now) if is_held(one, now) or not (one.paused or one.quarantined)]

    async def _claim_these(self, ids: list[str], now: datetime, early: timedelta) -> None:
        claims = await self._store.claim(now, claimant=CHANGING, lease=_LEASE, limit=len(ids), ids=ids, early=early)
        self._claims.update((claim.schedule.id, claim) for claim in claims)

    def _near_of(self, schedules: Iterable[StoredSchedule], now: datetime) -> list[StoredSchedule]:
        return [one for one in schedules if one.scheduled_for is not None and one.scheduled_for <= now + self._near]

    async def _record_as_missed(self, stored: StoredSchedule, former: Definition | None, changes: ScheduleChanges) -> None:
        """Record what is due and was not sent, if `changes` take it away. Should the process die then, the former goes on."""
        claim, now = self._claims.get(stored.id), await self._clock.now()
        if former is None or stored.id in self._ends or (what := dropped(self.seen(stored), former, changes, now)) is None:
            return
        if claim is None or stored.timing_revision > claim.schedule.revision:  # it is paused, or somebody is sending it
            if is_in_flight(stored, now):
                logger.warning("Schedule %r has other triggers now; %s was sending it.", stored.id, stored.claimant)
            return
        outcome = occurrences.overtaken(claim, former, now, up_to_pending=what == "tried")
        await self._store.settle([replace(outcome, release=False)])
        self._ends[stored.id] = replace(outcome, runs=())
        number, statuses = sum(run.coalesced for run in outcome.runs), " and ".join({run.status: None for run in outcome.runs})
        late = f"{number} occurrence(s) up to {outcome.runs[-1].scheduled_for.isoformat()}"
        logger.warning("Schedule %r has other triggers now: %s not sent, and recorded as %s.", stored.id, late, statuses)


async def _a_while() -> float:
    """Wait, not always for as long, lest two go on meeting each other; return the seconds."""
    pause = _LOOK_EVERY * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
    await asyncio.sleep(pause)
    return pause


@asynccontextmanager
async def held(
    schedules: Collection[StoredSchedule], store: ScheduleStore, clock: Clock, *, near: timedelta = timedelta(seconds=10)
) -> AsyncIterator[Changing]:
    """Hold schedules while they are changed. The arguments are those of `Changing`."""
    changing = Changing(store, clock, near)
    try:
        await changing.hold(schedules)
        yield changing
    finally:
        await to_the_end(changing.let_go())
