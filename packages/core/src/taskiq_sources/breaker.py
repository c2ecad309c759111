"""The circuit breaker: while the broker as a whole is down, claims are not burnt on it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeAlias

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]


class Breaker:
    """Opens after a number of failures in a row; after a pause a single send is let through, which closes it or opens it longer.

    Args:
        threshold: How many failures in a row open it.
        pause: How long it stays open the first time.
        longest_pause: How long it stays open at most; each failed trial doubles the pause.
        monotonic: Seconds of a clock that is never stepped.
    """

    def __init__(self, threshold: int, pause: timedelta, longest_pause: timedelta, monotonic: Callable[[], float]) -> None:
        self._threshold = threshold
        self._first_pause = pause.total_seconds()
        self._longest_pause = longest_pause.total_seconds()
        self._monotonic = monotonic
        self._failures = 0
        self._pause = self._first_pause
        self._open_until: float | None = None

    @property
    def state(self) -> BreakerState:
        """``closed``: all is well. ``open``: nothing is to be sent. ``half_open``: one send is to be tried."""
        if self._open_until is None:
            return "closed"
        return "open" if self._monotonic() < self._open_until else "half_open"

    @property
    def remaining(self) -> float:
        """Seconds until it is half open; 0 if it is not open."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._monotonic())

    def succeeded(self) -> None:
        """Take note of a send that the broker took."""
        self._failures = 0
        self._pause = self._first_pause
        self._open_until = None

    def failed(self) -> bool:
        """Take note of a failed send; return whether that opened the breaker."""
        self._failures += 1
        state = self.state
        if state == "open" or self._failures < self._threshold:
            return False
        if state == "half_open":
            self._pause = min(self._pause * 2, self._longest_pause)
        self._open_until = self._monotonic() + self._pause
        return True
