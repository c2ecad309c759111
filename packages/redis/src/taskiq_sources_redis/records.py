"""Translates between the contract's dataclasses and packed bytes. The layouts are those of ``lua/_common.lua``. No I/O."""

from __future__ import annotations

import hashlib
import math
import struct
from datetime import datetime

from taskiq_sources.clock import from_ms, to_ms
from taskiq_sources.models import Outcome, Run, RunStatus, StoredSchedule

#: Instants (milliseconds since the epoch, exact in a double), counters, flags; then texts, each after its length.
_STATE = struct.Struct("<6d5I2B")
_OUTCOME = struct.Struct("<2d4I3B")
_RUN = struct.Struct("<d2I")
_LENGTH = struct.Struct("<I")

#: For these two, infinity sorts and compares as None has to: never due, and never leased.
_NEVER, _UNLEASED = math.inf, -math.inf

_TIME_ORIGIN = 62_135_596_800_000  # milliseconds from year 1 to the epoch: no time in the index of history is negative
_LETTERS: dict[RunStatus, bytes] = {"sent": b"S", "failed": b"F", "missed": b"M", "unknown": b"U"}
_STATUSES = {letter: status for status, letter in _LETTERS.items()}
_ROW_HEAD = 26  # time, status and schedule of a history row, for the index


def pack_schedule(schedule: StoredSchedule) -> bytes:
    """Return the record of a new schedule: at its first revision, and without a lease."""
    head = _STATE.pack(
        ms(schedule.next_run_at),
        _UNLEASED,
        ms(schedule.scheduled_for),
        to_ms(schedule.anchor),
        to_ms(schedule.created_at),
        to_ms(schedule.updated_at),
        schedule.attempt,
        schedule.coalesced,
        schedule.run_count,
        1,
        1,
        schedule.paused,
        schedule.quarantined,
    )
    error, owner = nullable(schedule.last_error), nullable(schedule.owner)
    return head + _joined((b"", b"", error, schedule.timing.encode(), owner, schedule.task_name.encode()))


def unpack_schedule(schedule_id: bytes, record: bytes, document: bytes) -> StoredSchedule:
    """Return the schedule of a record and its document."""
    head = _STATE.unpack_from(record)
    next_run_at, lease_until, scheduled_for, anchor, created_at, updated_at, *counters, paused, quarantined = head
    _, claimant, last_error, timing, owner, task_name = _texts(record, _STATE.size)
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
        attempt=counters[0],
        coalesced=counters[1],
        run_count=counters[2],
        revision=counters[3],
        timing_revision=counters[4],
        paused=bool(paused),
        quarantined=bool(quarantined),
        last_error=_text(last_error),
        claimant=None if lease_until == _UNLEASED else claimant.decode(),
        lease_until=instant(lease_until),
    )


def pack_outcome(outcome: Outcome) -> list[bytes | int]:
    """Return what ``settle.lua`` takes for one outcome."""
    fields = _OUTCOME.pack(
        ms(outcome.next_run_at),
        ms(outcome.scheduled_for),
        outcome.coalesced,
        outcome.attempt,
        outcome.run_count,
        outcome.claim.schedule.revision,
        outcome.quarantined,
        outcome.finished,
        outcome.release,
    )
    rows = [part for run in outcome.runs for part in (run.occurrence_id.encode(), pack_run(run))]
    claim = outcome.claim
    return [claim.schedule.id.encode(), claim.token.encode(), fields, nullable(outcome.last_error), len(outcome.runs), *rows]


def pack_run(run: Run) -> bytes:
    """Return the record of a history row."""
    head = time_key(run.recorded_at) + _LETTERS[run.status] + digest(run.schedule_id.encode())
    texts = (run.schedule_id.encode(), run.task_name.encode(), nullable(run.task_id), nullable(run.claimant), nullable(run.error))
    return head + _RUN.pack(to_ms(run.scheduled_for), run.attempt, run.coalesced) + _joined(texts)


def unpack_run(occurrence_id: bytes, record: bytes) -> Run:
    """Return the history row of a record."""
    scheduled_for, attempt, coalesced = _RUN.unpack_from(record, _ROW_HEAD)
    schedule_id, task_name, task_id, claimant, error = _texts(record, _ROW_HEAD + _RUN.size)
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


def digest(name: bytes) -> bytes:
    """Return what stands for a name in the index: of one length, and equal for equal names."""
    return hashlib.sha1(name, usedforsecurity=False).hexdigest()[:10].encode()


def ms(moment: datetime | None) -> float:
    """Return milliseconds since the epoch, or infinity for None."""
    return _NEVER if moment is None else to_ms(moment)


def instant(milliseconds: float) -> datetime | None:
    """Return the instant of `milliseconds` since the epoch, or None for either infinity."""
    return None if math.isinf(milliseconds) else from_ms(int(milliseconds))


def nullable(text: str | None) -> bytes:
    """Return a text that may be None: empty for None, else marked, so that the empty text is another."""
    return b"" if text is None else b"=" + text.encode()


def _text(packed: bytes) -> str | None:
    return packed[1:].decode() if packed else None


def _joined(texts: tuple[bytes, ...]) -> bytes:
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def _texts(record: bytes, position: int) -> list[bytes]:
    texts = []
    while position < len(record):
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(record, position)[0]
        texts.append(record[start:position])
    return texts
