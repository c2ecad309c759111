"""The PostgreSQL stores and the source against every rule of the contract."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance, Unreachable
from taskiq_sources_conformance.stock import StockLoopConformance
from taskiq_sources_postgres import PgBouncerStore, PostgresScheduleSource, PostgresStore


class TestPostgresStore(StoreConformance):
    backend = "postgres"

    @pytest.fixture(params=[PostgresStore, PgBouncerStore])
    def make_store(self, request: Any, place: Any) -> Callable[[], PostgresStore]:
        self.place = place
        return functools.partial(request.param, place.dsn, prefix=place.prefix)

    @pytest.fixture
    def unreachable(self) -> Unreachable:
        return Unreachable(PostgresStore("postgresql://me:s3cr3t@127.0.0.1:9/orders"), ("127.0.0.1:9", "orders"), "s3cr3t")

    async def server_version(self, store: Any) -> str:
        return str((await self.place.execute("SHOW server_version"))[0][0])

    async def make_schema_newer(self, store: Any) -> None:
        await self.place.execute(f"COMMENT ON TABLE {self.place.prefix}schedules IS 'taskiq-sources schema 9999'")

    async def drop_connections(self, store: Any) -> None:
        await self.place.cut_connections()


class TestPostgresSource(SourceConformance):
    backend = "postgres"

    @pytest.fixture
    def make_source(self, place: Any) -> Callable[..., PostgresScheduleSource]:
        return functools.partial(PostgresScheduleSource, place.dsn, prefix=place.prefix)


class TestPostgresUnderTheStockLoop(StockLoopConformance):
    backend = "postgres"
    make_source = TestPostgresSource.make_source
