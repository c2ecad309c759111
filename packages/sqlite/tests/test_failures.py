"""What becomes of a call when the file fails it, and of the next one."""

# ruff: noqa: ASYNC240 - a test may wait for the disk

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources_conformance.build import TIMEOUT, at, claimable, listed, outcome, put_and_take, read, run, schedule, take
from taskiq_sources_sqlite import SQLiteStore
from taskiq_sources_sqlite.errors import connection_error
from taskiq_sources_sqlite.operations import write_transaction

pytestmark = pytest.mark.anyio


@pytest.fixture
async def impatient(path: Path) -> AsyncIterator[SQLiteStore]:
    """An open store that does not wait for locks."""
    handle = SQLiteStore(path, busy_timeout=timedelta(milliseconds=20))
    await handle.open()
    yield handle
    await handle.close()


async def make_full(store: SQLiteStore) -> None:
    """Make the disk look full to this store: its file may not grow."""
    await store._session.call(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchone())


async def test_a_lock_held_too_long_is_named_and_waited_for_no_longer_than_asked(impatient: SQLiteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as hog:
        hog.execute("BEGIN IMMEDIATE")

        with pytest.raises(SourceConnectionError, match=r"locked for longer than 0\.02 s.*busy_timeout"):
            await impatient.put([schedule()])

        hog.execute("ROLLBACK")
    assert await impatient.put([schedule()]) == frozenset()


async def test_reads_and_idle_claims_need_no_lock(impatient: SQLiteStore, path: Path) -> None:
    await impatient.put([schedule(next_run_at=at(60))])
    with closing(sqlite3.connect(path, isolation_level=None)) as hog:
        hog.execute("BEGIN IMMEDIATE")

        assert await listed(impatient) == ["a"]
        assert await claimable(impatient) == []
        assert await impatient.next_due(at(0)) == at(60)


async def test_a_full_disk_is_named_and_leaves_everything_as_it_was(store: SQLiteStore) -> None:
    await store.put([schedule("a", document="old")])
    await make_full(store)

    with pytest.raises(SourceConnectionError, match="full; free some space"):
        await store.put([schedule("a", document="new"), schedule("b", document="x" * 100_000)])

    assert (await read(store)).document == "old"
    assert await listed(store) == ["a"]


async def test_a_settle_that_fails_writes_neither_the_schedule_nor_its_history(store: SQLiteStore) -> None:
    claim = await put_and_take(store)
    await make_full(store)

    with pytest.raises(SourceConnectionError, match="full"):
        await store.settle([outcome(claim, runs=(run(error="x" * 100_000),))])

    assert await read(store) == claim.schedule
    assert await store.settle([outcome(claim, finished=True, runs=(run(),))]) == frozenset()


@pytest.mark.parametrize("token", ["", "x", "x-", "x-1", "x-99999999999999999999", "x-1.0", "x-\U0001f600"])
async def test_a_token_of_nobody_is_lost_whatever_it_ends_with(store: SQLiteStore, token: str) -> None:
    claim = await put_and_take(store)
    forged = replace(claim, token=token)

    assert await store.settle([outcome(forged, finished=True)]) == {"a"}
    assert await store.renew([forged], until=at(600)) == frozenset()
    assert await read(store) == claim.schedule


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Connection.setlimit is new in Python 3.11")
async def test_claims_that_are_too_long_together_are_made_a_few_at_a_time(store: SQLiteStore) -> None:
    await store.put([schedule(f"s-{number}", document='"' * 1_000) for number in range(8)])
    await store._session.call(lambda connection: connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000))

    claims = [await take(store) for _ in range(3)]

    assert [[claim.schedule.id for claim in each] for each in claims] == [
        ["s-0", "s-1", "s-2"],
        ["s-3", "s-4", "s-5"],
        ["s-6", "s-7"],
    ]


async def test_a_file_that_was_deleted_is_an_error_and_not_a_new_beginning(store: SQLiteStore, path: Path) -> None:
    await store.put([schedule()])
    for file in path.parent.iterdir():
        file.unlink()

    with pytest.raises(SourceConnectionError, match="deleted while it was in use"):
        await store.put([schedule("b")])

    assert not path.exists()


async def test_a_file_that_was_replaced_is_opened_anew(store: SQLiteStore, path: Path, tmp_path: Path) -> None:
    await store.put([schedule("old")])
    restored = SQLiteStore(tmp_path / "restored.db")
    await restored.open()
    await restored.put([schedule("restored")])
    await restored.close()
    for file in path.parent.glob("schedules.db-*"):
        file.unlink()
    os.replace(tmp_path / "restored.db", path)

    assert await listed(store) == ["restored"]
    assert await claimable(store) == ["restored"]


