"""What the tests of this package share: servers, clients of both drivers, and databases of their own that are dropped again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pymongo
import pytest

from taskiq_sources_conformance.servers import url_or_skip


@pytest.fixture(scope="session")
def standalone() -> str:
    """The URL of a server that belongs to no replica set."""
    return url_or_skip("mongo")


@pytest.fixture(scope="session")
def replica_set() -> str:
    """The URL of a replica set."""
    return url_or_skip("mongo_replica_set")


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a database of this test's own, on the server whose fixture the test or its class names as ``server``."""
    url = request.getfixturevalue(getattr(request.cls, "server", "standalone"))
    name = f"t{secrets.token_hex(6)}"
    yield name
    with pymongo.MongoClient(url) as client:
        client.drop_database(name)
