"""The SQLite store against every rule of the contract."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance import StoreConformance
from taskiq_sources_conformance.store import MakeStore
from taskiq_sources_sqlite import SQLiteStore


class TestSQLiteStore(StoreConformance):
    backend = "sqlite"

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return lambda: SQLiteStore(tmp_path / "schedules.db")

    async def server_version(self, store: ScheduleStore) -> str:
        return sqlite3.sqlite_version

    async def make_schema_newer(self, store: ScheduleStore) -> None:
        assert isinstance(store, SQLiteStore)
        with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
            connection.execute("INSERT INTO taskiq_sources_migrations (version, name) VALUES (9999, 'from the future')")
