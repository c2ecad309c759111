"""Translates between the contract's dataclasses and columns. No SQL, no I/O.

The driver takes and gives aware UTC datetimes, texts, numbers and booleans as they are: only their arrangement differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from taskiq_sources.models import Claim, Outcome, Run, ScheduleChanges, StoredSchedule, Unset

_SCHEDULE = tuple(field.name for field in fields(StoredSchedule))
#: What a new schedule begins with, whatever the given one says, is not passed.
_PUT = tuple(name for name in _SCHEDULE if name not in {"revision", "timing_revision", "claimant", "lease_until"})
_RUN = tuple(field.name for field in fields(Run))
_OUTCOME = tuple(field.name for field in fields(Outcome) if field.name not in {"claim", "runs"})


def schedule_columns(schedules: Sequence[StoredSchedule]) -> dict[str, Any]:
    """Return one array for each column that ``put`` writes."""
    return _columns(_PUT, schedules)


def schedule_from_row(row: asyncpg.Record) -> StoredSchedule:
    """Return the schedule of a row that has its columns, and maybe more."""
    return StoredSchedule(**{name: row[name] for name in _SCHEDULE})


def claim_from_row(row: asyncpg.Record, *, now: datetime, lease: timedelta) -> Claim:
    """Return the claim of a row that ``claim`` has written."""
    return Claim(schedule=schedule_from_row(row), token=row["token"], claimed_at=now, lease_until=now + lease)


def run_from_row(row: asyncpg.Record) -> Run:
    """Return the history row of a row."""
    return Run(**row)


def lease_columns(claims: Iterable[Claim]) -> dict[str, Any]:
    """Return the arrays that tell which claims are meant."""
    claims = list(claims)
    return {"id": [claim.schedule.id for claim in claims], "token": [claim.token for claim in claims]}


def outcome_columns(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the arrays of outcomes, and with ``run_`` before their names those of the history rows in them."""
    held = [(outcome.claim.schedule.id, run) for outcome in outcomes for run in outcome.runs]
    runs = _columns(_RUN, [run for _, run in held])
    return {
        **lease_columns(outcome.claim for outcome in outcomes),
        "claimed_revision": [outcome.claim.schedule.revision for outcome in outcomes],
        **_columns(_OUTCOME, outcomes),
        "run_holder": [schedule_id for schedule_id, _ in held],
        **{f"run_{name}": column for name, column in runs.items()},
    }


def change_values(changes: ScheduleChanges) -> dict[str, Any]:
    """Return the fields of an edit, and under ``changed`` the names of those that are set."""
    given = {field.name: getattr(changes, field.name) for field in fields(changes)}
    changed = [name for name, value in given.items() if not isinstance(value, Unset)]
    return {**{name: value if name in changed else None for name, value in given.items()}, "changed": changed}


def _columns(names: Iterable[str], rows: Sequence[object]) -> dict[str, Any]:
    return {name: [getattr(row, name) for row in rows] for name in names}
