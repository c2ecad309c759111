"""What opening a file does to it, and what it refuses."""

# ruff: noqa: ASYNC240 - a test may wait for the disk

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from taskiq_sources.errors import (
    BackendVersionError,
    ScheduleValidationError,
    SourceClosedError,
    SourceConnectionError,
    TaskiqSourcesError,
)
from taskiq_sources.models import ScheduleQuery
from taskiq_sources_conformance.build import schedule
from taskiq_sources_sqlite import SQLiteStore
from taskiq_sources_sqlite.schema import Synchronous, check_sqlite_version, retry_while_locked

pytestmark = pytest.mark.anyio

FULL, NORMAL = 2, 1


def query(path: Path, sql: str) -> object:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        row = connection.execute(sql).fetchone()
        return row and row[0]


async def test_the_file_uses_a_write_ahead_log(store: SQLiteStore, path: Path) -> None:
    assert query(path, "PRAGMA journal_mode") == "wal"


@pytest.mark.parametrize(("synchronous", "level"), [("FULL", FULL), ("NORMAL", NORMAL)])
async def test_synchronous_reaches_the_connection(path: Path, synchronous: Synchronous, level: int) -> None:
    store = SQLiteStore(path, synchronous=synchronous)
    await store.open()
    try:
        found = await store._session.call(lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0])
    finally:
        await store.close()

    assert found == level


async def test_a_commit_is_on_the_disk_by_default(store: SQLiteStore) -> None:
    assert await store._session.call(lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0]) == FULL


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"synchronous": "OFF"}, "synchronous 'OFF'"),
        ({"busy_timeout": timedelta(seconds=-1)}, "busy_timeout"),
        ({"poll_interval": timedelta(0)}, "poll_interval"),
    ],
)
def test_an_option_out_of_range_is_refused(path: Path, arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ScheduleValidationError, match=named):
        SQLiteStore(path, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("found", [(3, 34, 1), (3, 8, 0)])
def test_an_old_sqlite_library_is_refused(found: tuple[int, ...]) -> None:
    with pytest.raises(BackendVersionError, match=rf"SQLite {'.'.join(map(str, found))}.*needs 3\.35\.0"):
        check_sqlite_version(found)


@pytest.mark.parametrize("found", [(3, 35, 0), (3, 35, 5), (4, 0, 0), sqlite3.sqlite_version_info])
def test_a_new_enough_sqlite_library_is_accepted(found: tuple[int, ...]) -> None:
    check_sqlite_version(found)


def test_a_lock_that_sqlite_does_not_wait_for_is_waited_for(path: Path) -> None:
    attempts = 0
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as application,
        closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection,
    ):
        application.execute("CREATE TABLE customers (name TEXT)")
        application.execute("BEGIN IMMEDIATE")
        application.execute("INSERT INTO customers VALUES ('Ada')")

        def use_wal() -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 2:
                application.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")

        retry_while_locked(use_wal, patience=30)

    assert attempts == 2


def test_waiting_for_a_lock_has_an_end(path: Path) -> None:
    def locked() -> None:
        raise sqlite3.OperationalError("database is locked")

    with pytest.raises(sqlite3.OperationalError, match="locked"):
        retry_while_locked(locked, patience=0.03)


async def test_other_tables_and_their_versions_are_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as application:
        application.execute("CREATE TABLE customers (name TEXT)")
        application.execute("INSERT INTO customers VALUES ('Ada')")
        application.execute("PRAGMA user_version = 42")
        application.execute("PRAGMA application_id = 7")
    store = SQLiteStore(path)

    await store.open()
    await store.put([schedule()])
    await store.close()

    assert [query(path, sql) for sql in ("SELECT name FROM customers", "PRAGMA user_version", "PRAGMA application_id")] == [
        "Ada",
        42,
        7,
    ]


async def test_all_our_tables_and_indexes_carry_our_prefix(store: SQLiteStore, path: Path) -> None:
    assert query(path, "SELECT count(*) FROM sqlite_master WHERE name GLOB 'taskiq_sources_*'")
    assert (
        query(path, "SELECT name FROM sqlite_master WHERE name NOT GLOB 'taskiq_sources_*' AND name NOT GLOB 'sqlite_*'") is None
    )


async def test_a_file_in_utf_16_is_refused_untouched(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as application:
        application.execute("PRAGMA encoding = 'UTF-16le'")
        application.execute("CREATE TABLE customers (name TEXT)")
    before = path.read_bytes()

    with pytest.raises(SourceConnectionError, match="UTF-16le"):
        await SQLiteStore(path).open()

    assert path.read_bytes() == before


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SourceConnectionError, match=r"'.*/absent/schedules\.db'.*directory '.*/absent' does not exist: create it"
    ):
        await SQLiteStore(tmp_path / "absent" / "schedules.db").open()


async def test_a_directory_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(SourceConnectionError, match="this is a directory"):
        await SQLiteStore(tmp_path).open()


async def test_a_file_that_is_no_database_is_refused_untouched(path: Path) -> None:
    text = "This is a letter to my grandmother. " * 100
    path.write_text(text)

    with pytest.raises(SourceConnectionError, match="not a database; name another file"):
        await SQLiteStore(path).open()

    assert path.read_text() == text


async def test_a_failed_open_leaves_the_store_closed_and_can_be_repeated(tmp_path: Path) -> None:
    directory = tmp_path / "later"
    store = SQLiteStore(directory / "schedules.db")
    with pytest.raises(SourceConnectionError):
        await store.open()
    with pytest.raises(SourceClosedError):
        await store.get(["a"])
    directory.mkdir()

    await store.open()

    assert await store.page(ScheduleQuery(), limit=1) == []
    await store.close()


async def test_a_store_that_was_never_opened_says_so(path: Path) -> None:
    store = SQLiteStore(path)

    with pytest.raises(SourceClosedError, match="not open"):
        await store.now()
    with pytest.raises(SourceClosedError, match="not open"):
        await store.get(["a"])
    with pytest.raises(SourceClosedError, match="not open"):
        await anext(store.watch())
    assert not path.exists()


async def test_a_relative_path_stays_the_same_file_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("schedules.db")
    monkeypatch.chdir("/")

    await store.open()
    await store.close()

    assert (tmp_path / "schedules.db").exists()


async def test_our_errors_have_one_root(tmp_path: Path) -> None:
    with pytest.raises(TaskiqSourcesError):
        await SQLiteStore(tmp_path / "absent" / "schedules.db").open()
