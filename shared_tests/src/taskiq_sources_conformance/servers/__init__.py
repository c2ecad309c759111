"""Real servers for tests: Redis, Valkey, PostgreSQL and MongoDB, without root rights, fixed ports or anything left behind.

::

    from taskiq_sources_conformance.servers import start_redis

    with start_redis() as server:
        connect(server.url)
        server.kill()
        server.start()      # same port, same data

    url_of("redis")         # the one of this session: $TASKIQ_SOURCES_REDIS_URL, or started now
"""

from __future__ import annotations

from taskiq_sources_conformance.servers.base import Server
from taskiq_sources_conformance.servers.errors import ServerUnavailable
from taskiq_sources_conformance.servers.mongo import MongoServer, start_mongo
from taskiq_sources_conformance.servers.postgres import PostgresServer, start_postgres
from taskiq_sources_conformance.servers.redis import RedisCluster, RedisServer, start_redis, start_redis_cluster, start_valkey
from taskiq_sources_conformance.servers.session import url_of, url_or_skip

__all__ = [
    "MongoServer",
    "PostgresServer",
    "RedisCluster",
    "RedisServer",
    "Server",
    "ServerUnavailable",
    "start_mongo",
    "start_postgres",
    "start_redis",
    "start_redis_cluster",
    "start_valkey",
    "url_of",
    "url_or_skip",
]
