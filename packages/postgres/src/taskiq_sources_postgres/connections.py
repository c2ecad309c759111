"""Connections to one database: a pool for calls, and one apart for each listener. Knows no schedules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import asyncpg

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.listening import Listeners
from taskiq_sources.tasking import Background
from taskiq_sources_postgres.errors import is_lost_connection, is_undone, raise_named

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
T = TypeVar("T")

_MAX_UNDONE = 20  # times that a call of which nothing was done is done again: all connections of a pool may have ended
_CHECK_INTERVAL = 30.0  # seconds; that a firewall dropped a connection is told by nobody
_BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncio.TimeoutError, OSError)


class _UncleanedConnection(asyncpg.Connection):
    """A connection on which no call leaves anything behind, unless it is cut short: so none is cleaned after but such a one.

    Between the two messages of a statement that is not kept, asyncpg leaves a transaction open when it is cancelled.
    """

    cut_short = False

    def will_need_cleaning(self) -> None:
        self.cut_short = True

    def get_reset_query(self) -> str:
        cut_short, self.cut_short = self.cut_short, False
        return super().get_reset_query() if cut_short else ""


@dataclass(eq=False)
class Database:
    """A pool, and the listeners beside it. Made within an event loop, and of use in that one only.

    Attributes:
        where: How to name the database in errors.
        dsn: What to connect to; None with a pool.
        pool: A pool to use, which then stays open; None to make one.
        connect_timeout: Seconds to connect in.
        command_timeout: Seconds that a call may take, and for which it may wait for a free connection.
        max_connections: How many connections a pool of our own may have.
        pool_options: More of what asyncpg takes for one.
    """

    where: str
    dsn: str | None
    pool: Pool | None
    connect_timeout: float
    command_timeout: float
    max_connections: int
    pool_options: Mapping[str, Any]

    def __post_init__(self) -> None:
        self._pool: Pool = self.pool or asyncpg.create_pool(
            self.dsn,
            min_size=0,
            max_size=self.max_connections,
            timeout=self.connect_timeout,
            connection_class=_UncleanedConnection,
            **self.pool_options,
        )
        self._listeners = Listeners()
        self._background = Background()
        self._closed = False

    async def open(self) -> None:
        """Make the pool ready; connections are made when they are needed."""
        if self.pool is None:
            _ = await self._pool  # which is its own result

    async def close(self) -> None:
        """End listening, and close the pool unless it was injected."""
        self._closed = True
        await self._listeners.close()
        if self.pool is None:
            with suppress(*_BROKEN):  # then its connections have been cut
                await asyncio.wait_for(self._pool.close(), self.connect_timeout)

    async def call(self, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool = False) -> T:
        """Do `work`, which is one statement or one transaction, on a connection of the pool.

        It is done again if the server rolled it back because of others' writes, or if the connection turns out to have ended
        before anything was sent. If a connection cannot be made, or breaks under a `repeatable` call, one that only reads, it is
        done again once. A write that broke off is not repeated, because it may have been done: the caller is told.

        Raises:
            SourceConnectionError: The server cannot be reached, refuses us or has gone away.
        """
        undone, broken = 0, False
        while True:
            begun = False
            try:
                async with self._acquired() as connection:
                    begun = True
                    return await work(connection)
            except Exception as error:
                if is_undone(error) and undone < _MAX_UNDONE:
                    undone += 1
                elif is_lost_connection(error) and (repeatable or not begun) and not broken:
                    broken = True
                else:
                    raise_named(self.where, error)

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Connection]:
        pool, patience = self._pool, self.command_timeout
        acquiring = asyncio.ensure_future(pool.acquire(timeout=patience))
        try:
            # A connection is made to the end though the caller be cancelled: older asyncpg leaks it else.
            connection = await asyncio.shield(acquiring)
        except asyncio.CancelledError:
            acquiring.add_done_callback(self._release_unwanted)
            raise
        except asyncio.TimeoutError:
            if pool.get_size() < pool.get_max_size() or pool.get_idle_size() > 0:
                raise
            raise SourceConnectionError(
                f"{self.where}: no connection came free in {patience:g} s: all {pool.get_max_size()} of the pool are in use; "
                "make it larger (max_connections, or max_size of your own pool)",
            ) from None
        try:
            yield connection
        except BaseException as error:
            if isinstance(error, asyncpg.InternalClientError):
                connection.terminate()
            elif will_need_cleaning := getattr(connection, "will_need_cleaning", None):  # it is ours, and is still there
                will_need_cleaning()
            # Not here: it waits until the server says that it has given up the call, which one that hangs does not.
            self._background.start(pool.release(connection, timeout=self.connect_timeout))
            raise
        await pool.release(connection, timeout=patience)

    def _release_unwanted(self, acquired: asyncio.Future[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]) -> None:
        if not acquired.cancelled() and acquired.exception() is None:
            self._background.start(self._pool.release(acquired.result(), timeout=self.connect_timeout))

    async def notifications(self, channel: str) -> AsyncIterator[None]:
        """Yield once when listening has begun, and after that whenever there has been a notification; until `close`.

        Raises:
            SourceConnectionError: The connection was lost.
        """
        connection: Connection | None = None
        lost = SourceConnectionError(f"{self.where}: the listening connection was lost; watch again")
        async with self._listeners.listener() as listener:
            listener.resources.enter_context(suppress(*_BROKEN))  # a connection that cannot be closed is gone anyway
            try:
                if self.pool is None:
                    connection = await asyncpg.connect(self.dsn, timeout=self.connect_timeout)
                else:
                    connection = await listener.resources.enter_async_context(self._acquired())
                # A pool gets its place back with that.
                listener.resources.push_async_callback(connection.close, timeout=self.connect_timeout)
                connection.add_termination_listener(lambda _: listener.lose(lost))
                await connection.add_listener(channel, listener.tell)
                check = partial(connection.execute, "SELECT 1", timeout=self.connect_timeout)
                async for _ in listener.changes(check=check, every=_CHECK_INTERVAL):
                    yield
            except _BROKEN as error:
                if connection is not None:
                    connection.terminate()  # nobody may be there to answer to an orderly end
                if not self._closed:
                    raise_named(self.where, error)
