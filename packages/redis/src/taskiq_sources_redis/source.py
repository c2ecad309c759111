"""`RedisScheduleSource`: the source that applications construct."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from typing_extensions import Unpack

from taskiq_sources.source import ScheduleSource, SourceOptions
from taskiq_sources_redis.store import RedisStore


class RedisScheduleSource(ScheduleSource):
    """Schedules in Redis (6.2 or later) or Valkey, for any number of processes.

    Redis has to keep what it is told: turn its append-only file on (``appendonly yes``) and let it evict nothing
    (``maxmemory-policy noeviction``). Where it is set otherwise, a warning is logged when the source is opened.

    Args:
        url: Where Redis is:

            - ``redis://[[user]:password@]host:port/db``, ``rediss://…`` for TLS, ``unix:///path?db=0`` for a socket;
            - ``redis+sentinel://[[user]:password@]host:port,host:port/service/db`` for the master that Sentinels name;
            - ``redis+cluster://[[user]:password@]host:port,host:port`` for a Cluster, which has database 0 alone.

            Options of the client may follow as a query.
        client: Instead of a URL, a `redis.asyncio.Redis` or `redis.asyncio.RedisCluster` of yours. It is not closed.
        prefix: Names the schedules: sources with different prefixes do not see each other. Any text.
        shards: Over how many slots of a Cluster the schedules are spread. Cannot be changed while there are schedules.
        timeout: How long to wait for other calls of this source; and with clients made from a URL, for a connection, and for an
            answer.
        client_options: Further keyword arguments of the client, such as ``ssl_ca_certs``, ``username``, ``sentinel_kwargs``.
        **options: As for `ScheduleSource`.

    Raises:
        ScheduleValidationError: An argument is not valid.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Any = None,
        prefix: str = "taskiq-sources",
        shards: int = 1,
        timeout: timedelta = timedelta(seconds=5),
        client_options: Mapping[str, Any] | None = None,
        **options: Unpack[SourceOptions],
    ) -> None:
        store = RedisStore(url, client=client, prefix=prefix, shards=shards, timeout=timeout, client_options=client_options)
        super().__init__(store, **options)
