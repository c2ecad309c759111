"""What the server and the network may do to a transaction: break connections, refuse, restart. With a server of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pymongo
import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.models import Outcome, RunQuery
from taskiq_sources_conformance.build import LEASE, NOW, at, outcome, recorded, run, schedule, take
from taskiq_sources_conformance.servers import MongoServer, ServerUnavailable, start_mongo
from taskiq_sources_mongo import StandaloneMongoStore

pytestmark = pytest.mark.anyio

_TIMEOUT = 30.0  # seconds: half of what the server leaves a transaction whose owner is dead
_IDS = ["finished", "going", "known"]
_FAULTS: dict[str, dict[str, Any]] = {
    "cut": {"closeConnection": True},
    "conflict": {"errorCode": 112, "errorLabels": ["TransientTransactionError"]},
    "no such transaction": {"errorCode": 251, "errorLabels": ["TransientTransactionError"]},
    "not primary": {"errorCode": 10107},
    "stopping": {"errorCode": 91},
    "interrupted": {"errorCode": 11601},
    "interrupted answer": {"writeConcernError": {"code": 11601, "errmsg": "operation was interrupted"}},
    "unsure": {"writeConcernError": {"code": 91, "errmsg": "Replication is being shut down"}},
}
_STATEMENTS = ["delete", "update", "insert", "commitTransaction"]
_FAULTS_AND_STATEMENTS = [
    (fault, one)
    for fault in _FAULTS
    for one in _STATEMENTS
    if one == "commitTransaction" or "writeConcernError" not in _FAULTS[fault]
]
_CALLS = ["delete_many", "update_many", "insert_many"]


@pytest.fixture(scope="module")
def server() -> Iterator[MongoServer]:
    """A replica set that can be told to fail, and that asks for a password."""
    try:
        server = start_mongo(replica_set=True, auth=True, arguments=["--setParameter", "enableTestCommands=1"])
    except ServerUnavailable as error:
        pytest.skip(f"no mongo server: {error}")
    with server:
        with pymongo.MongoClient(server.url) as client:
            client["admin"].command("createUser", "app", pwd="pw", roles=[{"role": "readWrite", "db": "app"}])
        yield server


@pytest.fixture(params=["pymongo", "motor"])
async def store(server: MongoServer, request: pytest.FixtureRequest) -> AsyncIterator[StandaloneMongoStore]:
    async for store in _stores(server, request):
        yield store


@pytest.fixture
async def other(server: MongoServer, request: pytest.FixtureRequest) -> AsyncIterator[StandaloneMongoStore]:
    async for store in _stores(server, request):
        yield store


async def _stores(server: MongoServer, request: pytest.FixtureRequest) -> AsyncIterator[StandaloneMongoStore]:
    """A store of a user who may no more than read and write."""
    url = f"mongodb://app:pw@127.0.0.1:{server.port}/app?authSource=admin&replicaSet=rs0"
    driver = AsyncIOMotorClient if getattr(request, "param", "") == "motor" else AsyncMongoClient
    client = driver(url, serverSelectionTimeoutMS=10_000)
    store = StandaloneMongoStore(client=client, prefix=f"t{abs(hash(request.node.name))}_")
    await store.open()
    yield store
    await store.close()
    closing = client.close()
    if closing is not None:
        await closing


@pytest.mark.parametrize(("fault", "statement"), _FAULTS_AND_STATEMENTS)
async def test_a_fault_amid_a_settle_is_made_up_for(
    server: MongoServer, store: StandaloneMongoStore, statement: str, fault: str
) -> None:
    """Whichever statement fails once, in whatever way, all outcomes are there in the end, once, and none is reported as lost."""
    outcomes = await _outcomes(store)
    with pymongo.MongoClient(server.url) as client:
        data = {"failCommands": [statement], **_FAULTS[fault]}
        hits = client["admin"].command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": data})["count"]
        lost = await asyncio.wait_for(store.settle(outcomes), _TIMEOUT)
        hits -= client["admin"].command({"configureFailPoint": "failCommand", "mode": "off"})["count"]

    assert hits == -1
    assert lost == frozenset()
    await _assert_settled(store, outcomes)


@pytest.mark.parametrize(
    ("fault", "statement"), [("conflict", "update"), ("conflict", "commitTransaction"), ("cut", "commitTransaction")]
)
async def test_what_goes_on_failing_is_an_error_that_leaves_nothing_half_done(
    server: MongoServer, store: StandaloneMongoStore, statement: str, fault: str
) -> None:
    """The repeats end; what was asked for has not been done, and can be done when the server is well."""
    outcomes = await _outcomes(store)
    problem = r"cannot be used now \(WriteConflict\)|cannot be reached"
    with _failing(server, statement, fault), pytest.raises(SourceConnectionError, match=problem):
        await asyncio.wait_for(store.settle(outcomes), _TIMEOUT)

    assert await recorded(store) == ["known@1"]
    assert set(await store.get(_IDS)) == set(_IDS)
    assert await store.settle(outcomes) == frozenset()
    await _assert_settled(store, outcomes)


async def test_a_commit_of_which_nobody_learns_is_not_done_twice(
    server: MongoServer, store: StandaloneMongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose answer does not come at all is an error; the outcomes are there, and count as lost when they are settled again."""
    outcomes = await _outcomes(store)

    def unanswered(commit: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def commit_without_answer() -> None:
            await commit()
            error = pymongo.errors.AutoReconnect("connection closed")
            error._add_error_label("UnknownTransactionCommitResult")
            raise error

        return commit_without_answer

    with monkeypatch.context() as patch:
        for session in store._session._sessions.values():
            patch.setattr(session, "commit_transaction", unanswered(session.commit_transaction))
        with pytest.raises(SourceConnectionError, match="cannot be reached"):
            await store.settle(outcomes)

    await _assert_settled(store, outcomes)


async def test_what_several_settles_leave_behind_is_not_in_the_way_of_the_next(
    server: MongoServer, store: StandaloneMongoStore
) -> None:
    """Of each, a transaction stays open at the server, and holds its schedule until another one begins in the same session."""
    outcomes = await _left_behind(server, store)

    async def settle() -> None:
        for _ in outcomes:  # each try ends what one of them has left
            try:
                assert await store.settle(outcomes) == frozenset()
            except SourceConnectionError:
                continue
            return
        raise AssertionError("what is left behind stays")

    await asyncio.wait_for(settle(), _TIMEOUT)
    await _assert_settled(store, outcomes)


async def test_what_several_settles_leave_behind_is_not_in_the_way_of_a_claim(
    server: MongoServer, store: StandaloneMongoStore
) -> None:
    """It ends as what others have left behind does, when a lease has ended."""
    await _left_behind(server, store)

    taken = await asyncio.wait_for(take(store, now=NOW + LEASE), _TIMEOUT)
    assert {claim.schedule.id for claim in taken} == set(_IDS)


@pytest.mark.parametrize("call", _CALLS)
@pytest.mark.parametrize("way", ["restart", "kill"])
async def test_a_restart_amid_a_settle_is_made_up_for(
    server: MongoServer, store: StandaloneMongoStore, before: Callable[..., None], way: str, call: str
) -> None:
    """The server forgets what it was told before it stopped, and is told everything again."""
    outcomes = await _outcomes(store)

    async def act() -> None:
        await asyncio.to_thread(getattr(server, way))
        if way == "kill":
            await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.wait_ready)

    before(store, call, act)

    assert await asyncio.wait_for(store.settle(outcomes), _TIMEOUT) == frozenset()
    await _assert_settled(store, outcomes)


