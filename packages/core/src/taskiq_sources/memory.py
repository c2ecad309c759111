"""The contract as code: a store that keeps everything in this process, small enough to be read as the specification.

For tests, demonstrations and applications whose schedules need not outlive the process. It scans all schedules where a real
backend uses an index; in everything else it is held to the same conformance suite as the others.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import ClassVar

from typing_extensions import Unpack

from taskiq_sources.backends import WHEN, changed_fields
from taskiq_sources.clock import system_now
from taskiq_sources.errors import RevisionConflictError, ScheduleNotFoundError, ScheduleValidationError, SourceClosedError
from taskiq_sources.models import (
    Capabilities,
    Claim,
    Outcome,
    Run,
    RunQuery,
    ScheduleChanges,
    ScheduleQuery,
    StoredSchedule,
)
from taskiq_sources.source import ScheduleSource, SourceOptions
from taskiq_sources.store import ScheduleStore


@dataclass(slots=True)
class MemoryData:
    """What several `MemoryStore` objects of one process may share, as processes share a database."""

    schedules: dict[str, StoredSchedule] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)  # schedule id -> token of its current claim
    runs: dict[str, Run] = field(default_factory=dict)  # occurrence id -> row
    watchers: dict[asyncio.Event, asyncio.AbstractEventLoop] = field(default_factory=dict)


class MemoryStore(ScheduleStore):
    """Schedules in a dictionary.

    Every method runs to its end without giving way to another task, which is what makes it atomic.

    Args:
        data: What to work on; None for new, empty data. It stays when the store is closed.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(shared=False, durable=False, push=True)

    def __init__(self, data: MemoryData | None = None) -> None:
        given: object = data
        if not isinstance(given, (MemoryData, type(None))):
            raise ScheduleValidationError("data", given, "use MemoryData(), or nothing; source_from_url takes URLs")
        self._data = MemoryData() if data is None else data
        self._open = False
        self._watching: set[asyncio.Event] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._data.schedules)} schedules)"

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False
        self._tell(self._watching)

    async def now(self) -> datetime:
        return system_now()

    # -- definitions ---------------------------------------------------------------------------------------------------------

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        stored = self._opened().schedules
        existing = frozenset(schedule.id for schedule in schedules if schedule.id in stored)
        for schedule in schedules:
            if schedule.id not in stored:
                stored[schedule.id] = _as_new(schedule)
            elif replace:
                stored[schedule.id] = _replaced(stored[schedule.id], schedule)
        self._changed()
        return existing

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        stored = self._opened().schedules
        return {schedule_id: stored[schedule_id] for schedule_id in ids if schedule_id in stored}

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        matching = (
            schedule
            for schedule_id, schedule in sorted(self._opened().schedules.items())
            if (after is None or schedule_id > after) and _matches(schedule, query)
        )
        return [schedule for schedule, _ in zip(matching, range(limit), strict=False)]

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        existing = frozenset(ids) & self._opened().schedules.keys()
        for schedule_id in existing:
            self._drop(schedule_id)
        self._changed()
        return existing

    async def update(
        self,
        id: str,  # noqa: A002 - the field's own word
        changes: ScheduleChanges,
        *,
        expected_revision: int | None = None,
    ) -> StoredSchedule:
        found = self._opened().schedules.get(id)
        if found is None:
            raise ScheduleNotFoundError(id)
        if expected_revision is not None and found.revision != expected_revision:
            raise RevisionConflictError(id, expected_revision, found.revision)
        changed = changed_fields(changes)
        revision = found.revision + 1
        timing_revision = found.timing_revision if WHEN.isdisjoint(changed) else revision
        edited = replace(found, **changed, revision=revision, timing_revision=timing_revision)
        self._data.schedules[id] = edited
        self._changed()
        return edited

    # -- dispatch ------------------------------------------------------------------------------------------------------------

    async def claim(
        self,
        now: datetime,
        *,
        claimant: str,
        lease: timedelta,
        limit: int,
        ids: Collection[str] | None = None,
        early: timedelta = timedelta(0),
    ) -> list[Claim]:
        data = self._opened()
        eligible = [
            (schedule.next_run_at, schedule.id)
            for schedule in data.schedules.values()
            if (ids is None or schedule.id in ids)
            and not schedule.paused
            and not schedule.quarantined
            and (schedule.next_run_at is not None and schedule.next_run_at <= now + early)
            and (schedule.lease_until is None or schedule.lease_until <= now)
        ]
        claims = []
        for _, schedule_id in sorted(eligible)[:limit]:
            found = data.schedules[schedule_id]
            taken = replace(found, claimant=claimant, lease_until=now + lease, attempt=found.attempt + 1)
            token = uuid.uuid4().hex
            data.schedules[schedule_id] = taken
            data.tokens[schedule_id] = token
            claims.append(Claim(schedule=taken, token=token, claimed_at=now, lease_until=now + lease))
        return claims

    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        data = self._opened()
        ours = frozenset(claim.schedule.id for claim in claims if data.tokens.get(claim.schedule.id) == claim.token)
        for schedule_id in ours:
            data.schedules[schedule_id] = replace(data.schedules[schedule_id], lease_until=until)
        return ours

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        self._opened()
        lost = frozenset(outcome.claim.schedule.id for outcome in outcomes if not self._settle_one(outcome))
        self._changed()
        return lost

    def _settle_one(self, outcome: Outcome) -> bool:
        data = self._data
        schedule_id = outcome.claim.schedule.id
        if data.tokens.get(schedule_id) != outcome.claim.token:
            return False
        for run in outcome.runs:
            data.runs[run.occurrence_id] = run
        found = data.schedules[schedule_id]
        rescheduled = found.timing_revision > outcome.claim.schedule.revision
        if not rescheduled and outcome.finished:
            self._drop(schedule_id)
            return True
        if not rescheduled:
            found = replace(
                found,
                scheduled_for=outcome.scheduled_for,
                next_run_at=outcome.next_run_at,
                coalesced=outcome.coalesced,
                attempt=outcome.attempt,
                run_count=outcome.run_count,
                last_error=outcome.last_error,
                quarantined=outcome.quarantined,
            )
        if outcome.release or rescheduled:
            found = replace(found, claimant=None, lease_until=None)
            del data.tokens[schedule_id]
        data.schedules[schedule_id] = found
        return outcome.release or not rescheduled

    async def next_due(self, now: datetime) -> datetime | None:
        return min(
            (
                max(schedule.next_run_at, schedule.lease_until)
                if schedule.lease_until is not None and schedule.lease_until > now
                else schedule.next_run_at
                for schedule in self._opened().schedules.values()
                if schedule.next_run_at is not None and not schedule.paused and not schedule.quarantined
            ),
            default=None,
        )

    # -- history -------------------------------------------------------------------------------------------------------------

    async def runs(self, query: RunQuery, *, after: Run | None = None, limit: int) -> list[Run]:
        matching = [
            run
            for run in self._newest_runs()
            if (after is None or _age_key(run) < _age_key(after))
            and (query.schedule_id is None or run.schedule_id == query.schedule_id)
            and (query.status is None or run.status == query.status)
            and (query.since is None or run.recorded_at >= query.since)
            and (query.until is None or run.recorded_at < query.until)
        ]
        return matching[:limit]

    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        recent = [run for run in self._newest_runs() if run.recorded_at >= before][:keep]
        pruned = len(self._data.runs) - len(recent)
        self._data.runs = {run.occurrence_id: run for run in recent}
        return pruned

    def _newest_runs(self) -> list[Run]:
        return sorted(self._opened().runs.values(), key=_age_key, reverse=True)

    # -- push ----------------------------------------------------------------------------------------------------------------

    async def watch(self) -> AsyncIterator[None]:
        self._opened()
        event = asyncio.Event()
        event.set()
        self._watching.add(event)
        self._data.watchers[event] = asyncio.get_running_loop()
        try:
            while True:
                await event.wait()
                if not self._open:
                    return
                event.clear()
                yield
        finally:
            self._forget(event)

    # -- helpers -------------------------------------------------------------------------------------------------------------

    def _opened(self) -> MemoryData:
        if not self._open:
            raise SourceClosedError("the store is not open: await startup() first")
        return self._data

    def _changed(self) -> None:
        self._tell(self._data.watchers)

    def _tell(self, events: Iterable[asyncio.Event]) -> None:
        for event in list(events):
            loop = self._data.watchers.get(event)
            if loop is None or loop.is_closed():  # whoever watched there has ended with it
                self._forget(event)
            else:
                event.set()

    def _forget(self, event: asyncio.Event) -> None:
        self._watching.discard(event)
        self._data.watchers.pop(event, None)

    def _drop(self, schedule_id: str) -> None:
        del self._data.schedules[schedule_id]
        self._data.tokens.pop(schedule_id, None)


