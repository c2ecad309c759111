"""The SQLite store and source against every rule of the contract."""

import functools
import sqlite3
from contextlib import closing

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance
from taskiq_sources_conformance.stock import StockLoopConformance
from taskiq_sources_sqlite import SQLiteScheduleSource, SQLiteStore


class TestSQLiteStore(StoreConformance):
    backend = "sqlite"
    make_store = pytest.fixture(lambda _self, tmp_path: functools.partial(SQLiteStore, tmp_path / "schedules.db"))

    async def server_version(self, store: SQLiteStore) -> str:
        return sqlite3.sqlite_version

    async def make_schema_newer(self, store: SQLiteStore) -> None:
        with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
            connection.execute("INSERT INTO taskiq_sources_migrations (version, name) VALUES (9999, 'from the future')")


class TestSQLiteSource(SourceConformance, StockLoopConformance):
    backend = "sqlite"
    make_source = pytest.fixture(lambda _self, tmp_path: functools.partial(SQLiteScheduleSource, tmp_path / "schedules.db"))
