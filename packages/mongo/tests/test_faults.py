"""What happens to the store when the server, the network or a caller misbehaves. They have servers of their own to stop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pymongo
import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.models import Claim, RunQuery, ScheduleQuery
from taskiq_sources_conformance.build import LEASE, NOW, at, outcome, run, schedule, take
from taskiq_sources_conformance.servers import MongoServer, ServerUnavailable, start_mongo
from taskiq_sources_mongo import MongoScheduleSource, MongoStore, StandaloneMongoStore

pytestmark = pytest.mark.anyio

_TIMEOUT = 40.0
_MANY = 300


def _start(**arguments: Any) -> MongoServer:
    try:
        return start_mongo(**arguments)
    except ServerUnavailable as error:
        pytest.skip(f"no mongo server: {error}")


@pytest.fixture(scope="module", params=["standalone", "replica_set"])
def server(request: pytest.FixtureRequest) -> Iterator[MongoServer]:
    with _start(replica_set=request.param == "replica_set") as server:
        yield server


@pytest.fixture(scope="module")
def guarded() -> Iterator[MongoServer]:
    """A server that asks for a password."""
    with _start(auth=True) as server:
        yield server


@pytest.fixture
async def store(server: MongoServer, request: pytest.FixtureRequest) -> AsyncIterator[StandaloneMongoStore]:
    store = StandaloneMongoStore(server.url, prefix=f"t{abs(hash(request.node.name))}_")
    await store.open()
    yield store
    await store.close()


# -- restarts --------------------------------------------------------------------------------------------------------------------


async def test_a_restart_while_idle_is_not_noticed(server: MongoServer, store: StandaloneMongoStore) -> None:
    """Calls after a restart succeed at once, those included that write."""
    await store.put([schedule()])
    await asyncio.to_thread(server.restart)

    [claim] = await take(store)
    assert await store.settle([outcome(claim)]) == frozenset()


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_a_restart_amid_claims_and_settles_loses_nothing(
    server: MongoServer, store: StandaloneMongoStore, way: str
) -> None:
    """Whatever broke off is done again after its lease; nobody is given what somebody else was given."""
    ids = [f"{number:03}" for number in range(_MANY)]
    await store.put([schedule(schedule_id) for schedule_id in ids])
    given: list[str] = []
    under_way, restarted = asyncio.Event(), asyncio.Event()

    async def work(now: Any) -> None:
        while True:
            try:
                claims = await take(store, now=now, limit=3)
                given.extend(claim.schedule.id for claim in claims)
                if len(given) >= _MANY // 8:
                    under_way.set()
                if not claims and restarted.is_set():
                    return
                await store.settle([_sent(claim) for claim in claims])
            except SourceConnectionError:
                await asyncio.sleep(0.01)

    workers = [asyncio.ensure_future(work(NOW)) for _ in range(4)]
    await asyncio.wait_for(under_way.wait(), _TIMEOUT)
    await asyncio.to_thread(getattr(server, way))
    await asyncio.to_thread(server.start)
    restarted.set()
    await asyncio.wait_for(asyncio.gather(*workers), _TIMEOUT)
    assert len(given) == len(set(given))  # all within one lease
    await asyncio.wait_for(work(NOW + LEASE), _TIMEOUT)

    assert await store.page(ScheduleQuery(), limit=1) == []
    assert sorted(row.schedule_id for row in await store.runs(RunQuery(), limit=_MANY + 1)) == ids


async def test_a_settle_whose_answer_is_lost_knows_what_it_has_done(server: MongoServer, store: StandaloneMongoStore) -> None:
    """A settle that the server has done, but could not tell, is repeated by itself and reports nothing as lost."""
    await store.put([schedule("a"), schedule("b"), schedule("taken")])
    claims = {claim.schedule.id: claim for claim in await take(store)}
    await take(store, now=NOW + LEASE, ids=["taken"])
    lost_answers = _lose_answers(store)

    lost = await store.settle([_sent(claims["a"]), outcome(claims["b"], runs=(run("b@1"),)), _sent(claims["taken"])])
    assert lost_answers == ["update_many"]
    assert lost == {"taken"}
    assert len(await store.runs(RunQuery(), limit=9)) == 2
    assert set(await store.get(["a", "b", "taken"])) == {"b", "taken"}


async def test_a_delete_whose_answer_is_lost_tells_what_there_was(server: MongoServer, store: StandaloneMongoStore) -> None:
    """It has been done, or is done again, and what was there before counts as deleted by us."""
    await store.put([schedule()])
    lost_answers = _lose_answers(store, "delete_one")

    assert await store.delete(["a"]) == {"a"}
    assert lost_answers == ["delete_one"]
    assert await store.get(["a"]) == {}
    assert await store.delete(["a"]) == frozenset()


async def test_a_claim_whose_answer_is_lost_is_returned(server: MongoServer, store: StandaloneMongoStore) -> None:
    """A claim that the server has made, but could not tell, is found by its token."""
    await store.put([schedule("a"), schedule("b")])
    lost_answers = _lose_answers(store)

    claims = await take(store)
    assert lost_answers == ["update_many"]
    assert [(claim.schedule.id, claim.schedule.attempt) for claim in claims] == [("a", 1), ("b", 1)]
    assert await store.settle([_sent(claim) for claim in claims]) == frozenset()


async def test_while_the_server_is_down_calls_fail_in_time(server: MongoServer, store: StandaloneMongoStore) -> None:
    impatient = StandaloneMongoStore(server.url, prefix=store._prefix, connect_timeout=timedelta(seconds=0.3))
    await impatient.open()
    await asyncio.to_thread(server.stop)
    try:
        for call in (lambda: impatient.get(["a"]), lambda: take(impatient), lambda: impatient.put([schedule()]), impatient.now):
            with pytest.raises(SourceConnectionError, match=f"127.0.0.1:{server.port}, database 'taskiq' cannot be reached"):
                await asyncio.wait_for(call(), _TIMEOUT)  # type: ignore[operator]
    finally:
        await asyncio.to_thread(server.start)

    await _eventually(lambda: impatient.get(["a"]))
    await impatient.close()


async def test_a_server_that_hangs_is_given_up(server: MongoServer, store: StandaloneMongoStore) -> None:
    """A call ends after the command time-out, and the store works when the server does."""
    limits = {"connect_timeout": timedelta(seconds=0.3), "command_timeout": timedelta(seconds=0.3)}
    impatient = StandaloneMongoStore(server.url, prefix=store._prefix, **limits)
    await impatient.open()
    await asyncio.to_thread(server.pause)
    try:
        for call in (impatient.get(["a"]), impatient.put([schedule()])):
            with pytest.raises(SourceConnectionError, match="cannot be reached"):
                await asyncio.wait_for(call, _TIMEOUT)
    finally:
        await asyncio.to_thread(server.resume)

    await _eventually(lambda: impatient.put([schedule()]))
    await impatient.close()


async def test_settles_that_wait_for_a_hanging_server_are_given_up_together(
    server: MongoServer, store: StandaloneMongoStore
) -> None:
    """However many wait for their turn, the last one waits no longer than the first, and the turn is free afterwards."""
    limits = {"connect_timeout": timedelta(seconds=0.3), "command_timeout": timedelta(seconds=0.3)}
    impatient = StandaloneMongoStore(server.url, prefix=store._prefix, **limits)
    await impatient.open()
    await impatient.put([schedule(str(number)) for number in range(20)])
    outcomes = [_sent(claim) for claim in await take(impatient)]
    await asyncio.to_thread(server.pause)
    try:
        begun = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(impatient.settle([one]) for one in outcomes), return_exceptions=True)
        took = asyncio.get_running_loop().time() - begun
    finally:
        await asyncio.to_thread(server.resume)

    assert {type(answer) for answer in answers} == {SourceConnectionError}
    assert took < 20 * 0.3
    await _eventually(lambda: impatient.settle(outcomes))
    assert await impatient.page(ScheduleQuery(), limit=1) == []
    await impatient.close()


async def test_a_watch_goes_on_after_a_restart_or_says_that_it_was_lost() -> None:
    with _start(replica_set=True) as server:
        store = MongoStore(server.url, connect_timeout=timedelta(seconds=0.5))
        await store.open()
        watch = store.watch()
        await watch.__anext__()
        await asyncio.to_thread(server.stop)
        with pytest.raises(SourceConnectionError):
            await asyncio.wait_for(watch.__anext__(), _TIMEOUT)
        await asyncio.to_thread(server.start)
        renewed = store.watch()
        await asyncio.wait_for(renewed.__anext__(), _TIMEOUT)
        await _eventually(lambda: store.put([schedule()]))

        await asyncio.wait_for(renewed.__anext__(), _TIMEOUT)
        await store.close()
        await renewed.aclose()


# -- who refuses us --------------------------------------------------------------------------------------------------------------


async def test_refusals_name_the_database_and_never_the_password(guarded: MongoServer) -> None:
    """Wrong password, no password, wrong host and port: each is told in time, by name, and without the password anywhere."""
    right, secret = guarded.url.replace("27017/?", "27017/orders?").replace("/?", "/orders?"), "s3cr3t-s3cr3t"
    wrong = right.replace(str(guarded.password), secret)
    here = f"127.0.0.1:{guarded.port}"
    for url, expected in {
        wrong: (here, "'orders'", "AuthenticationFailed", "check user and password"),
        f"mongodb://{here}/orders": (here, "'orders'", "Unauthorized", "readWrite"),
        wrong.replace("127.0.0.1", "no-such-host.invalid"): ("no-such-host.invalid", "'orders'", "check host and port"),
        wrong.replace(f":{guarded.port}/", ":9/"): ("127.0.0.1:9", "'orders'", "check host and port"),
        f"mongodb+srv://me:{secret}@no-such-host.invalid/orders": ("no-such-host.invalid", "'orders'"),
    }.items():
        source = MongoScheduleSource(url, push=False, connect_timeout=timedelta(seconds=0.5))
        with pytest.raises(SourceConnectionError) as caught:
            await asyncio.wait_for(source.startup(), _TIMEOUT)

        shown = "".join(traceback.format_exception(type(caught.value), caught.value, caught.value.__traceback__))
        assert [word for word in expected if word not in str(caught.value)] == []
        assert not any(word in shown + repr(source.store) for word in (secret, str(guarded.password)))


async def test_a_user_who_may_only_read_is_refused_by_name(guarded: MongoServer) -> None:
    """Somebody without the right to write is told which right is missing, without what was to be written."""
    with pymongo.MongoClient(guarded.url) as client:
        client["orders"].command("createUser", "reader", pwd="pw", roles=["read"])
    reader = StandaloneMongoStore(f"mongodb://reader:pw@127.0.0.1:{guarded.port}/orders")

    with pytest.raises(SourceConnectionError, match=r"refused us \(Unauthorized\): give this user the role readWrite"):
        await reader.open()
    await reader.close()


async def test_push_on_a_server_by_itself_is_refused_with_the_fix(guarded: MongoServer) -> None:
    source = MongoScheduleSource(guarded.url, push=True)
    with pytest.raises(SourceConnectionError, match="pass push=False"):
        await source.startup()


# -- clients ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", [AsyncMongoClient, AsyncIOMotorClient])
async def test_an_injected_client_stays_open_and_whole(place: Any, driver: Any) -> None:
    """`shutdown` neither closes the application's client nor keeps a connection of it, watching or not."""
    client = driver(place.url)
    source = MongoScheduleSource(client=client, database=place.database, push=True)
    await source.startup()
    await source.store.put([schedule()])
    watch = source.store.watch()
    await watch.__anext__()
    await source.shutdown()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(watch.__anext__(), _TIMEOUT)

    assert await client[place.database]["taskiq_schedules"].count_documents({}) == 1
    await _given_back(client)
    await _closed(client)


