"""`PostgresScheduleSource`: the source that applications construct."""

from __future__ import annotations

from datetime import timedelta

from typing_extensions import Unpack

from taskiq_sources.source import ScheduleSource, SourceOptions
from taskiq_sources_postgres.connections import Pool
from taskiq_sources_postgres.store import PgBouncerStore, PostgresStore


class PostgresScheduleSource(ScheduleSource):
    """Schedules in a PostgreSQL database (13 or newer), for any number of processes on any number of machines.

    Args:
        dsn: ``postgresql://user:password@host:5432/database``, with any option that asyncpg takes (``?sslmode=require``).
        pool: An ``asyncpg.Pool`` to use instead of a dsn. It stays open; push keeps one of its connections.
        schema: Where the tables are; made if it is missing.
        prefix: How the names of the tables begin, so that several applications can share a schema.
        pgbouncer: Whether there is a PgBouncer in transaction mode in between: no prepared statements, no push.
        connect_timeout: How long connecting may take.
        command_timeout: How long a statement may take, and for how long is waited for a free connection. Well below a lease, so
            that what was sent while a server hung, or was replaced, can still be recorded under it.
        max_connections: How many connections this process may have, besides one for push.
        **options: As for `ScheduleSource`.

    Raises:
        ScheduleValidationError: An argument is not valid.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        pool: Pool | None = None,
        schema: str = "public",
        prefix: str = "taskiq_",
        pgbouncer: bool = False,
        connect_timeout: timedelta = timedelta(seconds=5),
        command_timeout: timedelta = timedelta(seconds=10),
        max_connections: int = 10,
        **options: Unpack[SourceOptions],
    ) -> None:
        make_store = PgBouncerStore if pgbouncer else PostgresStore
        store = make_store(
            dsn,
            pool=pool,
            schema=schema,
            prefix=prefix,
            connect_timeout=connect_timeout,
            command_timeout=command_timeout,
            max_connections=max_connections,
        )
        super().__init__(store, **options)
