"""The operations of `taskiq_sources.sql.SQLStore`, one transaction each, run on the connection's thread.

A transaction begins and ends within one function call, so a busy or cancelled event loop never holds the file's write lock. Knows
nothing of asyncio, of opening files, or of errors of the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain, compress
from sqlite3 import Connection, Cursor, DataError
from typing import Any, Final, TypeAlias

from taskiq_sources.rows import rows_in
from taskiq_sources.sql import Statements, read_sql

Values: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = Sequence[Sequence[Any]]

#: Of these conditions the first that is asked for is looked up in its index, so the most selective come first. The others are
#: only checked: a unary plus keeps the planner, which has no statistics, from its own choice.
_INDEXED = ["quarantined", "paused", "due_before", "owner", "task_name", "not_quarantined", "not_paused", "schedule_id", "status"]


class _Statements(Statements):
    def _joined(self, name: str, conditions: Collection[str]) -> str:
        sql = super()._joined(name, conditions)
        for condition in [condition for condition in _INDEXED if condition in conditions][1:]:
            block = self._blocks[f"{name}.{condition}"]
            sql = sql.replace(block, block.replace("AND ", "AND +", 1))
        if name == "runs" and "schedule_id" in conditions:
            # Rows of one instant are not in order there; to save that bit of sorting, the planner would read all of history.
            sql = sql.replace("taskiq_sources_runs", "taskiq_sources_runs INDEXED BY taskiq_sources_runs_of_schedule", 1)
        return sql


_VALUES = re.compile(r"(?<=VALUES )\([?, \n]*\)")

#: As many as the engine settles at once, and a few sizes for the rest: to prepare a statement takes longer than to execute it. A
#: statement takes 32,766 values, and a row has at most 11.
_ROWS_AT_A_TIME = (500, 100, 10, 1)

SQL: Final = _Statements(read_sql("taskiq_sources_sqlite", "sql/queries.sql"), marker="?")


def run(connection: Connection, operation: str, values: Values, conditions: Collection[str] = ()) -> Rows:
    """Do one operation of the store and return its rows."""
    if operation not in _WRITING:
        return execute(connection, operation, values, conditions).fetchall()
    if operation == "claim" and not execute(connection, "claimable", values).fetchone()[0]:
        return []  # without the write lock, so that idle schedulers do not queue for it
    with write_transaction(connection):
        done = _WRITING[operation](connection, values, conditions)
    return rows_in(done) if isinstance(done, str) else done


def execute(connection: Connection, name: str, values: Values | None = None, conditions: Collection[str] = ()) -> Cursor:
    """Execute one statement."""
    sql, bound = SQL.bind(name, values or {}, conditions)
    arguments = [json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value for value in bound]
    return connection.execute(sql, arguments)


def version(connection: Connection) -> tuple[Connection, int, int]:
    """Return what differs after a write, be it through this connection or through another one."""
    return connection, execute(connection, "data_version").fetchone()[0], connection.total_changes


@contextmanager
def write_transaction(connection: Connection) -> Iterator[None]:
    """Take the file's write lock at once, and commit or, after any error, roll back."""
    execute(connection, "begin")
    try:
        yield
        connection.commit()
    except BaseException:
        connection.rollback()  # does nothing where SQLite has rolled back by itself
        raise


def _put(connection: Connection, values: Values, _: Collection[str]) -> Rows:
    sql, columns = SQL.bind("put", values)
    existing = {row[0] for row in execute(connection, "existing", {"ids": values["id"]})}
    # In the order in which they will be claimed: then a claim finds them on a few pages and not on one each.
    order = sorted(range(len(values["id"])), key=lambda at: (values["next_run_at"][at] or 0, values["id"][at]))
    written = (at for at in order if values["replace"] or values["id"][at] not in existing)
    connection.executemany(sql, ([column[at] for column in columns] for at in written))
    return [[set(values["id"]) - existing]]


def _delete(connection: Connection, values: Values, _: Collection[str]) -> Rows:
    return [[[row[0] for row in execute(connection, "delete", values).fetchall()]]]


def _update(connection: Connection, values: Values, _: Collection[str]) -> Rows:
    found: Rows = execute(connection, "revision", values).fetchall()
    if not found or values["expected_revision"] not in {None, found[0][0]}:
        return found
    return execute(connection, "edit", values).fetchall()


def _claim(connection: Connection, values: Values, _: Collection[str]) -> str:
    taken: str
    try:
        rows, taken = execute(connection, "claim_ids" if "ids" in values else "claim", values).fetchone()
    except DataError:  # all of it would be longer than a text may be, which is a billion bytes
        return _claim(connection, {**values, "limit": values["limit"] // 2}, _)
    execute(connection, "lease", {**values, "rows": rows})
    return taken


def _renew(connection: Connection, values: Values, _: Collection[str]) -> Rows:
    found, _ = map(json.loads, execute(connection, "leases", values).fetchone())
    held = [leased == claimed for leased, claimed in zip(found, values["id"], strict=True)]
    execute(connection, "renew", {"until": values["until"], "token": list(compress(values["token"], held))})
    return [[schedule_id] for schedule_id in compress(values["id"], held)]


def _settle(connection: Connection, values: Values, _: Collection[str]) -> Rows:
    leases = map(json.loads, execute(connection, "leases", values).fetchone())
    claims = zip(values["id"], values["claimed_revision"], values["finished"], *leases, strict=True)
    fates = [
        "lost" if found != schedule_id else "release" if timing > claimed else "finish" if finished else "advance"
        for schedule_id, claimed, finished, found, timing in claims
    ]
    ids_of = {fate: set(compress(values["id"], [each == fate for each in fates])) for fate in ("lost", "release")}
    _execute_each(connection, "record", values, [holder not in ids_of["lost"] for holder in values["run_holder"]])
    for fate in {"release", "finish"}.intersection(fates):
        execute(connection, fate, {"token": list(compress(values["token"], [each == fate for each in fates]))})
    _execute_each(connection, "advance", values, [fate == "advance" for fate in fates])
    return [[ids_of["lost"] | ids_of["release"].difference(compress(values["id"], values["release"]))]]


def _prune(connection: Connection, values: Values, conditions: Collection[str]) -> Rows:
    return [[execute(connection, "prune", values, conditions).rowcount]]


_WORK = (_put, _delete, _update, _claim, _renew, _settle, _prune)
_WRITING: Final = {"claim_ids": _claim, **{work.__name__[1:]: work for work in _WORK}}


def _execute_each(connection: Connection, name: str, values: Values, selected: Sequence[bool]) -> None:
    """Execute a statement for each of the selected rows of `values`, which are columns, with many of them at a time.

    ``executemany`` would give the interpreter away and fight for it again with each row: an event loop that is busy sending made
    it three times as slow.
    """
    sql, columns = SQL.bind(name, values)
    arguments = list(chain.from_iterable(compress(zip(*columns, strict=True), selected)))
    for size in _ROWS_AT_A_TIME:
        portion = size * len(columns)
        while len(arguments) >= portion:
            connection.execute(_for_rows(sql, size), arguments[:portion])
            del arguments[:portion]


@cache
def _for_rows(sql: str, number: int) -> str:
    return _VALUES.sub(lambda found: ", ".join([found[0]] * number), sql)
