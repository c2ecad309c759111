"""Which random orders the tests try that have them."""

from __future__ import annotations

import os


def seeds(usual: str) -> range:
    """Return those that ``nox -s races`` asks for: other ones, and more than the usual."""
    return range(*map(int, os.environ.get("TASKIQ_SOURCES_SEEDS", usual).split("-")))
