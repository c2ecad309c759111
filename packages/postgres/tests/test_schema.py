"""The tables: made and migrated by whoever comes first, refused where they are not ours, the same by every route."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from taskiq_sources.errors import BackendVersionError, ScheduleValidationError, SchemaVersionError, SourceConnectionError
from taskiq_sources.models import Claim, ScheduleQuery
from taskiq_sources.sql import Migration, Statements, columns, read_sql
from taskiq_sources_conformance.build import LEASE, NOW, outcome, run, schedule
from taskiq_sources_postgres import PostgresScheduleSource, PostgresStore, ddl
from taskiq_sources_postgres.errors import describe
from taskiq_sources_postgres.names import Names
from taskiq_sources_postgres.schema import MIGRATIONS, check_server_version
from taskiq_sources_postgres.store import _array_literal

pytestmark = pytest.mark.anyio

_PROCESSES = 20


@pytest.fixture
def schema(place: Any) -> Iterator[str]:
    """The name of a schema that is not there yet, and is dropped in the end."""
    name = f"{place.prefix}schema"
    yield name
    asyncio.run(place.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE"))


# -- making and migrating --------------------------------------------------------------------------------------------------------


async def test_the_migrations_lead_to_the_canonical_schema(place: Any, schema: str) -> None:
    """What `ddl` prints and what all migrations after each other make is the same, to the last index and comment."""
    await run_script(place, ddl(schema, "one_"))
    for migration in MIGRATIONS:
        await run_script(place, Names(schema, "two_").fill(migration.script))

    one, two = await catalog(place, schema, "one_"), await catalog(place, schema, "two_")
    assert one == two
    assert len(one) > 40


async def test_open_makes_the_canonical_schema(place: Any, schema: str) -> None:
    """Also where the schema itself is missing."""
    store = PostgresStore(place.dsn, schema=schema, prefix="one_")
    await store.open()
    await store.close()
    await run_script(place, ddl(schema, "two_"))

    assert await catalog(place, schema, "one_") == await catalog(place, schema, "two_")


async def test_open_brings_older_tables_up_to_date(place: Any, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several migrations those that are missing are applied, once, and the schedules stay."""
    store = PostgresStore(place.dsn, schema=schema)
    await store.open()
    await store.put([schedule()])
    newer = (
        'ALTER TABLE "{schema}"."{prefix}schedules" ADD note text;'
        'COMMENT ON TABLE "{schema}"."{prefix}schedules" IS \'taskiq-sources schema 2\';'
    )
    monkeypatch.setattr("taskiq_sources_postgres.schema.MIGRATIONS", (*MIGRATIONS, Migration("0002_note.sql", newer)))
    later = [PostgresStore(place.dsn, schema=schema) for _ in range(5)]
    await asyncio.gather(*(one.open() for one in later))

    assert list(await later[0].get(["a"])) == ["a"]
    assert "taskiq_schedules.note text" in " ".join(await catalog(place, schema, ""))
    assert list(await store.get(["a"])) == ["a"]  # the older release goes on until it is restarted
    for one in (store, *later):
        await one.close()


def test_each_migration_tells_its_version() -> None:
    """The comment that tells the version is part of every migration, and of the canonical schema."""
    for version, migration in enumerate(MIGRATIONS, start=1):
        assert re.findall(r"'taskiq-sources schema (\d+)'", migration.script) == [str(version)]
    assert f"'taskiq-sources schema {len(MIGRATIONS)}'" in read_sql("taskiq_sources_postgres", "sql/schema.sql")


_OPEN = """
import asyncio, sys
from taskiq_sources_conformance.build import LEASE, NOW, outcome, run, schedule
from taskiq_sources_postgres import PostgresStore

async def main():
    store = PostgresStore(sys.argv[1], schema=sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    await store.open()
    await store.put([schedule(sys.argv[3])])
    await store.close()

asyncio.run(main())
"""


