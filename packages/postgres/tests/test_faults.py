"""What happens to the store when the server, the network or a caller misbehaves. They have a server of their own to stop."""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from taskiq_sources import ScheduleSource
from taskiq_sources.errors import SourceClosedError, SourceConnectionError
from taskiq_sources.models import Claim, RunQuery, ScheduleChanges, ScheduleQuery
from taskiq_sources_conformance.build import LEASE, NOW, at, outcome, run, schedule, take
from taskiq_sources_conformance.servers import PostgresServer, ServerUnavailable, start_postgres
from taskiq_sources_postgres import PostgresScheduleSource, PostgresStore
from taskiq_sources_postgres.errors import raise_named

pytestmark = pytest.mark.anyio

_TIMEOUT = 20.0
_PROCESS_TIMEOUT = 90.0  # a crowded machine needs long to import everything
_MANY = 400


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    try:
        server = start_postgres()
    except ServerUnavailable as error:
        pytest.skip(f"no postgres server: {error}")
    with server:
        yield server


@pytest.fixture
async def store(server: PostgresServer, place_at: Callable[[str], Any]) -> AsyncIterator[PostgresStore]:
    place = place_at(server.url)
    store = PostgresStore(place.dsn, prefix=place.prefix)
    await store.open()
    yield store
    await store.close()


# -- restarts --------------------------------------------------------------------------------------------------------------------


async def test_a_restart_while_idle_is_not_noticed(server: PostgresServer, store: PostgresStore) -> None:
    """Writes after a restart succeed at once: the pool has seen its connections end."""
    await store.put([schedule()])
    await asyncio.to_thread(server.restart)

    [claim] = await take(store)
    assert await store.settle([outcome(claim)]) == frozenset()


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_a_restart_amid_claims_and_settles_loses_nothing(server: PostgresServer, store: PostgresStore, way: str) -> None:
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


async def test_an_outcome_of_unknown_fate_may_be_settled_again(server: PostgresServer, store: PostgresStore) -> None:
    """After an error in `settle`, the same outcome either applies or is reported as lost; both leave it applied once."""
    await store.put([schedule(f"{number:03}") for number in range(_MANY)])
    claims = await take(store)
    settling = asyncio.ensure_future(store.settle([_sent(claim) for claim in claims]))
    await asyncio.sleep(0)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    try:
        await asyncio.wait_for(settling, _TIMEOUT)
    except SourceConnectionError:
        lost = await store.settle([_sent(claim) for claim in claims])
        assert lost in (frozenset(), frozenset(claim.schedule.id for claim in claims))

    assert await store.page(ScheduleQuery(), limit=1) == []
    assert len(await store.runs(RunQuery(), limit=_MANY + 1)) == _MANY


async def test_while_the_server_is_down_calls_fail_at_once(server: PostgresServer, store: PostgresStore) -> None:
    await asyncio.to_thread(server.stop)
    try:
        with pytest.raises(SourceConnectionError):
            await asyncio.wait_for(store.get(["a"]), _TIMEOUT)
    finally:
        await asyncio.to_thread(server.start)

    assert await store.get(["a"]) == {}


async def test_a_server_that_hangs_is_given_up(server: PostgresServer, place_at: Callable[[str], Any]) -> None:
    """A call ends after the command time-out or when it is cancelled, and the store works when the server does."""
    place = place_at(server.url)
    store = PostgresStore(
        place.dsn, prefix=place.prefix, connect_timeout=timedelta(seconds=0.3), command_timeout=timedelta(seconds=0.3)
    )
    await store.open()
    calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
        lambda: store.get(["a"]),
        lambda: store.page(ScheduleQuery(task_name="t"), limit=9),
        lambda: store.runs(RunQuery(status="sent"), limit=9),
        lambda: store.settle([]),
    ]
    for call in calls:
        await call()
    server.pause()
    try:
        for call in calls:
            with pytest.raises(SourceConnectionError, match="does not answer in time"):
                await asyncio.wait_for(call(), _TIMEOUT)
            cancelled = asyncio.ensure_future(call())
            for _ in range(20):  # it is under way by then
                await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait([cancelled], timeout=_TIMEOUT)
            assert cancelled.cancelled()
    finally:
        server.resume()

    await _eventually(lambda: store.put([schedule()]))
    await store.close()