async def test_a_deleted_file_that_is_put_back_is_opened_anew(store: SQLiteStore, path: Path, tmp_path: Path) -> None:
    await store.put([schedule()])
    await store.close()
    await store.open()
    path.rename(tmp_path / "aside.db")
    with pytest.raises(SourceConnectionError):
        await store.get(["a"])
    (tmp_path / "aside.db").rename(path)

    assert await listed(store) == ["a"]


async def test_after_an_error_of_the_file_the_next_call_opens_it_anew(store: SQLiteStore) -> None:
    await make_full(store)
    before = store._session._connection
    with pytest.raises(SourceConnectionError):
        await store.put([schedule(document="x" * 100_000)])

    await store.put([schedule(document="x" * 100_000)])

    assert store._session._connection is not before


async def test_watchers_of_a_file_that_was_replaced_are_told(path: Path) -> None:
    store = SQLiteStore(path, poll_interval=timedelta(milliseconds=1))
    await store.open()
    changes = store.watch()
    await asyncio.wait_for(anext(changes), TIMEOUT)
    path.unlink()
    path.touch()

    with pytest.raises(SourceConnectionError, match="replaced by another file"):
        await asyncio.wait_for(anext(changes), TIMEOUT)
    await store.close()


async def test_watchers_of_a_file_that_was_opened_anew_after_an_error_are_told(path: Path) -> None:
    store = SQLiteStore(path, poll_interval=timedelta(milliseconds=1))
    await store.open()
    changes = store.watch()
    await asyncio.wait_for(anext(changes), TIMEOUT)
    await make_full(store)
    with pytest.raises(SourceConnectionError, match="full"):
        await store.put([schedule(document="x" * 100_000)])
    await store.put([schedule()])

    with pytest.raises(SourceConnectionError, match="opened anew after an error; watch again"):
        await asyncio.wait_for(anext(changes), TIMEOUT)
    await store.close()


async def test_a_change_of_this_handle_is_seen_too(path: Path) -> None:
    store = SQLiteStore(path, poll_interval=timedelta(milliseconds=1))
    await store.open()
    changes = store.watch()
    await asyncio.wait_for(anext(changes), TIMEOUT)

    await store.put([schedule()])

    await asyncio.wait_for(anext(changes), TIMEOUT)
    await store.close()


async def test_a_change_of_another_handle_is_seen_soon(path: Path, store: SQLiteStore) -> None:
    watching = SQLiteStore(path, poll_interval=timedelta(milliseconds=1))
    await watching.open()
    changes = watching.watch()
    await asyncio.wait_for(anext(changes), TIMEOUT)

    await store.put([schedule()])
    await asyncio.wait_for(anext(changes), TIMEOUT)

    assert len(await take(watching)) == 1
    await watching.close()
    assert [change async for change in changes] == []


def test_a_file_that_may_only_be_read_is_explained(database: sqlite3.Connection, path: Path) -> None:
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as reader,
        pytest.raises(sqlite3.OperationalError) as refused,
        write_transaction(reader),
    ):
        reader.execute("DELETE FROM taskiq_sources_runs")

    error = connection_error(str(path), refused.value, busy_timeout=5)

    assert f"{str(path)!r} cannot be used: attempt to write a readonly database; give this user the right to write" in str(error)


def test_an_error_without_a_known_fix_still_names_the_file_and_the_reason(path: Path) -> None:
    error = connection_error(str(path), sqlite3.OperationalError("disk I/O error"), busy_timeout=5)

    assert (
        str(error) == f"SQLite database {str(path)!r} cannot be used: disk I/O error; check the file, its directory and the disk"
    )


def test_the_name_of_a_directory_is_not_taken_for_a_reason(tmp_path: Path) -> None:
    locked = tmp_path / "locked and full"
    locked.mkdir()

    error = connection_error(str(locked / "s.db"), sqlite3.OperationalError("disk I/O error"), busy_timeout=5)

    assert "busy_timeout" not in str(error)
    assert "free some space" not in str(error)


async def test_a_bug_in_a_statement_is_not_dressed_up_as_a_failing_file(store: SQLiteStore) -> None:
    def violate(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO taskiq_sources_schedules (id) VALUES ('a')")

    with pytest.raises(sqlite3.IntegrityError):
        await store._session.call(violate)
