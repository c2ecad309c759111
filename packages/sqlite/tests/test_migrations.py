"""Migrations: each once, in order, all or none, and never at the cost of a schedule."""

# ruff: noqa: ASYNC240 - a test may wait for the disk

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from taskiq_sources.errors import SchemaVersionError
from taskiq_sources.rows import schedule_from_row
from taskiq_sources.sql import Migration
from taskiq_sources.sql.columns import schedule_columns
from taskiq_sources_conformance.build import schedule
from taskiq_sources_sqlite import SQLiteStore
from taskiq_sources_sqlite.operations import run
from taskiq_sources_sqlite.schema import MIGRATIONS, migrate

pytestmark = pytest.mark.anyio

NEXT = Migration(
    "next.sql",
    "ALTER TABLE taskiq_sources_schedules ADD COLUMN note TEXT;\nCREATE TABLE taskiq_sources_notes (text TEXT);\n",
)
BROKEN = Migration("broken.sql", f"{NEXT.script}CREATE NONSENSE;\n")
NEWER = len(MIGRATIONS) + 1


def applied(database: sqlite3.Connection) -> list[tuple[int, str]]:
    return [tuple(row) for row in database.execute("SELECT version, name FROM taskiq_sources_migrations ORDER BY version")]


def objects(database: sqlite3.Connection) -> list[tuple[str, str]]:
    return [tuple(row) for row in database.execute("SELECT name, coalesce(sql, '') FROM sqlite_master ORDER BY name")]


def test_a_new_file_gets_all_migrations(database: sqlite3.Connection) -> None:
    assert applied(database) == [(version, migration.name) for version, migration in enumerate(MIGRATIONS, start=1)]


def test_a_migrated_file_is_left_as_it_is(database: sqlite3.Connection, path: Path) -> None:
    before = database.execute("PRAGMA schema_version").fetchone()[0], applied(database)

    migrate(database, str(path))

    assert (database.execute("PRAGMA schema_version").fetchone()[0], applied(database)) == before


def test_an_older_file_gets_what_it_lacks_and_keeps_its_schedules(database: sqlite3.Connection, path: Path) -> None:
    run(database, "put", {**schedule_columns([schedule("kept", document="mine")]), "replace": True})

    migrate(database, str(path), [*MIGRATIONS, NEXT])

    assert applied(database)[-1] == (NEWER, NEXT.name)
    assert schedule_from_row(run(database, "get", {"ids": ["kept"]})[0]).document == "mine"


def test_a_migration_that_fails_changes_nothing(database: sqlite3.Connection, path: Path) -> None:
    before = objects(database), applied(database)

    with pytest.raises(sqlite3.OperationalError, match="NONSENSE"):
        migrate(database, str(path), [*MIGRATIONS, BROKEN])

    assert (objects(database), applied(database)) == before
    assert not database.in_transaction


async def test_a_newer_file_is_refused_byte_for_byte_unchanged(store: SQLiteStore, path: Path) -> None:
    await store.put([schedule()])
    await store.close()
    database = sqlite3.connect(path, isolation_level=None)
    migrate(database, str(path), [*MIGRATIONS, NEXT])
    database.execute("PRAGMA journal_mode = DELETE")
    database.close()
    before = path.read_bytes()

    with pytest.raises(SchemaVersionError, match=rf"version {NEWER}.*up to {len(MIGRATIONS)}: upgrade"):
        await store.open()

    assert path.read_bytes() == before