async def test_a_server_that_hangs_is_given_up_within_a_lease(server: PostgresServer, store: PostgresStore) -> None:
    """With what is set by default, and on connections that are there: what was sent has time to be recorded elsewhere.

    The server does not answer to the driver's request to cancel the call either; that is not waited for once more as long.
    """
    lease = inspect.signature(ScheduleSource).parameters["lease"].default.total_seconds()
    await store.put([schedule()])
    [claim] = await take(store)
    server.pause()
    begin = asyncio.get_running_loop().time()
    try:
        with pytest.raises(SourceConnectionError, match="does not answer in time"):
            await asyncio.wait_for(store.settle([outcome(claim)]), lease)
        took = asyncio.get_running_loop().time() - begin
    finally:
        server.resume()

    assert took < lease / 2
    await _eventually(lambda: store.get(["a"]))


async def test_a_watch_that_is_cut_says_so_and_can_be_renewed(place: Any) -> None:
    store = PostgresStore(place.dsn, prefix=place.prefix)
    await store.open()
    watch = store.watch()
    await watch.__anext__()
    await place.cut_connections()

    with pytest.raises(SourceConnectionError, match="listening connection was lost"):
        await asyncio.wait_for(watch.__anext__(), _TIMEOUT)
    renewed = store.watch()
    await renewed.__anext__()
    await store.put([schedule()])
    await asyncio.wait_for(renewed.__anext__(), _TIMEOUT)
    await store.close()
    await renewed.aclose()


