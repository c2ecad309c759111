"""Translates between the contract's dataclasses and the records in Redis: JSON values, one a line, as in ``lua/_common.lua``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Final, TypeAlias

from taskiq_sources.clock import to_ms
from taskiq_sources.models import Outcome, Run, StoredSchedule
from taskiq_sources.rows import RUN_COLUMNS, SCHEDULE_COLUMNS, lines, plain, rows_in, run_from_row, schedule_from_row

#: What an operation is told of one schedule; the id comes first.
Part: TypeAlias = Sequence[bytes]

_SEPARATOR: Final = b"\xff"  # between the parts of a list: no UTF-8 text has this byte

_PROGRESS = ("attempt", "next_run_at", "quarantined", "scheduled_for", "coalesced", "run_count", "last_error")
_DEFINITION = ("anchor", "created_at", "updated_at", "timing", "owner", "task_name")
_SCHEDULE = ("token", "lease_until", "claimant", "paused", "revision", "timing_revision", *_PROGRESS, *_DEFINITION)
_MESSAGE = ("task_id", "attempt", "coalesced", "claimant", "error")
_RUN = ("recorded_at", "status", "schedule_id", "task_name", "scheduled_for", *_MESSAGE)

_schedule_row = itemgetter(*map(("id", "document", *_SCHEDULE).index, SCHEDULE_COLUMNS))
_run_row = itemgetter(*map(("occurrence_id", *_RUN).index, RUN_COLUMNS))
_state_of: Callable[[StoredSchedule], tuple[Any, ...]] = attrgetter(*_PROGRESS, *_DEFINITION)
_head_of: Callable[[Outcome], tuple[Any, ...]] = attrgetter("claim.token", "claim.schedule.revision", "finished", "release")
_progress_of: Callable[[Outcome], tuple[Any, ...]] = attrgetter(*_PROGRESS)


def pack(*values: object) -> bytes:
    """Return values as the lines of a record."""
    return lines([plain(values)])[0]


def pack_schedules(schedules: Sequence[StoredSchedule]) -> Iterator[Part]:
    """Yield what ``put.lua`` takes for new schedules: without a lease, at their first revision."""
    packed = lines([(None, None, None, one.paused, 1, 1, *plain(_state_of(one))) for one in schedules])
    for schedule, record in zip(schedules, packed, strict=True):
        yield schedule.id.encode(), record, schedule.document.encode()


def pack_outcomes(outcomes: Sequence[Outcome]) -> Iterator[Part]:
    """Yield what ``settle.lua`` takes for outcomes."""
    # Nothing is written to a record that goes.
    told = [(len(one.runs), *_head_of(one), *([None] if one.finished else plain(_progress_of(one)))) for one in outcomes]
    heads, rows = lines(told), iter(lines([_row_of(run) for outcome in outcomes for run in outcome.runs]))
    for outcome, head in zip(outcomes, heads, strict=True):
        part = [outcome.claim.schedule.id.encode(), head]
        for run in outcome.runs:
            part += run.occurrence_id.encode(), next(rows)
        yield part


def unpack_schedules(answers: Iterable[Sequence[bytes]]) -> Iterator[StoredSchedule]:
    """Yield the schedules of answers, each of which is ids, records, documents."""
    for ids, records, documents in answers:
        for schedule_id, document, values in zip(split(ids), split(documents), rows_in(records), strict=False):
            yield schedule_from_row(_schedule_row((schedule_id, document, *values)))


def unpack_runs(answers: Iterable[Sequence[bytes]]) -> Iterator[Run]:
    """Yield the history rows of answers, each of which is occurrence ids, rows."""
    for ids, rows in answers:
        for occurrence_id, values in zip(split(ids), rows_in(rows), strict=False):
            yield run_from_row(_run_row((occurrence_id, *values)))


def join(parts: Iterable[bytes]) -> bytes:
    """Return the parts in one: thousands of arguments would take both sides much longer."""
    return _SEPARATOR.join(parts)


def split(joined: bytes) -> list[str]:
    """Return the texts that were made one; an empty one of no parts."""
    return [part.decode() for part in joined.split(_SEPARATOR)]


def _row_of(run: Run) -> tuple[Any, ...]:
    """Return a history row in the order of `_RUN`: each send makes one, and `plain` takes twice as long."""
    message = run.task_id, run.attempt, run.coalesced, run.claimant, run.error
    return to_ms(run.recorded_at), run.status, run.schedule_id, run.task_name, to_ms(run.scheduled_for), *message
