"""How a source works under taskiq's own scheduler loop, which knows nothing of claims.

The loop ticks each second over a list that it fetches now and then, decides with its own clock and its own memory what to send,
and calls ``pre_send`` and ``post_send`` around each send. Here the store decides: ``pre_send`` claims the occurrence or cancels
the send.

The loop's own judgement is good enough for most cron minutes. For the rest (overdue occurrences, retries, intervals out of phase,
jitter, clock changes, what its cron parser cannot express) a second entry is handed out: a one-off for that very occurrence. The
loop sends an id only once as long as it sees it in every refresh, so such an entry has an id of its own, and is moved on to the
next occurrence, under a new id, after each send.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import uuid
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import taskiq
from pydantic import Field
from taskiq.cli.scheduler.run import is_cron_task_now
from taskiq.exceptions import ScheduledTaskCancelledError

from taskiq_sources import definitions
from taskiq_sources.claims import ClaimDesk
from taskiq_sources.clock import Clock
from taskiq_sources.codec import Definition
from taskiq_sources.definitions import HANDED_OUT_ID, Defaults, occurrence_id
from taskiq_sources.errors import ScheduleDecodeError, SourceConnectionError
from taskiq_sources.models import Outcome, ScheduleQuery, StoredSchedule
from taskiq_sources.occurrences import Dispatch
from taskiq_sources.store import ScheduleStore
from taskiq_sources.tasks import ScheduledTask

logger = logging.getLogger("taskiq_sources")

#: How much earlier than the store's clock says an occurrence is accepted: the loop ticks on the local clock.
EARLY = timedelta(seconds=1.5)

#: Which coming occurrences get an entry of their own when the loop would not hit them: those due before any likely refresh.
HORIZON = timedelta(minutes=5)

_MINUTE = timedelta(minutes=1)
_PAGE = 1_000
_FIRST_PAUSE = 0.1  # seconds between attempts to settle
_LONGEST_PAUSE = 2.0
_LAST_SENDS = 10.0  # for sends that have begun when the source is shut down


class OccurrenceEntry(ScheduledTask):
    """A one-off for a single occurrence of a schedule, as it is handed to the loop.

    Args:
        origin: The id of that schedule.
        says_when: Whether its time is that of an occurrence, and not the end of somebody's lease.
    """

    origin: str = Field(default="", exclude=True)
    says_when: bool = Field(default=True, exclude=True)


@dataclass(frozen=True, slots=True)
class _Sending:
    """What ``post_send`` has to know of a send. Holds the entry, so that its ``id()`` stays its own."""

    entry: taskiq.ScheduledTask
    dispatch: Dispatch
    task: asyncio.Task[Any] | None


class StockLoop:
    """Speaks with taskiq's `SchedulerLoop` on behalf of a source.

    Args:
        store: Where schedules live.
        desk: Claims and settles.
        clock: What decides what is due.
        defaults: How documents are read.
        look_ahead: Hand out only what is due within this time; None for everything.
        stale_for: How long the last list is served when the store cannot be reached.
    """

    def __init__(
        self,
        store: ScheduleStore,
        desk: ClaimDesk,
        clock: Clock,
        defaults: Defaults,
        *,
        look_ahead: timedelta | None,
        stale_for: timedelta,
    ) -> None:
        self._store = store
        self._desk = desk
        self._clock = clock
        self._defaults = defaults
        self._look_ahead = look_ahead
        self._stale_for = stale_for
        self._last_good: tuple[datetime, list[StoredSchedule]] | None = None
        self._sending: dict[int, _Sending] = {}
        self._settling: set[asyncio.Task[Any]] = set()
        self._hanging: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()  # who has been waited for in vain
        self._serials = itertools.count()
        self._process = uuid.uuid4().hex[:6]
        self._told: set[tuple[str, int]] = set()

    # -- what the loop calls -------------------------------------------------------------------------------------------------

    async def get_schedules(self) -> list[taskiq.ScheduledTask]:
        """Return every active schedule, and an entry for each occurrence that the loop would not hit by itself."""
        now = await self._clock.now()
        return [entry for stored in await self._active(now) for entry in self._entries(stored, now)]

    async def pre_send(self, entry: taskiq.ScheduledTask) -> None:
        """Claim the occurrence that is due and fill `entry` with what is stored now, or cancel the send."""
        schedule_id = origin_of(entry)
        dispatches = await self._desk.take(limit=1, ids=[schedule_id], early=EARLY if _says_when(entry) else timedelta(0))
        if not dispatches:
            if isinstance(entry, OccurrenceEntry):
                await self._look_again(entry)
            raise ScheduledTaskCancelledError
        dispatch = dispatches[0]
        current = dispatch.task
        entry.task_name, entry.args, entry.kwargs, entry.labels = current.task_name, current.args, current.kwargs, current.labels
        entry.task_id, entry.schedule_id = current.task_id, current.schedule_id
        if isinstance(entry, OccurrenceEntry):
            entry.time = dispatch.claim.lease_until + EARLY  # should the send fail, the lease has to end first
            entry.says_when = False
        self._forget_failed_sends(dispatch.claim.claimed_at)
        self._sending[id(entry)] = _Sending(entry, dispatch, asyncio.current_task())

    async def post_send(self, entry: taskiq.ScheduledTask) -> None:
        """Settle the claim that ``pre_send`` made."""
        sending = self._sending.pop(id(entry), None)
        if sending is None:
            logger.warning(
                "post_send was called for schedule %r without pre_send; there is no claim to settle.", entry.schedule_id
            )
            return
        # In a task of its own: taskiq cuts off sends that take long, and what was sent is to be recorded all the same.
        settling = asyncio.create_task(self._settle_persistently(sending.dispatch))
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)
        outcome = await asyncio.shield(settling)
        if isinstance(entry, OccurrenceEntry):
            self._move_on(entry, sending.dispatch, outcome)
        else:
            entry.schedule_id = sending.dispatch.claim.schedule.id

    async def finish_sends(self) -> None:
        """Wait until what is being sent is settled, or has failed, but not for ever: ten seconds, once for each send."""
        tasks = [*self._settling, *(sending.task for sending in self._sending.values() if sending.task is not None)]
        here, over = asyncio.get_running_loop(), {*self._hanging, asyncio.current_task()}
        running = {task for task in tasks if not task.done() and task not in over and task.get_loop() is here}
        if running:
            _, left = await asyncio.wait(running, timeout=_LAST_SENDS)
            self._hanging.update(left)  # a scheduler waits before it stops the broker, and then its sources are shut down

    # -- reading -------------------------------------------------------------------------------------------------------------

    async def _active(self, now: datetime) -> list[StoredSchedule]:
        """Return all that may be claimed, or what was there lately if the store cannot be reached."""
        try:
            found = await self._read_active(now)
        except SourceConnectionError as error:
            if self._last_good is None or now - self._last_good[0] > self._stale_for:
                raise
            logger.warning("Serving the schedules read at %s: %s", self._last_good[0].isoformat(), error)
            return self._last_good[1]
        self._last_good = (now, found)
        return found

    async def _read_active(self, now: datetime) -> list[StoredSchedule]:
        query = ScheduleQuery(
            paused=False,
            quarantined=False,
            due_before=None if self._look_ahead is None else now + self._look_ahead,
        )
        found: list[StoredSchedule] = []
        after: str | None = None
        while page := await self._store.page(query, after=after, limit=_PAGE):
            found += page
            after = page[-1].id
            if len(page) < _PAGE:
                break
        return found

    def _entries(self, stored: StoredSchedule, now: datetime) -> Iterable[taskiq.ScheduledTask]:
        if stored.next_run_at is None:
            return
        try:
            definition = definitions.read(stored, self._defaults.serializer)
        except ScheduleDecodeError as error:
            # Handed out all the same: when it is due, pre_send claims it, and it is quarantined with its error.
            self._tell_once(stored, "%s", error)
            yield self._unreadable_entry(stored)
            return
        plain = self._plain_entry(stored, definition)
        if plain is not None:
            yield plain
        waits = stored.next_run_at <= now + HORIZON and not _loop_hits(plain, stored, now)
        if plain is None or waits:
            yield self._occurrence_entry(stored, definition)

    def _plain_entry(self, stored: StoredSchedule, definition: Definition) -> ScheduledTask | None:
        """Return the schedule in taskiq's own terms, or None if the loop could not evaluate it without an error."""
        offset = definition.stated_offset
        cron = definition.cron
        if cron is not None and _loop_fires(cron, stored.scheduled_for or stored.created_at, offset) is None:
            self._tell_once(
                stored,
                "Schedule %r: taskiq's own loop cannot evaluate cron %r; each occurrence is handed to it as a one-off, which may "
                "be late by the loop's --update-interval. DurableScheduler has no such limit.",
                stored.id,
                cron,
            )
            cron = None
        if cron is None and definition.interval is None and definition.time is None:
            return None
        return replace(definition, cron=cron, cron_offset=offset).task

    def _occurrence_entry(self, stored: StoredSchedule, definition: Definition) -> OccurrenceEntry:
        entry = OccurrenceEntry(
            task_name=definition.task_name,
            labels=copy.deepcopy(definition.labels),
            args=copy.deepcopy(definition.args),
            kwargs=copy.deepcopy(definition.kwargs),
            task_id=definition.task_id,
            time=stored.next_run_at,
            origin=stored.id,
        )
        self._aim(entry, stored)
        return entry

    def _unreadable_entry(self, stored: StoredSchedule) -> OccurrenceEntry:
        placeholder = Definition(schedule_id=stored.id, task_name=stored.task_name, labels={}, args=[], kwargs={})
        return self._occurrence_entry(stored, placeholder)

    # -- moving entries on ---------------------------------------------------------------------------------------------------

    async def _look_again(self, entry: OccurrenceEntry) -> None:
        """Aim an entry that came too late, or too early, at what is pending now."""
        stored = (await self._store.get([entry.origin])).get(entry.origin)
        # What nobody may send keeps its id, which the loop does not try again before it has read the list anew.
        if stored is not None and not (stored.paused or stored.quarantined):
            self._aim(entry, stored)

    def _move_on(self, entry: OccurrenceEntry, dispatch: Dispatch, outcome: Outcome) -> None:
        schedule = dispatch.claim.schedule
        if outcome.next_run_at is None or outcome.scheduled_for is None:
            entry.schedule_id = schedule.id
            return
        self._aim_at(entry, schedule.id, outcome.scheduled_for, outcome.next_run_at)

    def _aim(self, entry: OccurrenceEntry, stored: StoredSchedule) -> None:
        if stored.next_run_at is None:
            return
        moment = stored.next_run_at
        if stored.lease_until is not None:
            moment = max(moment, stored.lease_until + EARLY)
        self._aim_at(entry, stored.id, stored.scheduled_for or moment, moment)
        entry.says_when = moment == stored.next_run_at

    def _aim_at(self, entry: OccurrenceEntry, schedule_id: str, scheduled_for: datetime, moment: datetime) -> None:
        entry.time = moment
        entry.says_when = True
        entry.schedule_id = f"{occurrence_id(schedule_id, scheduled_for)}~{self._process}{next(self._serials):x}"

    # -- settling ------------------------------------------------------------------------------------------------------------

    async def _settle_persistently(self, dispatch: Dispatch) -> Outcome:
        """Settle, and keep trying through a short outage of the store: until the lease ends nobody else sends it again."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._desk.lease.total_seconds()
        pause, again = _FIRST_PAUSE, False
        while True:
            try:
                return await self._desk.sent(dispatch, again=again)
            except SourceConnectionError:
                if loop.time() + pause > give_up_at:
                    raise
                logger.warning("Schedule %r was sent but cannot be settled yet.", dispatch.schedule_id, exc_info=True)
            await asyncio.sleep(pause)
            pause, again = min(pause * 2, _LONGEST_PAUSE), True

    def _forget_failed_sends(self, now: datetime) -> None:
        """Drop what never reached ``post_send`` and can be taken over by now."""
        over = [key for key, sending in self._sending.items() if sending.dispatch.claim.lease_until < now - self._desk.lease]
        for key in over:
            del self._sending[key]

    def _tell_once(self, stored: StoredSchedule, message: str, *args: object) -> None:
        key = (stored.id, stored.revision)
        if key not in self._told:
            self._told.add(key)
            logger.warning(message, *args)


def origin_of(entry: taskiq.ScheduledTask) -> str:
    """Return the id of the schedule that an entry was handed out for."""
    return entry.origin if isinstance(entry, OccurrenceEntry) else origin_id(entry.schedule_id)


def _says_when(entry: taskiq.ScheduledTask) -> bool:
    """Whether the loop's tick for this entry means that an occurrence is due.

    An interval is started whenever the loop first sees it, and the end of a lease is no occurrence: these bring nothing forward.
    """
    if isinstance(entry, OccurrenceEntry):
        return entry.says_when
    return entry.cron is not None or entry.time is not None


def origin_id(handed_out: str) -> str:
    """Return the schedule's id for an id that the loop, a log line or a dashboard shows."""
    match = HANDED_OUT_ID.fullmatch(handed_out)
    return handed_out if match is None else match["id"]


def _loop_fires(cron: str, moment: datetime, offset: str | timedelta | None) -> bool | None:
    """Whether the loop's own cron parser fires at `moment`; None if it cannot evaluate the expression.

    It is the loop's function that is asked, so the answer is right for whatever release is installed.
    """
    try:
        return is_cron_task_now(cron, moment, offset)
    except Exception:  # which error it raises differs between releases
        return None


def _loop_hits(plain: ScheduledTask | None, stored: StoredSchedule, now: datetime) -> bool:
    """Whether the loop will, by itself, try to send the pending occurrence at the second it is due."""
    due = stored.next_run_at
    if plain is None or due is None or due <= now or due != stored.scheduled_for or stored.lease_until is not None:
        return False
    if plain.time is not None and plain.time == due:
        return True
    if plain.cron is None or due.second or due.microsecond:
        return False
    # It fires at any second of a minute, and not within a minute of that: one that begins amid the minute before misses this one.
    fires = partial(_loop_fires, plain.cron, offset=plain.cron_offset)
    return bool(fires(due)) and not fires(due - _MINUTE)
