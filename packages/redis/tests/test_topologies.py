"""Failover behind a Sentinel, and a Cluster whose nodes die and whose slots move: real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import RedisCluster
from redis.crc import key_slot

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources_conformance.build import NOW, at, listed, outcome, put_and_take, read, recorded, run, schedule, take, take_one
from taskiq_sources_conformance.servers import RedisCluster as ClusterServers
from taskiq_sources_conformance.servers import RedisServer, ServerUnavailable, binaries, start_redis, start_redis_cluster
from taskiq_sources_conformance.servers.base import launch
from taskiq_sources_redis import RedisStore

pytestmark = pytest.mark.anyio

TIMEOUT = timedelta(seconds=2)
PATIENCE = 20.0
POLL = 0.02


async def until_done(call: Callable[[], Any]) -> Any:
    """Repeat a call until there is a server for it again."""
    for _ in range(int(PATIENCE / POLL)):
        with suppress(SourceConnectionError):
            return await call()
        await asyncio.sleep(POLL)
    return await call()


# -- Sentinel --------------------------------------------------------------------------------------------------------------------


class SentinelServer(RedisServer):
    """A Sentinel that watches one master and makes up its mind alone, and quickly."""

    def __init__(self, binary: binaries.Binary, port: int, master: RedisServer) -> None:
        super().__init__(binary, port, {}, [])
        self._master = master

    def _prepare(self) -> None:
        super()._prepare()
        lines = [
            f"monitor orders 127.0.0.1 {self._master.port} 1",
            "down-after-milliseconds orders 300",
            "failover-timeout orders 3000",
        ]
        with (self.directory / "redis.conf").open("a") as settings:
            settings.writelines(f"sentinel {line}\n" for line in lines)

    def _command(self) -> list[str]:
        return [*super()._command(), "--sentinel"]


@pytest.fixture
def sentinel() -> Iterator[tuple[RedisServer, RedisServer, SentinelServer]]:
    """A master, its replica, and a Sentinel that knows both."""
    try:
        with (
            start_redis() as master,
            start_redis(replica_of=master) as replica,
            launch(binaries.REDIS, lambda binary, port: SentinelServer(binary, port, master)) as watching,
        ):
            for _ in range(int(PATIENCE * 100)):
                if f"port={replica.port}" in str(watching.command("INFO", "sentinel")) or watching.command(
                    "SENTINEL", "REPLICAS", "orders"
                ):
                    break
            yield master, replica, watching
    except ServerUnavailable as error:
        pytest.skip(f"no redis server: {error}")


async def test_a_source_goes_on_with_the_new_master(sentinel: tuple[RedisServer, RedisServer, SentinelServer]) -> None:
    """The master dies; Sentinel makes the replica the master; claims, edits and subscriptions go on there."""
    master, replica, watching = sentinel
    store = RedisStore(f"redis+sentinel://127.0.0.1:9,127.0.0.1:{watching.port}/orders/0", timeout=TIMEOUT)
    await store.open()
    claim = await put_and_take(store)
    news = store.watch()
    await anext(news)
    await until_replicated(master, replica)
    master.kill()

    with pytest.raises(SourceConnectionError):
        await asyncio.wait_for(anext(news), PATIENCE)
    assert await until_done(lambda: store.renew([claim], until=at(60))) == {"a"}
    assert replica.command("ROLE")[0] == "master"
    assert await store.settle([outcome(claim, runs=(run(),))]) == frozenset()
    assert await recorded(store) == ["a@1"]
    again = store.watch()
    await anext(again)
    await store.put([schedule("b")])
    await asyncio.wait_for(anext(again), PATIENCE)
    await again.aclose()
    await store.close()


async def test_a_demoted_master_is_left(sentinel: tuple[RedisServer, RedisServer, SentinelServer]) -> None:
    """A failover on request: the old master lives on as a replica, and nothing is written to it."""
    master, replica, watching = sentinel
    store = RedisStore(f"redis+sentinel://127.0.0.1:{watching.port}/orders", timeout=TIMEOUT)
    await store.open()
    await store.put([schedule()])
    await until_done(lambda: command(watching, "SENTINEL", "FAILOVER", "orders"))
    await until_done(lambda: has_role(replica, "master"))
    await until_done(lambda: has_role(master, "slave"))

    await until_done(lambda: store.put([schedule("b")]))
    assert await until_done(lambda: listed(store)) == ["a", "b"]
    assert replica.command("HLEN", "{taskiq-sources:0}:state") == 2
    await store.close()


async def test_a_service_that_no_sentinel_knows(sentinel: tuple[RedisServer, RedisServer, SentinelServer]) -> None:
    store = RedisStore(f"redis+sentinel://me:s3cr3t@127.0.0.1:{sentinel[2].port}/invoices/0", timeout=TIMEOUT)
    with pytest.raises(SourceConnectionError, match="invoices") as caught:
        await asyncio.wait_for(store.open(), PATIENCE)
    assert "s3cr3t" not in str(caught.value)


async def until_replicated(master: RedisServer, replica: RedisServer) -> None:
    """Wait until a replica has everything."""
    for _ in range(int(PATIENCE / POLL)):
        if master.command("DBSIZE") == replica.command("DBSIZE") and "offset" in str(master.command("INFO", "replication")):
            return
        await asyncio.sleep(POLL)


async def command(server: RedisServer, *words: str) -> Any:
    """Run a command that may be refused for the moment."""
    try:
        return server.command(*words)
    except Exception as error:
        raise SourceConnectionError(str(error)) from error


async def has_role(server: RedisServer, role: str) -> None:
    """Raise as long as a server has another role."""
    if (await command(server, "ROLE"))[0] != role:
        raise SourceConnectionError(f"not yet {role}")


# -- Cluster ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    """A Cluster of this module's own, whose nodes may be killed."""
    try:
        with start_redis_cluster() as running:
            yield running
    except ServerUnavailable as error:
        pytest.skip(f"no redis server: {error}")


