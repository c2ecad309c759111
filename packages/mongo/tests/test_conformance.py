"""The MongoDB stores and the source against every rule of the contract: with and without a replica set, by both drivers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance, Unreachable
from taskiq_sources_conformance.stock import StockLoopConformance
from taskiq_sources_mongo import MongoScheduleSource, MongoStore, StandaloneMongoStore


class TestMongoStore(StoreConformance):
    backend, make = "mongo", MongoStore

    @pytest.fixture
    def make_store(self, place: Any) -> Callable[[], MongoStore]:
        self.place = place
        return lambda: self.make(**place.arguments())

    @pytest.fixture
    def unreachable(self) -> Unreachable:
        return Unreachable(
            MongoStore("mongodb://me:s3cr3t@127.0.0.1:9/orders?serverSelectionTimeoutMS=300"), ("127.0.0.1:9", "orders"), "s3cr3t"
        )

    async def server_version(self, store: Any) -> str:
        with self.place.direct() as database:
            return str(database.command("buildInfo")["version"])

    async def make_schema_newer(self, store: Any) -> None:
        with self.place.direct() as database:
            database["taskiq_meta"].update_one({}, {"$set": {"version": 9999}})

    async def drop_connections(self, store: Any) -> None:
        self.place.cut_connections()


class TestStandaloneStore(TestMongoStore):
    backend, make = "mongo_standalone", StandaloneMongoStore


class TestMotorStore(TestMongoStore):
    backend = "mongo_motor"


class TestMotorStandaloneStore(TestStandaloneStore):
    backend = "mongo_motor_standalone"


class TestMongoSource(SourceConformance):
    backend = "mongo"

    @pytest.fixture
    def make_source(self, place: Any) -> Callable[..., MongoScheduleSource]:
        return lambda **options: MongoScheduleSource(**place.arguments(), **options)


class TestMongoUnderTheStockLoop(StockLoopConformance):
    backend = "mongo"
    make_source = TestMongoSource.make_source
