"""The way to Redis: one server, a Sentinel's master or a Cluster; how scripts are run there, and what its errors mean.

Knows no schedules. A command is sent once: the driver's own retries are gone round, because after a lost answer nobody knows
whether a claim was taken or an outcome recorded, and doing it once more would report it lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

import redis
from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException

from taskiq_sources.errors import SourceConnectionError, redact_text

_MOST_CALLS = 32  # at once; more wait, so that a burst does not open a connection for each
_IDLE_SECONDS = 15.0  # after so long without news, a subscription is asked whether it is still there
_NAMES_THE_COMMAND = tuple(map(int, redis.__version__.split(".")[:2])) < (5, 3)  # and warns if it is named from then on

#: What Redis or the driver says, and what to do about it; the first that is found counts.
_ADVICE = (
    ("WRONGPASS|NOAUTH|[Aa]uthenticat|invalid (username-)?password", "check the user name and password"),
    ("NOPERM|no permissions?|user executing", "give the user the rights that the README of taskiq-sources-redis lists"),
    ("READONLY|read.?only replica|now a slave|is a replica", "connect to the master; Sentinel and Cluster find it by themselves"),
    ("OOM|maxmemory", "nothing was written: give Redis more memory; do not let it evict keys (maxmemory-policy noeviction)"),
    ("LOADING|loading the dataset", "Redis is reading its data after a start: try again in a moment"),
    ("MASTERDOWN|MISCONF|NOREPLICAS", "nothing was written: look at the log of Redis"),
    ("MovedError|AskError|CROSSSLOT", "this is a node of a Cluster: use redis+cluster://host:port, or a RedisCluster client"),
    ("CLUSTERDOWN|TRYAGAIN|TTL exhausted|[Ss]lot", "part of the Cluster is down or is being moved: try again in a moment"),
    ("Too many connections|No connection available|max number of clients", "raise max_connections, or share fewer connections"),
    ("DB index|SELECT is not allowed", "use a database number that this server has; a Cluster has 0 alone"),
    ("WRONGTYPE", "the keys of this prefix are used by something else: choose another prefix"),
    ("BUSY|UNKILLABLE", "another script keeps Redis busy: try again in a moment"),
    ("unknown command", "this server does not offer a command that is needed; Redis 6.2 and Valkey do"),
)
_UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, RedisClusterException, redis.exceptions.ClusterError, OSError)


@cache
def load_script(name: str) -> tuple[str, str]:
    """Return an operation's Lua, behind what it shares with others, and its SHA-1."""
    parts = ["_common", *(["_eligible"] if name in {"claim", "peek"} else []), name]
    folder = files("taskiq_sources_redis").joinpath("lua")
    text = "\n".join(folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in parts)
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Server:
    """An open connection to wherever the schedules are. Made anew for each session of a store.

    Args:
        client: The driver's client.
        closers: What closes it; none for a client that is not ours.
        where: Host and database, for errors; no credentials.
    """

    def __init__(self, client: Any, closers: Sequence[Callable[[], Awaitable[None]]], *, where: str) -> None:
        self.client = client
        self._closers = closers
        self.where = where
        self._closed = asyncio.Event()
        self._is_cluster = isinstance(client, RedisCluster)
        most = 0 if self._is_cluster else client.connection_pool.max_connections
        self._calls = asyncio.Semaphore(min(most or _MOST_CALLS, _MOST_CALLS))

    async def close(self) -> None:
        """End all subscriptions, and close the client if it is ours."""
        self._closed.set()
        for close in self._closers:
            await close()

    async def run(self, script: str, keys: Sequence[bytes], *arguments: bytes | int | float) -> Any:
        """Run an operation; a server that does not know it (any more) is told."""
        text, sha = load_script(script)
        try:
            return await self.command(keys[0], "EVALSHA", sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self.command(keys[0], "EVAL", text, len(keys), *keys, *arguments)

    async def command(self, key: bytes, *words: Any) -> Any:
        """Send a command to where `key` is, once, and return the answer with texts as bytes.

        Raises:
            SourceConnectionError: Redis cannot be reached or refuses.
        """
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
        except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError) as error:
            # The others in the pool lead to the same server, which has gone, or is not the master any more.
            if not isinstance(error, redis.ResponseError) or "READONLY" in str(error) or isinstance(error, ReadOnlyError):
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
        async with AsyncExitStack() as stack:
            with self.named_errors():
                pubsub = await self._pubsub(stack)
                await pubsub.subscribe(channel)
            closing = asyncio.ensure_future(self._closed.wait())
            stack.callback(closing.cancel)
            is_asked = False
            while True:
                reading = asyncio.ensure_future(pubsub.get_message(timeout=_IDLE_SECONDS))
                try:
                    await asyncio.wait({reading, closing}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not reading.done():
                        reading.cancel()
                        await asyncio.wait({reading})
                if self._closed.is_set():
                    return
                with self.named_errors():
                    message = reading.result()
                    if message is None and is_asked:
                        raise redis.ConnectionError("the subscription does not answer")
                    if message is None:
                        await pubsub.ping()
                is_asked = message is None
                if message is not None and message["type"] != "pong":
                    yield

    async def _pubsub(self, stack: AsyncExitStack) -> Any:
        """Return a subscriber on a connection of its own, made like the client's others but without retries."""
        if self._is_cluster:
            await self.client.initialize()
        source = self.client.get_random_node() if self._is_cluster else self.client.connection_pool
        settings = {**source.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
        pool = ConnectionPool(connection_class=source.connection_class, max_connections=1, **settings)
        stack.push_async_callback(pool.disconnect)
        pubsub = Redis(connection_pool=pool).pubsub()
        stack.push_async_callback(pubsub.aclose)
        return pubsub

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turn errors of the connection, and refusals, into ours. Others are bugs, and stay what they are."""
        try:
            yield
        except (redis.RedisError, RedisClusterException, OSError) as error:
            if isinstance(error, (SourceConnectionError, NoScriptError)):
                raise
            text = redact_text(str(error) or type(error).__name__)
            advice = next((advice for sign, advice in _ADVICE if re.search(sign, f"{type(error).__name__} {text}")), None)
            if advice is None and not isinstance(error, _UNREACHABLE):
                raise
            advice = advice or "check that Redis runs there and can be reached"
            raise SourceConnectionError(f"Redis at {self.where}: {text}; {advice}") from None
