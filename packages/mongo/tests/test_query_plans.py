"""What calls cost on a large collection: the server's own count of what it looked at, of every statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pymongo
import pytest

from taskiq_sources.models import RunQuery, ScheduleChanges, ScheduleQuery
from taskiq_sources_conformance.build import LEASE, NOW, at, outcome, run, schedule, take
from taskiq_sources_mongo import MongoStore

pytestmark = pytest.mark.anyio

_MANY = 5_000
_DUE = 20
_ROWS = 3_000

#: Keys and documents looked at for one that is returned or written: an index entry, the document, and again for its update.
_EACH = 10
_CONSTANT = 40


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(place: Any) -> Any:
    """A store with many schedules of which few are due, few are set aside, and few are special; and with much history."""
    store = place.store()
    await store.open()
    later = [
        schedule(f"{number:05}", next_run_at=at(60 + number), owner="many", task_name="tasks:many") for number in range(_MANY)
    ]
    due = [schedule(f"{number * 200:05}-due", next_run_at=at(-number)) for number in range(_DUE)]
    rare = [schedule("04000-rare", owner="rare", task_name="tasks:rare", next_run_at=at(9000))]
    aside = [schedule("04500-paused", paused=True), schedule("04501-quarantined", quarantined=True)]
    await store.put([*later, *due, *rare, *aside])
    [carrier] = await take(store, limit=1)
    rows = [run(f"{number:05}", schedule_id="busy", recorded_at=at(number), task_id=None) for number in range(_ROWS)]
    rows += [run(f"x{number}", schedule_id="calm", recorded_at=at(number * 9), status="failed") for number in range(9)]
    rows += [run(f"y{number}", schedule_id="calm", recorded_at=at(2000 + number), status="unknown") for number in range(2)]
    await store.settle([outcome(carrier, next_run_at=at(-19), runs=tuple(rows))])
    with place.direct() as database:
        database.command("profile", 2)
    yield store
    await store.close()


async def _claim(store: MongoStore) -> int:
    return len(await take(store, limit=7))


async def _claim_one(store: MongoStore) -> int:
    return len(await take(store, ids=["00200-due"]))


async def _claim_nothing(store: MongoStore) -> int:
    return len(await take(store, now=NOW - timedelta(days=1)))


async def _cycle(store: MongoStore) -> int:
    claims = await take(store, limit=5)
    assert await store.renew(claims, until=NOW + 2 * LEASE) == {claim.schedule.id for claim in claims}
    outcomes = [outcome(claim, runs=(run(claim.schedule.id),)) for claim in claims]
    assert await store.settle([*outcomes[1:], replace(outcomes[0], finished=True)]) == frozenset()
    return len(claims) * 4


async def _next_due(store: MongoStore) -> int:
    assert await store.next_due(NOW) == at(-19)
    return 1


async def _next_due_in_flight(store: MongoStore) -> int:
    claims = await take(store)
    assert await store.next_due(NOW) == at(30)
    return len(claims) * 2


async def _edit(store: MongoStore) -> int:
    await store.put([schedule("00001"), schedule("new")])
    await store.update("00002", ScheduleChanges(updated_at=NOW, paused=True))
    return len(await store.delete(["00003", "nope"])) + len(await store.get(["00004"])) + 3


def _page(query: ScheduleQuery, expected: int, after: str | None = None) -> Callable[[MongoStore], Awaitable[int]]:
    async def page(store: MongoStore) -> int:
        found = await store.page(query, after=after, limit=25)
        assert len(found) == expected
        return expected

    return page


def _runs(query: RunQuery, expected: int, after: Any = None) -> Callable[[MongoStore], Awaitable[int]]:
    async def runs(store: MongoStore) -> int:
        found = await store.runs(query, after=after, limit=25)
        assert len(found) == expected
        return expected

    return runs


async def _prune(store: MongoStore) -> int:
    assert await store.prune_runs(before=at(10), keep=_ROWS) == 12
    return 12


CALLS: dict[str, Callable[[MongoStore], Awaitable[int]]] = {
    "claim": _claim,
    "claim-ids": _claim_one,
    "claim-nothing": _claim_nothing,
    "claim-renew-settle": _cycle,
    "next_due": _next_due,
    "next_due-in-flight": _next_due_in_flight,
    "put-update-delete-get": _edit,
    "page": _page(ScheduleQuery(), 25),
    "page-after": _page(ScheduleQuery(), 25, "02500"),
    "page-task_name": _page(ScheduleQuery(task_name="tasks:rare"), 1),
    "page-task_name-after": _page(ScheduleQuery(task_name="tasks:many"), 25, "02500"),
    "page-owner": _page(ScheduleQuery(owner="rare"), 1),
    "page-nobody": _page(ScheduleQuery(owner="nobody"), 0),
    "page-paused": _page(ScheduleQuery(paused=True), 1),
    "page-not-paused": _page(ScheduleQuery(paused=False, quarantined=False), 25),
    "page-quarantined": _page(ScheduleQuery(quarantined=True), 1),
    "page-due": _page(ScheduleQuery(due_before=NOW), _DUE + 1),
    "page-due-active": _page(ScheduleQuery(due_before=NOW, paused=False, quarantined=False), _DUE - 1),
    "page-due-paused": _page(ScheduleQuery(due_before=NOW, paused=True), 1),
    "runs": _runs(RunQuery(), 25),
    "runs-after": _runs(RunQuery(), 25, run("01500", recorded_at=at(1500))),
    "runs-of-one": _runs(RunQuery(schedule_id="calm"), 11),
    "runs-of-one-after": _runs(RunQuery(schedule_id="busy"), 25, run("01500", recorded_at=at(1500))),
    "runs-of-nobody": _runs(RunQuery(schedule_id="nobody"), 0),
    "runs-failed": _runs(RunQuery(status="failed"), 9),
    "runs-failed-after": _runs(RunQuery(status="failed"), 4, run("x4", recorded_at=at(36))),
    "runs-sent": _runs(RunQuery(status="sent"), 25),
    "runs-unknown": _runs(RunQuery(status="unknown"), 2),
    "runs-between": _runs(RunQuery(since=at(1500), until=at(1510)), 10),
    "prune": _prune,
}
#: What else is looked at: `keep` counts what it keeps, in the index alone; `next_due` has windows that grow.
_ALLOWED = {"prune": _ROWS, "next_due-in-flight": 200}


@pytest.mark.parametrize("name", CALLS)
async def test_cost_follows_what_is_returned_and_due(store: MongoStore, place: Any, name: str) -> None:
    """No statement looks at much more than it returns, nor scans a collection, nor sorts what is not in order."""
    touched = await CALLS[name](store)

    with place.direct() as database:
        database.command("profile", 0)
        statements = list(database["system.profile"].find({"ns": {"$regex": "schedules|runs"}}).sort("ts", pymongo.ASCENDING))
    looked_at = {_shown(one): one.get("keysExamined", 0) + one.get("docsExamined", 0) for one in statements}
    assert statements
    assert [one for one in looked_at if "COLLSCAN" in one] == []
    assert {one: n for one, n in looked_at.items() if n > _CONSTANT + _EACH * touched + _ALLOWED.get(name, 0)} == {}


def _shown(statement: dict[str, Any]) -> str:
    return f"{statement['op']} {statement.get('planSummary')} {str(statement.get('command'))[:300]}"
