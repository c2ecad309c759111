"""What is to be stored of the schedules that an application declares, at each of its starts: not what is over.

A one-off that is due may be sent at any moment, and is deleted then. Who looked at the history before that, and writes after it,
would make it anew, and it would be sent again. So what is written is held back at first, and let go if the history has nothing of
it after the write either. Who dies in between leaves it to be sent a minute late, or to be let go by who declares it next. With
``at_most_once`` it may be recorded as ``unknown`` instead.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from taskiq_sources import codec, definitions, edits, occurrences
from taskiq_sources.backends import together
from taskiq_sources.changing import Changing, held
from taskiq_sources.clock import Clock
from taskiq_sources.codec import Definition
from taskiq_sources.continuing import continued, former_timing
from taskiq_sources.definitions import BEGINNING, Defaults
from taskiq_sources.errors import RevisionConflictError, ScheduleDecodeError, ScheduleNotFoundError
from taskiq_sources.models import Claim, Outcome, RunQuery, ScheduleChanges, StoredSchedule
from taskiq_sources.reading import every_run
from taskiq_sources.store import ScheduleStore

logger = logging.getLogger("taskiq_sources")

_EARLY: Final = timedelta(minutes=1)  # longer before its time is nothing sent
_LOOK_UPS = 20  # at the same time
_HELD_BACK: Final = timedelta(minutes=1)  # many times as long as it takes to look at the history of a batch

_NEAR: Final = 2 * _HELD_BACK  # whatever is held back is held

_BATCH = 1_000
_BATCH_OF_ONCE = 200
_BATCH_CHARACTERS = 4 * codec.MAX_DOCUMENT_BYTES

#: An id as taskiq makes them up (``uuid4().hex``), a new one for each schedule. It may be an application's own, that declares it
#: again: so it is looked up. But it is not held back, since most are new, and to be sent at once.
_MADE_UP: Final = re.compile(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}")


@dataclass(frozen=True, slots=True)
class Declared:
    """What comes of declarations.

    Attributes:
        rows: What is to be stored, by id.
        definitions: What those say.
        once: Those of `rows` that are over as soon as their one occurrence has been sent, which may be at any moment.
        over: The ids of what is not to be stored.
        existing: Those of `over` that are stored all the same: their last occurrence is pending, or they were rescheduled.
        ending: Those of `existing` that are stored with other triggers or another end: of them no more is sent than is late.
    """

    rows: Mapping[str, StoredSchedule]
    definitions: Mapping[str, Definition]
    once: frozenset[str]
    over: frozenset[str]
    existing: frozenset[str]
    ending: frozenset[str]


async def declare(
    given: Mapping[str, Definition],
    new: Container[str],
    store: ScheduleStore,
    defaults: Defaults,
    now: datetime,
    *,
    paused: bool,
) -> Declared:
    """Return what is to be stored of these definitions, by id.

    Args:
        given: The definitions.
        new: The ids that were made up for this call: of those there is no history.
        store: Where they are to be stored.
        defaults: How they are written.
        now: The present.
        paused: Whether what is new is not to run until it is resumed.

    Raises:
        ScheduleValidationError: One of them is new and would never run.
    """
    ended = {schedule_id for schedule_id, definition in given.items() if definitions.is_over(definition, now)}
    ended |= await _have_run({name for name in given if name not in ended and definitions.may_be_over(given[name], now)}, store)
    rows = {
        schedule_id: replace(definitions.store_form(definition, now, defaults), paused=paused)
        for schedule_id, definition in given.items()
        if schedule_id not in ended
    }
    due_once = {name: given[name] for name in rows if name not in new and _is_due_once(given[name], now)}
    done = await _done_of(due_once, store)
    stored = await store.get(ended | done) if ended or done else {}
    timings = {name: former_timing(stored[name], former_of(stored[name], defaults)) for name in ended & stored.keys()}
    ending = {name for name, timing in timings.items() if timing != definitions.timing_of(given[name])}
    # What is stored under its id for another time is not to give way to a time that was done with.
    over = ended | {name for name in done if name not in stored or stored[name].timing != rows[name].timing}
    kept = {name: row for name, row in rows.items() if name not in over}
    once = frozenset(name for name in due_once.keys() & kept.keys() if _MADE_UP.fullmatch(name) is None)
    return Declared(kept, given, once, frozenset(over), frozenset(over & stored.keys()), frozenset(ending))


async def _have_run(ids: Collection[str], store: ScheduleStore) -> frozenset[str]:
    """Return which of these are stored, or have been."""
    stored = await store.get(ids) if ids else {}
    gone = [name for name in ids if name not in stored]
    answers = await together((store.runs(RunQuery(schedule_id=name), limit=1) for name in gone), at_once=_LOOK_UPS)
    return frozenset([*stored, *(name for name, found in zip(gone, answers, strict=True) if found)])


async def write(declared: Declared, store: ScheduleStore, defaults: Defaults, clock: Clock, *, replace: bool) -> frozenset[str]:
    """Store what is declared, and return the ids that existed.

    Args:
        declared: What is declared.
        store: Where.
        defaults: How what exists is read.
        clock: What decides what is due.
        replace: Whether what exists is overwritten.
    """
    existing = set(declared.existing)
    if replace and declared.ending:
        await _end(declared.ending, store, defaults, clock)
    for batch in _batches((row for name, row in declared.rows.items() if name not in declared.once), _BATCH):
        left = batch
        while left:
            known = await store.put(left, replace=False)
            existing |= known
            # What has finished or was deleted since it was seen is to be made anew.
            left = await _replace([row for row in left if replace and row.id in known], declared, store, defaults, clock)
    for batch in _batches((declared.rows[name] for name in declared.once), _BATCH_OF_ONCE):
        left = batch
        while left:
            known, left = await _write_once(left, declared, store, defaults, clock, replace=replace)
            existing |= known
    return frozenset(existing)


async def _end(ids: Collection[str], store: ScheduleStore, defaults: Defaults, clock: Clock) -> None:
    """Let schedules send what is late, and then end: what is declared of them has no occurrence left.

    They are not refused: that would keep the application from starting, and so what is late from being sent.
    """

    async def change(stored: StoredSchedule) -> tuple[ScheduleChanges, Definition | None] | None:
        former = former_of(stored, defaults)
        changes = None if former is None else edits.ended(stored, former, await clock.now(), defaults)
        return None if changes is None else (changes, former)

    stored = await store.get(ids)
    async with held(stored.values(), store, clock) as changing:
        edited = await together((changing.edit(row, change) for row in stored.values()), at_once=_LOOK_UPS)
    for before, after in zip(stored.values(), edited, strict=True):
        if after is not None and before.next_run_at is not None:
            what = "it has ended" if after.next_run_at is None else "what is late is sent as it is stored, and then it ends"
            logger.warning(
                "Schedule %r is declared otherwise than it is stored, without an occurrence left: %s.", before.id, what
            )


async def _write_once(
    rows: Collection[StoredSchedule], declared: Declared, store: ScheduleStore, defaults: Defaults, clock: Clock, *, replace: bool
) -> tuple[frozenset[str], list[StoredSchedule]]:
    """Store what is over as soon as it is sent; return the ids that existed, and what is to be written again: it has gone since.

    It may have been sent, or something else was that had its id: a task that stores itself anew, for example.
    """
    now = await clock.now()
    held_back = {row.id: _held_back(row, now) for row in rows}
    known = await store.put(list(held_back.values()), replace=False)
    stored = await store.get(known) if known else {}
    stranded = {row.id: stored[row.id] for row in rows if row.id in stored and _is_held_back(stored[row.id], row)}
    to_let_go = {name: row for name, row in held_back.items() if name not in known} | stranded
    done = await _let_go(to_let_go, declared, store, clock)
    others = [row for row in rows if row.id in known and row.id not in done]
    return known, await _replace(others, declared, store, defaults, clock) if replace else []


async def _let_go(
    held_back: Mapping[str, StoredSchedule], declared: Declared, store: ScheduleStore, clock: Clock
) -> frozenset[str]:
    """Let what was held back run when it is due, or delete it if it is done, by the history; return which of them are.

    Not what somebody has stored there since. By claims, not at a revision: those begin at 1 again for what is stored anew, and do
    not tell that it is being sent. And the history is looked at under the claim: before it, another one may let it go, somebody
    send it, and a third one store it anew.
    """

    async def done_of(ids: Iterable[str]) -> frozenset[str]:
        return await _done_of({name: declared.definitions[name] for name in ids}, store)

    def outcome(claim: Claim, done: Container[str]) -> Outcome:
        name = claim.schedule.id
        if not _is_alike(claim.schedule, held_back[name]):
            return occurrences.given_back(claim)
        if name in done:
            return Outcome(claim=claim, finished=True)
        return replace(occurrences.given_back(claim), next_run_at=declared.rows[name].next_run_at)

    async with held(held_back.values(), store, clock, near=_NEAR) as changing:
        claims = changing.claims
        done = await done_of(claim.schedule.id for claim in claims)
        for claim in claims:
            changing.end(outcome(claim, done))
    left = held_back.keys() - {claim.schedule.id for claim in claims}
    found = (await store.get(left)).values() if left else ()
    paused = [one for one in found if one.paused and _is_alike(one, held_back[one.id])]  # since it was written; others are sent
    done |= await done_of(one.id for one in paused)
    for one in paused:
        now = await clock.now()
        edit = ScheduleChanges(updated_at=now, paused=False)
        edit = edit if one.id in done else ScheduleChanges(updated_at=now, next_run_at=declared.rows[one.id].next_run_at)
        with suppress(RevisionConflictError, ScheduleNotFoundError):  # somebody else has said what is to be done with it
            await store.update(one.id, edit, expected_revision=one.revision)
            if one.id in done:
                await _let_go({one.id: held_back[one.id]}, declared, store, clock)
    return done


async def _replace(
    rows: Collection[StoredSchedule], declared: Declared, store: ScheduleStore, defaults: Defaults, clock: Clock
) -> list[StoredSchedule]:
    """Make what exists as it is declared, where it is not, and return what does not exist any more."""
    stored = await store.get([row.id for row in rows]) if rows else {}
    gone = [row for row in rows if row.id not in stored]
    others = [row for row in rows if row.id in stored and not _is_as_declared(stored[row.id], row)]
    if not others:
        return gone
    async with held([stored[row.id] for row in others], store, clock) as changing:
        stored = await store.get([row.id for row in others])
        now = await clock.now()
        # Each is edited at its revision: one call for many would make anew what somebody else has just edited.
        calls = (_redeclare(stored.get(row.id), row, declared, store, changing, defaults, now) for row in others)
        exist = await together(calls, at_once=_LOOK_UPS)
    return gone + [row for row, exists in zip(others, exist, strict=True) if not exists]


async def _redeclare(
    stored: StoredSchedule | None,
    row: StoredSchedule,
    declared: Declared,
    store: ScheduleStore,
    changing: Changing,
    defaults: Defaults,
    now: datetime,
) -> bool:
    """Make what is stored as it is declared, and return whether it exists.

    What has been given another time since the declared one was done with keeps that.
    """
    definition = declared.definitions[row.id]

    async def keeps_its_time(stored: StoredSchedule) -> bool:
        return stored.timing != row.timing and row.id in declared.once and await _is_done(definition, store)

    async def change(stored: StoredSchedule) -> tuple[ScheduleChanges, Definition | None] | None:
        if _is_as_declared(stored, row) or await keeps_its_time(stored):
            return None
        former = former_of(stored, defaults)
        return continued(row, definition, stored, former, now), former

    if stored is not None and (stored.task_name, stored.owner) != (row.task_name, row.owner) and not await keeps_its_time(stored):
        # No edit can change these. All else is as it was for now: with an equal timing, nothing else is written.
        await store.put([replace(stored, task_name=row.task_name, owner=row.owner)])
        stored = (await store.get([row.id])).get(row.id)
    return await changing.edit(stored, change) is not None


def former_of(stored: StoredSchedule, defaults: Defaults) -> Definition | None:
    """Return what a stored schedule says, if it can be read."""
    try:
        return definitions.read(stored, defaults.serializer)
    except ScheduleDecodeError:
        return None


def _held_back(row: StoredSchedule, now: datetime) -> StoredSchedule:
    return row if row.next_run_at is None else replace(row, next_run_at=max(row.next_run_at, now + _HELD_BACK))


def _is_held_back(stored: StoredSchedule, row: StoredSchedule) -> bool:
    """Whether somebody who stores the same has not let it go yet, or has died before that."""
    is_later = stored.next_run_at is not None and row.next_run_at is not None and stored.next_run_at > row.next_run_at
    return stored.timing == row.timing and stored.attempt == 0 and is_later


def _is_alike(stored: StoredSchedule, held_back: StoredSchedule) -> bool:
    return (stored.timing, stored.next_run_at) == (held_back.timing, held_back.next_run_at)


def _is_as_declared(stored: StoredSchedule, row: StoredSchedule) -> bool:
    fields = ("task_name", "document", "timing", "owner")
    return not stored.quarantined and all(getattr(stored, field) == getattr(row, field) for field in fields)


def _batches(rows: Iterable[StoredSchedule], longest: int) -> Iterable[list[StoredSchedule]]:
    """Cut rows into batches that are small enough for one statement of any backend, in number and in bytes."""
    batch: list[StoredSchedule] = []
    size = 0
    for row in rows:
        if batch and (len(batch) == longest or size + len(row.document) > _BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row.document)
    if batch:
        yield batch


async def _done_of(once: Mapping[str, Definition], store: ScheduleStore) -> frozenset[str]:
    """Return which of these schedules' only occurrences have been sent or given up for good, by the history."""
    answers = await together((_is_done(definition, store) for definition in once.values()), at_once=_LOOK_UPS)
    return frozenset(name for name, is_done in zip(once, answers, strict=True) if is_done)


def _is_due_once(definition: Definition, now: datetime) -> bool:
    return definition.is_one_off and definition.time is not None and definition.time <= now + _EARLY


async def _is_done(definition: Definition, store: ScheduleStore) -> bool:
    time = definition.time or BEGINNING
    occurrence_id = definitions.occurrence_id(definition.schedule_id, time)
    # What has failed is tried again, or may be: but for what is sent at most once.
    is_once_at_most = definition.options.delivery == "at_most_once"
    final = {"sent", "missed", "unknown", "failed"} if is_once_at_most else {"sent", "missed", "unknown"}
    query = RunQuery(schedule_id=definition.schedule_id, since=max(time, BEGINNING + _EARLY) - _EARLY)
    return any([run.occurrence_id == occurrence_id and run.status in final async for run in every_run(store, query)])
