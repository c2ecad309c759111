"""The MongoDB stores and the source against every rule of the contract: with and without a replica set, by both drivers."""

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance
from taskiq_sources_conformance.stock import StockLoopConformance


class TestMongoStore(StoreConformance):
    backend = "mongo"
    make_store = pytest.fixture(lambda self, place: place.make_store_of(self))
    make_store_elsewhere = pytest.fixture(lambda _self, place: place.store_elsewhere())
    unreachable = pytest.fixture(lambda _self, place: place.unreachable())


class TestStandaloneStore(TestMongoStore):
    backend = "mongo_standalone"


class TestMotorStore(TestMongoStore):
    backend = "mongo_motor"


class TestMotorStandaloneStore(TestMongoStore):
    backend = "mongo_motor_standalone"


class TestMongoSource(SourceConformance, StockLoopConformance):
    backend = "mongo"
    make_source = pytest.fixture(lambda _self, place: place.source)
