"""Fixtures of the tests of what only SQLite has; the contract's rules are in the conformance suite."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from taskiq_sources_sqlite import SQLiteStore
from taskiq_sources_sqlite.schema import prepare


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "schedules.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    """An open store on a new file."""
    handle = SQLiteStore(path)
    await handle.open()
    yield handle
    await handle.close()


@pytest.fixture
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """SQLite's own view of a file that was made ready for schedules."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        prepare(connection, str(path), synchronous="NORMAL", patience=5)
        yield connection
