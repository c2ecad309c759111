"""Where there are transactions: dying at any point of one, and what the next one finds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pymongo
import pytest
from pymongo.asynchronous.client_session import _TxnState

from taskiq_sources.models import Claim, Outcome
from taskiq_sources_conformance.build import LEASE, NOW, at, outcome, recorded, run, schedule, take
from taskiq_sources_mongo import MongoStore, StandaloneMongoStore
from taskiq_sources_mongo.database import answer
from taskiq_sources_mongo.documents import row

pytestmark = pytest.mark.anyio

_TIMEOUT = 20.0  # seconds: a third of what the server leaves a transaction whose owner is dead
_IDS = ["finished", "going", "moved"]


@pytest.fixture(params=["mongo", "mongo_motor"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("calls", range(7))
async def test_dying_amid_a_settle(
    place: Any, store: MongoStore, other: MongoStore, dying: Callable[..., Any], calls: int, repeated: bool
) -> None:
    """An outcome is applied whole, with its history, or not at all; and whoever takes over does not wait for the dead."""
    await store.put([schedule(schedule_id) for schedule_id in _IDS])
    outcomes = [_outcome(claim, attempt=1 + repeated) for claim in await take(store)]
    with dying(store, calls) as life:
        assert await store.settle(outcomes) == frozenset()
    assert life.died or calls > 3, "this many calls are more than a settle has: the test has proved everything already"

    rows = await recorded(other)
    found = await other.get(_IDS)
    assert sorted(rows) == (sorted(f"{schedule_id}@1" for schedule_id in _IDS) if life.committed else [])
    assert set(found) == ({"going", "moved"} if life.committed else set(_IDS))
    again = await asyncio.wait_for(take(other, now=NOW + LEASE), _TIMEOUT)
    assert [claim.schedule.id for claim in again] == ([] if life.committed else _IDS)
    assert await asyncio.wait_for(other.settle([_outcome(claim) for claim in again]), _TIMEOUT) == frozenset()
    assert await other.settle(outcomes) == frozenset(_IDS)
    assert len(await recorded(other)) == len(_IDS)
    with place.direct() as database:
        assert [one.get("outbox") for one in database["taskiq_schedules"].find()] == [None, None]


async def test_the_dead_do_not_keep_others_from_their_work(
    store: MongoStore, other: MongoStore, dying: Callable[..., Any]
) -> None:
    """While a transaction of a dead process is open, other schedules are claimed, settled and edited as ever."""
    await store.put([schedule(schedule_id) for schedule_id in _IDS])
    outcomes = [_outcome(claim) for claim in await take(store)]
    with dying(store, 2) as life:
        await store.settle(outcomes)
    assert life.died

    async def work() -> None:
        await other.put([schedule("fresh")])
        claims = await take(other)
        assert [claim.schedule.id for claim in claims] == ["fresh"]
        assert await other.renew(claims, until=at(60)) == {"fresh"}
        assert await other.settle([outcome(claims[0], runs=(run("fresh@1"),))]) == frozenset()
        assert await recorded(other) == ["fresh@1"]

    await asyncio.wait_for(work(), _TIMEOUT)


async def test_one_that_was_taken_for_dead_settles_nothing(store: MongoStore, other: MongoStore, before: Any) -> None:
    """Who slept amid a transaction until others took over learns that its outcomes are lost."""
    await store.put([schedule(schedule_id) for schedule_id in _IDS])
    outcomes = [_outcome(claim) for claim in await take(store)]
    taken: list[Claim] = []

    async def take_over() -> None:
        taken.extend(await take(other, now=NOW + LEASE))

    before(store, "update_many", take_over)
    lost = await asyncio.wait_for(store.settle(outcomes), _TIMEOUT)

    assert lost == frozenset(_IDS)
    assert await recorded(other) == []
    assert await other.settle([_outcome(claim) for claim in taken]) == frozenset()


async def test_who_is_alive_is_left_to_settle(
    store: MongoStore, other: MongoStore, before: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To claim what somebody else has settled undoes nothing that he is doing, whoever it was that had it before."""
    await store.put([schedule("a"), schedule("b")])
    claims = {claim.schedule.id: claim for claim in await take(store)}
    assert await store.settle([outcome(claims["a"], next_run_at=at(-1))]) == frozenset()
    attempts = []
    attempt = store._session._attempt

    async def counted(*arguments: Any) -> Any:
        attempts.append(arguments)
        return await attempt(*arguments)

    async def claim_a() -> None:
        assert [claim.schedule.id for claim in await take(other)] == ["a"]

    monkeypatch.setattr(store._session, "_attempt", counted)
    before(store, "insert_many", claim_a)
    assert await store.settle([_outcome(claims["b"])]) == frozenset()

    assert len(attempts) == 1


