"""Makes and migrates the tables. Safe in many processes at the same moment, and harmless where nothing is to be done."""

from __future__ import annotations

import re
from typing import Final

import asyncpg

from taskiq_sources.backends import check_schema_version
from taskiq_sources.errors import BackendVersionError, SourceConnectionError
from taskiq_sources.sql import load_migrations, read_sql
from taskiq_sources_postgres.connections import Connection
from taskiq_sources_postgres.names import Names

PACKAGE: Final = "taskiq_sources_postgres"
MIGRATIONS: Final = load_migrations(PACKAGE)

#: The first release with gen_random_uuid() and sorting by parts of an index (September 2020).
NEEDED_POSTGRES = 13

_VERSION: Final = read_sql(PACKAGE, "sql/version.sql")
_CREATE_SCHEMA = 'CREATE SCHEMA IF NOT EXISTS "{schema}";\n\n'
_COMMENT = re.compile(r"taskiq-sources schema (\d+)")


def ddl(schema: str = "public", prefix: str = "taskiq_") -> str:
    """Return the SQL script that makes everything the store needs, for those who let nobody else create tables.

    Args:
        schema: As for `PostgresStore`.
        prefix: As for `PostgresStore`.

    Raises:
        ScheduleValidationError: One of them is not a plain identifier.
    """
    script = read_sql(PACKAGE, "sql/schema.sql")
    return Names(schema, prefix).fill(script if schema == "public" else _CREATE_SCHEMA + script)


def check_server_version(major: int, where: str) -> None:
    """Refuse a server that is too old.

    Args:
        major: Its major version.
        where: How to name it in the error.

    Raises:
        BackendVersionError: It is older than `NEEDED_POSTGRES`.
    """
    if major < NEEDED_POSTGRES:
        raise BackendVersionError(f"{where} is version {major}; version {NEEDED_POSTGRES} or newer is needed: upgrade it")


async def migrate(connection: Connection, names: Names, where: str) -> None:
    """Bring the tables to the version of this release, in one transaction.

    Args:
        connection: An open connection.
        names: Where the tables are.
        where: How to name the database in errors.

    Raises:
        BackendVersionError: The server is too old.
        SchemaVersionError: They were made by a newer release; nothing was changed.
        SourceConnectionError: They are not ours, or we may not make them.
        asyncpg.PostgresError: Something else is in the way.
    """
    check_server_version(connection.get_server_version().major, where)
    if await _version(connection, names, where) == len(MIGRATIONS):
        return
    # Whatever the server's default is: what others did while we waited for the lock has to be seen.
    async with connection.transaction(isolation="read_committed"):
        await connection.execute("SELECT pg_advisory_xact_lock($1)", names.lock_key)
        version = await _version(connection, names, where)
        scripts = [migration.script for migration in MIGRATIONS[version:]] if version else [read_sql(PACKAGE, "sql/schema.sql")]
        if version is None:
            scripts.insert(0, _CREATE_SCHEMA)
        try:
            for script in scripts:
                await connection.execute(names.fill(script))
        except asyncpg.InsufficientPrivilegeError as error:
            needed = "CREATE on the database" if version is None else f'USAGE and CREATE on schema "{names.schema}"'
            raise SourceConnectionError(
                f'{where}: the role may not make tables in schema "{names.schema}" ({error}): grant it {needed}, or run '
                f"as another what `python -m taskiq_sources_postgres.ddl --schema {names.schema} --prefix {names.prefix}` prints",
            ) from error


async def _version(connection: Connection, names: Names, where: str) -> int | None:
    """Return the version of the tables: 0 if there are none, None if not even their schema is there."""
    comment: str | None = await connection.fetchval(names.fill(_VERSION))
    if comment is None:
        return None
    known = _COMMENT.fullmatch(comment)
    if known is None:
        raise SourceConnectionError(
            f'{where}: the comment on table "{names.schema}"."{names.prefix}schedules" tells no version but {comment!r}: choose '
            "another prefix if the table is not ours, or restore the comment that `python -m taskiq_sources_postgres.ddl` prints",
        )
    version = int(known[1])
    tables = f'{where}, tables "{names.schema}"."{names.prefix}*",'
    check_schema_version(version, len(MIGRATIONS), where=tables, package="taskiq-sources-postgres")
    return version
