"""The MongoDB stores and the source against every rule of the contract: with and without a replica set, by both drivers."""

import itertools
from typing import Any

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance, overrides_rule
from taskiq_sources_conformance.build import outcome, recorded, run
from taskiq_sources_conformance.rules.interleaving import MEANWHILE, World
from taskiq_sources_conformance.stock import StockLoopConformance


class TestMongoStore(StoreConformance):
    backend = "mongo"
    make_store = pytest.fixture(lambda self, place: place.make_store_of(self))
    make_store_elsewhere = pytest.fixture(lambda _self, place: place.store_elsewhere())
    unreachable = pytest.fixture(lambda _self, place: place.unreachable())


class TestStandaloneStore(TestMongoStore):
    backend = "mongo_standalone"

    @pytest.mark.parametrize("meanwhile", MEANWHILE)
    @overrides_rule(
        "without transactions, whether a claim goes on is told a moment after it was settled: not if it has ended by then"
    )
    async def test_a_call_amid_a_settle_that_goes_on(self, store: Any, other: Any, meanwhile: str) -> None:
        """A claim that others end between the two is lost, and so not sent, although what was settled counts."""
        if meanwhile not in {"deleted", "made anew", "settled", "finished"}:
            await super().test_a_call_amid_a_settle_that_goes_on(store, other, meanwhile)
            return
        world, steps = World(store, other), itertools.count()
        await world.begin("running")

        async def end_it() -> None:
            if next(steps) == 1:
                for call in MEANWHILE[meanwhile]:
                    await call(other, world, "others")

        with self.each_step(store, end_it):
            lost = await store.settle([outcome(claim, release=False, runs=(run("a@2"),)) for claim in world.held[:1]])

        assert lost == {"a"}
        assert "a@2" in await recorded(store)


class TestMotorStore(TestMongoStore):
    backend = "mongo_motor"


class TestMotorStandaloneStore(TestStandaloneStore):
    backend = "mongo_motor_standalone"


class TestMongoSource(SourceConformance, StockLoopConformance):
    backend = "mongo"
    make_source = pytest.fixture(lambda _self, place: place.source)
