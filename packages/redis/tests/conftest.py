"""Fixtures of the Redis tests: data of each test's own, on the servers of the session."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.cluster import RedisCluster

from taskiq_sources_conformance.servers import url_or_skip
from taskiq_sources_redis.shards import Shards

SHARDS = 3


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def prefix() -> str:
    """A prefix of this test's own, with all that could confuse a hash tag."""
    return f"test:{uuid.uuid4().hex} {{}} %7D}}"


@pytest.fixture
def place(request: pytest.FixtureRequest, prefix: str) -> Iterator[dict[str, Any]]:
    """Arguments of a store on empty data: on one server, or for a class of that backend on a Cluster. Cleaned up afterwards."""
    backend = getattr(request.cls, "backend", "redis")
    url = url_or_skip(backend)
    shards = SHARDS if backend == "redis_cluster" else 1
    yield {"url": url.replace("redis://", "redis+cluster://") if shards > 1 else url, "prefix": prefix, "shards": shards}
    connect: Any = RedisCluster.from_url if shards > 1 else redis.Redis.from_url
    with connect(url) as client:
        for keys in Shards(prefix, shards).keys:
            client.delete(*keys)


@pytest.fixture
def url(place: dict[str, Any]) -> str:
    """The session's Redis."""
    return str(place["url"])
