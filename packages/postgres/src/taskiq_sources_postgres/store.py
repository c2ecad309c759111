"""`PostgresStore`: the store contract on two tables of a PostgreSQL database, and `PgBouncerStore` for behind a PgBouncer.

What a call does is in ``sql/queries.sql``, one statement each; how it gets there, in :mod:`taskiq_sources_postgres.connections`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

import asyncpg

from taskiq_sources.errors import RevisionConflictError, ScheduleNotFoundError, ScheduleValidationError, SourceClosedError
from taskiq_sources.models import Capabilities, Claim, Outcome, Run, RunQuery, ScheduleChanges, ScheduleQuery, StoredSchedule
from taskiq_sources.store import ScheduleStore
from taskiq_sources_postgres import rows
from taskiq_sources_postgres.connections import Connection, Database, Pool, Settings
from taskiq_sources_postgres.errors import describe
from taskiq_sources_postgres.names import Names
from taskiq_sources_postgres.schema import migrate
from taskiq_sources_postgres.statements import Statements

#: How many schedules `next_due` looks at: the first, and if that is in flight, more and more.
_FIRST_WINDOWS = (1, 500)
_WINDOW_GROWTH = 10

_PRUNE_BATCH = 5_000  # history rows deleted in one statement: some hundredths of a second


class PostgresStore(ScheduleStore):
    """Schedules in tables ``<prefix>schedules`` and ``<prefix>runs`` of one PostgreSQL database.

    A call whose connection breaks is repeated if it only reads. A write is not, because it may have been done: the error says so,
    and what was claimed comes free when its lease ends, while an outcome may be settled again: one that had been applied is then
    reported as lost, and changes nothing.

    Args:
        dsn: ``postgresql://user:password@host:5432/database``, with any option that asyncpg takes.
        pool: A pool to use instead, which stays open; `watch` keeps one of its connections.
        schema: Where the tables are; made if it is missing.
        prefix: How the names of the tables begin, so that several stores can share a schema.
        connect_timeout: How long connecting may take.
        command_timeout: How long a statement may take, and for how long is waited for a free connection.
        max_connections: How many connections the store may have, besides one for each `watch`.

    Raises:
        ScheduleValidationError: An argument is not valid.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(shared=True, durable=True, push=True)

    #: How many prepared statements a connection keeps; as asyncpg's default.
    _statement_cache_size: ClassVar[int] = 100

    def __init__(
        self,
        dsn: str | None = None,
        *,
        pool: Pool | None = None,
        schema: str = "public",
        prefix: str = "taskiq_",
        connect_timeout: timedelta = timedelta(seconds=5),
        command_timeout: timedelta = timedelta(seconds=30),
        max_connections: int = 10,
    ) -> None:
        if (dsn is None) == (pool is None):
            raise ScheduleValidationError("dsn", "…" if dsn else dsn, "give either a dsn or a pool")
        for name, value in (("connect_timeout", connect_timeout), ("command_timeout", command_timeout)):
            if value <= timedelta(0):
                raise ScheduleValidationError(name, value, "use a positive time")
        if max_connections < 1:
            raise ScheduleValidationError("max_connections", max_connections, "use at least 1")
        self._names = Names(schema, prefix)
        self._statements = Statements(self._names)
        self._pool = pool
        self._settings = Settings(
            where="PostgreSQL (a pool of the application's)" if dsn is None else describe(dsn),
            dsn=dsn,
            connect_timeout=connect_timeout.total_seconds(),
            command_timeout=command_timeout.total_seconds(),
            max_connections=max_connections,
            statement_cache_size=self._statement_cache_size,
        )
        self._database: Database | None = None
        self._switching = asyncio.Lock()  # held while it is opened or closed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.where}, tables {self._names.schema}.{self._names.prefix}*)"

    # -- lifecycle -----------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        async with self._switching:
            if self._database is not None:
                return
            database = Database(self._settings, self._pool)
            try:
                await database.open()
                await database.call(self._migrate)
            except BaseException:
                await database.close()
                raise
            self._database = database

    async def _migrate(self, connection: Connection) -> None:
        await migrate(connection, self._names, self._statements, self._settings.where)

    async def close(self) -> None:
        async with self._switching:
            database, self._database = self._database, None
            if database is not None:
                await database.close()

    async def now(self) -> datetime:
        [row] = await self._fetch("now", {}, repeatable=True)
        now: datetime = row["now"]
        return now

    # -- definitions ---------------------------------------------------------------------------------------------------------

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        [row] = await self._fetch("put", {**rows.schedule_columns(schedules), "replace": replace})
        return frozenset(schedule.id for schedule in schedules).difference(row["created"])

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        found = await self._fetch("get", {"ids": list(ids)}, repeatable=True)
        return {row["id"]: rows.schedule_from_row(row) for row in found}

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        values = {"after": after, "task_name": query.task_name, "owner": query.owner, "due_before": query.due_before}
        conditions = [name for name, value in values.items() if value is not None]
        for name, wanted in (("paused", query.paused), ("quarantined", query.quarantined)):
            if wanted is not None:
                conditions.append(name if wanted else f"not_{name}")
        found = await self._fetch("page", {**values, "limit": limit}, conditions, repeatable=True)
        return [rows.schedule_from_row(row) for row in found]

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        [row] = await self._fetch("delete", {"ids": list(ids)})
        return frozenset(row["deleted"])

    async def update(
        self,
        id: str,  # noqa: A002 - the field's own word
        changes: ScheduleChanges,
        *,
        expected_revision: int | None = None,
    ) -> StoredSchedule:
        values = {**rows.change_values(changes), "id": id, "expected_revision": expected_revision}
        found = await self._fetch("update", values)
        if not found:
            raise ScheduleNotFoundError(id)
        if expected_revision not in {None, found[0]["found_revision"]}:
            raise RevisionConflictError(id, expected_revision, found[0]["found_revision"])
        return rows.schedule_from_row(found[0])

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
        values = {"now": now, "horizon": now + early, "claimant": claimant, "lease_until": now + lease, "limit": limit}
        if ids is None:
            found = await self._fetch("claim", values)
        else:
            found = await self._fetch("claim_ids", {**values, "ids": list(ids)})
        return [rows.claim_from_row(row, now=now, lease=lease) for row in found]

    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        found = await self._fetch("renew", {**rows.lease_columns(claims), "until": until})
        return frozenset(row["id"] for row in found)

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        [row] = await self._fetch("settle", rows.outcome_columns(outcomes))
        return frozenset(row["lost"])

    async def next_due(self, now: datetime) -> datetime | None:
        window, larger = _FIRST_WINDOWS
        while True:
            [row] = await self._fetch("next_due", {"now": now, "window": window}, repeatable=True)
            if row["complete"]:
                instant: datetime | None = row["instant"]
                return instant
            window, larger = larger, larger * _WINDOW_GROWTH

    # -- history -------------------------------------------------------------------------------------------------------------

    async def runs(self, query: RunQuery, *, after: Run | None = None, limit: int) -> list[Run]:
        values = {"schedule_id": query.schedule_id, "status": query.status, "since": query.since, "until": query.until}
        conditions = [name for name, value in values.items() if value is not None]
        if after is not None:
            conditions.append("after")
            values |= {"after_recorded_at": after.recorded_at, "after_occurrence_id": after.occurrence_id}
        found = await self._fetch("runs", {**values, "limit": limit}, conditions, repeatable=True)
        return [rows.run_from_row(row) for row in found]

    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        # The oldest rows go, either up to an instant or up to the newest that is one too many: whichever leaves less.
        surplus = await self._fetch("newest_surplus", {"keep": keep}, repeatable=True)
        values = {"before": before, "batch": _PRUNE_BATCH, **(surplus[0] if surplus else {})}
        condition = "surplus" if surplus and surplus[0]["recorded_at"] >= before else "before"
        total, pruned = 0, _PRUNE_BATCH
        while pruned == _PRUNE_BATCH:
            [[pruned]] = await self._fetch("prune", values, [condition])
            total += pruned
        return total

    # -- push ----------------------------------------------------------------------------------------------------------------

    async def watch(self) -> AsyncIterator[None]:
        async for _ in self._opened().notifications(self._names.channel):
            yield

    # -- helpers -------------------------------------------------------------------------------------------------------------

    def _opened(self) -> Database:
        if self._database is None:
            raise SourceClosedError(f"{self!r} is not open: await startup() first")
        return self._database

    async def _fetch(
        self,
        name: str,
        values: dict[str, Any],
        conditions: Collection[str] = (),
        *,
        repeatable: bool = False,
    ) -> list[asyncpg.Record]:
        """Run one statement and return its rows."""
        sql, arguments = self._statements.bind(name, {"channel": self._names.channel, **values}, conditions)

        async def work(connection: Connection) -> list[asyncpg.Record]:
            return await connection.fetch(sql, *arguments, timeout=self._settings.command_timeout)

        return await self._opened().call(work, repeatable=repeatable)


class PgBouncerStore(PostgresStore):
    """The same behind a PgBouncer in transaction mode, where a connection is another one with each transaction.

    So nothing can be prepared once and used again, and nobody can listen: there is no push, and dispatchers poll. (A counter of
    changes to poll instead would be one row that all writers queue for.) Writes still notify those who are connected directly.
    """

    capabilities: ClassVar[Capabilities] = replace(PostgresStore.capabilities, push=False)

    _statement_cache_size: ClassVar[int] = 0

    watch = ScheduleStore.watch
