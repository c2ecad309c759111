"""The application, on a machine whose wall clock is stepped when the process gets SIGUSR1."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime, timedelta, tzinfo
from types import FrameType
from typing import Any

import engine_app
import taskiq.cli.scheduler.run

from taskiq_sources import clock

_time = time.time  # noqa: TID251 - what is stepped
_step = timedelta(0)


class SteppedDatetime(datetime):
    """``datetime`` as this process sees it."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        """Return the wall clock, stepped."""
        return datetime.now(tz) + _step  # noqa: TID251


def step(_number: int, _frame: FrameType | None) -> None:
    """Step the wall clock."""
    global _step  # noqa: PLW0603 - a process has one wall clock
    _step = timedelta(seconds=engine_app.CONFIG["step"])
    engine_app.write("stepped", pid=os.getpid())


signal.signal(signal.SIGUSR1, step)
time.time = lambda: _time() + _step.total_seconds()  # noqa: TID251
clock.datetime = SteppedDatetime  # type: ignore[misc]
taskiq.cli.scheduler.run.datetime = SteppedDatetime  # type: ignore[misc]
if "sync" in engine_app.CONFIG:
    clock.SYNC_INTERVAL = timedelta(seconds=engine_app.CONFIG["sync"])

scheduler = engine_app.scheduler
