"""The MongoDB stores and the source against every rule of the contract: with and without a replica set, by both drivers."""

from typing import Any

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance
from taskiq_sources_conformance.stock import StockLoopConformance


class TestMongoStore(StoreConformance):
    backend = "mongo"
    unreachable = pytest.fixture(lambda _self, place: place.unreachable())

    @pytest.fixture
    def make_store(self, place: Any) -> Any:
        self.place = place
        return place.store

    async def server_version(self, store: Any) -> Any:
        return self.place.version()

    async def make_schema_newer(self, store: Any) -> None:
        self.place.make_schema_newer()

    async def drop_connections(self, store: Any) -> None:
        self.place.cut_connections()


class TestStandaloneStore(TestMongoStore):
    backend = "mongo_standalone"


class TestMotorStore(TestMongoStore):
    backend = "mongo_motor"


class TestMotorStandaloneStore(TestMongoStore):
    backend = "mongo_motor_standalone"


class TestMongoSource(SourceConformance, StockLoopConformance):
    backend = "mongo"
    make_source = pytest.fixture(lambda _self, place: place.source)
