"""Connections to one database: a pool for calls, and one apart for each listener. Knows no schedules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import asyncpg

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.tasking import event_or_timeout
from taskiq_sources_postgres.errors import is_conflict, is_lost_connection, is_unsent, raise_named

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
T = TypeVar("T")

_MAX_UNDONE = 20  # times that a call of which nothing was done is done again: all connections of a pool may have ended
_CHECK_INTERVAL = 30.0  # seconds; that a firewall dropped a connection is told by nobody
#: Every statement looks up what it wants in an index, in its order, and stops at a limit. Statistics are too old to tell the
#: planner so whenever many schedules have just been added or have just fallen due.
_PLANNING = {"enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off"}
_BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncio.TimeoutError, OSError)


class _UncleanedConnection(asyncpg.Connection):
    """A connection on which no call leaves anything behind, so that no round trip for cleaning is needed after each."""

    def get_reset_query(self) -> str:
        return ""


@dataclass(frozen=True)
class Settings:
    """How to connect.

    Attributes:
        where: How to name the database in errors.
        dsn: What to connect to; None with an injected pool.
        connect_timeout: Seconds to connect in.
        command_timeout: Seconds that a call may take, and for which it may wait for a free connection.
        max_connections: How many connections the pool may have.
        statement_cache_size: How many prepared statements a connection keeps.
    """

    where: str
    dsn: str | None
    connect_timeout: float
    command_timeout: float
    max_connections: int
    statement_cache_size: int


class Database:
    """A pool, and the listeners beside it. Made within an event loop, and of use in that one only.

    Args:
        settings: How to connect.
        pool: A pool to use, which then stays open; None to make one.
    """

    def __init__(self, settings: Settings, pool: Pool | None) -> None:
        self._settings = settings
        self._injected = pool is not None
        self._pool: Pool = pool or asyncpg.create_pool(
            settings.dsn,
            min_size=0,
            max_size=settings.max_connections,
            timeout=settings.connect_timeout,
            statement_cache_size=settings.statement_cache_size,
            connection_class=_UncleanedConnection,
            server_settings=_PLANNING if settings.statement_cache_size else None,  # a PgBouncer takes none
        )
        self._listeners: dict[Connection, asyncio.Event] = {}
        self._releasing: set[asyncio.Future[None]] = set()
        self._closed = False

    async def open(self) -> None:
        """Make the pool ready; connections are made when they are needed."""
        if not self._injected:
            _ = await self._pool  # which is its own result

    async def close(self) -> None:
        """End listening, and close the pool unless it was injected."""
        self._closed = True
        await asyncio.gather(*map(self._stop_listening, list(self._listeners)))
        if not self._injected:
            with suppress(*_BROKEN):  # then its connections have been cut
                await asyncio.wait_for(self._pool.close(), self._settings.connect_timeout)

    async def call(self, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool = False) -> T:
        """Do `work`, which is one statement or one transaction, on a connection of the pool.

        It is done again if the server rolled it back because of others' writes, or if the connection turns out to have ended
        before anything was sent. If a connection cannot be made, or breaks under a `repeatable` call, one that only reads, it is
        done again once. A write that broke off is not repeated, because it may have been done: the caller is told.

        Raises:
            SourceConnectionError: The server cannot be reached, refuses us or has gone away.
        """
        undone = broken = 0
        while True:
            begun = False
            try:
                async with self._acquired() as connection:
                    begun = True
                    return await work(connection)
            except Exception as error:
                if is_conflict(error) or is_unsent(error):
                    undone += 1
                elif is_lost_connection(error) and (repeatable or not begun):
                    broken += 1
                else:
                    raise_named(self._settings.where, error)
                if undone > _MAX_UNDONE or broken > 1:
                    raise_named(self._settings.where, error)

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Connection]:
        pool, patience = self._pool, self._settings.command_timeout
        try:
            connection = await self._acquire()
        except asyncio.TimeoutError:
            if pool.get_size() < pool.get_max_size() or pool.get_idle_size() > 0:
                raise
            raise SourceConnectionError(
                f"{self._settings.where}: no connection was free for {patience:g} s: all {pool.get_max_size()} of the pool are "
                "in use; make it larger (max_connections, or max_size of your own pool)",
            ) from None
        try:
            yield connection
        except asyncpg.InternalClientError:
            connection.terminate()
            raise
        finally:
            await pool.release(connection, timeout=patience)

    async def _acquire(self) -> PoolConnectionProxy[asyncpg.Record]:
        """Take a connection from the pool. One is made to the end though the caller be cancelled: older asyncpg leaks it else."""
        acquiring = asyncio.ensure_future(self._pool.acquire(timeout=self._settings.command_timeout))
        try:
            return await asyncio.shield(acquiring)
        except asyncio.CancelledError:
            acquiring.add_done_callback(self._release_unwanted)
            raise

    def _release_unwanted(self, acquired: asyncio.Future[PoolConnectionProxy[asyncpg.Record]]) -> None:
        if not acquired.cancelled() and acquired.exception() is None:
            releasing = asyncio.ensure_future(self._pool.release(acquired.result()))
            self._releasing.add(releasing)
            releasing.add_done_callback(self._releasing.discard)

    # -- listening -----------------------------------------------------------------------------------------------------------

    async def notifications(self, channel: str) -> AsyncIterator[None]:
        """Yield once when listening has begun, and after that whenever there has been a notification; until `close`.

        Raises:
            SourceConnectionError: The connection was lost.
        """
        wake = asyncio.Event()
        try:
            async with self._listening(channel, wake) as connection:
                while not self._closed:
                    if connection.is_closed():
                        raise SourceConnectionError(f"{self._settings.where}: the listening connection was lost; watch again")
                    wake.clear()
                    yield
                    while not wake.is_set():
                        await self._wait_or_check(connection, wake)
        except _BROKEN as error:
            if not self._closed:
                raise_named(self._settings.where, error)

    @asynccontextmanager
    async def _listening(self, channel: str, wake: asyncio.Event) -> AsyncIterator[Connection]:
        """Have `wake` set by notifications, by the end of the connection, and by `close`."""
        if self._injected:
            connection: Connection = await self._pool.acquire(timeout=self._settings.command_timeout)
        else:
            connection = await asyncpg.connect(self._settings.dsn, timeout=self._settings.connect_timeout)
        self._listeners[connection] = wake
        try:
            connection.add_termination_listener(lambda _: wake.set())
            await connection.add_listener(channel, lambda *_: wake.set())
            yield connection
        finally:
            await self._stop_listening(connection)

    async def _wait_or_check(self, connection: Connection, wake: asyncio.Event) -> None:
        await event_or_timeout(wake, _CHECK_INTERVAL)
        if wake.is_set():
            return
        try:
            await connection.execute("SELECT 1", timeout=self._settings.connect_timeout)
        except _BROKEN:
            connection.terminate()  # nobody would answer to an orderly end either
            raise

    async def _stop_listening(self, connection: Connection) -> None:
        """End a connection that listens; a pool gets its place back with that."""
        wake = self._listeners.pop(connection, None)
        if wake is not None:
            wake.set()
            with suppress(*_BROKEN):  # then it is gone anyway
                await connection.close(timeout=self._settings.connect_timeout)