def url_of(cluster: ClusterServers) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)


def node_of(cluster: ClusterServers, store: RedisStore, shard: int) -> RedisServer:
    """Return the node that has a shard's slot."""
    slot = key_slot(store._shards.keys[shard][0])
    for first, last, (_, port, *_), *_ in cluster.nodes[0].command("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return next(node for node in cluster.nodes if node.port == int(port))
    raise AssertionError(f"nobody serves slot {slot}")


async def test_shards_are_spread_over_the_nodes(cluster: ClusterServers, prefix: str) -> None:
    store = RedisStore(url_of(cluster), prefix=prefix, shards=64, timeout=TIMEOUT)
    await store.open()
    await store.put([schedule(f"{number:03}") for number in range(300)])

    assert len({node_of(cluster, store, shard).port for shard in range(64)}) == 3
    assert [claim.schedule.id for claim in await take(store, limit=250)] == [f"{number:03}" for number in range(250)]
    assert len(await take(store)) == 50
    await store.close()


async def test_a_slot_that_moves_is_followed(cluster: ClusterServers, prefix: str) -> None:
    """The keys of a shard are moved to another node while the source is open."""
    store = RedisStore(url_of(cluster), prefix=prefix, timeout=TIMEOUT)
    await store.open()
    claim = await put_and_take(store)
    slot = key_slot(store._shards.keys[0][0])
    source = node_of(cluster, store, 0)
    target = next(node for node in cluster.nodes if node is not source)
    source_id, target_id = source.command("CLUSTER", "MYID"), target.command("CLUSTER", "MYID")
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    keys = source.command("CLUSTER", "GETKEYSINSLOT", slot, 100)
    source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for node in (target, source, *cluster.nodes):
        node.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    assert await read(store) == claim.schedule
    assert await store.settle([outcome(claim, runs=(run(),))]) == frozenset()
    assert await recorded(store) == ["a@1"]
    assert target.command("CLUSTER", "COUNTKEYSINSLOT", slot) > 0
    await store.close()


async def test_a_node_that_comes_back_is_used_again(cluster: ClusterServers, prefix: str) -> None:
    store = RedisStore(url_of(cluster), prefix=prefix, timeout=TIMEOUT)
    await store.open()
    claim = await put_and_take(store)
    node = node_of(cluster, store, 0)
    node.kill()
    with pytest.raises(SourceConnectionError):
        await asyncio.wait_for(store.get(["a"]), PATIENCE)
    node.start()
    cluster.wait_ready()

    assert await until_done(lambda: read(store)) == claim.schedule
    assert await store.settle([outcome(claim, runs=(run(),))]) == frozenset()
    await store.close()


@pytest.mark.parametrize("decode_responses", [False, True])
async def test_an_injected_cluster_stays_open(cluster: ClusterServers, prefix: str, decode_responses: bool) -> None:
    client = RedisCluster.from_url(cluster.url, decode_responses=decode_responses)
    store = RedisStore(client=client, prefix=prefix, shards=3)
    await store.open()
    await store.put([schedule(str(number)) for number in range(10)])
    claim = await take_one(store, "3")
    assert await store.settle([outcome(claim, runs=(run("3@1"),))]) == frozenset()
    assert await store.next_due(NOW) == at(-1)
    assert await store.now()
    await store.close()

    assert await client.ping()
    await client.aclose()


@pytest.mark.parametrize("injected", [False, True])
async def test_no_more_calls_are_made_at_once_than_a_client_has_connections(
    cluster: ClusterServers, prefix: str, injected: bool
) -> None:
    """Others wait, as on one server; whether it is many callers or many shards that there are."""
    client = RedisCluster.from_url(cluster.url, max_connections=2) if injected else None
    url = None if injected else f"{url_of(cluster)}?max_connections=2"
    store = RedisStore(url, client=client, prefix=prefix, shards=16, timeout=TIMEOUT)
    await store.open()
    ids = [f"{number:02}" for number in range(50)]
    await store.put([schedule(schedule_id) for schedule_id in ids])

    assert [list(found) for found in await asyncio.gather(*(store.get(["01"]) for _ in range(20)))] == [["01"]] * 20
    assert [claim.schedule.id for claim in await take(store)] == ids
    assert await listed(store) == ids
    await store.close()
    if client is not None:
        await client.aclose()


async def test_connections_of_a_cluster_that_others_have_taken_are_named(cluster: ClusterServers, prefix: str) -> None:
    client = RedisCluster.from_url(cluster.url, max_connections=1)
    store = RedisStore(client=client, prefix=prefix)
    await store.open()
    node = client.get_node_from_key(store._shards.keys[0][0])
    taken = node.acquire_connection()
    with pytest.raises(SourceConnectionError, match="raise max_connections"):
        await store.get(["a"])
    node._free.append(taken)

    assert await store.get(["a"]) == {}
    await store.close()
    await client.aclose()
