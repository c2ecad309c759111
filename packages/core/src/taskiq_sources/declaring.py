"""What is to be stored of the schedules that an application declares, at each of its starts: not what is over. Writes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from taskiq_sources import definitions
from taskiq_sources.backends import together
from taskiq_sources.codec import Definition
from taskiq_sources.definitions import BEGINNING, Defaults
from taskiq_sources.models import RunQuery, StoredSchedule
from taskiq_sources.reading import every_run
from taskiq_sources.store import ScheduleStore

_EARLY: Final = timedelta(minutes=1)  # longer before its time is nothing sent
_LOOK_UPS = 20  # at the same time

#: An id as taskiq makes them up (``uuid4().hex``): a new one for each schedule, so that there is nothing to look up.
_MADE_UP: Final = re.compile(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}")


@dataclass(frozen=True, slots=True)
class Declared:
    """What comes of declarations.

    Attributes:
        rows: What is to be stored, by id.
        once: Those of `rows` that were over if their one occurrence had been sent.
        over: The ids of what is not to be stored.
        existing: Those of `over` that are stored all the same: their last occurrence is pending, or they were rescheduled.
    """

    rows: Mapping[str, StoredSchedule]
    once: Mapping[str, Definition]
    over: frozenset[str]
    existing: frozenset[str]


async def declare(given: Mapping[str, Definition], store: ScheduleStore, defaults: Defaults, now: datetime) -> Declared:
    """Return what is to be stored of these definitions, by id.

    Raises:
        ScheduleValidationError: One of them would never run; one that is stored has been given an end that has passed.
    """
    ended = {schedule_id for schedule_id, definition in given.items() if definitions.is_over(definition, now)}
    rows = {
        schedule_id: definitions.store_form(definition, now, defaults)
        for schedule_id, definition in given.items()
        if schedule_id not in ended
    }
    once = {schedule_id: given[schedule_id] for schedule_id in rows if _may_be_done(given[schedule_id], now)}
    done = await done_of(once, store)
    stored = await store.get(ended | done) if ended or done else {}
    for schedule_id in ended & stored.keys():
        if stored[schedule_id].timing != definitions.timing_of(given[schedule_id]):
            definitions.store_form(given[schedule_id], now, defaults)  # refuses it
    # What is stored under its id for another time is not to give way to a time that was done with.
    over = ended | {name for name in done if name not in stored or stored[name].timing != rows[name].timing}
    kept = {name: row for name, row in rows.items() if name not in over}
    still_once = {name: once[name] for name in once.keys() & kept.keys()}
    return Declared(kept, still_once, frozenset(over), frozenset(over & stored.keys()))


async def done_of(once: Mapping[str, Definition], store: ScheduleStore) -> frozenset[str]:
    """Return which of these schedules' only occurrences have been sent or given up for good, by the history."""
    answers = await together((_is_done(definition, store) for definition in once.values()), at_once=_LOOK_UPS)
    return frozenset(name for name, is_done in zip(once, answers, strict=True) if is_done)


def _may_be_done(definition: Definition, now: datetime) -> bool:
    is_due = definition.is_one_off and definition.time is not None and definition.time <= now + _EARLY
    return is_due and _MADE_UP.fullmatch(definition.schedule_id) is None


async def _is_done(definition: Definition, store: ScheduleStore) -> bool:
    time = definition.time or BEGINNING
    occurrence_id = definitions.occurrence_id(definition.schedule_id, time)
    # What has failed is tried again, or may be: but for what is sent at most once.
    is_once_at_most = definition.options.delivery == "at_most_once"
    final = {"sent", "missed", "unknown", "failed"} if is_once_at_most else {"sent", "missed", "unknown"}
    query = RunQuery(schedule_id=definition.schedule_id, since=max(time, BEGINNING + _EARLY) - _EARLY)
    return any([run.occurrence_id == occurrence_id and run.status in final async for run in every_run(store, query)])