@pytest.mark.parametrize("driver", [AsyncMongoClient, AsyncIOMotorClient])
async def test_a_closed_injected_client_is_named(place: Any, driver: Any) -> None:
    client = driver(place.url)
    store = MongoStore(client=client, database=place.database)
    await store.open()
    await _closed(client)

    with pytest.raises(SourceConnectionError, match=f"client of the application's.*{place.database}"):
        await store.get(["a"])
    await store.close()


async def test_an_exhausted_pool_is_named_in_time(server: MongoServer, store: StandaloneMongoStore) -> None:
    """Who waits for a connection in vain is told what to enlarge."""
    url = f"{server.url}{'&' if '?' in server.url else '?'}maxPoolSize=1&waitQueueTimeoutMS=200"
    narrow = StandaloneMongoStore(url, prefix=store._prefix)
    await narrow.open()
    await asyncio.to_thread(server.pause)
    try:
        has_it = asyncio.ensure_future(narrow.get(["a"]))
        await asyncio.sleep(0)
        with pytest.raises(SourceConnectionError, match="make it larger"):
            await narrow.get(["b"])
    finally:
        await asyncio.to_thread(server.resume)

    assert await has_it == {}
    assert await narrow.get(["b"]) == {}
    await narrow.close()


@pytest.mark.parametrize("driver", [AsyncMongoClient, AsyncIOMotorClient])
async def test_cancelled_calls_give_their_connections_back(place: Any, driver: Any) -> None:
    """However a call is cut short, nothing of the pool stays taken."""
    client = driver(place.url, maxPoolSize=4)
    store = MongoStore(client=client, database=place.database)
    await store.open()
    for turns in range(40):
        calls = [asyncio.ensure_future(store.put([schedule(str(number))])) for number in range(4)]
        calls += [asyncio.ensure_future(store.get([str(number)])) for number in range(4)]  # type: ignore[misc]
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)

    await _eventually(lambda: asyncio.wait_for(store.get(["1"]), 1))
    await _given_back(client)
    await store.close()
    await _closed(client)


