"""What the store does, one function an operation and one transaction a function, run on the connection's thread.

A transaction begins and ends within one function call, so a busy or cancelled event loop never holds the file's write lock. Knows
nothing of asyncio, of opening files, or of errors of the file.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime, timedelta

from taskiq_sources.clock import to_ms
from taskiq_sources.errors import RevisionConflictError, ScheduleNotFoundError
from taskiq_sources.models import UNSET, Claim, Outcome, Run, RunQuery, ScheduleChanges, ScheduleQuery, StoredSchedule
from taskiq_sources_sqlite.rows import (
    Parameters,
    id_list,
    optional_instant,
    optional_ms,
    run_from_row,
    run_parameters,
    schedule_from_row,
    schedule_parameters,
)
from taskiq_sources_sqlite.statements import load_statements

SQL = load_statements("taskiq_sources_sqlite", "sql/queries.sql")

#: Editing one of these is an edit of *when*.
_WHEN = ("timing", "scheduled_for", "next_run_at")


@contextmanager
def write_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Take the file's write lock at once, and commit or, after any error, roll back.

    A transaction that begins by reading could not become a writing one while another process writes: SQLite refuses that without
    waiting.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has rolled back by itself after some errors
            connection.execute("ROLLBACK")
        raise


# -- definitions -----------------------------------------------------------------------------------------------------------------


def put(connection: sqlite3.Connection, schedules: Sequence[StoredSchedule], *, overwrite: bool) -> frozenset[str]:
    """Store schedules in one transaction and return the ids that already existed."""
    ids = id_list([schedule.id for schedule in schedules])
    rows = [schedule_parameters(schedule) for schedule in schedules]
    with write_transaction(connection):
        existing = frozenset(row["id"] for row in connection.execute(SQL["existing"], {"ids": ids}))
        connection.executemany(SQL["put"], [row for row in rows if overwrite or row["id"] not in existing])
    return existing


def get(connection: sqlite3.Connection, ids: Collection[str]) -> dict[str, StoredSchedule]:
    """Return the schedules of these ids."""
    return {row["id"]: schedule_from_row(row) for row in connection.execute(SQL["get"], {"ids": id_list(ids)})}


def page(connection: sqlite3.Connection, query: ScheduleQuery, *, after: str | None, limit: int) -> list[StoredSchedule]:
    """Return one page of schedules in the order of ids."""
    # The first one that applies is looked up in its index, the others are checked: so the most selective come first.
    applies = {
        "quarantined": query.quarantined is True,
        "paused": query.paused is True,
        "due_before": query.due_before is not None,
        "owner": query.owner is not None,
        "task_name": query.task_name is not None,
        "not_quarantined": query.quarantined is False,
        "not_paused": query.paused is False,
    }
    conditions = [name for name, asked_for in applies.items() if asked_for]
    parameters: Parameters = {
        "after": after or "",  # ids are never empty, so all of them come after this
        "task_name": query.task_name,
        "owner": query.owner,
        "due_before": optional_ms(query.due_before),
        "limit": limit,
    }
    return [
        schedule_from_row(row)
        for row in connection.execute(SQL.where("page", conditions[:1], unindexed=conditions[1:]), parameters)
    ]


def delete(connection: sqlite3.Connection, ids: Collection[str]) -> frozenset[str]:
    """Delete schedules and return the ids that existed."""
    with write_transaction(connection):
        return frozenset(row["id"] for row in connection.execute(SQL["delete"], {"ids": id_list(ids)}).fetchall())


def update(
    connection: sqlite3.Connection, schedule_id: str, changes: ScheduleChanges, *, expected_revision: int | None
) -> StoredSchedule:
    """Edit one schedule and return it as it is then."""
    changed = {field.name: value for field in fields(changes) if (value := getattr(changes, field.name)) is not UNSET}
    with write_transaction(connection):
        found = get(connection, [schedule_id]).get(schedule_id)
        if found is None:
            raise ScheduleNotFoundError(schedule_id)
        if expected_revision is not None and found.revision != expected_revision:
            raise RevisionConflictError(schedule_id, expected_revision, found.revision)
        revision = found.revision + 1
        timing_revision = revision if any(name in changed for name in _WHEN) else found.timing_revision
        edited = replace(found, **changed, revision=revision, timing_revision=timing_revision)
        connection.execute(SQL["edit"], schedule_parameters(edited))
    return edited


# -- dispatch --------------------------------------------------------------------------------------------------------------------


def claim(
    connection: sqlite3.Connection,
    now: datetime,
    *,
    claimant: str,
    lease: timedelta,
    limit: int,
    ids: Collection[str] | None,
    early: timedelta,
) -> list[Claim]:
    """Take eligible occurrences and return them, oldest first."""
    parameters: Parameters = {
        "now": to_ms(now),
        "horizon": to_ms(now + early),
        "claimant": claimant,
        "lease_until": to_ms(now + lease),
        "limit": limit,
        "token": secrets.token_hex(16),  # made distinct for each row in SQL
    }
    if ids is None:
        statement = SQL["claim"]
        if not connection.execute(SQL["claimable"], parameters).fetchone()[0]:
            return []
    else:
        statement = SQL["claim_ids"]
        parameters["ids"] = id_list(ids)
    with write_transaction(connection):
        rows = connection.execute(statement, parameters).fetchall()
    rows.sort(key=lambda row: (row["next_run_at"], row["id"]))  # RETURNING promises no order
    lease_until = now + lease
    return [Claim(schedule=schedule_from_row(row), token=row["token"], claimed_at=now, lease_until=lease_until) for row in rows]


def renew(connection: sqlite3.Connection, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
    """Move the end of the leases that are still held by these claims and return their ids."""
    with write_transaction(connection):
        leases = _leases(connection, claims)
        held = {claim.schedule.id: leases[claim.schedule.id]["rowid"] for claim in claims if _is_current(claim, leases)}
        connection.executemany(SQL["renew"], [{"rowid": rowid, "until": to_ms(until)} for rowid in held.values()])
    return frozenset(held)


def settle(connection: sqlite3.Connection, outcomes: Sequence[Outcome]) -> frozenset[str]:
    """Record outcomes in one transaction and return the ids whose claim did not survive although it should have."""
    runs: list[Parameters] = []
    finished: list[Parameters] = []
    released: list[Parameters] = []
    advanced: list[Parameters] = []
    lost: set[str] = set()
    with write_transaction(connection):
        leases = _leases(connection, [outcome.claim for outcome in outcomes])
        for outcome in outcomes:
            schedule = outcome.claim.schedule
            if not _is_current(outcome.claim, leases):
                lost.add(schedule.id)
                continue
            row = leases[schedule.id]
            runs += [run_parameters(run) for run in outcome.runs]
            if row["timing_revision"] > schedule.revision:  # rescheduled since it was claimed: the edit decides
                released.append({"rowid": row["rowid"]})
                if not outcome.release:
                    lost.add(schedule.id)
            elif outcome.finished:
                finished.append({"rowid": row["rowid"]})
            else:
                advanced.append(_advance_parameters(row["rowid"], outcome))
        connection.executemany(SQL["record"], runs)
        connection.executemany(SQL["release"], released)
        connection.executemany(SQL["finish"], finished)
        connection.executemany(SQL["advance"], advanced)
    return frozenset(lost)


def next_due(connection: sqlite3.Connection, now: datetime) -> datetime | None:
    """Return the earliest instant at which a claim could return something."""
    return optional_instant(connection.execute(SQL["next_due"], {"now": to_ms(now)}).fetchone()[0])


def _leases(connection: sqlite3.Connection, claims: Collection[Claim]) -> dict[str, sqlite3.Row]:
    ids = id_list([claim.schedule.id for claim in claims])
    return {row["id"]: row for row in connection.execute(SQL["leases"], {"ids": ids})}


def _is_current(claim: Claim, leases: dict[str, sqlite3.Row]) -> bool:
    row = leases.get(claim.schedule.id)
    return row is not None and row["token"] == claim.token


def _advance_parameters(rowid: int, outcome: Outcome) -> Parameters:
    return {
        "rowid": rowid,
        "scheduled_for": optional_ms(outcome.scheduled_for),
        "next_run_at": optional_ms(outcome.next_run_at),
        "coalesced": outcome.coalesced,
        "attempt": outcome.attempt,
        "run_count": outcome.run_count,
        "last_error": outcome.last_error,
        "quarantined": outcome.quarantined,
        "release": outcome.release,
    }


# -- history ---------------------------------------------------------------------------------------------------------------------


def runs(connection: sqlite3.Connection, query: RunQuery, *, after: Run | None, limit: int) -> list[Run]:
    """Return one page of history, newest first."""
    until = query.until
    if after is not None and until is not None:
        # Of two upper bounds only one can be looked up, and the lower one says it all.
        if after.recorded_at < until:
            until = None
        else:
            after = None
    applies = {
        "schedule_id": query.schedule_id is not None,
        "status": query.status is not None,
        "since": query.since is not None,
        "until": until is not None,
        "after": after is not None,
    }
    conditions = [name for name, asked_for in applies.items() if asked_for]
    unindexed = ["status"] if applies["schedule_id"] and applies["status"] else []
    parameters: Parameters = {
        "schedule_id": query.schedule_id,
        "status": query.status,
        "since": optional_ms(query.since),
        "until": optional_ms(until),
        "after_recorded_at": None if after is None else to_ms(after.recorded_at),
        "after_occurrence_id": None if after is None else after.occurrence_id,
        "limit": limit,
    }
    statement = SQL.where("runs", [name for name in conditions if name not in unindexed], unindexed=unindexed)
    return [run_from_row(row) for row in connection.execute(statement, parameters)]


def prune_runs_before(connection: sqlite3.Connection, before: datetime, *, limit: int) -> int:
    """Delete up to `limit` of the oldest history rows recorded before an instant and return how many there were."""
    with write_transaction(connection):
        return connection.execute(SQL["prune_before"], {"before": to_ms(before), "limit": limit}).rowcount


def prune_surplus_runs(connection: sqlite3.Connection, *, keep: int, limit: int) -> int:
    """Delete up to `limit` of the oldest history rows beyond the newest `keep` and return how many there were."""
    with write_transaction(connection):
        newest_surplus = connection.execute(SQL["newest_surplus"], {"keep": keep}).fetchone()
        if newest_surplus is None:
            return 0
        return connection.execute(SQL["prune_surplus"], {**dict(newest_surplus), "limit": limit}).rowcount


# -- push ------------------------------------------------------------------------------------------------------------------------


def data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes when another connection commits a change."""
    version: int = connection.execute(SQL["data_version"]).fetchone()[0]
    return version
