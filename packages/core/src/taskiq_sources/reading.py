"""Opening and reading a source: the half of `taskiq_sources.source.ScheduleSource` that writes nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import datetime

import taskiq

from taskiq_sources import arguments, definitions
from taskiq_sources.clock import Clock, StoreClock
from taskiq_sources.definitions import Defaults
from taskiq_sources.errors import ScheduleDecodeError, ScheduleNotFoundError, ScheduleValidationError, SourceClosedError
from taskiq_sources.info import ScheduleInfo
from taskiq_sources.models import Run, RunQuery, RunStatus, ScheduleQuery, StoredSchedule
from taskiq_sources.store import ScheduleStore
from taskiq_sources.tasking import LoopLock

_PAGE = 500


class SourceReader(taskiq.ScheduleSource):
    """Life cycle and look-ups of a source.

    Args:
        store: Where schedules are kept.
        defaults: How documents are read.
        clock: What decides what is due; None for the store's clock.
    """

    def __init__(self, store: ScheduleStore, defaults: Defaults, clock: Clock | None) -> None:
        self.store = store
        self.clock = clock or StoreClock(store.now)
        self._defaults = defaults
        self._closed = False
        self._opening = LoopLock()
        self._opened_in: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"

    # -- life ----------------------------------------------------------------------------------------------------------------

    async def startup(self) -> None:
        """Connect, and create or migrate the schema. Idempotent; safe in any number of processes at once.

        Raises:
            SourceConnectionError: The store cannot be reached or refuses us.
        """
        self._closed = False
        await self._open()

    async def shutdown(self) -> None:
        """Disconnect. Closes only what the source opened itself. Idempotent."""
        async with self._opening.here():
            if self._opened_in is not None:
                await self.store.close()
            self._closed, self._opened_in = True, None

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._opened_in is loop:
            return
        async with self._opening.here():
            if self._closed:
                raise SourceClosedError(f"{self!r} was shut down; await startup() before using it again")
            if self._opened_in is not loop:  # it is the first one, or those before have ended: each `asyncio.run` is one
                await self.store.open()
                self._opened_in = loop

    # -- reading -------------------------------------------------------------------------------------------------------------

    async def get_schedule(self, schedule_id: str) -> ScheduleInfo | None:
        """Return one schedule, or None if it does not exist."""
        await self._open()
        try:
            return self._info(await self._stored(schedule_id))
        except ScheduleNotFoundError:
            return None

    async def iter_schedules(
        self,
        *,
        task_name: str | None = None,
        paused: bool | None = None,
        quarantined: bool | None = None,
        owner: str | None = None,
        due_before: datetime | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[ScheduleInfo]:
        """Yield schedules in the order of their ids, reading a few hundred at a time.

        Args:
            task_name: Only those of this task.
            paused: Only paused ones, or only the others.
            quarantined: Only quarantined ones, or only the others.
            owner: Only those declared by this owner.
            due_before: Only those pending, and due before this instant (aware).
            after: Only those whose ids come after this one, by code points: the last id of the page before.
            limit: How many at most.
        """
        arguments.check_limit(limit)
        arguments.check_choices(paused=paused, quarantined=quarantined)
        arguments.check_texts(task_name=task_name, owner=owner)
        if after is not None and not definitions.may_exist(after):
            raise ScheduleValidationError("after", after, "use the id of a schedule")
        await self._open()
        query = ScheduleQuery(
            task_name=task_name,
            paused=paused,
            quarantined=quarantined,
            owner=owner,
            due_before=arguments.instant("due_before", due_before),
        )
        left = sys.maxsize if limit is None else limit
        while left and (page := await self.store.page(query, after=after, limit=min(left, _PAGE))):
            for stored in page:
                yield self._info(stored)
            after, left = page[-1].id, left - len(page)

    async def runs(
        self,
        schedule_id: str | None = None,
        *,
        status: RunStatus | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: Run | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Run]:
        """Yield history rows, newest first, reading a few hundred at a time.

        Args:
            schedule_id: Only those of this schedule (which may be gone by now).
            status: Only those with this status.
            since: Only those recorded at this instant or later (aware).
            until: Only those recorded before this instant (aware).
            after: Only those that come after this one: the last row of the page before, which may be gone by now. Its
                ``recorded_at`` and ``occurrence_id`` say where that is; ``until`` does not, as many rows may have one instant.
            limit: How many at most.
        """
        arguments.check_limit(limit)
        if status is not None:
            arguments.check_words(RunStatus, status=status)
        place = arguments.row_before(after)
        since, until = arguments.instant("since", since), arguments.instant("until", until)
        resolved = None if schedule_id is None else arguments.schedule_id_of(schedule_id)
        await self._open()
        if resolved is not None and not definitions.may_exist(resolved):
            return
        query = RunQuery(schedule_id=resolved, status=status, since=since, until=until)
        async for run in every_run(self.store, query, after=place, limit=limit):
            yield run

    # -- helpers -------------------------------------------------------------------------------------------------------------

    async def _stored(self, schedule_id: str) -> StoredSchedule:
        resolved = self._resolved(schedule_id)
        stored = (await self.store.get([resolved])).get(resolved)
        if stored is None:
            raise ScheduleNotFoundError(resolved)
        return stored

    def _resolved(self, schedule_id: str) -> str:
        resolved = arguments.schedule_id_of(schedule_id)
        if not definitions.may_exist(resolved):
            raise ScheduleNotFoundError(resolved)
        return resolved

    def _info(self, stored: StoredSchedule) -> ScheduleInfo:
        try:
            definition = definitions.read(stored, self._defaults.serializer)
            task = definition.task
            if task.cron is not None and task.cron_offset is None and definition.zone != self._defaults.timezone:
                task.cron_offset = definition.zone  # or it would mean another time when it is stored here again
            return ScheduleInfo(state=stored, task=task, manual_of=definition.manual_of)
        except ScheduleDecodeError as error:
            return ScheduleInfo(state=stored, task=None, error=error.problem)


async def every_run(
    store: ScheduleStore, query: RunQuery, *, after: Run | None = None, limit: int | None = None
) -> AsyncIterator[Run]:
    """Yield matching history rows of a store that come after `after`, up to `limit`, newest first, a few hundred at a time."""
    left = sys.maxsize if limit is None else limit
    while left and (page := await store.runs(query, after=after, limit=min(left, _PAGE))):
        for run in page:
            yield run
        after, left = page[-1], left - len(page)
