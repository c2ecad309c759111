"""What happens when Redis, or the way to it, fails: real servers are killed, and real connections cut."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, Redis

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.models import RunQuery, ScheduleChanges
from taskiq_sources_conformance.build import LEASE, NOW, at, listed, outcome, put_and_take, read, recorded, run, schedule, take
from taskiq_sources_conformance.servers import RedisServer, ServerUnavailable, start_redis, start_valkey
from taskiq_sources_redis import RedisStore

pytestmark = pytest.mark.anyio

TIMEOUT = timedelta(seconds=2)
PATIENCE = 10.0
POLL = 0.002

#: What the README tells to give a user, for the prefix ``orders``.
RIGHTS = ["~{orders:*", "&{orders:*", "+@connection", "+@scripting", "+@hash", "+@sortedset"]
RIGHTS += ["+publish", "+subscribe", "+exists", "+time", "+info"]


async def until(condition: Callable[[], object]) -> None:
    """Wait until something has happened in another process."""
    for _ in range(int(PATIENCE / POLL)):
        if condition():
            return
        await asyncio.sleep(POLL)
    pytest.fail("it did not happen in time")


def start_or_skip(start: Callable[..., RedisServer] = start_redis, **arguments: Any) -> RedisServer:
    try:
        return start(**arguments)
    except ServerUnavailable as error:
        pytest.skip(f"no redis server: {error}")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of this test's own, to be killed."""
    with start_or_skip() as running:
        yield running


@asynccontextmanager
async def opened(url: str | None = None, **arguments: Any) -> AsyncIterator[RedisStore]:
    store = RedisStore(url, timeout=TIMEOUT, **arguments)
    await store.open()
    try:
        yield store
        if not hasattr(pool := getattr(store._session.client, "connection_pool", None), "_in_use_connections"):
            return
        assert not pool._in_use_connections, "a connection was not given back"
    finally:
        await store.close()


