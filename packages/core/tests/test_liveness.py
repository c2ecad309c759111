"""The liveness file of a scheduler, on a real event loop: it is touched on a thread."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from taskiq import InMemoryBroker

from taskiq_sources import DurableScheduler, InMemoryScheduleSource
from taskiq_sources.reach import Reach

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


async def test_a_liveness_file_is_not_touched_while_a_store_is_waited_for_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To start the process again helps then."""
    monkeypatch.setattr("taskiq_sources.scheduler._LIVENESS_INTERVAL", 0.001)
    looks = 0
    hanging = True

    def hangs(_reach: Reach) -> bool:
        nonlocal looks
        looks += 1
        return hanging

    monkeypatch.setattr(Reach, "hangs", property(hangs))
    path = tmp_path / "alive"
    async with DurableScheduler(InMemoryBroker(), [InMemoryScheduleSource()], liveness_file=path):
        for _ in range(10_000):
            if looks >= 5:
                break
            await asyncio.sleep(0.001)
        assert looks >= 5
        assert not path.exists()

        hanging = False
        for _ in range(10_000):
            if path.exists():
                break
            await asyncio.sleep(0.001)
        assert path.exists()