async def test_a_silent_listening_connection_is_looked_after(
    server: PostgresServer, place_at: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that nobody answers on any more is found out, although nobody has told that it is gone."""
    monkeypatch.setattr("taskiq_sources_postgres.connections._CHECK_INTERVAL", 0.05)
    place = place_at(server.url)
    store = PostgresStore(place.dsn, prefix=place.prefix, connect_timeout=timedelta(seconds=0.5))
    await store.open()
    watch = store.watch()
    await watch.__anext__()
    waiting = asyncio.ensure_future(watch.__anext__())
    await asyncio.sleep(0.2)  # several checks pass
    assert not waiting.done()
    server.pause()
    try:
        with pytest.raises(SourceConnectionError):
            await asyncio.wait_for(waiting, _TIMEOUT)
    finally:
        server.resume()
    await store.close()


# -- who refuses us --------------------------------------------------------------------------------------------------------------


async def test_refusals_name_the_database_and_never_the_password(server: PostgresServer) -> None:
    """Wrong password, host, port and database: each is told in time, by name, without the password anywhere in its traceback."""
    right, secret = server.tcp_url, "s3cr3t-s3cr3t"
    wrong = right.replace(server.password, secret)
    host, _, database = right.rpartition("@")[2].partition("/")
    for dsn, expected in {
        wrong: (host, repr(database), "password authentication failed"),
        wrong.replace("127.0.0.1", "no-such-host.invalid"): ("no-such-host.invalid", repr(database)),
        wrong.replace(f":{server.port}/", ":9/"): ("127.0.0.1:9", repr(database)),
        f"{right[: -len(database)]}nowhere": (host, "'nowhere'", "create the database"),
        f"{wrong}?sslmode=sometimes": (host, repr(database), "sslmode", "correct the dsn"),
    }.items():
        source = PostgresScheduleSource(dsn)
        with pytest.raises(SourceConnectionError) as caught:
            await asyncio.wait_for(source.startup(), _TIMEOUT)

        shown = "".join(traceback.format_exception(type(caught.value), caught.value, caught.value.__traceback__))
        assert [word for word in expected if word not in str(caught.value)] == []
        assert caught.value.__cause__ is not None
        assert not any(word in shown + repr(source) for word in (secret, server.password))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (asyncio.TimeoutError(), "does not answer in time; check that it runs"),
        (TimeoutError(110, "Connection timed out"), "timed out; check that it runs"),
        (ConnectionRefusedError(111, "Connect call failed"), "Connect call failed; check host and port"),
        (socket.gaierror(-2, "Name or service not known"), "not known; check host and port"),
        (asyncpg.ClientConfigurationError("no such sslmode"), "no such sslmode; correct the dsn"),
        (asyncpg.InterfaceError("connection is closed"), "closed; the next call connects anew"),
        (asyncpg.InternalClientError("cannot switch to state 12"), "12; the next call connects anew"),
        (asyncpg.InvalidPasswordError("wrong"), "wrong; check user and password"),
        (asyncpg.TooManyConnectionsError("enough"), "enough; let the server take more connections"),
        (asyncpg.DiskFullError("full"), "full; the server is short of memory or disk space"),
        (asyncpg.QueryCanceledError("cancelled"), "cancelled; the server cancelled the call"),
        (asyncpg.CannotConnectNowError("starting"), "starting; the server is stopping or starting"),
        (asyncpg.ConnectionDoesNotExistError("gone"), "gone; look into the server's log"),
    ],
)
def test_what_is_no_bug_comes_with_advice(error: Exception, advice: str) -> None:
    with pytest.raises(SourceConnectionError, match=f"^the database cannot be used: .*{re.escape(advice)}") as caught:
        raise_named("the database", error)

    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), asyncpg.UndefinedColumnError("x"), asyncpg.exceptions._base.DataError("x"), SourceConnectionError("x")],
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    """What is a bug of ours, and what has been named already."""
    with pytest.raises(type(error), match=r"^x$") as caught:
        raise_named("the database", error)

    assert caught.value is error


async def test_a_role_that_may_only_read_can_list_and_is_refused_by_name(place: Any) -> None:
    store = PostgresStore(place.dsn, prefix=place.prefix)
    await store.open()
    await store.put([schedule()])
    role = f"{place.prefix}reader"
    await place.execute(f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON {place.prefix}schedules, {place.prefix}runs TO {role}")
    reader = PostgresStore(place.dsn.replace("postgres@", f"{role}@"), prefix=place.prefix)
    await reader.open()

    assert list(await reader.get(["a"])) == ["a"]
    with pytest.raises(SourceConnectionError, match=f"permission denied for table {place.prefix}schedules; .*GRANT"):
        await reader.put([schedule("b")])
    await reader.close()
    await store.close()
    await place.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_a_read_only_server_is_named(place: Any) -> None:
    store = PostgresStore(place.dsn, prefix=place.prefix)
    await store.open()
    replica = PostgresStore(f"{place.dsn}&default_transaction_read_only=on", prefix=place.prefix)
    await replica.open()

    assert await replica.get(["a"]) == {}
    with pytest.raises(SourceConnectionError, match="connect to the primary"):
        await replica.put([schedule()])
    await replica.close()
    await store.close()


# -- pools -----------------------------------------------------------------------------------------------------------------------


async def test_an_injected_pool_stays_open_and_whole(place: Any) -> None:
    """`shutdown` neither closes the application's pool nor keeps a connection of it, watching or not."""
    async with asyncpg.create_pool(place.dsn, min_size=1, max_size=3) as pool:
        source = PostgresScheduleSource(pool=pool, prefix=place.prefix)
        await source.startup()
        await source.store.put([schedule()])
        watch = source.store.watch()
        await watch.__anext__()
        await source.shutdown()
        with pytest.raises(StopAsyncIteration):
            await watch.__anext__()

        assert await pool.fetchval(f"SELECT count(*) FROM {place.prefix}schedules") == 1
        assert pool.get_idle_size() == pool.get_size()


async def test_an_exhausted_pool_is_named_in_time(place: Any) -> None:
    async with asyncpg.create_pool(place.dsn, min_size=1, max_size=1) as pool:
        store = PostgresStore(pool=pool, prefix=place.prefix, command_timeout=timedelta(seconds=0.2))
        await store.open()
        async with pool.acquire():
            with pytest.raises(SourceConnectionError, match="all 1 of the pool are in use"):
                await store.get(["a"])

        assert await store.get(["a"]) == {}
        await store.close()


async def test_a_closed_injected_pool_is_named(place: Any) -> None:
    async with asyncpg.create_pool(place.dsn, min_size=1, max_size=1) as pool:
        store = PostgresStore(pool=pool, prefix=place.prefix)
        await store.open()

    with pytest.raises(SourceConnectionError, match="pool is closed"):
        await store.get(["a"])
    await store.close()


async def test_cancelled_calls_give_their_connections_back(place: Any) -> None:
    """However a call is cut short, its connection comes back free, without an open transaction."""
    async with asyncpg.create_pool(place.dsn, min_size=1, max_size=4) as pool:
        store = PostgresStore(pool=pool, prefix=place.prefix)
        await store.open()
        for turns in range(40):
            calls = [asyncio.ensure_future(store.put([schedule(str(number))])) for number in range(6)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)

        await _eventually(lambda: asyncio.wait_for(store.get(["1"]), 1))
        for _ in range(1000):
            if pool.get_idle_size() == pool.get_size():
                break
            await asyncio.sleep(0.01)
        assert pool.get_idle_size() == pool.get_size()
        assert set(await place.connections()) == {"idle"}
        await store.close()


@pytest.mark.parametrize("error", [asyncio.CancelledError, asyncpg.DataError])
async def test_listings_that_are_cut_short_leave_no_transaction_open(
    place: Any, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Between the two messages of a statement that is not kept, the server waits in one. (Look at `will_need_cleaning`.)"""
    store = PostgresStore(place.dsn, prefix=place.prefix)
    await store.open()

    async def fetch(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(asyncpg.prepared_stmt.PreparedStatement, "fetch", fetch)
    with pytest.raises(error):
        await store.page(ScheduleQuery(task_name="t"), limit=9)

    assert await place.connections() == ["idle"]
    await store.close()


async def test_a_running_event_loop_keeps_its_connections(place: Any) -> None:
    """A source that another thread's loop works with is refused here by name, not broken there. (Look at `SessionStore.open`.)"""
    store = PostgresStore(place.dsn, prefix=place.prefix)
    await store.open()

    with pytest.raises(SourceClosedError, match="another event loop, which is running: make a source for each"):
        await asyncio.to_thread(lambda: asyncio.run(store.open()))

    assert await store.get(["a"]) == {}
    await store.close()


# -- neighbours ------------------------------------------------------------------------------------------------------------------


async def test_two_prefixes_never_see_each_other(place: Any) -> None:
    """Neither rows nor claims nor notifications pass from one prefix to another."""
    stores = [PostgresStore(place.dsn, prefix=f"{place.prefix}{name}_") for name in ("one", "two")]
    for store in stores:
        await store.open()
    one, two = stores
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
    for store in stores:
        await store.close()
    await watch.aclose()
    await place.execute(*(f"DROP TABLE {store._names.prefix}schedules, {store._names.prefix}runs" for store in stores))


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_a_stricter_default_isolation_does_no_harm(place: Any, isolation: str) -> None:
    """What the server rolls back because of others' writes is done again by itself."""
    dsn = f"{place.dsn}&default_transaction_isolation={isolation.replace(' ', '%20')}"
    stores = [PostgresStore(dsn, prefix=place.prefix) for _ in range(2)]
    for store in stores:
        await store.open()
    await stores[0].put([schedule(str(number)) for number in range(20)])
    await asyncio.gather(
        *(stores[n % 2].update(str(n % 4), ScheduleChanges(updated_at=NOW, document=str(n))) for n in range(24)),
        *(stores[n % 2].put([schedule(str(k)) for k in range(19, -1, -1)]) for n in range(4)),
    )

    found = await stores[0].get([str(number) for number in range(20)])
    assert {schedule_id: one.revision for schedule_id, one in found.items()} == {
        str(number): 11 if number < 4 else 5 for number in range(20)
    }
    for store in stores:
        await store.close()


# -- the end of the process ------------------------------------------------------------------------------------------------------

_FORGETFUL = """
import asyncio, sys
from taskiq_sources_conformance.build import schedule
from taskiq_sources_postgres import PostgresScheduleSource

async def main():
    source = PostgresScheduleSource(sys.argv[1], prefix=sys.argv[2])
    await source.startup()
    await source.store.put([schedule()])
    watch = source.store.watch()
    await watch.__anext__()
    asyncio.ensure_future(watch.__anext__())
    await asyncio.sleep(0)

asyncio.run(main())
"""


@pytest.mark.process
async def test_a_forgotten_shutdown_does_not_keep_the_process(place: Any) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _FORGETFUL, place.dsn, place.prefix],
        capture_output=True,
        timeout=_PROCESS_TIMEOUT,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")


def _sent(claim: Claim) -> Any:
    schedule_id = claim.schedule.id
    return outcome(claim, finished=True, runs=(run(f"{schedule_id}@{at(-1).isoformat()}", schedule_id=schedule_id),))


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