@pytest.mark.process
async def test_many_processes_start_at_once(place: Any, schema: str) -> None:
    """Twenty processes find nothing, not even the schema, and all of them can work at once."""
    command = [sys.executable, "-c", _OPEN, place.dsn, schema]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [
        subprocess.Popen([*command, f"{number:02}"], text=True, **pipes)  # noqa: ASYNC220 - starting is all that is done here
        for number in range(_PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1] for process in processes]

    assert errors == [""] * _PROCESSES
    store = PostgresStore(place.dsn, schema=schema)
    await store.open()
    assert [one.id for one in await store.page(ScheduleQuery(), limit=99)] == [f"{number:02}" for number in range(_PROCESSES)]
    await store.close()


# -- what is not ours ------------------------------------------------------------------------------------------------------------


async def test_a_newer_schema_is_left_alone(place: Any, schema: str) -> None:
    await run_script(place, ddl(schema))
    await place.execute(f"COMMENT ON TABLE {schema}.taskiq_schedules IS 'taskiq-sources schema 9999'")
    before = await catalog(place, schema, "taskiq_")

    with pytest.raises(SchemaVersionError, match=r"version 9999.*upgrade it"):
        await PostgresStore(place.dsn, schema=schema).open()
    assert await catalog(place, schema, "taskiq_") == before


async def test_a_table_of_somebody_else_is_left_alone(place: Any, schema: str) -> None:
    await place.execute(f"CREATE SCHEMA {schema}", f"CREATE TABLE {schema}.taskiq_schedules (id uuid)")
    before = await catalog(place, schema, "taskiq_")

    with pytest.raises(SourceConnectionError, match="choose another prefix"):
        await PostgresStore(place.dsn, schema=schema).open()
    assert await catalog(place, schema, "taskiq_") == before


async def test_a_role_without_the_right_to_create_works_on_tables_that_are_there(place: Any, schema: str) -> None:
    """Without tables the error names the missing right and the way out; with them it needs no more than to write rows."""
    role = f"{place.prefix}app"
    dsn = place.dsn.replace("postgres@", f"{role}@")
    await place.execute(f"CREATE ROLE {role} LOGIN")
    with pytest.raises(SourceConnectionError, match=r"denied.*grant it CREATE on the database.*taskiq_sources_postgres\.ddl"):
        await PostgresStore(dsn, schema=schema).open()
    await place.execute(f"CREATE SCHEMA {schema}", f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    with pytest.raises(SourceConnectionError, match=f'grant it USAGE and CREATE on schema "{schema}"'):
        await PostgresStore(dsn, schema=schema).open()
    await run_script(place, ddl(schema))
    await place.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
    store = PostgresStore(dsn, schema=schema)
    await store.open()

    assert await store.put([schedule()]) == frozenset()
    assert list(await store.get(["a"])) == ["a"]
    await store.close()
    await place.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_an_old_server_is_refused() -> None:
    check_server_version(13, "PostgreSQL at db, database 'orders'")
    with pytest.raises(BackendVersionError, match=r"database 'orders' is version 12; .*13 or newer"):
        check_server_version(12, "PostgreSQL at db, database 'orders'")


# -- arguments -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "Mixed", "with-dash", "1st", 'a"; DROP TABLE x; --', "ümlaut", "a b", "x" * 64, "a\n", 5, None]
)
@pytest.mark.parametrize("field", ["schema", "prefix"])
def test_names_that_are_not_plain_are_refused(field: str, name: Any) -> None:
    with pytest.raises(ScheduleValidationError, match=f"^{field} .*lower-case letters, digits and underscores"):
        PostgresScheduleSource("postgresql://db/orders", **{field: name})
    with pytest.raises(ScheduleValidationError):
        ddl(**{field: name})


