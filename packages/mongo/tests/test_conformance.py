"""The MongoDB stores and the source against every rule of the contract: with and without a replica set, by both drivers."""

from __future__ import annotations

from typing import Any

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance, Unreachable
from taskiq_sources_conformance.stock import StockLoopConformance
from taskiq_sources_mongo import MongoStore


class TestMongoStore(StoreConformance):
    backend = "mongo"

    @pytest.fixture
    def make_store(self, place: Any) -> Any:
        self.place = place
        return place.store

    @pytest.fixture
    def unreachable(self) -> Unreachable:
        return Unreachable(
            MongoStore("mongodb://me:s3cr3t@127.0.0.1:9/db?serverSelectionTimeoutMS=300"), ("127.0.0.1:9", "db"), "s3cr3t"
        )

    async def server_version(self, store: Any) -> str:
        return str(self.place.version())

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


class TestMongoSource(SourceConformance):
    backend = "mongo"

    @pytest.fixture
    def make_source(self, place: Any) -> Any:
        return place.source


class TestMongoUnderTheStockLoop(StockLoopConformance):
    backend, make_source = "mongo", TestMongoSource.make_source
