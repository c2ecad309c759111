"""Translates between the contract's dataclasses and packed bytes. The layouts are those of ``lua/_common.lua``. No I/O."""

from __future__ import annotations

import hashlib
import math
import struct
from datetime import datetime
from typing import Any

from taskiq_sources.clock import from_ms, to_ms
from taskiq_sources.models import Outcome, Run, RunStatus, StoredSchedule

# Instants are milliseconds since the epoch: exact in a double, which is the only number that Lua has.
_PROGRESS = struct.Struct(
    "<2d3IB"
)  # what a settle writes: next_run_at, scheduled_for, coalesced, attempt, run_count, quarantined
_DEFINITION = struct.Struct("<B2I3dI6s6s")  # paused, revisions, anchor, created_at, updated_at, length of texts, digests
_CLAIMED = struct.Struct("<I2B")  # revision of the claim, finished, release
_LEASE = struct.Struct("<32sdI")  # token, lease_until, claims since `attempt` was written; then the claimant
_RUN = struct.Struct("<d2I")  # scheduled_for, attempt, coalesced
_LENGTH = struct.Struct("<I")
_INSTANT = struct.Struct("<d")

_NEVER = math.inf  # an instant that is None; sorts and compares as it has to: not due yet
_NOBODY = bytes(6)  # the digest of no owner
_TIME_ORIGIN = 62_135_596_800_000  # milliseconds from year 1 to the epoch: no time in the index of history is negative
_LETTERS: dict[RunStatus, bytes] = {"sent": b"S", "failed": b"F", "missed": b"M", "unknown": b"U"}
_STATUSES = {letter: status for status, letter in _LETTERS.items()}
_ROW_HEAD = 22  # time, status and digest of the schedule in a history row, for the index


def pack_schedule(schedule: StoredSchedule) -> bytes:
    """Return the record of a new schedule: at its first revision."""
    texts = _joined(schedule.timing.encode(), nullable(schedule.owner), schedule.task_name.encode())
    definition = _DEFINITION.pack(
        schedule.paused,
        1,
        1,
        to_ms(schedule.anchor),
        to_ms(schedule.created_at),
        to_ms(schedule.updated_at),
        len(texts),
        digest(schedule.task_name),
        _NOBODY if schedule.owner is None else digest(schedule.owner),
    )
    return _progress(schedule) + definition + texts + nullable(schedule.last_error)


def unpack_schedule(schedule_id: bytes, record: bytes, lease: bytes | None, document: bytes) -> StoredSchedule:
    """Return the schedule of a record, a lease and a document."""
    next_run_at, scheduled_for, coalesced, attempt, run_count, quarantined = _PROGRESS.unpack_from(record)
    definition = _DEFINITION.unpack_from(record, _PROGRESS.size)
    paused, revision, timing_revision, anchor, created_at, updated_at, length, _, _ = definition
    start = _PROGRESS.size + _DEFINITION.size
    timing, owner, task_name = _texts(record[start : start + length])
    _, lease_until, claims = _LEASE.unpack_from(lease) if lease else (b"", _NEVER, 0)
    return StoredSchedule(
        id=schedule_id.decode(),
        task_name=task_name.decode(),
        document=document.decode(),
        timing=timing.decode(),
        scheduled_for=instant(scheduled_for),
        next_run_at=instant(next_run_at),
        anchor=from_ms(int(anchor)),
        created_at=from_ms(int(created_at)),
        updated_at=from_ms(int(updated_at)),
        owner=_text(owner),
        coalesced=coalesced,
        attempt=attempt + claims,
        run_count=run_count,
        paused=bool(paused),
        quarantined=bool(quarantined),
        last_error=_text(record[start + length :]),
        revision=revision,
        timing_revision=timing_revision,
        claimant=lease[_LEASE.size :].decode() if lease else None,
        lease_until=instant(lease_until),
    )


def pack_lease(token: str, lease_until: datetime, claimant: str) -> bytes:
    """Return the lease of a first claim."""
    return _LEASE.pack(token.encode(), to_ms(lease_until), 1) + claimant.encode()


