"""The PostgreSQL store against every rule of the contract."""

from __future__ import annotations

import pytest

from taskiq_sources_conformance import StoreConformance
from taskiq_sources_conformance.store import MakeStore
from taskiq_sources_postgres import PostgresStore


class TestPostgresStore(StoreConformance):
    backend = "postgres"

    @pytest.fixture
    def make_store(self, url: str, prefix: str) -> MakeStore:
        return lambda: PostgresStore(url, prefix=prefix)
