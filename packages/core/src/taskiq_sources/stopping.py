"""SIGTERM and SIGINT as the cancellation on which taskiq's command line shuts down, also for PID 1. No engine, no store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import Any

logger = logging.getLogger("taskiq_sources")


class StopSignals:
    """Turns signals to stop into a cancellation of the task that began to heed them. A second one ends the process at once."""

    def __init__(self) -> None:
        self._heeded: list[signal.Signals] = []

    def heed(self) -> None:
        """Cancel the running task when a signal comes."""
        loop, main = asyncio.get_running_loop(), asyncio.current_task()
        if main is None:
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows, or a loop outside of the main thread
                loop.add_signal_handler(number, self._stop, main, number)
                self._heeded.append(number)

    def ignore(self) -> None:
        """Leave signals to whoever heeds them else."""
        while self._heeded:
            asyncio.get_running_loop().remove_signal_handler(self._heeded.pop())

    def _stop(self, main: asyncio.Task[Any], number: signal.Signals) -> None:
        logger.info("%s: stopping.", number.name)
        self.ignore()
        main.cancel()
