"""`ScheduleSource`: the API that applications call, and that taskiq's scheduler reads.

It validates, encodes and computes when things are due; all that is kept goes through a `ScheduleStore`. Knows no database.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from functools import partial
from typing import Any, TypeVar

import taskiq
from pydantic import ValidationError
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.decor import AsyncTaskiqDecoratedTask
from taskiq.kicker import AsyncKicker

from taskiq_sources import arguments, definitions, edits
from taskiq_sources.capture import captured_task, kicker_of
from taskiq_sources.changing import held
from taskiq_sources.claims import ClaimDesk
from taskiq_sources.clock import Clock
from taskiq_sources.codec import Definition
from taskiq_sources.created import CreatedSchedule
from taskiq_sources.declaring import declare, write
from taskiq_sources.definitions import Defaults
from taskiq_sources.dispatched import DispatchedTask
from taskiq_sources.errors import (
    RevisionConflictError,
    ScheduleExistsError,
    ScheduleNotFoundError,
    ScheduleValidationError,
)
from taskiq_sources.info import ScheduleInfo, SourceOptions
from taskiq_sources.models import ScheduleChanges, StoredSchedule
from taskiq_sources.options import OnConflict, ScheduleOptions
from taskiq_sources.reading import SourceReader
from taskiq_sources.stock import StockLoop
from taskiq_sources.store import ScheduleStore
from taskiq_sources.tasks import ScheduledTask
from taskiq_sources.triggers import parse_zone

logger = logging.getLogger("taskiq_sources")

_ReturnType = TypeVar("_ReturnType")

__all__ = ["ScheduleInfo", "ScheduleSource", "SourceOptions"]

_EDIT_ATTEMPTS = 10


class ScheduleSource(SourceReader):
    """Durable schedules behind taskiq's interface, over any `ScheduleStore`.

    Applications use the source of a backend (``SQLiteScheduleSource``, …), which takes these arguments too. A source opens itself
    on first use; `startup` does it at once. It belongs to one event loop at a time; if that has ended, the next opens it anew.

    Args:
        store: Where schedules are kept.
        options: Defaults for schedules of this source; a schedule keeps what was in force when it was written.
        default_timezone: What cron means where ``cron_offset`` is None: an IANA name, a time zone object or an offset from UTC.
        serializer: Stores arguments that are not JSON; every process that uses the schedules needs the same one.
        lease: How long a claimed occurrence is held for one scheduler. A send that neither succeeds nor fails within it is
            tried again by whoever comes first.
        look_ahead: Let `get_schedules` return only what is due within this time; for stores with very many schedules.
        stale_for: How long `get_schedules` serves the last list while the store cannot be reached, before it raises.
        run_retention: How long history rows are kept.
        max_run_rows: How many history rows are kept at most.
        clock: What decides what is due; None for the store's clock.
        claimant: Name of this process in leases and history; None for host, process id and a random part.

    Raises:
        ScheduleValidationError: An argument is refused.
    """

    def __init__(
        self,
        store: ScheduleStore,
        *,
        options: ScheduleOptions | None = None,
        default_timezone: str | timedelta | tzinfo = "UTC",
        serializer: TaskiqSerializer | None = None,
        lease: timedelta = timedelta(seconds=30),
        look_ahead: timedelta | None = None,
        stale_for: timedelta = timedelta(minutes=10),
        run_retention: timedelta = timedelta(days=7),
        max_run_rows: int = 100_000,
        clock: Clock | None = None,
        claimant: str | None = None,
    ) -> None:
        durations = {"look_ahead": look_ahead, "stale_for": stale_for, "run_retention": run_retention}
        working_with = {"serializer": serializer, "clock": clock, "claimant": claimant}
        arguments.check_source(lease=lease, max_run_rows=max_run_rows, **working_with, **durations)
        defaults = Defaults(
            options=ScheduleOptions() if options is None else ScheduleOptions.from_label(options),
            timezone=parse_zone(default_timezone, field="default_timezone"),
            serializer=serializer,
        )
        super().__init__(store, defaults, clock)
        #: Claims due occurrences and settles them: what an engine drives.
        self.desk = ClaimDesk(
            store,
            self.clock,
            defaults,
            claimant=claimant or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}",
            lease=lease,
            run_retention=run_retention,
            max_run_rows=max_run_rows,
        )
        self._stock = StockLoop(store, self.desk, self.clock, defaults, look_ahead=look_ahead, stale_for=stale_for)

    # -- what taskiq's scheduler calls ---------------------------------------------------------------------------------------

    async def get_schedules(self) -> list[taskiq.ScheduledTask]:
        """Return copies of all schedules that are neither paused nor quarantined, for taskiq's scheduler and for dashboards.

        Occurrences that taskiq's loop would miss appear as additional one-offs. Has no side effects.
        """
        await self._open()
        return await self._stock.get_schedules()

    async def pre_send(self, task: taskiq.ScheduledTask) -> None:
        """Claim the occurrence that is due, so that no other scheduler sends it.

        Raises:
            ScheduledTaskCancelledError: There is none: it was sent by another scheduler, deleted, paused, or is not due yet.
        """
        if isinstance(task, DispatchedTask):
            return
        await self._open()
        await self._stock.pre_send(task)

    async def post_send(self, task: taskiq.ScheduledTask) -> None:
        """Record that the occurrence was sent, and move the schedule on."""
        if isinstance(task, DispatchedTask):
            task.was_sent = True  # the engine settles in batches
            return
        await self._open()
        await self._stock.post_send(task)

    async def finish_sends(self) -> None:
        """Wait until what taskiq's own loop is sending is settled, or has failed, for ten seconds at most."""
        await self._stock.finish_sends()

    async def shutdown(self) -> None:
        """Disconnect, when sends that have begun are settled. Closes only what the source opened itself. Idempotent."""
        await self.finish_sends()
        await super().shutdown()

    async def add_schedule(self, schedule: taskiq.ScheduledTask) -> None:
        """Store a schedule, replacing one with the same id. See `add_schedules`."""
        await self.add_schedules([schedule])

    async def delete_schedule(self, schedule_id: str) -> None:
        """Delete a schedule; its history stays. No error if it does not exist."""
        await self.delete_schedules([schedule_id])

    # -- writing -------------------------------------------------------------------------------------------------------------

    async def schedule(
        self,
        task: AsyncTaskiqDecoratedTask[..., _ReturnType] | AsyncKicker[..., _ReturnType],
        *,
        cron: str | None = None,
        cron_offset: str | timedelta | tzinfo | None = None,
        interval: int | timedelta | None = None,
        time: datetime | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        schedule_id: str | None = None,
        options: ScheduleOptions | None = None,
        on_conflict: OnConflict = "replace",
        owner: str | None = None,
        paused: bool = False,
    ) -> CreatedSchedule[_ReturnType]:
        """Schedule a task. With several triggers it runs at each one's occurrences.

        Args:
            task: A task, or a kicker made from it (with labels, a task id, another broker).
            cron: 5 fields, or 6 with seconds first, or an alias such as ``@daily``.
            cron_offset: Time zone of `cron` (a name or an object), or an offset added to UTC.
            interval: Seconds, or a timedelta of whole seconds; runs first at once (or at ``options.start_at``).
            time: A single instant; naive means UTC. A past one is due at once.
            args: Positional arguments of the task.
            kwargs: Keyword arguments of the task.
            schedule_id: The id; None for the kicker's, or a new one.
            options: How the schedule behaves; what is not set falls back on the source's defaults.
            on_conflict: What to do if the id exists: ``replace``, ``keep`` the stored one, or raise an ``error``.
            owner: Who declares it, to find it again with ``iter_schedules(owner=…)``.
            paused: Keep it from running until `resume`, if it is new. One that exists stays as it is, paused or not.

        Returns:
            A handle of the schedule; with ``keep``, of the one that was kept.

        Raises:
            ScheduleValidationError: Something is refused; nothing was written.
            ScheduleExistsError: The id exists and `on_conflict` is ``error``.
        """
        kicker = kicker_of(task)
        arguments.check_call(args, kwargs)
        arguments.check_flags(paused=paused)
        message = await captured_task(kicker, args, kwargs or {})
        wanted_id = schedule_id if schedule_id is not None else kicker.custom_schedule_id
        try:
            scheduled = ScheduledTask(
                task_name=message.task_name,
                labels=message.labels,
                args=message.args,
                kwargs=message.kwargs,
                task_id=kicker.custom_task_id,
                schedule_id=schedule_id if schedule_id is not None else message.schedule_id,
                cron=cron,
                cron_offset=None if cron_offset is None else parse_zone(cron_offset, field="cron_offset"),
                interval=interval,
                time=time,
                schedule_options=options,
                owner=owner,
            )
        except ScheduleValidationError as error:
            raise error if wanted_id is None else error.for_schedule(wanted_id) from error
        except ValidationError as error:
            raise definitions.as_validation_error(error, wanted_id) from error
        made_up = {scheduled.schedule_id} if wanted_id is None else ()
        await self._add([scheduled], on_conflict, frozenset(made_up), paused=paused)
        info = await self.get_schedule(scheduled.schedule_id)
        stored = scheduled if info is None or info.task is None else info.task
        next_run_at = None if info is None else info.state.next_run_at
        return CreatedSchedule(kicker, self, stored, next_run_at)

    async def add_schedules(
        self,
        schedules: Iterable[taskiq.ScheduledTask],
        *,
        on_conflict: OnConflict = "replace",
    ) -> frozenset[str]:
        """Store many schedules. All are validated before the first is written.

        Storing a schedule again with unchanged triggers keeps its phase, its overdue occurrence and whether it is paused, so an
        application may declare its schedules at every start. Not stored is a schedule whose ``end_at`` has passed, and a one-off
        that is over by the history: what was sent once is not sent again because it is still declared.

        Returns:
            The ids that existed before.

        Raises:
            ScheduleValidationError: One of them is refused; nothing was written.
            ScheduleExistsError: `on_conflict` is ``error`` and some ids exist: those are unchanged, the others are stored.
        """
        return await self._add(schedules, on_conflict, frozenset())

    async def delete_schedules(self, schedule_ids: Collection[str]) -> frozenset[str]:
        """Delete schedules; their history stays. Returns the ids that existed."""
        resolved = arguments.schedule_ids_of(schedule_ids)
        await self._open()
        return await self.store.delete([schedule_id for schedule_id in resolved if definitions.may_exist(schedule_id)])

    async def pause(self, schedule_id: str) -> ScheduleInfo:
        """Keep a schedule from running until `resume`. An occurrence that is being sent is not recalled.

        Raises:
            ScheduleNotFoundError: There is no such schedule.
        """
        await self._open()
        changes = ScheduleChanges(updated_at=await self.clock.now(), paused=True)
        return self._info(await self.store.update(self._resolved(schedule_id), changes))

    async def resume(self, schedule_id: str, *, catch_up: bool = False) -> ScheduleInfo:
        """Let a paused or quarantined schedule run again.

        Occurrences that fell into the pause are left out: it goes on with the first one after now. A one-off whose time has
        passed is due at once. The pending occurrence of a quarantined schedule is kept.

        Args:
            schedule_id: The schedule.
            catch_up: Treat the occurrences of the pause like any others found late, by the misfire policy.

        Raises:
            ScheduleNotFoundError: There is no such schedule.
            ScheduleDecodeError: It still cannot be read.
        """
        arguments.check_flags(catch_up=catch_up)
        return await self._edit(schedule_id, partial(edits.resumed, catch_up=catch_up))

    async def reschedule(
        self,
        schedule_id: str,
        *,
        cron: str | None = None,
        cron_offset: str | timedelta | tzinfo | None = None,
        interval: int | timedelta | None = None,
        time: datetime | None = None,
        options: ScheduleOptions | None = None,
    ) -> ScheduleInfo:
        """Give a schedule other triggers, or other options. All else stays: arguments, a pause, how often it has run.

        With triggers it begins anew, as if it were created now; what was due and has not been sent is recorded as missed. With
        options alone it goes on, and what is due is sent.

        Args:
            schedule_id: The schedule.
            cron: As for `schedule`. If any trigger is given, those that are not are removed.
            cron_offset: As for `schedule`; None keeps that of the present cron. Given alone, it moves the present cron.
            interval: As for `schedule`; its phase starts now (or at ``options.start_at``).
            time: As for `schedule`.
            options: Changes these options; None leaves all as they are.

        Raises:
            ScheduleNotFoundError: There is no such schedule.
            ScheduleValidationError: A trigger is refused, or nothing is given; nothing was changed.
        """
        triggers = edits.Triggers(cron=cron, cron_offset=cron_offset, interval=interval, time=time)
        await self._open()

        async def change(stored: StoredSchedule) -> tuple[ScheduleChanges, Definition]:
            former, now = definitions.read(stored, self._defaults.serializer), await self.clock.now()
            return edits.rescheduled(stored, former, now, triggers, options, self._defaults), former

        async with held([await self._stored(schedule_id)], self.store, self.clock) as changing:
            edited = await changing.edit(await self._stored(schedule_id), change)
        if edited is None:
            raise ScheduleNotFoundError(schedule_id)
        return self._info(edited)

    async def run_now(self, schedule_id: str) -> str:
        """Have a schedule sent once more, now, whether or not it is paused. Its own occurrences are not affected.

        What is asked for stands by itself: it is sent although the schedule is paused, edited or deleted before that. Until it is
        sent it is a schedule too, a one-off with the id ``manual-<task_id>``, and is called off with `delete_schedule`.

        Returns:
            The ``task_id`` of the message that the schedulers will send.

        Raises:
            ScheduleNotFoundError: There is no such schedule.
            ScheduleDecodeError: It cannot be read.
        """
        await self._open()
        stored = await self._stored(schedule_id)
        definition, task_id = definitions.read(stored, self._defaults.serializer), str(uuid.uuid4())
        await self.store.put([edits.manual_run(stored, definition, await self.clock.now(), self._defaults, task_id=task_id)])
        return task_id

    # -- helpers -----------------------------------------------------------------------------------------------------------------

    async def _add(
        self,
        schedules: Iterable[taskiq.ScheduledTask],
        on_conflict: OnConflict,
        made_up: frozenset[str],
        *,
        paused: bool = False,
    ) -> frozenset[str]:
        """Do what `add_schedules` does; `made_up` are ids that nobody has chosen."""
        arguments.check_words(OnConflict, on_conflict=on_conflict)
        await self._open()
        defined: dict[str, Definition] = {}
        new = set(made_up)
        for schedule in arguments.schedules_of(schedules):
            definition = definitions.define(schedule, self._defaults)
            if "schedule_id" not in schedule.model_fields_set:
                new.add(definition.schedule_id)
            if defined.setdefault(definition.schedule_id, definition) is not definition:
                raise ScheduleValidationError("schedule_id", definition.schedule_id, "it is used twice in one call")
        declared = await declare(defined, new, self.store, self._defaults, await self.clock.now(), paused=paused)
        if declared.over:
            logger.info("Not stored, because all their occurrences are over: %s.", ", ".join(map(repr, sorted(declared.over))))
        existing = await write(declared, self.store, self._defaults, self.clock, replace=on_conflict == "replace")
        if existing and on_conflict == "error":
            raise ScheduleExistsError(existing)
        return existing

    async def _edit(
        self,
        schedule_id: str,
        change: Callable[[StoredSchedule, Definition, datetime], ScheduleChanges],
    ) -> ScheduleInfo:
        """Read, compute and write; again from the start when somebody else edited the schedule in between."""
        await self._open()
        attempts = 0
        while True:
            attempts += 1
            stored = await self._stored(schedule_id)
            changes = change(stored, definitions.read(stored, self._defaults.serializer), await self.clock.now())
            try:
                return self._info(await self.store.update(stored.id, changes, expected_revision=stored.revision))
            except RevisionConflictError:
                if attempts == _EDIT_ATTEMPTS:
                    raise
