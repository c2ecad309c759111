"""One connection to one SQLite file, on a thread of its own, and what its errors mean. Knows no schedules."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import aiosqlite

from taskiq_sources.errors import SourceConnectionError

T = TypeVar("T")

_ITER_CHUNK_SIZE = 64  # aiosqlite wants to know, for cursors that nobody iterates over here

#: What SQLite says, and what to do about it; the first that fits counts. Python 3.10 knows no error codes.
_ADVICE = (
    ("unable to open", "give this user access to the file and its directory"),
    ("not a database", "name another file, or move this one away"),
    ("readonly", "give this user the right to write the file and its directory"),
    ("locked", "find out which process holds a transaction open that long, or raise busy_timeout"),
    ("full", "free some space; nothing of this call was written"),
    ("malformed", "restore the file from a backup"),
)
_ADVICE_OTHERWISE = "check the file, its directory and the disk"


class Connection:
    """A connection whose work is done on a thread, one function after the other, each to its end.

    A function that was asked for is never broken off: cancelling `call` only stops the waiting for it. So no transaction is left
    open. Made by `open`.
    """

    def __init__(self, connection: aiosqlite.Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._file: tuple[int, int] | None = None
        self._unfinished: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: str, *, busy_timeout: float, prepare: Callable[[sqlite3.Connection], None]) -> Connection:
        """Open a file, creating it if there is none.

        Args:
            path: The file.
            busy_timeout: For how many seconds a statement waits for a lock of another process.
            prepare: Done first, on the thread.

        Raises:
            sqlite3.Error: SQLite cannot open the file.
            Exception: What `prepare` raises; nothing is left open then.
        """
        task = asyncio.ensure_future(cls._open(path, busy_timeout, prepare))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            with suppress(Exception):  # nobody is left to be told
                await (await task).close()
            raise

    @classmethod
    async def _open(cls, path: str, busy_timeout: float, prepare: Callable[[sqlite3.Connection], None]) -> Connection:
        failures: list[sqlite3.Error] = []

        def connect() -> sqlite3.Connection:
            try:
                return sqlite3.connect(path, timeout=busy_timeout, isolation_level=None)
            except sqlite3.Error as error:
                # aiosqlite's thread ends in an orderly way only if it has a connection to close.
                failures.append(error)
                return sqlite3.connect(":memory:")

        connection = cls(await _on_daemon_thread(connect), path)
        try:
            if failures:
                raise failures[0]
            await connection.call(prepare)
            connection._file = _file_identity(path)
        except BaseException:
            await connection.close()
            raise
        return connection

    def is_current(self) -> bool:
        """Tell whether the path still leads to the file that was opened. What is written to a file that was replaced is lost.

        Raises:
            OSError: It leads nowhere.
        """
        return _file_identity(self._path) == self._file

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` on the thread, after everything that was asked for before, and return what it returns."""
        task = asyncio.ensure_future(self._call(work))
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return await asyncio.shield(task)

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            # Not statement by statement through aiosqlite's public methods: that would hold the file's write lock, and all other
            # processes off, while this process's event loop is busy with something else.
            result: T = await self._connection._execute(work, self._connection._conn)  # type: ignore[no-untyped-call]  # noqa: SLF001
        except asyncio.CancelledError:
            # The event loop is being closed, and the thread must not report to it afterwards. So wait for the thread to come to
            # this point; there is nothing to be rolled back.
            await self._connection.rollback()
            raise
        return result

    async def close(self) -> None:
        """Finish what was asked for, and close the file. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        while self._unfinished:
            await asyncio.wait(self._unfinished)
        await self._connection.close()


def connection_error(path: str, error: sqlite3.Error | OSError, *, busy_timeout: float) -> SourceConnectionError:
    """Return our error for one of SQLite's or of the operating system: it names the file, the reason and the fix.

    Args:
        path: The file.
        error: What was raised.
        busy_timeout: For how many seconds was waited, if it is about a lock.
    """
    reason = str(error.strerror if isinstance(error, OSError) else error)
    directory = os.path.dirname(path)
    if isinstance(error, FileNotFoundError):
        reason, advice = "it was deleted while it was in use", "put it back, or restart this process to begin with an empty one"
    elif not os.path.isdir(directory):
        advice = f"directory {directory!r} does not exist: create it"
    elif os.path.isdir(path):
        advice = "this is a directory: name a file in it"
    else:
        advice = next((advice for sign, advice in _ADVICE if sign in reason), _ADVICE_OTHERWISE)
    if is_locked(error):
        reason += f" for longer than {busy_timeout:g} s"
    return SourceConnectionError(f"SQLite database {path!r} cannot be used: {reason}; {advice}")


def is_locked(error: BaseException | None) -> bool:
    """Tell whether `error` is SQLite's, because of somebody else's lock."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _file_identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


async def _on_daemon_thread(connect: Callable[[], sqlite3.Connection]) -> aiosqlite.Connection:
    """Open a connection whose thread does not keep the interpreter from exiting when nobody closes it.

    aiosqlite makes its thread in the constructor and leaves no choice of its kind, but what a daemon thread makes is one
    too. Dying in the middle of a transaction is safe: SQLite rolls it back.
    """
    made: list[aiosqlite.Connection] = []
    maker = threading.Thread(target=lambda: made.append(aiosqlite.Connection(connect, _ITER_CHUNK_SIZE)), daemon=True)
    maker.start()
    maker.join()
    return await made[0]
