"""Translates between the contract's dataclasses and packed bytes. The layouts are those of ``lua/_common.lua``. No I/O."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Any

from taskiq_sources.backends import portions
from taskiq_sources.clock import from_ms, to_ms
from taskiq_sources.models import Outcome, Run, RunStatus, StoredSchedule

# Instants are milliseconds since the epoch: exact in a double, which is the only number that Lua has.
_LEASE = struct.Struct("<16sdI")  # token, lease_until, length of claimant
# What a settle writes: attempt, next_run_at, scheduled_for, coalesced, run_count, length of last_error, quarantined.
_PROGRESS = struct.Struct("<I2d3IB")
# Paused, revisions, anchor, created_at, updated_at, lengths of timing and owner, digests of task and owner.
_DEFINITION = struct.Struct("<B2I3d2I4s4s")
_RECORD = struct.Struct(_LEASE.format + _PROGRESS.format[1:] + _DEFINITION.format[1:])
_CLAIMED = struct.Struct("<16sI2BH")  # token, revision of the claim, finished, release, number of rows
# Digest of the schedule, recorded_at, status; scheduled_for, attempt, coalesced, lengths of all texts but the last.
_RUN = struct.Struct(">4sQcQ2I4I")
_LENGTH = struct.Struct("<I")
_INSTANT = struct.Struct("<d")

_NEVER = math.inf  # an instant that is None; sorts and compares as it has to: not due yet
_NO_LEASE = _LEASE.pack(b"", -math.inf, 0)
_TOKEN_LENGTH = 16
_NO_TOKEN = b"\xff" * _TOKEN_LENGTH  # of a claim that is not from here: equal to no token
_NOBODY = bytes(4)  # the digest of no owner
_TIME_ORIGIN = 62_135_596_800_000  # milliseconds from year 1 to the epoch: no time in the index of history is negative
_LETTERS: dict[RunStatus, bytes] = {"sent": b"S", "failed": b"F", "missed": b"M", "unknown": b"U"}
_STATUSES = {letter: status for status, letter in _LETTERS.items()}
_MOST_TOGETHER = 3_000  # Lua's stack has room for some 8,000


# -- lists in one string: thousands of arguments, or answers, would take both sides much longer ----------------------------------


def join(parts: Iterable[bytes]) -> bytes:
    """Return the strings in one, for ``split`` in Lua."""
    packed = []
    for some in portions(parts, _MOST_TOGETHER):
        lengths = map(_LENGTH.pack, map(len, some))
        packed += [_LENGTH.pack(len(some)), *chain.from_iterable(zip(lengths, some, strict=True))]
    return b"".join(packed)


def split(joined: bytes) -> Iterator[bytes]:
    """Return the strings that ``joined`` in Lua made one of."""
    (number,) = _LENGTH.unpack_from(joined)
    lengths = struct.unpack_from(f"<{number}I", joined, _LENGTH.size)
    return _pieces(joined, _LENGTH.size * (1 + number), lengths)


def _pieces(packed: bytes, start: int, lengths: Iterable[int]) -> Iterator[bytes]:
    """Yield pieces of these lengths that follow each other."""
    for length in lengths:
        yield packed[start : start + length]
        start += length


# -- schedules -------------------------------------------------------------------------------------------------------------------


def pack_schedule(schedule: StoredSchedule) -> bytes:
    """Return the record of a new schedule: at its first revision."""
    timing, owner, last_error = schedule.timing.encode(), nullable(schedule.owner), nullable(schedule.last_error)
    instants = map(to_ms, (schedule.anchor, schedule.created_at, schedule.updated_at))
    owner_digest = _NOBODY if schedule.owner is None else digest(schedule.owner)
    definition = _DEFINITION.pack(
        schedule.paused, 1, 1, *instants, len(timing), len(owner), digest(schedule.task_name), owner_digest
    )
    progress = _progress(schedule, len(last_error))
    return b"".join((_NO_LEASE, progress, definition, timing, owner, schedule.task_name.encode(), last_error))


def unpack_schedules(answer: Sequence[bytes]) -> Iterator[StoredSchedule]:
    """Yield the schedules of an answer: ids, records, documents."""
    for schedule_id, record, document in zip(*map(split, answer), strict=True):
        fields = _RECORD.unpack_from(record)
        _, lease_until, claimant_length, attempt, next_run_at, scheduled_for, coalesced, run_count, error_length = fields[:9]
        quarantined, paused, revision, timing_revision, anchor, created_at, updated_at, timing_length, owner_length = fields[9:18]
        is_leased = lease_until != -_NEVER
        owner_start = _RECORD.size + timing_length
        task_start = owner_start + owner_length
        claimant_start = len(record) - claimant_length
        error_start = claimant_start - error_length
        yield StoredSchedule(
            id=schedule_id.decode(),
            task_name=record[task_start:error_start].decode(),
            document=document.decode(),
            timing=record[_RECORD.size : owner_start].decode(),
            scheduled_for=None if scheduled_for == _NEVER else _instant(scheduled_for),
            next_run_at=None if next_run_at == _NEVER else _instant(next_run_at),
            anchor=_instant(anchor),
            created_at=_instant(created_at),
            updated_at=_instant(updated_at),
            owner=_text(record[owner_start:task_start]),
            coalesced=coalesced,
            attempt=attempt,
            run_count=run_count,
            paused=bool(paused),
            quarantined=bool(quarantined),
            last_error=_text(record[error_start:claimant_start]),
            revision=revision,
            timing_revision=timing_revision,
            claimant=record[claimant_start:].decode() if is_leased else None,
            lease_until=_instant(lease_until) if is_leased else None,
        )


def pack_edit(name: str, value: Any) -> bytes:
    """Return the new value of a field as ``update.lua`` takes it."""
    if name == "last_error":
        return nullable(value)
    if isinstance(value, str):
        return value.encode()
    return b"inf" if value is None else b"%d" % (to_ms(value) if isinstance(value, datetime) else value)


# -- claims ----------------------------------------------------------------------------------------------------------------------


def pack_lease(token: str, lease_until: datetime, claimant: bytes) -> bytes:
    """Return the beginning of a record that is claimed."""
    return _LEASE.pack(pack_token(token), to_ms(lease_until), len(claimant))


def pack_token(token: str) -> bytes:
    """Return a token as it is in a record."""
    packed = token.encode()
    return packed if len(packed) == _TOKEN_LENGTH else _NO_TOKEN


def pack_instant(moment: datetime) -> bytes:
    """Return an instant as it is in a lease."""
    return _INSTANT.pack(to_ms(moment))


def pack_outcome(outcome: Outcome) -> list[bytes]:
    """Return what ``settle.lua`` takes for one outcome."""
    claim, last_error, runs = outcome.claim, nullable(outcome.last_error), outcome.runs
    head = _CLAIMED.pack(pack_token(claim.token), claim.schedule.revision, outcome.finished, outcome.release, len(runs))
    rows = [part for run in runs for part in (run.occurrence_id.encode(), pack_run(run))]
    return [claim.schedule.id.encode(), b"".join((head, _progress(outcome, len(last_error)), last_error)), *rows]


# -- history ---------------------------------------------------------------------------------------------------------------------


def pack_run(run: Run) -> bytes:
    """Return the record of a history row."""
    texts = (run.schedule_id.encode(), run.task_name.encode(), nullable(run.task_id), nullable(run.claimant), nullable(run.error))
    head = _RUN.pack(
        digest(run.schedule_id),
        to_ms(run.recorded_at) + _TIME_ORIGIN,
        _LETTERS[run.status],
        to_ms(run.scheduled_for) + _TIME_ORIGIN,
        run.attempt,
        run.coalesced,
        *map(len, texts[:-1]),
    )
    return b"".join((head, *texts))


def unpack_runs(answer: Sequence[bytes]) -> Iterator[Run]:
    """Yield the history rows of an answer: occurrence ids, rows."""
    for occurrence_id, row in zip(*map(split, answer), strict=True):
        _, recorded_at, letter, scheduled_for, attempt, coalesced, *lengths = _RUN.unpack_from(row)
        schedule_id, task_name, task_id, claimant, error = _pieces(row, _RUN.size, [*lengths, len(row)])
        yield Run(
            occurrence_id=occurrence_id.decode(),
            schedule_id=schedule_id.decode(),
            task_name=task_name.decode(),
            scheduled_for=from_ms(scheduled_for - _TIME_ORIGIN),
            status=_STATUSES[letter],
            recorded_at=from_ms(recorded_at - _TIME_ORIGIN),
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
    """Return an instant as 8 bytes, in which earlier is smaller; the first is always zero."""
    return (to_ms(moment) + _TIME_ORIGIN).to_bytes(8, "big")


# -- values ----------------------------------------------------------------------------------------------------------------------


def digest(name: str) -> bytes:
    """Return what stands for a name in the index: of one length, and equal for equal names."""
    return (zlib.crc32(name.encode()) or 1).to_bytes(len(_NOBODY), "big")


def nullable(text: str | None) -> bytes:
    """Return a text that may be None: empty for None, else marked, so that the empty text is another."""
    return b"" if text is None else b"=" + text.encode()


@lru_cache(maxsize=1024)  # what is claimed together has most of its instants in common
def _instant(milliseconds: float) -> datetime:
    return from_ms(int(milliseconds))


def _text(packed: bytes) -> str | None:
    return packed[1:].decode() if packed else None


def _progress(of: StoredSchedule | Outcome, error_length: int) -> bytes:
    next_run_at = _NEVER if of.next_run_at is None else to_ms(of.next_run_at)
    scheduled_for = _NEVER if of.scheduled_for is None else to_ms(of.scheduled_for)
    return _PROGRESS.pack(of.attempt, next_run_at, scheduled_for, of.coalesced, of.run_count, error_length, of.quarantined)