async def test_reserved_and_long_names_work(place: Any) -> None:
    """Any name that is taken works: it is always quoted, and the longest index still has a name of its own."""
    schema, prefix = f"user_{place.prefix}".ljust(63, "x"), "select_".ljust(40, "y")
    store = PostgresStore(place.dsn, schema=schema, prefix=prefix)
    await store.open()
    watch = store.watch()
    await watch.__anext__()
    await store.put([schedule()])

    await asyncio.wait_for(watch.__anext__(), 10)
    await watch.aclose()
    await store.close()
    await place.execute(f"DROP SCHEMA {schema} CASCADE")


def test_names_have_channels_and_locks_of_their_own() -> None:
    """Channels differ where schema and prefix differ, however they are cut; locks are those of schemas. Neither ever changes."""
    channels = {Names(schema, prefix).channel for schema, prefix in [("ab", "c"), ("a", "bc"), ("a", "b"), ("public", "taskiq_")]}

    assert len(channels) == 4
    assert max(map(len, channels)) <= 63
    assert Names("a", "b").lock_key == Names("a", "c").lock_key != Names("b", "b").lock_key
    assert Names().channel == "taskiq_sources_ce01c358a76857445938616ac59ff2db"
    assert Names().lock_key == -177708237126804075


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://me:secret@db:5433/orders?sslmode=require", "PostgreSQL at db:5433, database 'orders'"),
        ("postgres://me:secret@db", "PostgreSQL at db, database 'me'"),
        ("postgresql:///orders?host=/var/run&port=5433&password=secret", "PostgreSQL at /var/run:5433, database 'orders'"),
        ("postgresql://me:s%2Fec%40ret@[::1]:5432,db2:1/orders", "PostgreSQL at [::1]:5432,db2:1, database 'orders'"),
    ],
)
def test_a_dsn_is_shown_without_its_credentials(dsn: str, shown: str) -> None:
    assert describe(dsn) == shown
    assert shown in repr(PostgresScheduleSource(dsn))


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql+asyncpg://me:secret@db/orders",
        "mysql://me:secret@db/orders",
        "host=db user=me password=secret",
        "postgresql://me:se/secret@db/orders",
        "postgresql://me:se#secret@db/orders",
        "postgresql://me:se?secret@db/orders",
        "postgresql://me:secret",
        "postgresql://me:s@e/secret@db/orders",
        "",
    ],
)
def test_a_dsn_that_is_none_is_refused_without_showing_it(dsn: str) -> None:
    with pytest.raises(ScheduleValidationError) as caught:
        PostgresScheduleSource(dsn)

    assert "secret" not in str(caught.value)
    assert re.search(r"use postgresql://|percent-encode|either a dsn or a pool", str(caught.value))


@pytest.mark.parametrize("field", ["connect_timeout", "command_timeout", "max_connections"])
def test_limits_of_nothing_are_refused(field: str) -> None:
    value: Any = 0 if field == "max_connections" else timedelta(0)
    with pytest.raises(ScheduleValidationError, match=field):
        PostgresScheduleSource("postgresql://db/orders", **{field: value})


def test_either_a_dsn_or_a_pool_is_needed() -> None:
    with pytest.raises(ScheduleValidationError, match="either a dsn or a pool"):
        PostgresScheduleSource()


# -- the command and the statements ----------------------------------------------------------------------------------------------


def test_the_command_prints_what_the_function_returns() -> None:
    command = [sys.executable, "-m", "taskiq_sources_postgres.ddl", "--schema", "jobs", "--prefix", "cron_"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == ddl("jobs", "cron_")
    assert done.stdout.startswith('CREATE SCHEMA IF NOT EXISTS "jobs";')


def test_the_command_refuses_other_names() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "taskiq_sources_postgres.ddl", "--prefix", 'x"'], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "lower-case letters" in done.stderr


async def test_every_statement_is_valid(place: Any) -> None:
    store = PostgresStore(place.dsn, prefix=place.prefix)
    await store.open()
    text = read_sql("taskiq_sources_postgres", "sql/queries.sql")
    statements = Statements(Names("public", place.prefix).fill(text), marker="$")
    connection = await asyncpg.connect(place.dsn)
    for name in statements:
        base, _, condition = name.partition(".")
        sql, _ = statements.bind(base, _Anything(), [condition] if condition else [])
        await connection.prepare(sql)
    await connection.close()
    await store.close()

    assert len(list(statements)) == len(re.findall("-- name:", text)) > 20


