"""Batches of large schedules and long errors: more than a message holds, or than a transaction may write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from taskiq_sources.models import RunQuery
from taskiq_sources_conformance.build import at, listed, outcome, recorded, run, schedule, take
from taskiq_sources_conformance.servers import MongoServer, ServerUnavailable, start_mongo
from taskiq_sources_mongo import StandaloneMongoStore

pytestmark = pytest.mark.anyio

_MEBIBYTE = 1024 * 1024  # the largest document there is
_LONGEST_ERROR = "\N{COLLISION SYMBOL}" * 2_000


@pytest.fixture(scope="module", params=["standalone", "replica_set"])
def server(request: pytest.FixtureRequest) -> Iterator[MongoServer]:
    """A server whose cache has 256 MiB, of which a transaction may fill a fifth."""
    try:
        with start_mongo(replica_set=request.param == "replica_set") as server:
            yield server
    except ServerUnavailable as error:
        pytest.skip(f"no mongo server: {error}")


async def test_outcomes_of_large_schedules_are_recorded(server: MongoServer) -> None:
    """Each is written anew with its document; all of them at once would not fit into the cache, now or ever."""
    store = StandaloneMongoStore(server.url, prefix="large_")
    await store.open()
    ids = [f"{number:02}" for number in range(60)]
    for schedule_id in ids:
        await store.put([schedule(schedule_id, document="x" * _MEBIBYTE)])
    claims = await take(store)
    rows = {claim.schedule.id: run(claim.schedule.id, schedule_id=claim.schedule.id) for claim in claims}

    assert sorted(rows) == ids
    assert await store.settle([outcome(claim, runs=(rows[claim.schedule.id],)) for claim in claims]) == frozenset()
    assert sorted(await recorded(store)) == ids
    assert await store.next_due(at(0)) == at(3600)
    await store.close()


async def test_as_many_long_errors_are_recorded_as_are_claimed_at_once(server: MongoServer) -> None:
    """Each error is written twice: to its schedule, and into history."""
    store = StandaloneMongoStore(server.url, prefix="errors_")
    await store.open()
    ids = [f"{number:0200}" for number in range(1_000)]
    await store.put([schedule(schedule_id) for schedule_id in ids])
    claims = await take(store)
    rows = [run(claim.schedule.id, schedule_id=claim.schedule.id, error=_LONGEST_ERROR) for claim in claims]
    outcomes = [outcome(claim, last_error=_LONGEST_ERROR, runs=(row,)) for claim, row in zip(claims, rows, strict=True)]

    assert await store.settle(outcomes) == frozenset()
    assert await listed(store, limit=2_000) == ids
    assert {row.error for row in await store.runs(RunQuery(), limit=2_000)} == {_LONGEST_ERROR}
    await store.close()
