"""Translates between the contract's dataclasses and documents. No I/O.

A schedule is one document under its id. Besides the fields of `StoredSchedule` it has ``token`` (of the current claim),
``finished`` (it is gone for everybody, and waits for its history to be moved), ``seq`` and ``outbox`` (see
:mod:`taskiq_sources_mongo.outbox`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeAlias

from taskiq_sources.models import UNSET, Claim, Outcome, Run, ScheduleChanges, StoredSchedule

Document: TypeAlias = dict[str, Any]

_SCHEDULE = tuple(field.name for field in fields(StoredSchedule) if field.name != "id")
_RUN = tuple(field.name for field in fields(Run) if field.name != "occurrence_id")
_CHANGES = tuple(field.name for field in fields(ScheduleChanges))
_PROGRESS = ("scheduled_for", "next_run_at", "coalesced", "attempt", "run_count", "last_error", "quarantined")

#: Nobody holds the schedule.
FREE: Document = {"token": None, "claimant": None, "lease_until": None}

#: The schedule is deleted, but for its history: without an instant, nothing finds it due.
FINISHED: Document = {"finished": True, "next_run_at": None}

_NEW: Document = {**FREE, "revision": 1, "timing_revision": 1, "finished": False}


def new_schedule(schedule: StoredSchedule) -> Document:
    """Return the document of a schedule that is stored for the first time."""
    return {"_id": schedule.id, **{name: getattr(schedule, name) for name in _SCHEDULE}, **_NEW}


def schedule_from(document: Mapping[str, Any], **instead: Any) -> StoredSchedule:
    """Return the schedule of a document, with some fields replaced."""
    values = {name: document[name] for name in _SCHEDULE}
    return StoredSchedule(id=document["_id"], **{**values, **instead})


def claim_from(document: Mapping[str, Any], *, revision: int, now: datetime) -> Claim:
    """Return the claim of a document that was claimed at `now`, when the schedule was at `revision`."""
    schedule = schedule_from(document, revision=revision)
    return Claim(schedule=schedule, token=document["token"], claimed_at=now, lease_until=document["lease_until"])


def changed_fields(changes: ScheduleChanges) -> Document:
    """Return the fields of an edit that are set."""
    return {name: value for name in _CHANGES if (value := getattr(changes, name)) is not UNSET}


def outcome_document(outcome: Outcome) -> Document:
    """Return what the pipeline of ``settle`` has to know of an outcome."""
    progress = FINISHED if outcome.finished else {name: getattr(outcome, name) for name in _PROGRESS}
    return {
        "revision": outcome.claim.schedule.revision,
        "progress": progress,
        "ends": outcome.release or outcome.finished,
        "rows": [{"_id": run.occurrence_id, **{name: getattr(run, name) for name in _RUN}} for run in outcome.runs],
    }


def run_from(document: Mapping[str, Any]) -> Run:
    """Return the history row of a document."""
    return Run(occurrence_id=document["_id"], **{name: document[name] for name in _RUN})
