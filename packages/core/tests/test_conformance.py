"""The in-memory store and source keep every rule, as every other backend does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from taskiq_sources.memory import InMemoryScheduleSource, MemoryData, MemoryStore
from taskiq_sources_conformance import SourceConformance, StoreConformance
from taskiq_sources_conformance.stock import StockLoopConformance


class TestMemoryStore(StoreConformance):
    backend = "memory"

    @pytest.fixture
    def make_store(self) -> Callable[[], MemoryStore]:
        data = MemoryData()
        return lambda: MemoryStore(data)


class TestMemorySource(SourceConformance, StockLoopConformance):
    backend = "memory"

    @pytest.fixture
    def make_source(self) -> Callable[..., InMemoryScheduleSource]:
        data = MemoryData()
        return lambda **options: InMemoryScheduleSource(data, **options)
