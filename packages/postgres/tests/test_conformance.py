"""The PostgreSQL stores and the source against every rule of the contract."""

from typing import Any

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance
from taskiq_sources_conformance.stock import StockLoopConformance


class TestPostgresStore(StoreConformance):
    backend = "postgres"
    make_store = pytest.fixture(lambda _self, either_store: either_store)
    unreachable = pytest.fixture(lambda _self, place: place.unreachable())
    place: Any  # that of the test, which either_store puts here

    async def server_version(self, store: Any) -> str:
        return str(await self.place.server_version())

    async def make_schema_newer(self, store: Any) -> None:
        await self.place.make_schema_newer()

    async def drop_connections(self, store: Any) -> None:
        await self.place.cut_connections()


class TestPostgresSource(SourceConformance, StockLoopConformance):
    backend = "postgres"
    make_source = pytest.fixture(lambda _self, place: place.source)
