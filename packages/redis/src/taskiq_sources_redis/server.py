"""The way to Redis: one server, a Sentinel's master or a Cluster; how scripts are run there, and what its errors mean.

Knows no schedules. A command is sent once: the driver's own retries are gone round, because after a lost answer nobody knows
whether a claim was taken or an outcome recorded, and doing it once more would report it lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias
from urllib.parse import urlencode

import redis
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError, RedisClusterException

from taskiq_sources.addresses import Address, parse_address
from taskiq_sources.advice import Advice
from taskiq_sources.errors import ScheduleValidationError, SourceConnectionError, redact_text, redact_url
from taskiq_sources.listening import Listener, Listeners
from taskiq_sources.tasking import end

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
_FORMS = (
    "use redis://host:port/db, rediss://host:port/db, unix:///path?db=0, redis+sentinel://host:port,host:port/service/db "
    "or redis+cluster://host:port,host:port; credentials as user:password@"
)
_MOST_CALLS = 32  # at once; more wait, so that a burst does not open a connection for each
_IDLE_SECONDS = 15.0  # after so long without news, a subscription is asked whether it is still there
_PONGS = ([b"pong", b""], b"PONG")  # in the two versions of the protocol
_NAMES_THE_COMMAND = tuple(map(int, redis.__version__.split(".")[:2])) < (5, 3)  # and warns if it is named from then on
_UNREACHABLE = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.InvalidResponse,
    redis.exceptions.ClusterError,
    RedisClusterException,
    OSError,
)

#: A client, and what closes it.
Client: TypeAlias = tuple[Any, list[Callable[[], Awaitable[None]]]]

# The driver's annotations differ from version to version.
_Sentinel: Any = Sentinel
_Redis: Any = Redis


@cache
def load_script(name: str) -> tuple[str, str]:
    """Return an operation's Lua, behind what it shares with others, and its SHA-1."""
    folder = files("taskiq_sources_redis").joinpath("lua")
    text = "\n".join(folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in ("_common", name))
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Server:
    """The way to wherever the schedules are. Made anew for each session of a store; connects when it is used.

    Args:
        url: In one of the five forms.
        client: The driver's client, if there is no URL.
        timeout: How long to wait for a connection, and for an answer; for clients made from a URL.
        options: Keyword arguments of the client; they go before ours, and the URL's go before them.

    Raises:
        ScheduleValidationError: The URL is in none of the forms, or the client of another kind.
    """

    def __init__(self, url: str | None, client: Any, timeout: timedelta, options: Mapping[str, Any]) -> None:
        self.client, self._closers = _client(url, client, timeout, options)
        #: Host and database, for errors; no credentials.
        self.where = _address_of(client) if url is None else redact_url(url)
        self._listeners = Listeners()
        self._is_cluster = isinstance(self.client, RedisCluster)
        most = 0 if self._is_cluster else self.client.connection_pool.max_connections
        self._calls = asyncio.Semaphore(min(most or _MOST_CALLS, _MOST_CALLS))

    async def close(self) -> None:
        """End all subscriptions, and close the client if it is ours."""
        await self._listeners.close()
        for close in self._closers:
            await close()

    async def run(self, script: str, keys: Sequence[bytes], *arguments: bytes | str | int) -> Any:
        """Run an operation; a server that does not know it (any more) is told.

        Raises:
            SourceConnectionError: Redis cannot be reached or refuses.
        """
        text, sha = load_script(script)
        try:
            return await self._ask(keys[0], "EVALSHA", sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self._ask(keys[0], "EVAL", text, len(keys), *keys, *arguments)

    async def _ask(self, key: bytes, *words: Any) -> Any:
        """Send a command to where `key` is, once, and return the answer with texts as bytes."""
        async with self._calls:
            with self.named_errors():
                return await (self._ask_cluster(key, words) if self._is_cluster else self._ask_server(words))

    async def _ask_cluster(self, key: bytes, words: Sequence[Any]) -> Any:
        await self.client.initialize()
        # A command that names its node is not retried, but still follows the slot when that has moved.
        node = self.client.get_node_from_key(key)
        return await self.client.execute_command(*words, target_nodes=node, **{NEVER_DECODE: True})

    async def _ask_server(self, words: Sequence[Any]) -> Any:
        pool = self.client.connection_pool
        connection = await (pool.get_connection(words[0]) if _NAMES_THE_COMMAND else pool.get_connection())
        try:
            await connection.send_command(*words)
            return await connection.read_response(disable_decoding=True)
        except redis.RedisError as error:
            # The others in the pool lead to the same server, which has gone, or is not the master any more.
            if not isinstance(error, redis.ResponseError) or re.search("READONLY|read only replica", str(error)):
                await connection.disconnect()
                await pool.disconnect(inuse_connections=False)
            raise
        finally:
            await pool.release(connection)

    async def watch(self, channel: bytes) -> AsyncIterator[None]:
        """Yield when a subscription to `channel` holds, and on each message; on a connection of its own.

        Raises:
            SourceConnectionError: The subscription was lost.
        """
        with self.named_errors():
            async with self._listeners.listener() as listener:
                connection = await self._connection()
                listener.resources.push_async_callback(connection.disconnect)
                await connection.send_command("SUBSCRIBE", channel)
                await connection.read_response(disable_decoding=True, timeout=_IDLE_SECONDS, push_request=True)
                reading = asyncio.ensure_future(_listen(connection, listener))
                listener.resources.push_async_callback(end, [reading])
                async for _ in listener.changes(check=lambda: connection.send_command("PING"), every=_IDLE_SECONDS):
                    yield

    async def _connection(self) -> Any:
        """Return a connection like the client's others, but without retries, and without checks that would read beside us."""
        if self._is_cluster:
            await self.client.initialize()
        source = self.client.get_random_node() if self._is_cluster else self.client.connection_pool
        own = {"retry": Retry(NoBackoff(), 0), "health_check_interval": 0}
        connection = source.connection_class(**{**source.connection_kwargs, **own})
        await connection.connect()
        return connection

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turn errors of the connection, and refusals, into ours. Others are bugs, and stay what they are."""
        try:
            yield
        except (redis.RedisError, RedisClusterException, OSError) as error:
            if isinstance(error, (SourceConnectionError, NoScriptError)):
                raise
            text = redact_text(str(error) or type(error).__name__)
            advice = Advice.load("taskiq_sources_redis").of(f"{type(error).__name__} {text}")
            if advice is None and not isinstance(error, _UNREACHABLE):
                raise
            advice = advice or "check that Redis runs there and can be reached"
            raise SourceConnectionError(f"Redis at {self.where}: {text}; {advice}") from None


async def _listen(connection: Any, listener: Listener) -> None:
    """Tell of each message but the answers to questions whether the subscription holds, and of its loss."""
    try:
        while message := await connection.read_response(disable_decoding=True, timeout=2 * _IDLE_SECONDS, push_request=True):
            if message not in _PONGS:
                listener.tell()
        listener.lose(redis.ConnectionError("the subscription does not answer"))
    except Exception as error:
        listener.lose(error)


# -- clients ---------------------------------------------------------------------------------------------------------------------


def _client(url: str | None, client: Any, timeout: timedelta, options: Mapping[str, Any]) -> Client:
    """Return a client for `url`, or the one that is given, and what closes it: nothing, if it is somebody else's."""
    if (url is None) == (client is None):
        raise ScheduleValidationError("url", url and redact_url(url), "give either a URL or a client")
    if url is None:
        if not isinstance(client, (Redis, RedisCluster)):
            raise ScheduleValidationError("client", type(client), "use a redis.asyncio.Redis or a redis.asyncio.RedisCluster")
        return client, []
    seconds = timeout.total_seconds()
    once = {"socket_connect_timeout": seconds, "socket_timeout": seconds, "retry": Retry(NoBackoff(), 0)}
    address = parse_address(url, schemes=_SCHEMES, form=_FORMS)
    try:
        if address.scheme == "redis+sentinel":
            return _behind_sentinel(address, once, options)
        if address.scheme == "redis+cluster":
            nodes = [ClusterNode(*server) for server in address.servers(6379)]
            cluster = RedisCluster(startup_nodes=nodes, **{**once, **options, **_said(address)})
            return cluster, [cluster.aclose]
        if address.scheme != "unix" and not re.fullmatch(r"\d*", address.path):
            raise ValueError("a database is a number")
        client = _Redis.from_url(url, **{**once, **options})
    except (KeyError, TypeError, ValueError):  # whose texts may quote the part of the URL that holds the password
        raise ScheduleValidationError("url", redact_url(url), _FORMS) from None
    return client, [client.aclose]


def _address_of(client: Any) -> str:
    """Return host and database of a client, for errors."""
    if isinstance(client, RedisCluster):
        return ",".join(client.nodes_manager.startup_nodes)
    settings = client.connection_pool.connection_kwargs
    host = settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    return f"{host}/{settings.get('db') or 0}"


def _behind_sentinel(address: Address, once: Mapping[str, Any], options: Mapping[str, Any]) -> Client:
    service, _, database = address.path.partition("/")
    if not (service and re.fullmatch(r"\d*", database) and all(address.hosts.split(","))):
        raise ValueError("hosts, a service and a database number are needed")
    settings = {**once, **options, "db": int(database or 0), **_said(address)}
    sentinel = _Sentinel(address.servers(26379), sentinel_kwargs={**once, **settings.pop("sentinel_kwargs", {})})
    client = sentinel.master_for(service, **settings)
    return client, [client.aclose, *(one.aclose for one in sentinel.sentinels)]


def _said(address: Address) -> dict[str, Any]:
    """Return what a URL says besides the hosts: user, password, options."""
    said: dict[str, Any] = dict(parse_url(f"redis://{address.userinfo}@?{urlencode(address.options)}"))
    if "ssl" in said:
        said["ssl"] = said["ssl"].lower() in {"1", "true", "yes", "on"}
    return said
