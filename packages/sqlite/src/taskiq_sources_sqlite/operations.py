"""The operations of `taskiq_sources.sql.SQLStore`, one transaction each, run on the connection's thread.

A transaction begins and ends within one function call, so a busy or cancelled event loop never holds the file's write lock. Knows
nothing of asyncio, of opening files, or of errors of the file.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, compress
from typing import Any, Final, TypeAlias

from taskiq_sources.backends import portions
from taskiq_sources.sql import Statements, read_sql

Values: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = Sequence[Sequence[Any]]

#: Of these conditions the first that is asked for is looked up in its index, so the most selective come first. The others are
#: only checked: a unary plus keeps the planner, which has no statistics, from its own choice.
_LOOKED_UP = (
    *("quarantined", "paused", "due_before", "owner", "task_name", "not_quarantined", "not_paused"),
    *("schedule_id", "status"),
)


class _Statements(Statements):
    def _joined(self, name: str, conditions: Collection[str]) -> str:
        sql = super()._joined(name, conditions)
        for condition in [condition for condition in _LOOKED_UP if condition in conditions][1:]:
            block = self._blocks[f"{name}.{condition}"]
            sql = sql.replace(block, block.replace("AND ", "AND +", 1))
        if name == "runs" and "schedule_id" in conditions:
            # Rows of one instant are not in order there; to save that bit of sorting, the planner would read all of history.
            sql = sql.replace("taskiq_sources_runs", "taskiq_sources_runs INDEXED BY taskiq_sources_runs_of_schedule", 1)
        return sql


_VALUES = re.compile(r"(?<=VALUES )\([?, \n]*\)")
_ROWS_AT_A_TIME = 100  # of at most 11 values: a statement takes 32,766

SQL: Final = _Statements(read_sql("taskiq_sources_sqlite", "sql/queries.sql"), marker="?")


def run(connection: sqlite3.Connection, operation: str, values: Values, conditions: Collection[str] = ()) -> Rows | str:
    """Do one operation of the store and return its rows, or their JSON."""
    if operation not in _WRITING:
        return execute(connection, operation, values, conditions).fetchall()
    if operation == "claim" and not execute(connection, "claimable", values).fetchone()[0]:
        return []  # without the write lock, so that idle schedulers do not queue for it
    with write_transaction(connection):
        return _WRITING[operation](connection, values, conditions)


def execute(
    connection: sqlite3.Connection, name: str, values: Values | None = None, conditions: Collection[str] = ()
) -> sqlite3.Cursor:
    """Execute one statement."""
    sql, arguments = SQL.bind(name, values or {}, conditions)
    return connection.execute(
        sql, [json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value for value in arguments]
    )


def version(connection: sqlite3.Connection) -> tuple[sqlite3.Connection, int, int]:
    """Return what differs after a write, be it through this connection or through another one."""
    return connection, execute(connection, "data_version").fetchone()[0], connection.total_changes


@contextmanager
def write_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Take the file's write lock at once, and commit or, after any error, roll back."""
    execute(connection, "begin")
    try:
        yield
        connection.commit()
    except BaseException:
        connection.rollback()  # does nothing where SQLite has rolled back by itself
        raise


def _put(connection: sqlite3.Connection, values: Values, _: Collection[str]) -> Rows:
    sql, columns = SQL.bind("put", values)
    existing = {row[0] for row in execute(connection, "existing", {"ids": values["id"]})}
    written = [values["replace"] or schedule_id not in existing for schedule_id in values["id"]]
    # In the order in which they will be claimed: then a claim finds them on a few pages and not on one each.
    order = sorted(compress(range(len(written)), written), key=lambda at: (values["next_run_at"][at] or 0, values["id"][at]))
    connection.executemany(sql, ([column[at] for column in columns] for at in order))
    return [[set(values["id"]) - existing]]


def _delete(connection: sqlite3.Connection, values: Values, _: Collection[str]) -> Rows:
    return [[[row[0] for row in execute(connection, "delete", values).fetchall()]]]


def _update(connection: sqlite3.Connection, values: Values, _: Collection[str]) -> Rows:
    found: Rows = execute(connection, "revision", values).fetchall()
    if not found or values["expected_revision"] not in {None, found[0][0]}:
        return found
    return execute(connection, "edit", values).fetchall()


def _claim(connection: sqlite3.Connection, values: Values, _: Collection[str]) -> str:
    values = {**values, "token": secrets.token_urlsafe(12)}  # made distinct for each row in SQL
    taken: str
    rows, taken = execute(connection, "claim_ids" if "ids" in values else "claim", values).fetchone()
    execute(connection, "lease", {**values, "rows": rows})
    return taken


def _renew(connection: sqlite3.Connection, values: Values, _: Collection[str]) -> Rows:
    held = [found == schedule_id for schedule_id, (found, _) in zip(values["id"], _leases(connection, values), strict=True)]
    execute(connection, "renew", {"until": values["until"], "token": list(compress(values["token"], held))})
    return [[schedule_id] for schedule_id in compress(values["id"], held)]


def _settle(connection: sqlite3.Connection, values: Values, _: Collection[str]) -> Rows:
    claims = zip(values["id"], values["claimed_revision"], values["finished"], _leases(connection, values), strict=True)
    fates = [
        "lost" if found != schedule_id else "release" if timing > claimed else "finish" if finished else "advance"
        for schedule_id, claimed, finished, (found, timing) in claims
    ]
    ids_of = {fate: set(compress(values["id"], [each == fate for each in fates])) for fate in ("lost", "release")}
    _execute_each(connection, "record", values, [holder not in ids_of["lost"] for holder in values["run_holder"]])
    for fate in {"release", "finish"}.intersection(fates):
        execute(connection, fate, {"token": list(compress(values["token"], [each == fate for each in fates]))})
    _execute_each(connection, "advance", values, [fate == "advance" for fate in fates])
    return [[ids_of["lost"] | ids_of["release"].difference(compress(values["id"], values["release"]))]]


def _prune(connection: sqlite3.Connection, values: Values, conditions: Collection[str]) -> Rows:
    return [[execute(connection, "prune", values, conditions).rowcount]]


_WRITING: Final[dict[str, Callable[[sqlite3.Connection, Values, Collection[str]], Rows | str]]] = {
    **{work.__name__[1:]: work for work in (_put, _delete, _update, _claim, _renew, _settle, _prune)},
    "claim_ids": _claim,
}


def _leases(connection: sqlite3.Connection, values: Values) -> list[tuple[str | None, int]]:
    """Return, for each claim, the id and ``timing_revision`` of the schedule that its token leases."""
    leases: list[tuple[str | None, int]] = json.loads(execute(connection, "leases", values).fetchone()[0])
    return leases


def _execute_each(connection: sqlite3.Connection, name: str, values: Values, selected: Sequence[bool]) -> None:
    """Execute a statement for each of the selected rows of `values`, which are columns, with many of them at a time.

    ``executemany`` would give the interpreter away and fight for it again with each row: an event loop that is busy sending made
    it three times as slow.
    """
    sql, columns = SQL.bind(name, values)
    for portion in portions(compress(zip(*columns, strict=True), selected), _ROWS_AT_A_TIME):
        connection.execute(_for_rows(sql, len(portion)), list(chain.from_iterable(portion)))


@lru_cache(maxsize=4 * _ROWS_AT_A_TIME)
def _for_rows(sql: str, number: int) -> str:
    return _VALUES.sub(lambda found: ", ".join([found[0]] * number), sql)
