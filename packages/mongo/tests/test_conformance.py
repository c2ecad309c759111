"""The MongoDB stores and the source against every rule of the contract: with and without a replica set, by both drivers."""

import itertools
from typing import Any

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance, overrides_rule
from taskiq_sources_conformance.build import outcome, recorded, run, schedule, take_one
from taskiq_sources_conformance.stock import StockLoopConformance


class TestMongoStore(StoreConformance):
    backend = "mongo"
    make_store = pytest.fixture(lambda self, place: place.make_store_of(self))
    make_store_elsewhere = pytest.fixture(lambda _self, place: place.store_elsewhere())
    unreachable = pytest.fixture(lambda _self, place: place.unreachable())


class TestStandaloneStore(TestMongoStore):
    backend = "mongo_standalone"

    @overrides_rule(
        "without transactions, it is told a moment after settling whether a claim goes on: not if it was deleted by then"
    )
    async def test_a_call_amid_a_settle_that_goes_on(self, store: Any, other: Any) -> None:
        """What is deleted between the two is lost, and so not sent, although what was settled counts."""
        await store.put([schedule()])
        claim = await take_one(store)
        steps = itertools.count()

        async def delete() -> None:
            if next(steps) == 1:
                assert await other.delete(["a"]) == {"a"}

        with self.each_step(store, delete):
            lost = await store.settle([outcome(claim, release=False, runs=(run(),))])

        assert lost == {"a"}
        assert await recorded(store) == ["a@1"]


class TestMotorStore(TestMongoStore):
    backend = "mongo_motor"


class TestMotorStandaloneStore(TestStandaloneStore):
    backend = "mongo_motor_standalone"


class TestMongoSource(SourceConformance, StockLoopConformance):
    backend = "mongo"
    make_source = pytest.fixture(lambda _self, place: place.source)
