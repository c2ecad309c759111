"""The SQLite store and source against every rule of the contract."""

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance
from taskiq_sources_conformance.build import TIMEOUT
from taskiq_sources_conformance.stock import StockLoopConformance
from taskiq_sources_sqlite import SQLiteScheduleSource, SQLiteStore, operations


class TestSQLiteStore(StoreConformance):
    backend = "sqlite"
    make_store = pytest.fixture(lambda _self, tmp_path: functools.partial(SQLiteStore, tmp_path / "schedules.db"))

    async def server_version(self, store: SQLiteStore) -> str:
        return sqlite3.sqlite_version

    async def make_schema_newer(self, store: SQLiteStore) -> None:
        with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
            connection.execute("INSERT INTO taskiq_sources_migrations (version, name) VALUES (9999, 'from the future')")

    @contextlib.contextmanager
    def each_step(self, store: SQLiteStore, before: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """Do something before each statement outside of a transaction, and before each commit."""
        call, transaction, loop = store._session.call, operations.write_transaction, asyncio.get_running_loop()
        ours: set[sqlite3.Connection] = set()

        def step(connection: sqlite3.Connection) -> None:
            if connection in ours:
                asyncio.run_coroutine_threadsafe(before(), loop).result(TIMEOUT)

        @contextlib.contextmanager
        def stepwise(connection: sqlite3.Connection) -> Iterator[None]:
            step(connection)
            with transaction(connection):
                yield
                step(connection)

        def on_the_thread(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], Any]) -> Any:
            ours.add(connection)
            step(connection)
            return work(connection)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store._session, "call", lambda work: call(functools.partial(on_the_thread, work=work)))
            patch.setattr(operations, "write_transaction", stepwise)
            yield


class TestSQLiteSource(SourceConformance, StockLoopConformance):
    backend = "sqlite"
    make_source = pytest.fixture(lambda _self, tmp_path: functools.partial(SQLiteScheduleSource, tmp_path / "schedules.db"))
