"""The way to Redis: one server, a Sentinel's master or a Cluster; how scripts are run there, and what its errors mean.

Knows no schedules. A command is sent once: the driver's own retries are gone round, because after a lost answer nobody knows
whether a claim was taken or an outcome recorded, and doing it once more would report it lost.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from taskiq_sources.addresses import Address, parse_address
from taskiq_sources.advice import Advice, classes_of
from taskiq_sources.backends import check_either
from taskiq_sources.errors import ScheduleValidationError, SourceClosedError, redact_url
from taskiq_sources.listening import Listeners
from taskiq_sources.tasking import Turnstile

#: By scheme, what may stand behind the host: a database, where one can be chosen.
_PATHS = {"redis": r"\d*", "rediss": r"\d*", "unix": ".*", "redis+sentinel": r"[^/]+(/\d*)?", "redis+cluster": "0?"}
_FORMS = (
    "use redis://host:port/db, rediss://host:port/db, unix:///path?db=0, redis+sentinel://host:port,host:port/service/db "
    "or redis+cluster://host:port,host:port, which has database 0 alone; credentials as user:password@"
)
_MOST_CALLS = 32  # at once; more wait, so that a burst does not open a connection for each
_IDLE_SECONDS = 15.0  # after so long without news, a subscription is asked whether it is still there
_PONGS = ([b"pong", b""], b"PONG")  # in the two versions of the protocol
_NAMES_THE_COMMAND = tuple(map(int, redis.__version__.split(".")[:2])) < (5, 3)  # and warns if it is named from then on

_driver: Any = redis.asyncio  # whose annotations differ from version to version


@cache
def load_script(name: str) -> tuple[str, str]:
    """Return an operation's Lua, behind what it shares with others, and its SHA-1."""
    text = "\n".join(files(__package__).joinpath(f"lua/{part}.lua").read_text(encoding="utf-8") for part in ("_common", name))
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Server:
    """The way to wherever the schedules are. Made anew for each session of a store; connects when it is used.

    Args:
        url: In one of the five forms.
        client: The driver's client, if there is no URL.
        timeout: How long to wait for other calls; and with clients made from a URL, for a connection, and for an answer.
        options: Keyword arguments of the client; they go before ours, and the URL's go before them.

    Raises:
        ScheduleValidationError: The URL is in none of the forms, or the client of another kind.
    """

    def __init__(self, url: str | None, client: Any, timeout: timedelta, options: Mapping[str, Any]) -> None:
        self.client, self._owned = _client(url, client, timeout, options)
        #: Host and database, for errors; no credentials.
        self.where = _address_of(client) if url is None else redact_url(url)
        self._listeners = Listeners()
        self._is_cluster = isinstance(self.client, redis.asyncio.RedisCluster)
        # A Cluster's client has so many connections to each node, of which all calls at once may need the same.
        pool = self.client.connection_kwargs if self._is_cluster else vars(self.client.connection_pool)
        self._calls = Turnstile(min(pool["max_connections"] or _MOST_CALLS, _MOST_CALLS))
        self._timeout = timeout.total_seconds()
        self._closed = False

    async def close(self) -> None:
        """End all subscriptions, and close the client if it is ours."""
        self._closed = True
        await self._listeners.close()
        await self._disconnect_if_closed()

    async def _disconnect_if_closed(self) -> None:
        for client in self._owned if self._closed else ():
            await client.aclose()

    async def run(self, script: str, keys: Sequence[bytes], *arguments: bytes | str | int) -> Any:
        """Run an operation; a server that does not know it (any more) is told.

        Raises:
            SourceConnectionError: Redis cannot be reached or refuses.
            SourceClosedError: `close` came between the calls of an operation.
        """
        if self._closed:
            raise SourceClosedError(f"Redis at {self.where}: the store was closed before the call was done")
        text, sha = load_script(script)
        ask = self._ask_cluster if self._is_cluster else self._ask_server
        with self.named_errors():
            if not await self._calls.take(within=self._timeout):
                raise redis.TimeoutError("the calls before this one have not ended in time")
            try:
                return await ask(keys[0], "EVALSHA", sha, len(keys), *keys, *arguments)
            except redis.exceptions.NoScriptError:
                return await ask(keys[0], "EVAL", text, len(keys), *keys, *arguments)
            finally:
                self._calls.pass_on()
                await self._disconnect_if_closed()  # what was about to connect has done so after it

    async def _ask_cluster(self, key: bytes, *words: Any) -> Any:
        """Send a command to where `key` is, once, and return the answer with texts as bytes."""
        await self.client.initialize()
        # A command that names its node is not retried, but still follows the slot when that has moved.
        node = self.client.get_node_from_key(key)
        return await self.client.execute_command(*words, target_nodes=node, **{redis.client.NEVER_DECODE: True})

    async def _ask_server(self, _key: bytes, *words: Any) -> Any:
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
                if self._is_cluster:
                    await self.client.initialize()
                connection = _own_connection(self.client.get_random_node() if self._is_cluster else self.client.connection_pool)
                listener.resources.push_async_callback(connection.disconnect)
                await connection.connect()  # by which a Sentinel is asked, which sending alone does not
                await connection.send_command("SUBSCRIBE", channel)
                await connection.read_response(disable_decoding=True, timeout=_IDLE_SECONDS, push_request=True)
                listener.follow(_messages(connection))
                async for _ in listener.changes(check=lambda: connection.send_command("PING"), every=_IDLE_SECONDS):
                    yield

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turn errors of the connection, and refusals, into ours. Others are bugs, and stay what they are."""
        try:
            yield
        except (redis.RedisError, redis.exceptions.RedisClusterException, OSError) as error:
            said = f"{classes_of(error)} {error}"
            Advice.load(__package__).raise_named(f"Redis at {self.where}", error, said, cause=None)


def _own_connection(source: Any) -> Any:
    """Return a connection like those of a pool or a node, but without retries, and without checks that would read beside us."""
    return source.connection_class(**{**source.connection_kwargs, "retry": Retry(NoBackoff(), 0), "health_check_interval": 0})


async def _messages(connection: Any) -> AsyncIterator[object]:
    """Yield each message but the answers to questions whether the subscription holds."""
    while message := await connection.read_response(disable_decoding=True, timeout=2 * _IDLE_SECONDS, push_request=True):
        if message not in _PONGS:
            yield message
    raise redis.ConnectionError("the subscription does not answer")


# -- clients ---------------------------------------------------------------------------------------------------------------------


def _client(url: str | None, client: Any, timeout: timedelta, options: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """Return a client for `url`, or the one that is given, and what of it is to be closed: nothing, if it is somebody else's."""
    check_either(url=url, client=client)
    if url is None:
        if not isinstance(client, (redis.asyncio.Redis, redis.asyncio.RedisCluster)):
            raise ScheduleValidationError("client", type(client), "use a redis.asyncio.Redis or a redis.asyncio.RedisCluster")
        return client, []
    address = parse_address(url, schemes=_PATHS, form=_FORMS)
    if not re.fullmatch(_PATHS[address.scheme], address.path):
        raise ScheduleValidationError("url", redact_url(url), f"behind the host stands {address.path!r}; {_FORMS}")
    seconds = timeout.total_seconds()
    once = {"socket_connect_timeout": seconds, "socket_timeout": seconds, "retry": Retry(NoBackoff(), 0)}
    try:
        if address.scheme == "redis+sentinel":
            return _behind_sentinel(address, once, options)
        if address.scheme == "redis+cluster":
            nodes = [_driver.cluster.ClusterNode(*server) for server in address.servers(6379)]
            cluster = _driver.RedisCluster(startup_nodes=nodes, **{**once, **options, **_said(address)})
            return cluster, [cluster]
        client = _driver.Redis.from_url(url, **{**once, **options})
        _own_connection(client.connection_pool)  # only now it is seen whether there are such options
    except (KeyError, TypeError, ValueError, redis.RedisError, redis.exceptions.RedisClusterException) as error:
        # Its text is not shown, which may quote the part of the URL that holds the password.
        unknown = next((name for name in (*address.options, *options) if re.search(rf"\b{re.escape(name)}\b", str(error))), None)
        problem = _FORMS if unknown is None else f"the client takes no option {unknown!r}, or not with this value; {_FORMS}"
        raise ScheduleValidationError("url", redact_url(url), problem) from None
    return client, [client]


def _address_of(client: Any) -> str:
    """Return host and database of a client, for errors."""
    if isinstance(client, redis.asyncio.RedisCluster):
        return ",".join(client.nodes_manager.startup_nodes)
    settings = client.connection_pool.connection_kwargs
    host = settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    return f"{host}/{settings.get('db') or 0}"


def _behind_sentinel(address: Address, once: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    service, _, database = address.path.partition("/")
    if not all(address.hosts.split(",")):
        raise ValueError("a Sentinel without a host")
    settings = {**once, **options, "db": int(database or 0), **_said(address)}
    sentinel = _driver.Sentinel(address.servers(26379), sentinel_kwargs={**once, **settings.pop("sentinel_kwargs", {})})
    client = sentinel.master_for(service, **settings)
    _own_connection(client.connection_pool)  # as in _client()
    return client, [client, *sentinel.sentinels]


def _said(address: Address) -> dict[str, Any]:
    """Return what a URL says besides the hosts: user, password, options."""
    said: dict[str, Any] = dict(_driver.connection.parse_url(f"redis://{address.userinfo}@?{urlencode(address.options)}"))
    if "ssl" in said:
        said["ssl"] = said["ssl"].lower() in {"1", "true", "yes", "on"}
    return said