class Proxy:
    """A way to a server that can lose answers: what is asked arrives and is done, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.loses_answers = False
        self.loses_answers_after: float = math.inf  # bytes of them
        self.asked = 0  # how often something was passed on while answers were lost

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)

        async def there() -> None:
            while data := await reader.read(65536):
                self.asked += self.loses_answers
                there_writer.write(data)

        async def back() -> None:
            while (data := await there_reader.read(65536)) and not self.loses_answers:
                writer.write(data)
                self.loses_answers_after -= len(data)
                self.loses_answers = self.loses_answers_after < 0

        ways = [asyncio.ensure_future(there()), asyncio.ensure_future(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            writer.close()
            there_writer.close()


# -- refused or not there ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "mentions"),
    [
        ("redis://me:s3cr3t@127.0.0.1:9/7", ["127.0.0.1:9/7"]),
        ("redis://:s3cr3t@no-such-host.invalid:6379/0", ["no-such-host.invalid"]),
        ("redis+cluster://me:s3cr3t@127.0.0.1:9,127.0.0.1:10/", ["127.0.0.1:9"]),
        ("redis+sentinel://me:s3cr3t@127.0.0.1:9/mymaster/3", ["127.0.0.1:9/mymaster/3"]),
        ("unix://me:s3cr3t@/no/such/socket?db=2", ["/no/such/socket"]),
        ("rediss://me:s3cr3t@127.0.0.1:9/1", ["127.0.0.1:9/1"]),
    ],
)
async def test_what_is_not_there_is_named(url: str, mentions: list[str]) -> None:
    store = RedisStore(url, timeout=TIMEOUT)
    with pytest.raises(SourceConnectionError) as caught:
        await asyncio.wait_for(store.open(), PATIENCE)

    shown = f"{caught.value} {caught.value!r} {store!r} {caught.value.__cause__!r}"
    assert [word for word in mentions if word not in str(caught.value)] == []
    assert "s3cr3t" not in shown


async def test_a_server_that_does_not_answer_is_given_up(server: RedisServer) -> None:
    async with opened(server.url) as store:
        server.pause()
        try:
            with pytest.raises(SourceConnectionError, match=f"127.0.0.1:{server.port}/0"):
                await asyncio.wait_for(store.get(["a"]), PATIENCE)
        finally:
            server.resume()
        assert await asyncio.wait_for(store.get(["a"]), PATIENCE) == {}


async def test_wrong_password_wrong_user_and_missing_rights() -> None:
    with start_or_skip(user="app", password="s3cr3t") as server:
        good = server.url
        for url, advice in {
            good.replace("s3cr3t", "wr0ng"): "password",
            good.replace("app:", "nobody:"): "password",
            good.replace("app:s3cr3t@", ""): "password",
            good.replace("/0", "/999"): "database number",
        }.items():
            store = RedisStore(url, timeout=TIMEOUT)
            with pytest.raises(SourceConnectionError, match=advice) as caught:
                await store.open()
            assert [word for word in ("s3cr3t", "wr0ng") if word in str(caught.value)] == []
        server.command("ACL", "SETUSER", "limited", "on", ">s3cr3t", "~*", "&*", "+@all", "-publish", "-info")
        async with opened(good.replace("app:", "limited:")) as store:
            with pytest.raises(SourceConnectionError, match="rights"):
                await store.put([schedule()])
            assert await listed(store) == []  # nothing half written


async def test_the_rights_that_the_readme_lists_are_enough() -> None:
    with start_or_skip(user="app", password="s3cr3t") as server:
        server.command("ACL", "SETUSER", "scheduler", "on", ">s3cr3t", "resetchannels", *RIGHTS)
        async with opened(server.url.replace("app:", "scheduler:"), prefix="orders") as store:
            claim = await put_and_take(store)
            assert await store.settle([outcome(claim, runs=(run(),))]) == frozenset()
            assert await store.renew([claim], until=NOW) == frozenset()
            assert await store.now()
            assert await listed(store) == ["a"]
            assert await store.next_due(NOW) == at(3600)
            assert await store.prune_runs(before=NOW, keep=0) == 1
            assert await store.delete(["a"]) == {"a"}
            news = store.watch()
            await anext(news)
            await news.aclose()


async def test_a_replica_is_refused(server: RedisServer) -> None:
    with start_or_skip(replica_of=server) as replica:
        store = RedisStore(replica.url, timeout=TIMEOUT)
        with pytest.raises(SourceConnectionError, match="replica"):
            await store.open()
        async with opened(server.url) as store:
            await store.put([schedule()])
            server.command("REPLICAOF", "127.0.0.1", replica.port)
            with pytest.raises(SourceConnectionError, match="master"):
                await store.put([schedule("b")])


async def test_a_full_memory_takes_no_schedules_but_goes_on_sending(server: RedisServer) -> None:
    async with opened(server.url) as store:
        await store.put([schedule()])
        server.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(SourceConnectionError, match="noeviction"):
            await store.put([schedule("b")])
        assert await listed(store) == ["a"]
        claims = await take(store)
        assert await store.settle([outcome(claims[0], runs=(run(),))]) == frozenset()
        assert await recorded(store) == ["a@1"]


@pytest.mark.parametrize("start", [start_redis, start_valkey])
async def test_a_full_memory_lets_go_on_what_was_paused_meanwhile(start: Callable[[], RedisServer]) -> None:
    """Such a schedule is in no set that it is taken from first: what is written to it must not be the first thing that is."""
    with start_or_skip(start) as server:
        async with opened(server.url) as store:
            claim = await put_and_take(store)
            await store.update("a", ScheduleChanges(paused=True, updated_at=NOW))
            server.command("CONFIG", "SET", "maxmemory", "1")
            assert await store.renew([claim], until=at(60)) == {"a"}
            assert await store.settle([outcome(claim, runs=(run(),))]) == frozenset()
            assert await recorded(store) == ["a@1"]
            with pytest.raises(SourceConnectionError, match="noeviction"):
                await store.update("a", ScheduleChanges(paused=True, updated_at=NOW))


async def test_keys_of_another_kind_are_not_touched(server: RedisServer) -> None:
    async with opened(server.url, prefix="mine") as store:
        server.command("SET", "{mine:0}:state", "something else")
        with pytest.raises(SourceConnectionError, match="another prefix"):
            await store.put([schedule()])
        assert server.command("GET", "{mine:0}:state") == "something else"


# -- gone for a while ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_restart_while_idle_costs_one_call_at_most(server: RedisServer, how: str) -> None:
    async with opened(server.url) as store:
        claim = await put_and_take(store)
        await asyncio.gather(*(store.get(["a"]) for _ in range(8)))  # so that there are several connections
        getattr(server, how)()
        server.start()
        with suppress(SourceConnectionError):
            await store.get(["a"])

        assert await read(store) == claim.schedule
        assert await store.settle([outcome(claim, runs=(run(),))]) == frozenset()
        assert await recorded(store) == ["a@1"]


async def test_nothing_is_lost_when_redis_dies_under_load(server: RedisServer) -> None:
    """Redis is killed twice while six schedulers work. Each occurrence is recorded once, and by one scheduler."""
    ids = [f"{number:03}" for number in range(600)]
    applied: Counter[str] = Counter()
    errors = 0

    async def work(store: RedisStore, name: str, done: asyncio.Event) -> None:
        nonlocal errors
        round_ = 0
        while not done.is_set():
            round_ += 1
            claims, unsettled = [], []
            try:
                # Time passes so quickly that abandoned leases are taken over.
                claims = await take(store, now=NOW + round_ * LEASE / 50, claimant=name, limit=3)
                rows = [run(f"{claim.schedule.id}@1", schedule_id=claim.schedule.id, claimant=name) for claim in claims]
                unsettled = [outcome(claim, finished=True, runs=(row,)) for claim, row in zip(claims, rows, strict=True)]
                lost = await store.settle(unsettled)
                applied.update({claim.schedule.id for claim in claims} - lost)
            except SourceConnectionError:
                errors += 1
            await asyncio.sleep(0)

    async with opened(server.url) as first, opened(server.url) as second:
        await first.put([schedule(schedule_id) for schedule_id in ids])
        done = asyncio.Event()
        workers = [asyncio.ensure_future(work((first, second)[number % 2], f"s{number}", done)) for number in range(6)]
        for enough in (200, 400):
            await until(lambda: len(applied) >= enough)  # noqa: B023 - awaited at once
            server.kill()
            server.start()
        await until(lambda: len(applied) == len(ids) or server.command("ZCARD", "{taskiq-sources:0}:ids") == 0)
        done.set()
        await asyncio.gather(*workers)

        assert errors > 0
        assert await listed(first) == []
        assert sorted(await recorded(first)) == [f"{schedule_id}@1" for schedule_id in ids]
        assert max(applied.values()) == 1


async def test_a_lost_answer_to_a_claim_does_not_claim_again(server: RedisServer) -> None:
    """The driver would repeat the claim: two leases for one send. The caller is told, and the lease runs out."""
    async with Proxy(server.port) as proxy:
        client = Redis(port=proxy.port)  # the driver's own retries, as they come
        async with opened(server.url) as direct, opened(client=client) as store:
            await take(store)  # so that the script is there
            await store.put([schedule()])
            proxy.loses_answers = True
            with pytest.raises(SourceConnectionError):
                await take(store)
            proxy.loses_answers = False

            assert proxy.asked == 1
            assert (await read(direct)).attempt == 1
            assert [claim.schedule.attempt for claim in await take(store, now=NOW + LEASE)] == [2]
        await client.aclose()


async def test_a_claim_returns_what_it_has_when_a_later_answer_is_lost(server: RedisServer) -> None:
    """It was taken, and nobody else could send it before the lease ends. Whoever claims nothing is told why."""
    megabytes = 1024 * 1024
    async with Proxy(server.port) as proxy, opened(server.url) as direct, opened(f"redis://127.0.0.1:{proxy.port}/0") as store:
        await direct.put([schedule(schedule_id, document="x" * 3 * megabytes) for schedule_id in "abc"])  # an answer holds one
        proxy.loses_answers_after = 7 * megabytes

        claims = await take(store)
        assert [claim.schedule.id for claim in claims] == ["a", "b"]
        with pytest.raises(SourceConnectionError):
            await take(store)
        proxy.loses_answers, proxy.loses_answers_after = False, math.inf
        assert await store.renew(claims, until=NOW + LEASE) == {"a", "b"}
        assert [claim.schedule.attempt for claim in await take(store, now=NOW + LEASE)] == [2, 2, 2]


async def test_a_claim_returns_what_some_shards_have_given_when_others_fail(server: RedisServer) -> None:
    async with opened(server.url, prefix="some", shards=2) as store:
        ids = [f"{number:02}" for number in range(20)]
        await store.put([schedule(schedule_id) for schedule_id in ids])
        first, second = ([one for one in ids if store._shards.places([(one.encode(),)])[0][0] == of] for of in store._shards.keys)
        server.command("RENAME", "{some:1}:documents", "elsewhere")
        server.command("SET", "{some:1}:documents", "something else")

        assert [claim.schedule.id for claim in await take(store)] == first
        with pytest.raises(SourceConnectionError, match="another prefix"):
            await take(store)
        server.command("RENAME", "elsewhere", "{some:1}:documents")
        assert [claim.schedule.id for claim in await take(store)] == second


async def test_a_lost_answer_to_a_settle_is_not_reported_as_lost(server: RedisServer) -> None:
    """The driver would repeat the settle, find the token gone and report a loss. Applied it is, once."""
    async with Proxy(server.port) as proxy:
        client = Redis(port=proxy.port)
        async with opened(client=client) as store:
            await store.settle([outcome(await put_and_take(store, "b"), finished=True)])  # so that the script is there
            claim = await put_and_take(store)
            proxy.loses_answers = True
            with pytest.raises(SourceConnectionError):
                await store.settle([outcome(claim, runs=(run(),))])
            proxy.loses_answers = False

            assert proxy.asked == 1
            assert (await read(store)).next_run_at == at(3600)
            assert await store.runs(RunQuery(), limit=10) == [run()]
        await client.aclose()


@pytest.mark.parametrize("operation", ["claim", "settle"])
async def test_a_connection_cut_by_the_server(server: RedisServer, operation: str) -> None:
    """CLIENT KILL while the call waits: it is done whole or not at all, and the next call goes on."""
    async with opened(server.url) as store:
        claim = await put_and_take(store)
        server.command("CLIENT", "PAUSE", "60000", "WRITE")
        call = store.settle([outcome(claim, runs=(run(),))]) if operation == "settle" else take(store, now=NOW + LEASE)
        waiting = asyncio.ensure_future(call)
        await until(lambda: "cmd=evalsha" in server.command("CLIENT", "LIST", "TYPE", "normal"))
        server.command("CLIENT", "KILL", "TYPE", "normal")
        server.command("CLIENT", "UNPAUSE")
        with pytest.raises(SourceConnectionError):
            await waiting

        assert await read(store) == claim.schedule
        assert await recorded(store) == []
        assert await store.settle([outcome(claim, runs=(run(),))]) == frozenset()


async def test_forgotten_scripts_are_sent_again(server: RedisServer) -> None:
    async with opened(server.url) as store:
        claim = await put_and_take(store)
        server.command("SCRIPT", "FLUSH")
        assert await store.settle([outcome(claim, runs=(run(),))]) == frozenset()
        server.command("SCRIPT", "FLUSH")
        assert await recorded(store) == ["a@1"]


# -- connections ---------------------------------------------------------------------------------------------------------------


async def test_an_injected_client_stays_open_and_keeps_its_pool(server: RedisServer) -> None:
    client = Redis.from_url(server.url, max_connections=2)
    for _ in range(2):
        async with opened(client=client) as store:
            await asyncio.gather(*(store.put([schedule(str(number))]) for number in range(50)))  # more than connections
        assert not client.connection_pool._in_use_connections
        assert await client.ping()
    await client.aclose()


async def test_an_exhausted_pool_says_so(server: RedisServer) -> None:
    client = Redis(connection_pool=BlockingConnectionPool(port=server.port, max_connections=1, timeout=0.1))
    async with opened(client=client) as store:
        async with client.client():  # holds the one connection
            with pytest.raises(SourceConnectionError, match="max_connections"):
                await store.get(["a"])
        assert await store.get(["a"]) == {}
    await client.aclose()
    await client.connection_pool.disconnect()


async def test_who_waits_for_a_hanging_server_waits_as_long_as_the_first(server: RedisServer) -> None:
    """However many calls there are: those that have not begun when the first are given up are given up too, and take no turn."""
    store = RedisStore(f"{server.url}?max_connections=2", timeout=timedelta(seconds=0.3))
    await store.open()
    server.pause()
    try:
        begun = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(store.get(["a"]) for _ in range(20)), return_exceptions=True)
        took = asyncio.get_running_loop().time() - begun
    finally:
        server.resume()

    assert {type(answer) for answer in answers} == {SourceConnectionError}
    assert sum("calls before this one" in str(answer) for answer in answers) >= 20 - 2 * 2
    assert took < 5 * 0.3
    assert await asyncio.gather(*(store.get(["a"]) for _ in range(20))) == [{}] * 20
    await store.close()


@pytest.mark.parametrize("shards", [1, 3])
async def test_a_claim_ends_although_its_leases_do(server: RedisServer, shards: int) -> None:
    """A lease of no length has ended before the claim asks for more: what it has taken already does not count as more."""
    store = RedisStore(server.url, prefix=f"ends-{shards}", shards=shards)
    await store.open()
    await store.put([schedule(str(number)) for number in range(500)])
    claims = await asyncio.wait_for(take(store, lease=timedelta(0), limit=600), PATIENCE)
    await store.close()

    assert sorted(claim.schedule.id for claim in claims) == sorted(map(str, range(500)))


async def test_what_connects_after_closing_is_closed(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was about to connect when the store was closed leaves no connection behind."""
    store = RedisStore(server.url)
    await store.open()
    pool = store._session.client.connection_pool
    get_connection = pool.get_connection

    async def closing(*arguments: Any) -> Any:
        await store.close()
        return await get_connection(*arguments)

    monkeypatch.setattr(pool, "get_connection", closing)
    await store.get(["a"])

    assert not any(connection.is_connected for connection in (*pool._available_connections, *pool._in_use_connections))


