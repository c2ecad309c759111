"""The liveness file of a scheduler, on a real event loop: it is touched on a thread."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from taskiq import InMemoryBroker

from taskiq_sources import DurableScheduler, InMemoryScheduleSource

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class _Heard(logging.Handler):
    """Tells when something is logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.event = asyncio.Event()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
        self.event.set()


async def test_a_liveness_file_that_cannot_be_touched_is_named(tmp_path: Path) -> None:
    """A probe that fails for that has its reason in the log; the engine goes on."""
    heard = _Heard()
    logger = logging.getLogger("taskiq_sources")
    logger.addHandler(heard)
    path = tmp_path / "missing" / "alive"
    try:
        async with DurableScheduler(InMemoryBroker(), [InMemoryScheduleSource()], liveness_file=path) as scheduler:
            await asyncio.wait_for(heard.event.wait(), 10)
            assert scheduler.health().ok
    finally:
        logger.removeHandler(heard)

    assert str(path) in heard.text
