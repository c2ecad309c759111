"""Translates between the contract's dataclasses and rows of SQLite values: text, integers and None. No SQL, no I/O."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from datetime import datetime
from typing import TypeAlias

from taskiq_sources.clock import from_ms, to_ms
from taskiq_sources.models import Run, StoredSchedule

Value: TypeAlias = str | int | None
Parameters: TypeAlias = dict[str, Value]


def schedule_parameters(schedule: StoredSchedule) -> Parameters:
    """Return the columns of a schedule, those of its lease left out: only ``claim`` and ``settle`` write them."""
    return {
        "id": schedule.id,
        "task_name": schedule.task_name,
        "document": schedule.document,
        "timing": schedule.timing,
        "owner": schedule.owner,
        "scheduled_for": optional_ms(schedule.scheduled_for),
        "next_run_at": optional_ms(schedule.next_run_at),
        "anchor": to_ms(schedule.anchor),
        "coalesced": schedule.coalesced,
        "attempt": schedule.attempt,
        "run_count": schedule.run_count,
        "paused": schedule.paused,
        "quarantined": schedule.quarantined,
        "last_error": schedule.last_error,
        "revision": schedule.revision,
        "timing_revision": schedule.timing_revision,
        "created_at": to_ms(schedule.created_at),
        "updated_at": to_ms(schedule.updated_at),
    }


def schedule_from_row(row: sqlite3.Row) -> StoredSchedule:
    """Return the schedule of one row of ``taskiq_sources_schedules``.

    By position, which saves the look-up of 20 names: migrations add columns at the end only.
    """
    (
        schedule_id,
        task_name,
        document,
        timing,
        owner,
        scheduled_for,
        next_run_at,
        anchor,
        coalesced,
        attempt,
        run_count,
        paused,
        quarantined,
        last_error,
        revision,
        timing_revision,
        created_at,
        updated_at,
        claimant,
        lease_until,
        *_,
    ) = row
    return StoredSchedule(
        id=schedule_id,
        task_name=task_name,
        document=document,
        timing=timing,
        owner=owner,
        scheduled_for=optional_instant(scheduled_for),
        next_run_at=optional_instant(next_run_at),
        anchor=from_ms(anchor),
        coalesced=coalesced,
        attempt=attempt,
        run_count=run_count,
        paused=bool(paused),
        quarantined=bool(quarantined),
        last_error=last_error,
        revision=revision,
        timing_revision=timing_revision,
        created_at=from_ms(created_at),
        updated_at=from_ms(updated_at),
        claimant=claimant,
        lease_until=optional_instant(lease_until),
    )


def run_parameters(run: Run) -> Parameters:
    """Return the columns of a history row."""
    return {
        "occurrence_id": run.occurrence_id,
        "schedule_id": run.schedule_id,
        "task_name": run.task_name,
        "scheduled_for": to_ms(run.scheduled_for),
        "status": run.status,
        "recorded_at": to_ms(run.recorded_at),
        "task_id": run.task_id,
        "attempt": run.attempt,
        "coalesced": run.coalesced,
        "claimant": run.claimant,
        "error": run.error,
    }


def run_from_row(row: sqlite3.Row) -> Run:
    """Return the history row of one row of ``taskiq_sources_runs``."""
    return Run(
        occurrence_id=row["occurrence_id"],
        schedule_id=row["schedule_id"],
        task_name=row["task_name"],
        scheduled_for=from_ms(row["scheduled_for"]),
        status=row["status"],
        recorded_at=from_ms(row["recorded_at"]),
        task_id=row["task_id"],
        attempt=row["attempt"],
        coalesced=row["coalesced"],
        claimant=row["claimant"],
        error=row["error"],
    )


def id_list(ids: Collection[str]) -> str:
    """Return `ids` as the JSON array that the statements take."""
    return json.dumps(list(ids), ensure_ascii=False)


def optional_ms(moment: datetime | None) -> int | None:
    """Return milliseconds since the epoch, or None for None."""
    return None if moment is None else to_ms(moment)


def optional_instant(milliseconds: int | None) -> datetime | None:
    """Return the instant of `milliseconds` since the epoch, or None for None."""
    return None if milliseconds is None else from_ms(milliseconds)
