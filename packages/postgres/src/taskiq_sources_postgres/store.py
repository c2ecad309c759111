"""`PostgresStore`: the store contract on two tables of a PostgreSQL database, and `PgBouncerStore` for behind a PgBouncer.

What a call does is in ``sql/queries.sql``, one statement each; how it gets there, in :mod:`taskiq_sources_postgres.connections`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Final

import asyncpg

from taskiq_sources.backends import check_durations, check_either
from taskiq_sources.clock import from_ms
from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.models import Capabilities
from taskiq_sources.sql import SQLStore, Statements, read_sql
from taskiq_sources.store import ScheduleStore
from taskiq_sources_postgres.connections import Connection, Database, Pool
from taskiq_sources_postgres.errors import describe
from taskiq_sources_postgres.names import Names
from taskiq_sources_postgres.schema import PACKAGE, migrate

_QUERIES: Final = read_sql(PACKAGE, "sql/queries.sql")

#: The lists that are passed as text.
_LITERALS: Final = frozenset(re.findall(r":(\w+)::text::\w+\[\]", _QUERIES))

#: Those of which "settle" needs only one value where all are equal.
_ONE_FOR_ALL: Final = frozenset(re.findall(r"\(:(\w+)::text::\w+\[\]\)\[1\]", _QUERIES))

#: Every statement looks up what it wants in an index, in its order, and stops at a limit or at the end of the lists it joins.
#: Statistics are too old to tell the planner so whenever many schedules have just been added or have just fallen due, and the
#: plan of a statement that is kept may be from when there was a single one.
_PLANNING: Final = {"enable_seqscan": "off", "enable_bitmapscan": "off", "enable_nestloop": "off", "jit": "off"}

#: What is planned for its values each time. Which index is best for a condition hangs on how rare they are, but PostgreSQL stops
#: looking at those of a statement that is kept; and where there was no history, it learns too late that there is. With other
#: settings than those above, which choose plans that age worse, everything is planned each time.
_PLANNED_ANEW: Final = {"page", "runs", "newest_surplus", "prune"}

#: Stand for a comma and for none while a list of texts is written. No text has them: they are made at random and never leave.
_COMMA, _NONE = secrets.token_hex(8), secrets.token_hex(8)


class PostgresStore(SQLStore[Database]):
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
        command_timeout: How long a statement may take, and for how long is waited for a free connection. Well below a lease, so
            that what was sent while a server hung, or was replaced, can still be recorded under it.
        max_connections: How many connections the store may have, besides one for each `watch`.

    Raises:
        ScheduleValidationError: An argument is not valid.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(shared=True, durable=True, push=True)

    _prune_batch: ClassVar[int] = 5_000

    #: More of how connections are made.
    _pool_options: ClassVar[Mapping[str, object]] = {"server_settings": _PLANNING}

    def __init__(
        self,
        dsn: str | None = None,
        *,
        pool: Pool | None = None,
        schema: str = "public",
        prefix: str = "taskiq_",
        connect_timeout: timedelta = timedelta(seconds=5),
        command_timeout: timedelta = timedelta(seconds=10),
        max_connections: int = 10,
    ) -> None:
        super().__init__()
        check_either(dsn=dsn, pool=pool)
        check_durations(connect_timeout=connect_timeout, command_timeout=command_timeout)
        if max_connections < 1:
            raise ScheduleValidationError("max_connections", max_connections, "use at least 1")
        self._names = Names(schema, prefix)
        self._statements = Statements(self._names.fill(_QUERIES), marker="$")
        self._where = "PostgreSQL (a pool of the application's)" if dsn is None else describe(dsn)
        patience = connect_timeout.total_seconds(), command_timeout.total_seconds()
        self._new_session = partial(Database, self._where, dsn, pool, *patience, max_connections, self._pool_options)
        self._plans_as_we_say = pool is None and self._pool_options.get("server_settings") is _PLANNING

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where}, tables {self._names.schema}.{self._names.prefix}*)"

    # -- session -------------------------------------------------------------------------------------------------------------

    async def _prepare(self, session: Database) -> None:
        await session.open()
        await session.call(lambda connection: migrate(connection, self._names, self._where))

    # -- operations ----------------------------------------------------------------------------------------------------------

    async def _run(
        self, operation: str, values: dict[str, Any], conditions: Sequence[str] = (), *, repeatable: bool = False
    ) -> list[asyncpg.Record]:
        sql, arguments = self.bind(operation, values, conditions)
        patience = self._session.command_timeout

        async def fetch(connection: Connection) -> list[asyncpg.Record]:
            if self._plans_as_we_say and operation not in _PLANNED_ANEW:
                return await connection.fetch(sql, *arguments, timeout=patience)
            statement = await connection.prepare(sql, name="", timeout=patience)
            return await statement.fetch(*arguments, timeout=patience)

        return await self._session.call(fetch, repeatable=repeatable)

    def bind(self, operation: str, values: dict[str, Any], conditions: Sequence[str] = ()) -> tuple[str, list[Any]]:
        """Return the statement of an operation, and its arguments in the form that PostgreSQL takes."""
        ours = ("planned_as_we_say",) if operation == "settle" and self._plans_as_we_say else ()
        operation = "page_due" if "due_before" in conditions else operation
        lists = {name: value for name, value in values.items() if name in _LITERALS and type(value) is list}
        one_for_all = _ONE_FOR_ALL if operation == "settle" else ()
        literals = {name: _array_literal(_shortened(value, one_for_all=name in one_for_all)) for name, value in lists.items()}
        return self._statements.bind(operation, {"channel": self._names.channel, **values, **literals}, (*conditions, *ours))

    async def now(self) -> datetime:
        [row] = await self._run("now", {}, repeatable=True)
        return from_ms(row[0])

    def watch(self) -> AsyncIterator[None]:
        return self._session.notifications(self._names.channel)


def _shortened(column: list[Any], *, one_for_all: bool) -> list[Any]:
    """Return the first value alone where all are equal, and that is enough or is the NULL that unnest() fills up with."""
    first = column[:1]
    return first if (one_for_all or first == [None]) and column == first * len(column) else column


def _array_literal(column: list[Any]) -> str:
    """Return a list as PostgreSQL reads it: ``{"a",NULL}`` or ``{1,NULL}``."""
    if not any(issubclass(kind, str) for kind in set(map(type, column))):
        return f"{{{str(column)[1:-1]}}}".replace("None", "NULL")
    joined = _COMMA.join([_NONE if value is None else value for value in column])
    quoted = joined.replace("\\", "\\\\").replace('"', '\\"').replace(_COMMA, '","')
    return f'{{"{quoted}"}}'.replace(f'"{_NONE}"', "NULL")


class PgBouncerStore(PostgresStore):
    """The same behind a PgBouncer in transaction mode, where a connection is another one with each transaction.

    So nothing can be set or prepared once and used again, and nobody can listen: there is no push, and dispatchers poll. (A
    counter of changes to poll instead would be one row that all writers queue for.) Writes still notify those who are connected
    directly.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(shared=True, durable=True)

    _pool_options: ClassVar[Mapping[str, object]] = {"statement_cache_size": 0}

    watch = ScheduleStore.watch