class InMemoryScheduleSource(ScheduleSource):
    """A schedule source that keeps its schedules in this process: for tests, and where losing them at exit is fine.

    Args:
        data: What to work on, to share schedules between several sources of one process; None for new, empty data.
        **options: As for `ScheduleSource`.
    """

    def __init__(self, data: MemoryData | None = None, **options: Unpack[SourceOptions]) -> None:
        super().__init__(MemoryStore(data), **options)

    @classmethod
    def from_url(cls, url: str, **options: Unpack[SourceOptions]) -> InMemoryScheduleSource:
        """Return a new source; the URL says ``memory://`` and nothing else."""
        del url
        return cls(**options)


def _as_new(schedule: StoredSchedule) -> StoredSchedule:
    return replace(schedule, revision=1, timing_revision=1, claimant=None, lease_until=None)


def _replaced(old: StoredSchedule, new: StoredSchedule) -> StoredSchedule:
    """Return what ``put`` makes of `old` when `new` comes with the same id."""
    revision = old.revision + 1
    definition = replace(
        old,
        task_name=new.task_name,
        document=new.document,
        timing=new.timing,
        owner=new.owner,
        updated_at=new.updated_at,
        quarantined=False,
        revision=revision,
    )
    if old.timing == new.timing:
        return definition
    return replace(
        definition,
        scheduled_for=new.scheduled_for,
        next_run_at=new.next_run_at,
        anchor=new.anchor,
        coalesced=new.coalesced,
        attempt=new.attempt,
        run_count=new.run_count,
        last_error=new.last_error,
        timing_revision=revision,
    )


def _matches(schedule: StoredSchedule, query: ScheduleQuery) -> bool:
    return (
        (query.task_name is None or schedule.task_name == query.task_name)
        and (query.paused is None or schedule.paused == query.paused)
        and (query.quarantined is None or schedule.quarantined == query.quarantined)
        and (query.owner is None or schedule.owner == query.owner)
        and (query.due_before is None or (schedule.next_run_at is not None and schedule.next_run_at < query.due_before))
    )


def _age_key(run: Run) -> tuple[datetime, str]:
    return run.recorded_at, run.occurrence_id
