"""The Redis store and source against every rule of the contract: on one server, and on a Cluster of three."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance, Unreachable
from taskiq_sources_conformance.stock import StockLoopConformance
from taskiq_sources_redis import RedisScheduleSource, RedisStore


class TestRedisStore(StoreConformance):
    backend = "redis"

    @pytest.fixture
    def make_store(self, place: Any) -> partial[RedisStore]:
        return partial(RedisStore, **place)

    @pytest.fixture
    def unreachable(self) -> Unreachable:
        return Unreachable(RedisStore("redis://me:s3cr3t@127.0.0.1:9/7"), ("127.0.0.1:9", "/7"), "s3cr3t")

    async def server_version(self, store: Any) -> str:
        return str((await store._session.client.info("server"))["redis_version"])

    async def make_schema_newer(self, store: Any) -> None:
        await store._session.client.hset(store._shards.keys[0][-1], "version", 9999)

    async def drop_connections(self, store: Any) -> None:
        await store._session.client.client_kill_filter(_id=await store._session.client.client_id(), skipme=False)


class TestRedisSource(SourceConformance):
    backend = "redis"

    @pytest.fixture
    def make_source(self, place: Any) -> partial[RedisScheduleSource]:
        return partial(RedisScheduleSource, **place)


class TestRedisUnderTheStockLoop(StockLoopConformance):
    backend = "redis"
    make_source = TestRedisSource.make_source


class TestRedisClusterStore(TestRedisStore):
    backend = "redis_cluster"


class TestRedisClusterSource(TestRedisSource):
    backend = "redis_cluster"
