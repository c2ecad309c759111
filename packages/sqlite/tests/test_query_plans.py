"""Cost: which index each statement uses, and that the work done depends on what is due and not on what is stored.

Work is counted in steps of SQLite's virtual machine, which is the same on every machine, and not in seconds.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Coroutine
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import pytest

from taskiq_sources.models import Claim, Run, RunQuery, ScheduleQuery
from taskiq_sources_conformance.build import LEASE, NOW, at, outcome, run, schedule
from taskiq_sources_sqlite import SQLiteStore, operations
from taskiq_sources_sqlite.operations import SQL, Rows
from taskiq_sources_sqlite.schema import prepare

SCHEDULES, RUNS = "taskiq_sources_schedules", "taskiq_sources_runs"
IN_ORDER = "(COVERING INDEX|INDEX) (taskiq_sources_runs_newest|sqlite_autoindex_taskiq_sources_schedules_1)"  # up to a limit
PAGE = "SEARCH taskiq_sources_schedules USING INDEX"

#: Allowed to cost more where far more is stored: deeper trees take a few more steps.
MARGIN = 1.3


class Anything(dict[str, Any]):
    """A value for every parameter."""

    def __missing__(self, name: str) -> Any:
        return "[]" if name in {"ids", "rows", "changed"} else 1


def plan(database: sqlite3.Connection, name: str) -> list[str]:
    sql, arguments = SQL.bind(name, Anything())
    return [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", arguments)]


def steps(database: sqlite3.Connection, work: Coroutine[Any, Any, object]) -> int:
    """Return how many steps of SQLite's virtual machine `work` takes."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    database.set_progress_handler(step, 1)
    try:
        asyncio.run(work)
    finally:
        database.set_progress_handler(None, 1)
    return count


def new_database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    prepare(connection, str(path), synchronous="NORMAL", patience=5)
    return connection


class ThreadlessStore(SQLiteStore):
    """What the store does, done at once on a connection of the test's."""

    def __init__(self, database: sqlite3.Connection) -> None:
        super().__init__("unused")
        self.database = database

    async def _run(self, operation: str, values: dict[str, Any], conditions: Any = (), *, repeatable: bool = False) -> Rows:
        return operations.run(self.database, operation, values, conditions)


def claim(database: sqlite3.Connection, *, limit: int = 10) -> list[Claim]:
    return asyncio.run(ThreadlessStore(database).claim(NOW, claimant="c", lease=LEASE, limit=limit))


def put_due(database: sqlite3.Connection, count: int, prefix: str = "due") -> None:
    asyncio.run(ThreadlessStore(database).put([schedule(f"{prefix}-{number:06d}") for number in range(count)]))


def put_far(database: sqlite3.Connection, count: int) -> None:
    later = at(86_400)
    far = [schedule(f"far-{number:06d}", scheduled_for=later, next_run_at=later) for number in range(count)]
    asyncio.run(ThreadlessStore(database).put(far))


@pytest.fixture(params=["fresh", "analysed"])
def planned(request: pytest.FixtureRequest, database: sqlite3.Connection) -> sqlite3.Connection:
    """A database without statistics, which is the rule, and one of whose tables somebody has run ANALYZE."""
    if request.param == "analysed":
        put_due(database, 600)
        put_far(database, 1_400)
        claims = claim(database, limit=600)
        history = (tuple(run(f"{each.schedule.id}@{number}") for number in range(10)) for each in claims)
        settled = [outcome(each, runs=runs) for each, runs in zip(claims[:500], history, strict=False)]
        asyncio.run(ThreadlessStore(database).settle(settled))
        database.execute("ANALYZE")
    return database


#: Whole statements over the two tables, which may be large.
OVER_TABLES = [
    name
    for name in SQL
    if "." not in name and re.search(rf"(FROM|JOIN|UPDATE) ({SCHEDULES}|{RUNS})", SQL.bind(name, Anything())[0])
]


@pytest.mark.parametrize("name", OVER_TABLES)
def test_no_statement_reads_a_table_from_end_to_end(planned: sqlite3.Connection, name: str) -> None:
    for line in plan(planned, name):
        assert not re.match(rf"SCAN ({SCHEDULES}|{RUNS})(?! USING {IN_ORDER})", line)
        assert not line.startswith("SCAN TABLE")


@pytest.mark.parametrize("name", ["claim", "claimable", "next_due"])
def test_what_is_due_is_looked_up_by_instant(planned: sqlite3.Connection, name: str) -> None:
    tables = [line for line in plan(planned, name) if f" {SCHEDULES} " in line and "rowid=?" not in line]

    assert tables
    assert all(re.search(r"_(waiting|leased) \((next_run_at|lease_until)[<>]\?", line) for line in tables)


