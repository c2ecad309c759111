"""Conformance classes of stores that other processes can be given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from file_stores import FileStore
from intact import BrokenConformance, IntactStore


class FileConformance(BrokenConformance):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], IntactStore]:
        return partial(self.broken, tmp_path / "schedules")


DEFECTS = {defect.__name__: defect for defect in FileStore.__subclasses__()}
for store in (FileStore, *DEFECTS.values()):
    globals()[f"Test{store.__name__}"] = type(
        f"Test{store.__name__}", (FileConformance,), {"broken": store, "backend": store.__name__, "__module__": __name__}
    )
