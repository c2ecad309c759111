"""The in-memory store keeps the contract, as every other backend does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from taskiq_sources.memory import MemoryData, MemoryStore
from taskiq_sources_conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    backend = "memory"

    @pytest.fixture
    def make_store(self) -> Callable[[], MemoryStore]:
        data = MemoryData()
        return lambda: MemoryStore(data)
