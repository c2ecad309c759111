"""Reads the contract's dataclasses from rows of plain values: what JSON knows, and instants as milliseconds. No I/O.

Each is made field by field: thousands are read in a burst, and to make a dictionary of each on the way takes as long again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, Final

from pydantic_core import from_json

from taskiq_sources.clock import from_ms
from taskiq_sources.models import Run, StoredSchedule

#: The order of values in a row.
SCHEDULE_COLUMNS: Final = tuple(field.name for field in fields(StoredSchedule))
RUN_COLUMNS: Final = tuple(field.name for field in fields(Run))


def rows_in(text: str | bytes) -> Sequence[Sequence[Any]]:
    """Return the rows of a JSON array of arrays."""
    rows: Sequence[Sequence[Any]] = from_json(text)
    return rows


def schedule_from_row(row: Iterable[Any]) -> StoredSchedule:
    """Return the schedule of a row that begins with its columns, in the order of the dataclass."""
    (
        schedule_id,
        task_name,
        document,
        timing,
        scheduled_for,
        next_run_at,
        anchor,
        created_at,
        updated_at,
        owner,
        coalesced,
        attempt,
        run_count,
        paused,
        quarantined,
        last_error,
        revision,
        timing_revision,
        claimant,
        lease_until,
        *_,
    ) = row
    return StoredSchedule(
        id=schedule_id,
        task_name=task_name,
        document=document,
        timing=timing,
        scheduled_for=None if scheduled_for is None else from_ms(scheduled_for),
        next_run_at=None if next_run_at is None else from_ms(next_run_at),
        anchor=from_ms(anchor),
        created_at=from_ms(created_at),
        updated_at=from_ms(updated_at),
        owner=owner,
        coalesced=coalesced,
        attempt=attempt,
        run_count=run_count,
        paused=bool(paused),
        quarantined=bool(quarantined),
        last_error=last_error,
        revision=revision,
        timing_revision=timing_revision,
        claimant=claimant,
        lease_until=None if lease_until is None else from_ms(lease_until),
    )


def run_from_row(row: Iterable[Any]) -> Run:
    """Return the history row of a row of its columns, in the order of the dataclass."""
    values = dict(zip(RUN_COLUMNS, row, strict=True))
    return Run(**{**values, "scheduled_for": from_ms(values["scheduled_for"]), "recorded_at": from_ms(values["recorded_at"])})
