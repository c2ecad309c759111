"""Makes the driver's client for a URL: a server, the master behind a Sentinel, or a Cluster. Connects to nothing."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qs, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
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
    waiting = {"socket_connect_timeout": seconds, "socket_timeout": seconds}
    settings = {**waiting, "retry": Retry(NoBackoff(), 0), **options}
    try:
        parts = urlsplit(url)
        if parts.scheme == "redis+sentinel":
            return _behind_sentinel(parts, waiting, settings)
        if parts.scheme == "redis+cluster":
            nodes = [ClusterNode(host, port) for host, port in _hosts(parts, 6379)]
            cluster = RedisCluster(startup_nodes=nodes, **{**settings, **_rest(parts)})
            return cluster, [cluster.aclose]
        if parts.scheme != "unix" and not re.fullmatch(r"/?\d*", parts.path):
            raise ValueError("a database is a number")
        client = _Redis.from_url(url, **settings)
    except (TypeError, ValueError):  # whose texts may quote the part of the URL that holds the password
        raise ScheduleValidationError("url", redact_url(url), _FORMS) from None
    return client, [client.aclose]


def address_of(client: Any) -> str:
    """Return host and database of a client, for errors."""
    if isinstance(client, RedisCluster):
        return ",".join(client.nodes_manager.startup_nodes)
    settings = client.connection_pool.connection_kwargs
    host = settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    return f"{host}/{settings.get('db') or 0}"


def _behind_sentinel(parts: SplitResult, waiting: Mapping[str, Any], settings: dict[str, Any]) -> Client:
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not re.fullmatch(r"\d*", database):
        raise ValueError("a service and a database number are needed")
    login = {**waiting, "retry": Retry(NoBackoff(), 0), **settings.pop("sentinel_kwargs", {})}
    sentinel = _Sentinel(_hosts(parts, 26379), sentinel_kwargs=login)
    client = sentinel.master_for(service, **{**settings, "db": int(database or 0), **_rest(parts)})
    return client, [client.aclose, *(one.aclose for one in sentinel.sentinels)]


def _hosts(parts: SplitResult, port: int) -> list[tuple[str, int]]:
    """Return host and port of each part of ``host:port,host:port``."""
    hosts = [urlsplit(f"//{address}") for address in parts.netloc.rpartition("@")[2].split(",")]
    if not all(host.hostname for host in hosts):
        raise ValueError("a host is missing")
    return [(str(host.hostname), host.port or port) for host in hosts]


def _rest(parts: SplitResult) -> dict[str, Any]:
    """Return what a URL says besides hosts and path: user, password and options."""
    userinfo, at, _ = parts.netloc.rpartition("@")
    known = dict(parse_url(f"redis://{userinfo}{at}host?{parts.query}"))
    known.pop("host")
    if known.pop("connection_class", None) is SSLConnection:
        known["ssl"] = True
    if "ssl" in parse_qs(parts.query):
        known["ssl"] = str(known["ssl"]).lower() in {"1", "true", "yes", "on"}
    return known