# -- neighbours ------------------------------------------------------------------------------------------------------------------


async def test_two_prefixes_never_see_each_other(place: Any) -> None:
    """Neither schedules nor claims nor history nor changes pass from one prefix to another."""
    one, two = (MongoStore(place.url, database=place.database, prefix=f"{name}_") for name in ("one", "two"))
    await one.open()
    await two.open()
    watch = two.watch()
    await watch.__anext__()
    waiting = asyncio.ensure_future(watch.__anext__())
    await one.put([schedule("mine")])
    await one.settle([_sent(claim) for claim in await take(one)])
    await one.put([schedule("mine")])

    assert await take(two) == []
    assert await two.page(ScheduleQuery(), limit=9) == []
    assert await two.runs(RunQuery(), limit=9) == []
    assert not waiting.done()
    await two.put([schedule("theirs")])
    await asyncio.wait_for(waiting, _TIMEOUT)
    await one.close()
    await two.close()
    await watch.aclose()


# -- the end of the process ------------------------------------------------------------------------------------------------------

_FORGETFUL = """
import asyncio, sys
from motor.motor_asyncio import AsyncIOMotorClient
from taskiq_sources_conformance.build import schedule
from taskiq_sources_mongo import MongoScheduleSource

async def main():
    url, database, driver = sys.argv[1:]
    how = {"url": url} if driver == "pymongo" else {"client": AsyncIOMotorClient(url), "push": True}
    source = MongoScheduleSource(**how, database=database)
    await source.startup()
    await source.store.put([schedule()])
    watch = source.store.watch()
    await watch.__anext__()
    asyncio.ensure_future(watch.__anext__())
    await asyncio.sleep(0)

asyncio.run(main())
"""


