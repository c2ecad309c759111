"""What the tests of this package share: data of each test's own, on the servers of the session."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import redis
from redis.cluster import RedisCluster

from taskiq_sources_conformance import Unreachable
from taskiq_sources_conformance.build import stepwise
from taskiq_sources_conformance.servers import url_or_skip
from taskiq_sources_redis import RedisScheduleSource, RedisStore
from taskiq_sources_redis.shards import Shards

SHARDS = 3


@dataclass(frozen=True)
class Place:
    """A prefix on a server, whose keys are deleted in the end.

    Attributes:
        url: The server, or a node of the Cluster.
        prefix: The prefix.
        shards: Over how many slots the schedules are spread; more than one on a Cluster alone.
    """

    url: str
    prefix: str
    shards: int

    def store(self, **options: Any) -> RedisStore:
        """A new store, unopened."""
        return RedisStore(**{**self._arguments(), **options})

    def source(self, **options: Any) -> RedisScheduleSource:
        """A new source, unopened."""
        return RedisScheduleSource(**{**self._arguments(), **options})

    def unreachable(self) -> Unreachable:
        """A store at whose address nobody answers."""
        return Unreachable(RedisStore("redis://:s3cr3t@127.0.0.1:9/7"), (":9", "/7"), "s3cr3t")

    def make_store_of(self, rules: Any) -> Callable[[], RedisStore]:
        """How the rules of the contract make a store; they are told, too, how to do to it what some of them do."""
        rules.server_version = self.server_version
        rules.make_schema_newer = self.make_schema_newer
        rules.drop_connections = self.drop_connections
        rules.each_step = self.each_step
        return partial(RedisStore, **self._arguments())

    async def server_version(self, store: RedisStore) -> str:
        """The version of the server."""
        told = await store._session.client.info("server")
        return str(told.get("valkey_version", told["redis_version"]))

    async def make_schema_newer(self, store: RedisStore) -> None:
        """Leave the keys as a newer release would."""
        await store._session.client.hset(store._shards.keys[0][-1], "version", 9999)

    async def drop_connections(self, store: RedisStore) -> None:
        """Have the server end the connection that a store uses."""
        client = store._session.client
        await client.client_kill_filter(_id=await client.client_id(), skipme=False)

    @contextmanager
    def each_step(self, store: RedisStore, before: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """Do something before each script."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store._session, "run", stepwise(store._session.run, before))
            yield

    def clear(self) -> None:
        """Leave nothing behind."""
        connect: Any = RedisCluster.from_url if self.shards > 1 else redis.Redis.from_url
        with connect(self.url) as client:
            for keys in Shards(self.prefix, self.shards).keys:
                client.delete(*keys)
            for node in client.get_nodes() if self.shards > 1 else []:  # which a Cluster's client does not close with itself
                node.redis_connection.connection_pool.disconnect()

    def _arguments(self) -> dict[str, Any]:
        url = self.url.replace("redis://", "redis+cluster://") if self.shards > 1 else self.url
        return {"url": url, "prefix": self.prefix, "shards": self.shards}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def prefix() -> str:
    """A prefix of this test's own, with all that could confuse a hash tag."""
    return f"test:{uuid.uuid4().hex} {{}} %7D}}"


@pytest.fixture
def place(request: pytest.FixtureRequest, prefix: str) -> Iterator[Place]:
    """Where a test's data is: on one server, or for a class of another ``backend`` on that, such as a Cluster."""
    backend = getattr(request.cls, "backend", "redis")
    place = Place(url_or_skip(backend), prefix, SHARDS if backend == "redis_cluster" else 1)
    yield place
    place.clear()
