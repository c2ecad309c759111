"""The MongoDB store against every rule of the contract."""

from __future__ import annotations

import pytest

from taskiq_sources_conformance import StoreConformance
from taskiq_sources_conformance.store import MakeStore
from taskiq_sources_mongo import MongoStore, StandaloneMongoStore


class TestStandalone(StoreConformance):
    backend, server, make = "mongo", "standalone", StandaloneMongoStore

    @pytest.fixture
    def make_store(self, request: pytest.FixtureRequest, database: str) -> MakeStore:
        url = request.getfixturevalue(self.server)
        return lambda: self.make(url, database=database)


class TestReplicaSet(TestStandalone):
    backend, server, make = "mongo (replica set)", "replica_set", MongoStore
