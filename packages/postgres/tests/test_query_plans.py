"""Cost: every look-up goes through an index, whatever plan PostgreSQL settles on, and claims stay on their page."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from taskiq_sources.models import Claim, RunQuery, ScheduleQuery
from taskiq_sources.sql import columns
from taskiq_sources_conformance.build import LEASE, NOW, at, outcome, run, schedule, take
from taskiq_sources_postgres import PostgresStore

pytestmark = pytest.mark.anyio

_STORED = 20_000
_SETTLED = 20  # and so not due any more
_IN_FLIGHT = 300

_IDS = {"ids": ["000007", "012345"]}
_LEASE = {"now": NOW, "horizon": NOW, "claimant": "me", "lease_until": NOW + LEASE, "token": "t", "limit": 50}
_PAGE = {"after": "010000", "task_name": "tasks:7", "owner": "team-7", "due_before": at(-1, ms=7), "limit": 20}
_NOTHING_DUE = {**_PAGE, "due_before": at(-2)}
_RUNS = {
    "schedule_id": "000007",
    "status": "failed",
    "since": at(-5),
    "until": at(-1),
    "after_recorded_at": at(-5),
    "after_occurrence_id": "x",
    "limit": 20,
}
_STATEMENTS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("get", _IDS, ()),
    ("delete", _IDS, ()),
    ("claim", _LEASE, ()),
    ("claim_ids", {**_LEASE, **_IDS}, ()),
    ("next_due", {"now": NOW}, ()),
    ("page", _PAGE, ()),
    ("page", _PAGE, ("after",)),
    ("page", _PAGE, ("task_name",)),
    ("page", _PAGE, ("after", "task_name")),
    ("page", _PAGE, ("after", "owner")),
    ("page", _PAGE, ("due_before",)),
    ("page", _NOTHING_DUE, ("due_before",)),
    ("page", _NOTHING_DUE, ("due_before", "not_paused")),
    ("page", _NOTHING_DUE, ("due_before", "paused")),
    ("page", _NOTHING_DUE, ("after", "due_before", "not_paused", "not_quarantined")),
    ("page", _PAGE, ("after", "paused")),
    ("page", _PAGE, ("after", "quarantined")),
    ("page", _PAGE, ("after", "not_paused", "not_quarantined")),
    ("runs", _RUNS, ()),
    ("runs", _RUNS, ("after",)),
    ("runs", _RUNS, ("schedule_id", "after")),
    ("runs", _RUNS, ("status",)),
    ("runs", _RUNS, ("status", "after")),
    ("runs", _RUNS, ("since", "until")),
    ("prune", {"before": at(-19_990), "limit": 100}, ("before",)),
    ("prune", {"recorded_at": at(-19_990), "occurrence_id": "x", "limit": 100}, ("surplus",)),
]

_GENERIC = "force_generic_plan"
_MODES = ("force_custom_plan", _GENERIC)


@pytest.fixture(scope="module")
async def store(url: str, anyio_backend: str, module_place: Any) -> AsyncIterator[PostgresStore]:
    """A store with many schedules, of which some are in flight, and a long history."""
    store = PostgresStore(module_place.dsn, prefix=module_place.prefix, max_connections=1)
    await store.open()
    for number in range(0, _STORED, 5_000):
        await store.put([_schedule(number + offset) for offset in range(5_000)])
    claims = await take(store, limit=_SETTLED)
    for number in range(0, _STORED, 1_000):
        recorded = [
            run(
                f"{number + n:06}@1",
                schedule_id=f"{number + n:06}",
                status="failed" if n % 100 == 0 else "sent",
                recorded_at=at(-number - n),
            )
            for n in range(1_000)
        ]
        await store.settle([outcome(claims[number // 1_000], runs=tuple(recorded))])
    await take(store, limit=_IN_FLIGHT)
    for table in ("schedules", "runs"):
        await module_place.execute(f"VACUUM ANALYZE {module_place.prefix}{table}")
    yield store
    await store.close()


@pytest.mark.parametrize(
    ("mode", "name", "values", "conditions"),
    [
        pytest.param(mode, name, values, conditions, id="-".join((mode, name, *conditions)))
        for mode in _MODES
        for name, values, conditions in _STATEMENTS
        if mode != _GENERIC or not conditions  # those are planned for their values: see the next test
    ],
)
async def test_no_look_up_reads_a_whole_table(
    store: PostgresStore, mode: str, name: str, values: dict[str, Any], conditions: tuple[str, ...]
) -> None:
    """Few rows are touched by any step of the plan, with the values known to the planner or not."""
    plan = await _explain(store, mode, name, values, conditions)

    assert _scans(plan) == []
    assert max(_touched(plan)) <= 4 * _IN_FLIGHT


@pytest.mark.parametrize("conditions", [(), ("after",), ("after", "not_paused", "not_quarantined")], ids="-".join)
async def test_a_page_of_very_many_that_are_due_is_found_by_its_ids(store: PostgresStore, conditions: tuple[str, ...]) -> None:
    """Behind a look at what is due that has a bound. (Look at `page_due`.)"""
    plan = await _explain(store, "force_custom_plan", "page", {**_PAGE, "due_before": at(3_600)}, ("due_before", *conditions))

    assert _scans(plan) == []
    assert max(_touched(plan)) <= 5_100


async def test_listings_are_planned_for_their_values_however_often_they_are_asked_for(store: PostgresStore) -> None:
    """A rare name is found through its index after many that are usual: no statement is kept whose plan forgets the values."""
    for _ in range(10):
        assert len(await store.page(ScheduleQuery(task_name="tasks:7"), limit=20)) == 20
        assert len(await store.runs(RunQuery(status="failed"), limit=20)) == 20

    kept = await store._session.call(lambda connection: connection.fetch("SELECT statement FROM pg_prepared_statements"))
    assert kept
    assert [row["statement"] for row in kept if re.search(r"WHERE TRUE\s+AND", row["statement"])] == []


async def test_a_burst_is_looked_up_too_before_anybody_has_counted_it(place: Any) -> None:
    """Of a table without statistics, claims read no more than they take, and settles no more than they are given."""
    store = PostgresStore(place.dsn, prefix=place.prefix, max_connections=1)
    await store.open()
    await store.put([_schedule(number) for number in range(5_000)])
    claims = await take(store, limit=_IN_FLIGHT)
    values = columns.outcome_columns([outcome(claim, runs=(run(claim.schedule.id),)) for claim in claims])

    for mode in _MODES:
        for name, given in {"settle": values, "claim": {**_LEASE, "limit": 100}}.items():
            plan = await _explain(store, mode, name, given, ())
            assert _scans(plan) == [], (mode, name)
            assert max(_touched(plan)) <= 2 * _IN_FLIGHT, (mode, name)
    await store.close()


async def test_plans_made_for_a_single_schedule_serve_thousands(place: Any) -> None:
    """A schedule at rest, and then a burst before anybody has counted it: the plans that were kept still touch what they must."""
    store = PostgresStore(place.dsn, prefix=place.prefix, max_connections=1)
    await store.open()
    await store.put([_schedule(_STORED)])
    await place.execute(f"VACUUM ANALYZE {place.prefix}schedules")

    async def keep(connection: Any) -> None:
        for name, (sql, arguments) in _calls(store, alone).items():
            await _prepare(connection, name, sql)
            await _plan(connection, _GENERIC, name, sql, arguments)

    async def plans(connection: Any) -> dict[str, Any]:
        calls = _calls(store, await take(other, ids=scattered))
        return {name: await _plan(connection, _GENERIC, name, *call) for name, call in calls.items()}

    scattered = [f"{number:06}" for number in range(0, 5_000, 20)]
    alone = await take(store)
    await store._session.call(keep)
    other = PostgresStore(place.dsn, prefix=place.prefix)
    await other.open()
    await other.put([_schedule(number) for number in range(5_000)])
    for name, plan in (await store._session.call(plans)).items():
        assert _scans(plan) == [], name
        assert max(_touched(plan)) <= 2 * len(scattered), name
        by_id = [step["Index Name"] for step in _steps(plan) if step.get("Index Cond", "").startswith("(id = ")]
        assert all(index.endswith("_pkey") for index in by_id), name  # any other is gone through as a whole
    await other.close()
    await store.close()


@pytest.mark.parametrize("finished", [True, False])
async def test_settles_are_looked_up_by_any_planner(place: Any, store: PostgresStore, finished: bool) -> None:
    """With the server's own settings, as in a pool of the application's, no more is touched than is settled."""
    claims = await take(store, limit=200)
    values = columns.outcome_columns([outcome(claim, finished=finished, runs=(run(claim.schedule.id),)) for claim in claims])
    async with asyncpg.create_pool(place.dsn, min_size=1, max_size=1) as pool:
        other = PostgresStore(pool=pool, prefix=store._names.prefix)
        await other.open()

        plan = await _explain(other, "force_custom_plan", "settle", values, ())

        assert max(_touched(plan)) <= 2 * len(claims)
        await other.close()
    assert await store.settle([outcome(claim, next_run_at=claim.schedule.next_run_at) for claim in claims]) == frozenset()


async def test_nothing_is_kept_on_connections_of_the_application(place: Any) -> None:
    """Their planner is set as others need it, so that what it chose for few schedules may be wrong for many."""
    async with asyncpg.create_pool(place.dsn, min_size=1, max_size=1) as pool:
        store = PostgresStore(pool=pool, prefix=place.prefix)
        await store.open()
        await store.put([_schedule(number) for number in range(3)])
        await store.settle([outcome(claim) for claim in await take(store)])
        await store.close()

        kept = await pool.fetch("SELECT statement FROM pg_prepared_statements")
        assert [row["statement"] for row in kept if f'"{place.prefix}schedules"' in row["statement"]] == []


@pytest.mark.parametrize("mode", _MODES)
async def test_settles_and_renewals_look_up_what_they_are_given(store: PostgresStore, mode: str) -> None:
    claims = await take(store, limit=100)
    outcomes = [outcome(claim, finished=n % 2 == 0, runs=(run(f"{n}"),)) for n, claim in enumerate(claims)]
    for name, values in {
        "settle": columns.outcome_columns(outcomes),
        "renew": {**columns.lease_columns(claims), "until": NOW},
        "put": {**columns.schedule_columns([claim.schedule for claim in claims]), "replace": True},
    }.items():
        plan = await _explain(store, mode, name, values, ())

        assert _scans(plan) == [], name
        assert max(_touched(plan)) <= 4 * _IN_FLIGHT, name
    assert await store.settle([outcome(claim, next_run_at=claim.schedule.next_run_at) for claim in claims]) == frozenset()


async def test_a_claim_moves_no_index_entry(store: PostgresStore) -> None:
    """Claims are heap-only updates as long as pages have room, as they have for any but the neighbours of a whole page."""

    table = f"{store._names.prefix}schedules"

    async def updates(connection: Any) -> tuple[int, int]:
        row = await connection.fetchrow(
            "SELECT pg_stat_get_xact_tuples_updated(oid), pg_stat_get_xact_tuples_hot_updated(oid) "
            "FROM pg_class WHERE relname = $1",
            table,
        )
        return row[0], row[1]

    async def claim_and_count(connection: Any) -> tuple[int, int]:
        sql, arguments = store.bind("claim_ids", {**columns.instants(_LEASE), "ids": scattered, "limit": 200})
        async with connection.transaction():
            before = await updates(connection)
            await connection.fetch(sql, *arguments)
            after = await updates(connection)
            await connection.execute(f"UPDATE {table} SET lease_until = NULL WHERE id = ANY ($1)", scattered)
        return after[0] - before[0], after[1] - before[1]

    scattered = [f"{number:06}" for number in range(5_000, 15_000, 50)]
    updated, hot = await store._session.call(claim_and_count)

    assert (updated, hot) == (200, 200)


async def test_next_due_looks_past_what_is_in_flight(store: PostgresStore) -> None:
    """However many leases run, the earliest free schedule is found, and the end of a lease where there is none."""
    in_flight = len([one for one in await store.page(ScheduleQuery(), limit=_STORED) if one.lease_until])
    assert await store.next_due(NOW) == at(-1, ms=_schedule_ms(_SETTLED + in_flight))
    taken = await take(store, limit=_STORED)
    assert await store.next_due(NOW) == NOW + LEASE
    await store.settle([outcome(claim, next_run_at=claim.schedule.next_run_at) for claim in taken])


async def test_pages_and_runs_of_a_full_store_are_right(store: PostgresStore) -> None:
    """What the indexes find is what there is."""
    found = await store.page(ScheduleQuery(task_name="tasks:7"), limit=_STORED)
    assert [one.id for one in found] == [f"{number:06}" for number in range(7, _STORED, 100)]
    due = await store.page(ScheduleQuery(due_before=at(-1, ms=1), paused=False), limit=_STORED)
    assert {one.next_run_at for one in due} == {at(-1)}
    every = await store.page(ScheduleQuery(), limit=_STORED)
    assert await store.page(ScheduleQuery(due_before=at(3_600)), after=every[99].id, limit=20) == every[100:120]
    assert len(await store.runs(RunQuery(status="failed"), limit=_STORED)) == _STORED // 100


def _schedule_ms(number: int) -> int:
    return number // 100


def _schedule(number: int) -> Any:
    return schedule(
        f"{number:06}",
        task_name=f"tasks:{number % 100}",
        owner=f"team-{number % 50}" if number % 3 == 0 else None,
        next_run_at=at(-1, ms=_schedule_ms(number)),
        paused=number % 500 == 499,
        document="x" * 300,
    )


def _calls(store: PostgresStore, claims: list[Claim]) -> dict[str, tuple[str, list[Any]]]:
    """Return every kind of call that is made for these claims, each with its arguments."""
    ids = {"ids": [claim.schedule.id for claim in claims]}
    finished, advanced = (
        [outcome(claim, finished=last, runs=(run(claim.schedule.id),)) for claim in claims] for last in (True, False)
    )
    values = {
        "finish": columns.outcome_columns(finished),
        "settle": columns.outcome_columns(advanced),
        "renew": {**columns.lease_columns(claims), "until": NOW},
        "put": {**columns.schedule_columns([claim.schedule for claim in claims]), "replace": True},
        "get": ids,
        "delete": ids,
        "update": {**columns.changes_values({"updated_at": NOW}), "id": ids["ids"][0], "expected_revision": None},
        "claim": {**_LEASE, "limit": len(claims)},
        "claim_ids": {**_LEASE, **ids, "now": at(3_600), "limit": len(claims)},
        "next_due": {"now": NOW},
    }
    return {name: store.bind(name.replace("finish", "settle"), columns.instants(given)) for name, given in values.items()}


async def _explain(store: PostgresStore, mode: str, name: str, values: dict[str, Any], conditions: tuple[str, ...]) -> Any:
    """Run a statement, undo it, and return its plan with the number of rows of each step."""
    sql, arguments = store.bind(name, columns.instants(values), conditions)

    async def work(connection: Any) -> Any:
        await _prepare(connection, "explained", sql)
        try:
            return await _plan(connection, mode, "explained", sql, arguments)
        finally:
            await connection.execute("DEALLOCATE explained")

    return await store._session.call(work)


async def _prepare(connection: Any, name: str, sql: str) -> None:
    await connection.execute(f"PREPARE {name} ({', '.join(await _types(connection, sql))}) AS {sql}")


async def _plan(connection: Any, mode: str, name: str, sql: str, arguments: list[Any]) -> Any:
    # Not with the driver's own parameters: what is explained is planned with the values of those in any mode.
    texts = [
        await connection.fetchval(f"SELECT coalesce(quote_literal($1::{kind}::text), 'NULL')", argument)
        for kind, argument in zip(await _types(connection, sql), arguments, strict=True)
    ]
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        found = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {name} ({', '.join(texts)})")
    finally:
        await transaction.rollback()
    return json.loads(found)[0]["Plan"]


async def _types(connection: Any, sql: str) -> list[str]:
    return [parameter.name for parameter in (await connection.prepare(sql)).get_parameters()]


def _steps(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(step for child in plan.get("Plans", []) for step in _steps(child))]


def _scans(plan: dict[str, Any]) -> list[str]:
    return [step["Relation Name"] for step in _steps(plan) if step["Node Type"] == "Seq Scan"]


def _touched(plan: dict[str, Any]) -> list[int]:
    removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck", "Rows Removed by Join Filter")
    return [(step["Actual Rows"] + sum(step.get(name, 0) for name in removed)) * step["Actual Loops"] for step in _steps(plan)]
