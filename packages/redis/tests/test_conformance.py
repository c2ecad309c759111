"""The Redis store and source against every rule of the contract: Redis, a Cluster of three, and Valkey."""

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance
from taskiq_sources_conformance.stock import StockLoopConformance


class TestRedisStore(StoreConformance):
    backend = "redis"
    make_store = pytest.fixture(lambda self, place: place.make_store_of(self))
    unreachable = pytest.fixture(lambda _self, place: place.unreachable())


class TestRedisSource(SourceConformance, StockLoopConformance):
    backend = "redis"
    make_source = pytest.fixture(lambda _self, place: place.source)


class TestRedisClusterStore(TestRedisStore):
    backend = "redis_cluster"


class TestRedisClusterSource(TestRedisSource):
    backend = "redis_cluster"


class TestValkeyStore(TestRedisStore):
    backend = "valkey"


class TestValkeySource(TestRedisSource):
    backend = "valkey"