def test_unclaimed_occurrences_are_claimed_in_the_order_of_the_index(planned: sqlite3.Connection) -> None:
    lines = plan(planned, "claim")
    waiting = next(index for index, line in enumerate(lines) if "_waiting " in line)

    assert "TEMP B-TREE" not in lines[waiting + 1]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (ScheduleQuery(), f"{PAGE} sqlite_autoindex_taskiq_sources_schedules_1 (id>?)"),
        (ScheduleQuery(task_name="t"), f"{PAGE} taskiq_sources_schedules_of_task (task_name=? AND id>?)"),
        (ScheduleQuery(owner="o"), f"{PAGE} taskiq_sources_schedules_of_owner (owner=? AND id>?)"),
        (ScheduleQuery(paused=True), f"{PAGE} taskiq_sources_schedules_paused (id>?)"),
        (ScheduleQuery(quarantined=True), f"{PAGE} taskiq_sources_schedules_quarantined (id>?)"),
        (ScheduleQuery(due_before=NOW), f"{PAGE} sqlite_autoindex_taskiq_sources_schedules_1 (id=?)"),
        (
            ScheduleQuery(due_before=NOW, owner="o", paused=False, quarantined=False),
            f"{PAGE} sqlite_autoindex_taskiq_sources_schedules_1 (id=?)",
        ),
        (ScheduleQuery(owner="o", task_name="t"), f"{PAGE} taskiq_sources_schedules_of_owner (owner=? AND id>?)"),
    ],
)
def test_a_page_is_looked_up_by_its_most_selective_condition(
    planned: sqlite3.Connection, query: ScheduleQuery, index: str
) -> None:
    lines = planned_lines(planned, ThreadlessStore(planned).page(query, after="x", limit=10))

    assert lines[0] == index
    assert not [line for line in lines if "TEMP B-TREE" in line]


CONDITIONS: dict[str, Any] = {"schedule_id": "a", "status": "failed", "since": at(-60), "until": at(60)}


@pytest.mark.parametrize("names", list(chain.from_iterable(combinations(CONDITIONS, size) for size in range(5))), ids="-".join)
@pytest.mark.parametrize("after", [None, run(recorded_at=at(59)), run(recorded_at=at(61))])
def test_history_is_read_in_the_order_of_an_index_from_where_it_begins(
    planned: sqlite3.Connection, names: tuple[str, ...], after: Run | None
) -> None:
    query = RunQuery(**{name: CONDITIONS[name] for name in names})

    line, *more = planned_lines(planned, ThreadlessStore(planned).runs(query, after=after, limit=10))

    expected = "of_schedule" if "schedule_id" in names else "of_status" if "status" in names else "newest"
    assert f"taskiq_sources_runs_{expected}" in line
    assert ("<" in line) == (after is not None or "until" in names)
    assert ("recorded_at>?" in line) == ("since" in names)
    # What was recorded in one instant is not in order: that is sorted, and nothing else is.
    assert more == ["USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"]


def test_what_was_sent_is_read_in_the_order_of_all_history(planned: sqlite3.Connection) -> None:
    line, *_ = planned_lines(planned, ThreadlessStore(planned).runs(RunQuery(status="sent", since=at(-60)), limit=10))

    assert re.search("INDEX taskiq_sources_runs_newest .recorded_at>", line)


def test_a_page_of_a_schedule_with_a_long_history_costs_no_more(tmp_path: Path) -> None:
    costs = []
    for recorded in (200, 10_000):
        database = new_database(tmp_path / f"{recorded}.db")
        put_due(database, 1)
        (held,) = claim(database)
        history = tuple(run(f"{number}", schedule_id="due", recorded_at=at(number // 10)) for number in range(recorded))
        asyncio.run(ThreadlessStore(database).settle([outcome(held, runs=history)]))
        costs.append(steps(database, ThreadlessStore(database).runs(RunQuery(schedule_id="due"), limit=100)))
        database.close()

    assert costs[1] <= costs[0] * MARGIN


def planned_lines(database: sqlite3.Connection, work: Coroutine[Any, Any, object]) -> list[str]:
    """Return the plan of the one statement that `work` runs."""
    statements: list[str] = []
    database.set_trace_callback(statements.append)
    try:
        asyncio.run(work)
    finally:
        database.set_trace_callback(None)
    (statement,) = statements
    return [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}")]


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda store: store.claim(NOW, claimant="c", lease=LEASE, limit=10), id="claim"),
        pytest.param(lambda store: store.next_due(NOW), id="next_due"),
        pytest.param(lambda store: store.page(ScheduleQuery(due_before=NOW), limit=10), id="page"),
        pytest.param(lambda store: store.page(ScheduleQuery(quarantined=True), limit=10), id="listing"),
    ],
)
def test_the_cost_does_not_grow_with_what_is_stored(
    tmp_path: Path, work: Callable[[SQLiteStore], Coroutine[Any, Any, object]]
) -> None:
    small, large = new_database(tmp_path / "small.db"), new_database(tmp_path / "large.db")
    for database, stored in ((small, 100), (large, 10_000)):
        put_due(database, 10)
        put_far(database, stored)

    assert steps(large, work(ThreadlessStore(large))) <= steps(small, work(ThreadlessStore(small))) * MARGIN

    small.close()
    large.close()


def test_running_leases_do_not_stand_in_the_way_of_a_claim(tmp_path: Path) -> None:
    free, busy = new_database(tmp_path / "free.db"), new_database(tmp_path / "busy.db")
    put_due(busy, 5_000, prefix="a-leased")
    assert len(claim(busy, limit=5_000)) == 5_000
    for database in (free, busy):
        put_due(database, 10, prefix="b")

    costs = [
        steps(database, ThreadlessStore(database).claim(NOW, claimant="c", lease=LEASE, limit=10)) for database in (free, busy)
    ]
    assert costs[1] <= costs[0] * MARGIN

    free.close()
    busy.close()


def test_settling_does_not_cost_more_where_more_is_stored(tmp_path: Path) -> None:
    costs = []
    for stored in (100, 10_000):
        database = new_database(tmp_path / f"{stored}.db")
        put_due(database, 10)
        put_far(database, stored)
        outcomes = [outcome(each, runs=(run(each.schedule.id),)) for each in claim(database)]
        costs.append(steps(database, ThreadlessStore(database).settle(outcomes)))
        database.close()

    assert costs[1] <= costs[0] * MARGIN
