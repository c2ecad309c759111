"""The contract's dataclasses and rows of plain values: what JSON knows, and instants as milliseconds. No I/O.

Thousands are read in a burst, and to name the fields of each on the way takes as long again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

from pydantic_core import from_json, to_json

from taskiq_sources.clock import from_ms, to_ms
from taskiq_sources.models import Claim, Run, StoredSchedule, in_order

#: The order of values in a row.
SCHEDULE_COLUMNS: Final = tuple(field.name for field in fields(StoredSchedule))
RUN_COLUMNS: Final = tuple(field.name for field in fields(Run))

#: Of both, those that are instants.
INSTANTS: Final = frozenset({"scheduled_for", "next_run_at", "anchor", "created_at", "updated_at", "lease_until", "recorded_at"})

_WIDTH: Final = len(SCHEDULE_COLUMNS)
_INSTANTS: Final = tuple(column for column, name in enumerate(SCHEDULE_COLUMNS) if name in INSTANTS)
_FLAGS: Final = tuple(map(SCHEDULE_COLUMNS.index, ("paused", "quarantined")))
_stored_schedule = in_order(StoredSchedule)

#: Makes a `Claim` of schedule, token, ``claimed_at`` and ``lease_until``.
new_claim = in_order(Claim)


def rows_in(text: str | bytes) -> Sequence[Sequence[Any]]:
    """Return the rows of a JSON array of arrays."""
    rows: Sequence[Sequence[Any]] = from_json(text)
    return rows


def lines(rows: Sequence[Sequence[object]]) -> list[bytes]:
    """Return rows as JSON values, one a line; made in one go, which is faster. No text in JSON has a line break."""
    return to_json(rows, indent=0)[4:-4].split(b"\n],\n[\n") if rows else []


def plain(values: Iterable[object]) -> list[object]:
    """Return values as a row has them."""
    return [to_ms(value) if isinstance(value, datetime) else value for value in values]


def schedule_from_row(row: Iterable[Any]) -> StoredSchedule:
    """Return the schedule of a row that begins with its columns, in the order of the dataclass."""
    values = [*row]
    for column in _INSTANTS:
        if values[column] is not None:
            values[column] = from_ms(values[column])
    for column in _FLAGS:
        values[column] = bool(values[column])
    return _stored_schedule(*values[:_WIDTH])


def run_from_row(row: Iterable[Any]) -> Run:
    """Return the history row of a row of its columns, in the order of the dataclass."""
    values = dict(zip(RUN_COLUMNS, row, strict=True))
    return Run(**{**values, "scheduled_for": from_ms(values["scheduled_for"]), "recorded_at": from_ms(values["recorded_at"])})
