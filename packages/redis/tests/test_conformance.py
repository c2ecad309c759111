"""The Redis store and source against every rule of the contract: Redis, a Cluster of three, and Valkey."""

from functools import partial

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance, Unreachable
from taskiq_sources_conformance.stock import StockLoopConformance
from taskiq_sources_redis import RedisScheduleSource, RedisStore


class TestRedisStore(StoreConformance):
    backend = "redis"
    make_store = pytest.fixture(lambda _self, place: partial(RedisStore, **place))
    unreachable = pytest.fixture(lambda _self: Unreachable(RedisStore("redis://:s3cr3t@127.0.0.1:9/7"), (":9", "/7"), "s3cr3t"))

    async def server_version(self, store: RedisStore) -> str:
        told = await store._session.client.info("server")
        return str(told.get("valkey_version", told["redis_version"]))

    async def make_schema_newer(self, store: RedisStore) -> None:
        await store._session.client.hset(store._shards.keys[0][-1], "version", 9999)

    async def drop_connections(self, store: RedisStore) -> None:
        await store._session.client.client_kill_filter(_id=await store._session.client.client_id(), skipme=False)


class TestRedisSource(SourceConformance, StockLoopConformance):
    backend = "redis"
    make_source = pytest.fixture(lambda _self, place: partial(RedisScheduleSource, **place))


class TestRedisClusterStore(TestRedisStore):
    backend = "redis_cluster"


class TestRedisClusterSource(TestRedisSource):
    backend = "redis_cluster"


class TestValkeyStore(TestRedisStore):
    backend = "valkey"


class TestValkeySource(TestRedisSource):
    backend = "valkey"
