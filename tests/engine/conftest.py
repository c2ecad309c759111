"""Real processes on real stores: what the engine promises, proved from outside."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # engine_harness: this folder is no package

from engine_harness import SERVERS, Place, Stage

from taskiq_sources_conformance.servers import url_or_skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name != "test_verdict.py":
            item.add_marker(pytest.mark.process)
            item.add_marker(pytest.mark.skipif(os.name == "nt", reason="there are no such signals on Windows"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def place_for(kind: str, directory: Path, url: str | None = None) -> Place:
    """Return a place of a test's own, or skip with the reason why there is none."""
    if kind == "sqlite":
        return Place(kind, f"sqlite:///{directory}/schedules.db", {})
    package, options = SERVERS[kind]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return Place(kind, url or url_or_skip(kind), options(f"engine_{secrets.token_hex(6)}"))


@pytest.fixture
def backend() -> str:
    """The kind of store; parametrised by the tests that run on several."""
    return "sqlite"


@pytest.fixture
def stage(backend: str, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, place_for(backend, tmp_path))
    yield stage
    stage.close()
