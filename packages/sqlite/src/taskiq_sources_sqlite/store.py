"""`SQLiteStore`: the store contract on one SQLite file, which any number of processes of one machine may share.

What is here: when the file is open, and how asynchronous calls reach it. What a call does is in
:mod:`taskiq_sources_sqlite.operations`, what the tables look like in ``migrations``.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import ClassVar, TypeVar

from taskiq_sources.clock import system_now
from taskiq_sources.errors import ScheduleValidationError, SourceClosedError, SourceConnectionError
from taskiq_sources.models import Capabilities, Claim, Outcome, Run, RunQuery, ScheduleChanges, ScheduleQuery, StoredSchedule
from taskiq_sources.store import ScheduleStore
from taskiq_sources_sqlite import operations
from taskiq_sources_sqlite.connection import Connection, connection_error, is_locked
from taskiq_sources_sqlite.schema import SYNCHRONOUS, Synchronous, check_sqlite_version, prepare

T = TypeVar("T")

#: History rows deleted in one transaction: a few hundredths of a second in which others wait for the write lock.
_PRUNE_BATCH = 2_000


class SQLiteStore(ScheduleStore):
    """Schedules in tables ``taskiq_sources_*`` of one SQLite file, which may hold other tables too.

    Args:
        path: The file; created when it is missing, its directory is not. On a local disk, not on a network share.
        busy_timeout: How long a call waits for other processes' transactions before it fails.
        synchronous: ``FULL`` (default): what was written survives a power failure. ``NORMAL``: several times faster for single
            writes, survives the death of any process, but the last moments before a power failure may be lost.
        poll_interval: How often `watch` looks for changes.

    Raises:
        ScheduleValidationError: An argument is not valid.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(shared=True, durable=True, push=True)

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: timedelta = timedelta(seconds=5),
        synchronous: Synchronous = "FULL",
        poll_interval: timedelta = timedelta(milliseconds=50),
    ) -> None:
        if synchronous not in SYNCHRONOUS:
            raise ScheduleValidationError("synchronous", synchronous, f"use one of {', '.join(SYNCHRONOUS)}")
        if busy_timeout < timedelta(0):
            raise ScheduleValidationError("busy_timeout", busy_timeout, "use zero or a positive time")
        if poll_interval <= timedelta(0):
            raise ScheduleValidationError("poll_interval", poll_interval, "use a positive time")
        #: The file; absolute, so that it stays the same one when the process changes its directory.
        self.path = os.path.abspath(path)
        self._busy_timeout = busy_timeout.total_seconds()
        self._synchronous: Synchronous = synchronous
        self._poll_interval = poll_interval.total_seconds()
        self._connection: Connection | None = None
        self._watching: set[Connection] = set()
        self._closed: asyncio.Event | None = None  # of the present session; None when the store is not open
        self._switching = asyncio.Lock()  # held while the connection is opened, replaced or closed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    # -- lifecycle -----------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        check_sqlite_version()
        async with self._switching:
            if self._closed is None:
                self._connection = await self._connect()
                self._closed = asyncio.Event()

    async def close(self) -> None:
        async with self._switching:
            if self._closed is None:
                return
            self._closed.set()
            self._closed = None
            watching, self._watching = self._watching, set()
            await asyncio.gather(self._disconnect(), *(connection.close() for connection in watching))

    async def now(self) -> datetime:
        self._session()
        return system_now()

    # -- definitions ---------------------------------------------------------------------------------------------------------

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        return await self._call(partial(operations.put, schedules=schedules, overwrite=replace))

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        return await self._call(partial(operations.get, ids=ids))

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        return await self._call(partial(operations.page, query=query, after=after, limit=limit))

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        return await self._call(partial(operations.delete, ids=ids))

    async def update(
        self,
        id: str,  # noqa: A002 - the field's own word
        changes: ScheduleChanges,
        *,
        expected_revision: int | None = None,
    ) -> StoredSchedule:
        return await self._call(
            partial(operations.update, schedule_id=id, changes=changes, expected_revision=expected_revision),
        )

    # -- dispatch ------------------------------------------------------------------------------------------------------------

    async def claim(
        self,
        now: datetime,
        *,
        claimant: str,
        lease: timedelta,
        limit: int,
        ids: Collection[str] | None = None,
        early: timedelta = timedelta(0),
    ) -> list[Claim]:
        return await self._call(
            partial(operations.claim, now=now, claimant=claimant, lease=lease, limit=limit, ids=ids, early=early),
        )

    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        return await self._call(partial(operations.renew, claims=claims, until=until))

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        return await self._call(partial(operations.settle, outcomes=outcomes))

    async def next_due(self, now: datetime) -> datetime | None:
        return await self._call(partial(operations.next_due, now=now))

    # -- history -------------------------------------------------------------------------------------------------------------

    async def runs(self, query: RunQuery, *, after: Run | None = None, limit: int) -> list[Run]:
        return await self._call(partial(operations.runs, query=query, after=after, limit=limit))

    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        too_old = await self._in_batches(partial(operations.prune_runs_before, before=before, limit=_PRUNE_BATCH))
        return too_old + await self._in_batches(partial(operations.prune_surplus_runs, keep=keep, limit=_PRUNE_BATCH))

    async def _in_batches(self, prune: Callable[[sqlite3.Connection], int]) -> int:
        """Repeat `prune` until there is nothing left for it, letting others write in between."""
        total = 0
        while pruned := await self._call(prune):
            total += pruned
        return total

    # -- push ----------------------------------------------------------------------------------------------------------------

    async def watch(self) -> AsyncIterator[None]:
        closed = self._session()
        # A connection of its own: SQLite does not count a connection's own changes as news for it.
        connection = await self._connect(create=False)
        self._watching.add(connection)
        try:
            seen = None
            while not closed.is_set():
                version = await self._poll(connection)
                if version != seen:
                    seen = version
                    yield
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(closed.wait(), self._poll_interval)
        finally:
            self._watching.discard(connection)
            await connection.close()

    async def _poll(self, connection: Connection) -> int:
        with self._named_errors():
            if not connection.is_current():
                raise SourceConnectionError(f"SQLite database {self.path!r} was replaced by another file; watch again")
            return await connection.call(operations.data_version)

    # -- connection ----------------------------------------------------------------------------------------------------------

    def _session(self) -> asyncio.Event:
        if self._closed is None:
            raise SourceClosedError(f"the store of {self.path!r} is not open: await startup() first")
        return self._closed

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
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

    async def _current_connection(self) -> Connection:
        """Return the connection to the file that is there now, which may be another one than a moment ago."""
        self._session()
        connection = self._connection
        with self._named_errors():
            if connection is not None and connection.is_current():
                return connection
        async with self._switching:
            self._session()
            if self._connection is connection or self._connection is None:
                await self._disconnect()
                self._connection = await self._connect(create=False)
            return self._connection

    async def _connect(self, *, create: bool = True) -> Connection:
        ready = partial(prepare, path=self.path, synchronous=self._synchronous, patience=self._busy_timeout)
        with self._named_errors():
            if not create:
                os.stat(self.path)  # a file that has vanished is an error, not a reason to begin with an empty one
            return await Connection.open(self.path, busy_timeout=self._busy_timeout, prepare=ready)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turn errors of the file into ours. Others, such as a broken constraint, are bugs and stay what they are."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if type(error) not in {sqlite3.OperationalError, sqlite3.DatabaseError}:
                raise
            raise connection_error(self.path, error, busy_timeout=self._busy_timeout) from error
        except OSError as error:
            if isinstance(error, SourceConnectionError):  # which is an OSError, by way of ConnectionError
                raise
            raise connection_error(self.path, error, busy_timeout=self._busy_timeout) from error
