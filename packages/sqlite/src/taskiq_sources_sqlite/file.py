"""One SQLite file while a store is open: opened anew when it was replaced or failed us, and its errors in words."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from taskiq_sources.errors import SourceClosedError, SourceConnectionError
from taskiq_sources.tasking import event_or_timeout
from taskiq_sources_sqlite.connection import Connection, connection_error, is_locked
from taskiq_sources_sqlite.operations import execute
from taskiq_sources_sqlite.schema import Synchronous, prepare

T = TypeVar("T")

_LOOK_ANYWAY = 20  # every so often changes are looked for although the operating system tells of none


class File:
    """A file, and the connections to it.

    Args:
        path: Where it is.
        busy_timeout: For how many seconds a statement waits for a lock of another process.
        synchronous: When a commit counts as done.
    """

    def __init__(self, path: str, busy_timeout: float, synchronous: Synchronous) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._prepare = partial(prepare, path=path, synchronous=synchronous, patience=busy_timeout)
        self._connection: Connection | None = None
        self._watching: set[Connection] = set()
        self._closed = asyncio.Event()
        self._switching = asyncio.Lock()  # held while the connection is opened, replaced or closed

    async def open(self) -> None:
        """Open the file; create it if it is missing."""
        self._connection = await self._connect()

    async def close(self) -> None:
        """Finish what was asked for, end watching, and close the file."""
        self._closed.set()
        async with self._switching:
            watching, self._watching = self._watching, set()
            await asyncio.gather(self._disconnect(), *(connection.close() for connection in watching))

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` on the connection's thread. After an error of the file, the next call opens it anew."""
        connection = await self._current_connection()
        try:
            with self._named_errors():
                return await connection.call(work)
        except SourceConnectionError as error:
            if not is_locked(error.__cause__):
                async with self._switching:
                    if self._connection is connection:
                        await self._disconnect()
            raise

    async def changes(self, interval: float) -> AsyncIterator[None]:
        """Yield at once, and after that when somebody has written to the file; look every `interval` seconds, until `close`."""
        # A connection of its own: SQLite does not count a connection's own changes as news for it.
        connection = await self._connect(create=False)
        self._watching.add(connection)
        try:
            seen: int | None = None
            stamp: tuple[int, ...] | None = None
            looks = 0
            while not self._closed.is_set():
                before, stamp = stamp, self._stamp()
                # A look costs as much as hundreds of these. One more than needed, because times of files go by the clock tick.
                looks = 2 if stamp is None or stamp != before else looks - 1
                if looks >= 0 or looks % _LOOK_ANYWAY == 0:
                    version = await self._version(connection)
                    if version != seen:
                        seen = version
                        yield
                await event_or_timeout(self._closed, interval)
        finally:
            self._watching.discard(connection)
            await connection.close()

    def _stamp(self) -> tuple[int, ...] | None:
        """Return what changes with each write, as far as the operating system tells; None if it does not."""
        if os.name == "nt":  # where the time of a file that is open may be that of its opening
            return None
        with self._named_errors():
            file = os.stat(self._path)
        with suppress(FileNotFoundError):
            log = os.stat(f"{self._path}-wal")
            return file.st_ino, file.st_mtime_ns, log.st_ino, log.st_mtime_ns, log.st_size
        return None

    async def _version(self, connection: Connection) -> int:
        with self._named_errors():
            if not connection.is_current():
                raise SourceConnectionError(f"SQLite database {self._path!r} was replaced by another file; watch again")
            version: int = await connection.call(lambda thread: execute(thread, "data_version").fetchone()[0])
            return version

    async def _current_connection(self) -> Connection:
        """Return the connection to the file that is there now, which may be another one than a moment ago."""
        connection = self._connection
        with self._named_errors():
            if connection is not None and connection.is_current():
                return connection
        async with self._switching:
            if self._closed.is_set():
                raise SourceClosedError(f"SQLite database {self._path!r} was closed meanwhile")
            if self._connection is connection or self._connection is None:
                await self._disconnect()
                self._connection = await self._connect(create=False)
            return self._connection

    async def _connect(self, *, create: bool = True) -> Connection:
        with self._named_errors():
            if not create:
                os.stat(self._path)  # a file that has vanished is an error, not a reason to begin with an empty one
            return await Connection.open(self._path, busy_timeout=self._busy_timeout, prepare=self._prepare)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turn errors of the file into ours. Others, such as a broken constraint, are bugs and stay what they are."""
        try:
            yield
        except SourceConnectionError:  # which is an OSError, by way of ConnectionError
            raise
        except (OSError, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.DatabaseError) and type(error) not in {sqlite3.OperationalError, sqlite3.DatabaseError}:
                raise
            raise connection_error(self._path, error, busy_timeout=self._busy_timeout) from error