async def test_what_its_own_transaction_left_behind_is_not_in_the_way(store: MongoStore, dying: Callable[..., Any]) -> None:
    """A settle that failed without being able to undo what it had begun is simply done again."""
    await store.put([schedule(schedule_id) for schedule_id in _IDS])
    outcomes = [_outcome(claim) for claim in await take(store)]
    with dying(store, 2) as life:
        await store.settle(outcomes)
    assert life.died
    for session in store._session._sessions.values():
        getattr(session, "delegate", session)._transaction.state = _TxnState.ABORTED

    assert await asyncio.wait_for(store.settle(outcomes), _TIMEOUT) == frozenset()
    assert len(await recorded(store)) == len(_IDS)


async def test_history_from_the_time_before_transactions_is_kept(place: Any, store: MongoStore) -> None:
    """What a process left in an outbox, on a server by itself or by an older release, outlives its schedule."""
    await store.put([schedule("a"), schedule("finished")])
    left = {"batch": "b", "seq": 1, "rows": [row(run("old@1", schedule_id="finished"))]}
    with place.direct() as database:
        database["taskiq_schedules"].update_one({"_id": "finished"}, {"$set": {"outbox": [left], "seq": 1}})
    assert await store.settle([_outcome(claim) for claim in await take(store)]) == frozenset()

    assert set(await store.get(["a", "finished"])) == {"a"}
    assert sorted(await recorded(store)) == ["a@1", "finished@1", "old@1"]
    with place.direct() as database:
        assert [one["_id"] for one in database["taskiq_schedules"].find()] == ["a"]


async def test_a_store_without_push_uses_transactions_where_it_can(place: Any, backend: str) -> None:
    """What decides is the server, and not whether its changes are watched."""
    store = StandaloneMongoStore(**place.arguments())
    await store.open()
    await store.put([schedule()])
    [claim] = await take(store)
    assert await store.settle([outcome(claim, runs=(run(),))]) == frozenset()

    with place.direct() as database:
        assert "outbox" not in database["taskiq_schedules"].find_one()
    await store.close()


def _outcome(claim: Claim, **fields: Any) -> Outcome:
    schedule_id = claim.schedule.id
    runs = (run(f"{schedule_id}@1", schedule_id=schedule_id, **fields),)
    return outcome(claim, finished=schedule_id == "finished", runs=runs)


async def test_sessions_of_a_store_are_not_handed_on(place: Any) -> None:
    """Who finds a lease that it has left ends what its sessions have begun: nobody else's, and so not the application's."""
    client = place.arguments().get("client") or pymongo.AsyncMongoClient(place.url)
    store = MongoStore(client=client, database=place.database)
    await store.open()
    names = store._session.session_ids
    await store.put([schedule()])
    await store.settle([_outcome(claim) for claim in await take(store)])
    await store.close()
    sessions = [await answer(client.start_session()) for _ in range(2 * len(names))]
    handed_on = {session.session_id["id"] for session in sessions}
    for session in sessions:
        await session.end_session()
    await answer(client.close())

    assert len(names) > 1
    assert not handed_on & {*names}