@pytest.mark.parametrize(
    "column",
    [
        [],
        [""],
        [None],
        [None, "", " ", "NULL", "null", None],
        ['"', "\\", '\\"', ',"', "{}", "a,b", "'", "\n\t\r\x01\x7f", '","', "€𝄞e\u0301", "%s $1 :id"],
        ["x" * 1_000_000, None],
    ],
)
async def test_lists_of_texts_arrive_as_they_are(place: Any, column: list[str | None]) -> None:
    """Whatever stands in them: they are passed as one text that PostgreSQL reads as an array."""
    connection = await asyncpg.connect(place.dsn)
    arrived = await connection.fetchval("SELECT $1::text::text[]", _array_literal(column))
    await connection.close()

    assert arrived == column


def test_what_is_equal_in_a_batch_is_passed_once() -> None:
    """To write and read it 500 times would be a tenth of settling. That it is understood, the rules for batches say."""
    claims = [Claim(schedule(str(number)), f"token-{number}", NOW, NOW + LEASE) for number in range(500)]
    outcomes = [outcome(claim, finished=True, runs=(run(f"{claim.schedule.id}@1"),)) for claim in claims]
    store = PostgresStore("postgresql://localhost/db")
    _, arguments = store.bind("settle", columns.outcome_columns(outcomes))
    repeated = [argument for argument in arguments if isinstance(argument, str) and argument.count(",") == 499]

    assert len(arguments) > 20
    assert len(repeated) < 8, "ids, tokens and times"


async def test_texts_that_postgres_cannot_hold_are_refused(place: Any) -> None:
    """They do not become several."""
    connection = await asyncpg.connect(place.dsn)
    for text in ("a\0b", "a\ud800b"):
        with pytest.raises((asyncpg.PostgresError, asyncpg.DataError, UnicodeError)):
            await connection.fetchval("SELECT $1::text::text[]", _array_literal([text]))
    await connection.close()


class _Anything(dict[str, None]):
    def __missing__(self, key: str) -> None:
        return None


# -- helpers ---------------------------------------------------------------------------------------------------------------------


async def run_script(place: Any, script: str) -> None:
    """Run several statements in one transaction, as ``psql -1`` would."""
    connection = await asyncpg.connect(place.dsn)
    try:
        async with connection.transaction():
            await connection.execute(script)
    finally:
        await connection.close()


async def catalog(place: Any, schema: str, prefix: str) -> list[str]:
    """Return everything that PostgreSQL knows of the tables of a prefix, a line each, without the prefix and the schema."""
    rows = await place.execute(
        f"""
        SELECT c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || ' '
            || coalesce((SELECT collname FROM pg_collation WHERE oid = a.attcollation), '-') || ' '
            || coalesce((SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = c.oid AND adnum = a.attnum), '-')
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = '{schema}'::regnamespace AND attnum > 0 AND c.relname LIKE '{prefix}%'
        UNION ALL
        SELECT c.relname || ' ' || c.relkind::text || ' ' || coalesce(c.reloptions::text, '-') || ' '
            || coalesce(obj_description(c.oid, 'pg_class'), '-') || ' '
            || CASE WHEN c.relkind = 'i' THEN pg_get_indexdef(c.oid) ELSE '' END
        FROM pg_class c WHERE c.relnamespace = '{schema}'::regnamespace AND c.relname LIKE '{prefix}%'
        UNION ALL
        SELECT conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = '{schema}'::regnamespace AND conname LIKE '{prefix}%' AND contype <> 'n'
        """
    )
    return sorted(row[0].replace(f"{schema}.", "").replace(prefix, "") for row in rows)