async def test_calls_that_are_cancelled_give_their_turns_back(server: RedisServer) -> None:
    """Wherever they are cut short: waiting, at the moment when it is their turn, or under way."""
    store = RedisStore(f"{server.url}?max_connections=2", timeout=timedelta(seconds=0.3))
    await store.open()
    for turns in range(60):
        calls = [asyncio.ensure_future(store.get(["a"])) for _ in range(6)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls[turns % 3 :: 2]:
            call.cancel()
        await asyncio.wait(calls)

    assert store._session._calls._free == 2
    assert await asyncio.gather(*(store.get(["a"]) for _ in range(20))) == [{}] * 20
    await store.close()


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode_responses", [False, True])
async def test_any_client_will_do(server: RedisServer, protocol: int, decode_responses: bool) -> None:
    client = Redis.from_url(server.url, protocol=protocol, decode_responses=decode_responses)
    async with opened(client=client, prefix=f"{protocol}{decode_responses}") as store:
        claim = await put_and_take(store)
        assert await store.settle([outcome(claim, runs=(run(),))]) == frozenset()
        assert await recorded(store) == ["a@1"]
        assert (await read(store)).next_run_at == at(3600) == await store.next_due(NOW)
        news = store.watch()
        await anext(news)
        await store.put([schedule("b")])
        await asyncio.wait_for(anext(news), PATIENCE)
        await news.aclose()
    await client.aclose()


async def test_prefixes_do_not_see_each_other(server: RedisServer) -> None:
    prefixes = ["", "a", "a:0", "a}", "a{", "{a}", "a%7D", "a b", "ä", ":", "a:0}:state"]
    for prefix in prefixes:
        async with opened(server.url, prefix=prefix) as store:
            await store.put([schedule(f"of {prefix}")])
    for prefix in prefixes:
        async with opened(server.url, prefix=prefix) as store:
            assert await listed(store) == [f"of {prefix}"]


async def test_a_lost_subscription_is_an_error_and_can_be_renewed(server: RedisServer) -> None:
    async with opened(server.url) as store:
        news = store.watch()
        await anext(news)
        server.command("CLIENT", "KILL", "TYPE", "pubsub")
        with pytest.raises(SourceConnectionError):
            await asyncio.wait_for(anext(news), PATIENCE)
        again = store.watch()
        await anext(again)
        await store.put([schedule()])
        await asyncio.wait_for(anext(again), PATIENCE)
        await again.aclose()
        await until(lambda: not server.command("CLIENT", "LIST", "TYPE", "pubsub"))  # connections go with subscriptions


@pytest.mark.parametrize("query", ["", "?health_check_interval=1"])
async def test_a_quiet_subscription_is_asked_whether_it_holds(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setattr("taskiq_sources_redis.server._IDLE_SECONDS", 1.2)  # longer than the check of the client's own
    async with opened(server.url + query) as store:
        news = store.watch()
        await anext(news)
        waiting = asyncio.ensure_future(anext(news))
        await until(lambda: "cmd=ping" in server.command("CLIENT", "LIST", "TYPE", "pubsub"))
        assert not waiting.done()  # the answer is no news
        server.pause()
        try:
            with pytest.raises(SourceConnectionError, match="does not answer"):
                await asyncio.wait_for(waiting, PATIENCE)
        finally:
            server.resume()


def test_a_process_that_forgets_to_shut_down_exits(server: RedisServer) -> None:
    program = """if True:
        import asyncio, sys
        from taskiq_sources_redis import RedisScheduleSource
        async def main():
            source = RedisScheduleSource(sys.argv[1])
            await source.startup()
            news = source.store.watch()
            await anext(news)
            print("watching")
        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", program, server.url], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "watching\n"), done.stderr
