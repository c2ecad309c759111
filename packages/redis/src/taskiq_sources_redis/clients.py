"""Makes the driver's client for a URL: a server, the master behind a Sentinel, or a Cluster. Connects to nothing."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from taskiq_sources.errors import ScheduleValidationError, redact_url

_FORMS = (
    "use redis://host:port/db, rediss://host:port/db, unix:///path?db=0, redis+sentinel://host:port,host:port/service/db "
    "or redis+cluster://host:port,host:port; credentials as user:password@ with %40 for @ and %2F for /"
)


#: A client, and what closes it: nothing, if it is somebody else's.
Client: TypeAlias = tuple[Any, list[Callable[[], Awaitable[None]]]]

# The driver's annotations differ from version to version.
_Sentinel: Any = Sentinel
_Redis: Any = Redis


def make_client(url: str, timeout: timedelta, options: Mapping[str, Any]) -> Client:
    """Return a client for `url`.

    Args:
        url: In one of the five forms.
        timeout: How long to wait for a connection, and for an answer.
        options: Keyword arguments of the client; they go before ours, and the URL's go before them.

    Raises:
        ScheduleValidationError: The URL is in none of the forms.
    """
    seconds = timeout.total_seconds()
    once = {"socket_connect_timeout": seconds, "socket_timeout": seconds, "retry": Retry(NoBackoff(), 0)}
    try:
        parts = urlsplit(url)
        if parts.scheme == "redis+sentinel":
            return _behind_sentinel(parts, once, options)
        if parts.scheme == "redis+cluster":
            hosts, said = _hosts(parts, 6379)
            cluster = RedisCluster(startup_nodes=[ClusterNode(*host) for host in hosts], **{**once, **options, **said})
            return cluster, [cluster.aclose]
        if parts.scheme != "unix" and not re.fullmatch(r"/?\d*", parts.path):
            raise ValueError("a database is a number")
        client = _Redis.from_url(url, **{**once, **options})
    except (KeyError, TypeError, ValueError):  # whose texts may quote the part of the URL that holds the password
        raise ScheduleValidationError("url", redact_url(url), _FORMS) from None
    return client, [client.aclose]


def address_of(client: Any) -> str:
    """Return host and database of a client, for errors."""
    if isinstance(client, RedisCluster):
        return ",".join(client.nodes_manager.startup_nodes)
    settings = client.connection_pool.connection_kwargs
    host = settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    return f"{host}/{settings.get('db') or 0}"


def _behind_sentinel(parts: SplitResult, once: Mapping[str, Any], options: Mapping[str, Any]) -> Client:
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not re.fullmatch(r"\d*", database):
        raise ValueError("a service and a database number are needed")
    hosts, said = _hosts(parts, 26379)
    settings = {**once, **options, "db": int(database or 0), **said}
    sentinel = _Sentinel(hosts, sentinel_kwargs={**once, **settings.pop("sentinel_kwargs", {})})
    client = sentinel.master_for(service, **settings)
    return client, [client.aclose, *(one.aclose for one in sentinel.sentinels)]


def _hosts(parts: SplitResult, port: int) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Return host and port of each part of ``host:port,host:port``, and what the URL says besides: user, password, options."""
    userinfo, at, hosts = parts.netloc.rpartition("@")
    said: list[dict[str, Any]] = [dict(parse_url(f"redis://{userinfo}{at}{host}?{parts.query}")) for host in hosts.split(",")]
    addresses = [(one.pop("host"), one.pop("port", port)) for one in said]
    if "ssl" in said[0]:
        said[0]["ssl"] = str(said[0]["ssl"]).lower() in {"1", "true", "yes", "on"}
    return addresses, said[0]
