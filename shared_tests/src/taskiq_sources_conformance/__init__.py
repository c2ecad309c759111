"""The conformance suite of taskiq-sources: subclass it, and your store is tested like ours.

::

    from taskiq_sources_conformance import StoreConformance

    class TestMyStore(StoreConformance):
        backend = "mystore"

        @pytest.fixture
        def make_store(self, tmp_path):
            return functools.partial(MyStore, tmp_path / "schedules")

The names below are imported when they are first used: pytest loads this package as a plugin in every session, and sessions that
do not run the suite should not pay for it (nor should coverage miss modules that were imported before it started).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from taskiq_sources_conformance.base import overrides_rule
    from taskiq_sources_conformance.source import SourceConformance
    from taskiq_sources_conformance.state_machine import StoreStateMachine
    from taskiq_sources_conformance.store import StoreConformance, Unreachable

__all__ = ["SourceConformance", "StoreConformance", "StoreStateMachine", "Unreachable", "overrides_rule"]

_HOMES = {
    "SourceConformance": "taskiq_sources_conformance.source",
    "StoreConformance": "taskiq_sources_conformance.store",
    "StoreStateMachine": "taskiq_sources_conformance.state_machine",
    "Unreachable": "taskiq_sources_conformance.store",
    "overrides_rule": "taskiq_sources_conformance.base",
}

# Without this, a failing rule would say "AssertionError" and nothing else: pytest rewrites asserts in test files only.
pytest.register_assert_rewrite("taskiq_sources_conformance.rules", "taskiq_sources_conformance.build")
pytest.register_assert_rewrite("taskiq_sources_conformance.source_rules", "taskiq_sources_conformance.source_build")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
