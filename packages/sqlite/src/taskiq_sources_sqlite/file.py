"""One SQLite file while a store is open, and the connection to it, on a thread of its own. Knows no schedules."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import aiosqlite

from taskiq_sources import forks
from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.interpreter import TURNS
from taskiq_sources.tasking import LoopEvent, LoopLock
from taskiq_sources_sqlite.errors import connection_error, is_locked, is_of_the_file
from taskiq_sources_sqlite.operations import version
from taskiq_sources_sqlite.schema import Synchronous, prepare

T = TypeVar("T")

_ANOTHER = (0, 0)  # a file that is never the one that is there
_LOOK_ANYWAY = 20  # every so often changes are looked for although the operating system tells of none


class File:
    """A file, and the connection to it, which is opened anew when the file was replaced or has failed us.

    Work is done on the connection's thread, one function after the other, each to its end: a function that was asked for is never
    broken off, and cancelling `call` only stops the waiting for it. So no transaction is left open.

    Args:
        path: Where it is.
        busy_timeout: For how many seconds a statement waits for a lock of another process.
        synchronous: When a commit counts as done.
    """

    def __init__(self, path: str, busy_timeout: float, synchronous: Synchronous) -> None:
        self._path = path
        self._process = os.getpid()
        self._busy_timeout = busy_timeout
        self._prepare = partial(prepare, path=path, synchronous=synchronous, patience=busy_timeout)
        self._connection: aiosqlite.Connection | None = None
        self._opened: tuple[int, int] | None = None  # which file it was
        self._unfinished: set[asyncio.Task[Any]] = set()
        self._closed = LoopEvent()
        self._switching = LoopLock()  # held while the connection is opened, replaced or closed

    async def open(self) -> None:
        """Open the file; create it if it is missing."""
        await self.call(version)

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` on the thread, after everything that was asked for before. After an error, the next call opens the file anew.

        Raises:
            SourceConnectionError: The file fails us. Other errors, such as a broken constraint, are bugs and stay what they are.
            SourceClosedError: This process was forked from the one that opened the file.
        """
        forks.check(self._process, self._path)
        task = asyncio.ensure_future(self._call(work))
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Finish what was asked for, end watching, and close the file; in a process that was forked, leave all that alone."""
        if self._process != os.getpid():
            return
        self._closed.set()
        await asyncio.shield(asyncio.ensure_future(self._close()))

    async def changes(self, interval: float) -> AsyncIterator[None]:
        """Yield at once, and after that when somebody has written to the file; look every `interval` seconds, until `close`."""
        seen: tuple[sqlite3.Connection, int, int] | None = None
        stamp: tuple[int, ...] | None = None
        looks = 0
        while not self._closed.is_set():
            before, stamp = stamp, self._stamp()
            # A look costs as much as hundreds of these. One more than needed, because times of files go by the clock tick.
            looks = 2 if stamp is None or stamp != before else looks - 1
            if looks >= 0 or looks % _LOOK_ANYWAY == 0:
                found = await self.call(version)
                if seen is not None and found[0] is not seen[0]:
                    raise SourceConnectionError(
                        f"SQLite database {self._path!r} was replaced by another file, or opened anew after an error; watch again"
                    )
                if found != seen:
                    seen = found
                    yield
            await self._closed.wait(interval)

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await _execute(await self._current_connection(), work)
        except (OSError, sqlite3.Error) as error:
            if not is_of_the_file(error):
                raise
            if not is_locked(error):
                self._opened = _ANOTHER
            raise connection_error(self._path, error, busy_timeout=self._busy_timeout) from error

    async def _current_connection(self) -> aiosqlite.Connection:
        """Return the connection to the file that is there now, which may be another one than a moment ago."""
        async with self._switching.here():
            # What is written to a file that was replaced is lost. One that has vanished is an error, not a reason to begin anew.
            if self._opened is not None and self._opened != forks.identity(self._path):
                await self._disconnect()
            if self._connection is None:
                self._connection = await self._connect()
                self._opened = forks.identity(self._path)
            return self._connection

    async def _connect(self) -> aiosqlite.Connection:
        forks.check_file(self._path)
        connection = aiosqlite.connect(self._path, timeout=self._busy_timeout, isolation_level=None)
        forks.opened(connection, self._path)
        thread: Any = getattr(connection, "_thread", connection)  # before 0.22 it is one itself
        # Nobody has to close a store for the interpreter to exit. Dying in a transaction is safe: SQLite rolls it back.
        thread.daemon = True
        try:
            connection = await connection
            await _execute(connection, self._prepare)
        except BaseException as error:
            await forks.close(connection)
            if isinstance(error, sqlite3.Error):
                thread.join()  # it is about to end, but must not do so after the event loop that it reports to
            raise
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await forks.close(connection)

    async def _close(self) -> None:
        await asyncio.gather(*self._unfinished, return_exceptions=True)
        await self._disconnect()

    def _stamp(self) -> tuple[int, ...] | None:
        """Return what changes with each write, as far as the operating system tells; None if it does not."""
        if os.name != "nt":  # where the time of a file that is open may be that of its opening
            with suppress(OSError):
                file, log = os.stat(self._path), os.stat(f"{self._path}-wal")
                return file.st_ino, file.st_mtime_ns, log.st_ino, log.st_mtime_ns, log.st_size
        return None


async def _execute(connection: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    end = TURNS.change()

    def in_its_turn(opened: sqlite3.Connection) -> T:
        try:
            return work(opened)
        finally:
            end()  # the event loop may be gone by now

    try:
        # Not statement by statement through aiosqlite's public methods: that would hold the file's write lock, and all other
        # processes off, while this process's event loop is busy with something else.
        return await connection._execute(in_its_turn, connection._conn)  # type: ignore[no-any-return, no-untyped-call]  # noqa: SLF001
    except asyncio.CancelledError:
        # The event loop is being closed, and the thread must not report to it afterwards. So wait for the thread to come to this
        # point; there is nothing to be rolled back.
        await connection.rollback()
        raise
    finally:
        end()  # it may not have come to the work