async def test_a_user_who_may_no_more_than_write_takes_over_from_the_dead(
    store: StandaloneMongoStore, other: StandaloneMongoStore, dying: Callable[..., Any]
) -> None:
    """It takes no special rights to undo what a dead process of the same user has begun."""
    await store.put([schedule("a"), schedule("b")])
    outcomes = [outcome(claim, finished=claim.schedule.id == "a") for claim in await take(store)]
    with dying(store, 2) as life:
        await store.settle(outcomes)
    assert life.died

    taken = await asyncio.wait_for(take(other, now=NOW + LEASE), _TIMEOUT)
    assert [claim.schedule.id for claim in taken] == ["a", "b"]
    assert await other.settle([outcome(claim) for claim in taken]) == frozenset()
    assert await other.settle(outcomes) == {"a", "b"}


async def _outcomes(store: StandaloneMongoStore) -> list[Outcome]:
    """Return outcomes of claims: of one that is finished, and of others, of which one has failed before."""
    await store.put([schedule(schedule_id) for schedule_id in _IDS])
    [known] = await take(store, ids=["known"])
    await store.settle([outcome(known, next_run_at=at(-1), runs=(run("known@1", schedule_id="known", status="failed"),))])
    return [
        outcome(
            claim,
            finished=claim.schedule.id == "finished",
            runs=(run(f"{claim.schedule.id}@1", schedule_id=claim.schedule.id),),
        )
        for claim in await take(store)
    ]


@contextlib.contextmanager
def _failing(server: MongoServer, statement: str, fault: str) -> Iterator[None]:
    """Have each such statement fail, for a block."""
    with pymongo.MongoClient(server.url) as client:
        data = {"failCommands": [statement], **_FAULTS[fault]}
        client["admin"].command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data})
        try:
            yield
        finally:
            client["admin"].command({"configureFailPoint": "failCommand", "mode": "off"})


async def _left_behind(server: MongoServer, store: StandaloneMongoStore) -> list[Outcome]:
    """Return outcomes whose settles have failed, with transactions that are still open at the server."""
    outcomes = await _outcomes(store)
    with _failing(server, "commitTransaction", "cut"):
        left = await asyncio.gather(*(store.settle([one]) for one in outcomes), return_exceptions=True)
    assert all(isinstance(one, SourceConnectionError) for one in left)
    return outcomes


async def _assert_settled(store: StandaloneMongoStore, outcomes: list[Outcome]) -> None:
    rows = {row.occurrence_id: row.status for row in await store.runs(RunQuery(), limit=9)}
    assert rows == {f"{schedule_id}@1": "sent" for schedule_id in _IDS}
    assert {one.id: one.next_run_at for one in (await store.get(_IDS)).values()} == {"going": at(3600), "known": at(3600)}
    assert await store.settle(outcomes) == frozenset(_IDS)