def pack_instant(moment: datetime) -> bytes:
    """Return an instant as it is in a lease."""
    return _INSTANT.pack(to_ms(moment))


def pack_outcome(outcome: Outcome) -> list[bytes | int]:
    """Return what ``settle.lua`` takes for one outcome."""
    claim = outcome.claim
    fields = _progress(outcome) + _CLAIMED.pack(claim.schedule.revision, outcome.finished, outcome.release)
    rows = [part for run in outcome.runs for part in (run.occurrence_id.encode(), pack_run(run))]
    return [claim.schedule.id.encode(), claim.token.encode(), fields, nullable(outcome.last_error), len(outcome.runs), *rows]


def pack_edit(name: str, value: Any) -> bytes:
    """Return the new value of a field as ``update.lua`` takes it."""
    if name == "last_error":
        return nullable(value)
    if isinstance(value, str):
        return value.encode()
    return b"inf" if value is None else b"%d" % (to_ms(value) if isinstance(value, datetime) else value)


def pack_run(run: Run) -> bytes:
    """Return the record of a history row."""
    head = time_key(run.recorded_at) + _LETTERS[run.status] + digest(run.schedule_id)
    texts = (run.schedule_id.encode(), run.task_name.encode(), nullable(run.task_id), nullable(run.claimant), nullable(run.error))
    return head + _RUN.pack(to_ms(run.scheduled_for), run.attempt, run.coalesced) + _joined(*texts)


def unpack_run(occurrence_id: bytes, record: bytes) -> Run:
    """Return the history row of a record."""
    scheduled_for, attempt, coalesced = _RUN.unpack_from(record, _ROW_HEAD)
    schedule_id, task_name, task_id, claimant, error = _texts(record[_ROW_HEAD + _RUN.size :])
    return Run(
        occurrence_id=occurrence_id.decode(),
        schedule_id=schedule_id.decode(),
        task_name=task_name.decode(),
        scheduled_for=from_ms(int(scheduled_for)),
        status=_STATUSES[record[15:16]],
        recorded_at=from_ms(int(record[:15]) - _TIME_ORIGIN),
        task_id=_text(task_id),
        attempt=attempt,
        coalesced=coalesced,
        claimant=_text(claimant),
        error=_text(error),
    )


def status_letter(status: RunStatus) -> bytes:
    """Return how a status is written in a history row."""
    return _LETTERS[status]


def time_key(moment: datetime) -> bytes:
    """Return an instant as 15 digits, in which earlier is smaller."""
    return b"%015d" % (to_ms(moment) + _TIME_ORIGIN)


def digest(name: str) -> bytes:
    """Return what stands for a name in the index: of one length, and equal for equal names."""
    short = hashlib.sha1(name.encode(), usedforsecurity=False).digest()[: len(_NOBODY)]
    return bytes([1, *short[1:]]) if short == _NOBODY else short


def instant(milliseconds: float) -> datetime | None:
    """Return the instant of `milliseconds` since the epoch, or None for infinity."""
    return None if milliseconds == _NEVER else from_ms(int(milliseconds))


def nullable(text: str | None) -> bytes:
    """Return a text that may be None: empty for None, else marked, so that the empty text is another."""
    return b"" if text is None else b"=" + text.encode()


def _text(packed: bytes) -> str | None:
    return packed[1:].decode() if packed else None


def _progress(of: StoredSchedule | Outcome) -> bytes:
    next_run_at = _NEVER if of.next_run_at is None else to_ms(of.next_run_at)
    scheduled_for = _NEVER if of.scheduled_for is None else to_ms(of.scheduled_for)
    return _PROGRESS.pack(next_run_at, scheduled_for, of.coalesced, of.attempt, of.run_count, of.quarantined)


def _joined(*texts: bytes) -> bytes:
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def _texts(packed: bytes) -> list[bytes]:
    texts = []
    position = 0
    while position < len(packed):
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(packed, position)[0]
        texts.append(packed[start:position])
    return texts