@pytest.mark.process
@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_forgotten_shutdown_does_not_keep_the_process(place: Any, driver: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _FORGETFUL, place.url, place.database, driver],
        capture_output=True,
        timeout=_TIMEOUT,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")


# -- helpers ---------------------------------------------------------------------------------------------------------------------


def _sent(claim: Claim) -> Any:
    schedule_id = claim.schedule.id
    return outcome(claim, finished=True, runs=(run(f"{schedule_id}@{at(-1).isoformat()}", schedule_id=schedule_id),))


def _lose_answers(store: StandaloneMongoStore, of: str = "update_many") -> list[str]:
    """Let the next such call for schedules reach the server, and its answer get lost on the way back."""
    schedules = store._session.schedules
    original, lost = getattr(schedules, of), []

    async def call(*args: Any, **kwargs: Any) -> Any:
        done = await original(*args, **kwargs)
        if not lost:
            lost.append(of)
            raise pymongo.errors.AutoReconnect("connection closed")
        return done

    setattr(schedules, of, call)
    return lost


async def _given_back(client: Any) -> None:
    """Wait until no connection of the pool is in use: what was cut off under way ends in a moment."""
    topology = (client.delegate if isinstance(client, AsyncIOMotorClient) else client)._topology
    for _ in range(500):
        in_use = sum(server.pool.active_sockets for server in topology._servers.values())
        if in_use == 0:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{in_use} connections are still in use")


async def _closed(client: Any) -> None:
    closing = client.close()
    if closing is not None:
        await closing


async def _eventually(call: Callable[[], Any]) -> None:
    """Make a call again and again until the connection errors are over."""
    for _ in range(200):
        try:
            await call()
        except (SourceConnectionError, asyncio.TimeoutError):
            await asyncio.sleep(0.02)
        else:
            return
    await call()
