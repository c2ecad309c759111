"""The circuit breaker: while the broker as a whole is down, claims are not burnt on it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeAlias

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]


class Breaker:
    """Opens when one schedule after another fails; after a pause some are tried, which close it, or open it for longer.

    What one schedule does says little of the broker: each counts once, however often it is tried again. So a few that always fail
    neither open it for all others, nor stand in the way of those that would close it.

    Args:
        threshold: How many schedules in a row open it; a third of them are tried after a pause, and open it again.
        pause: How long it stays open the first time.
        longest_pause: How long it stays open at most; each trial in which a send has failed that was no retry doubles the pause.
        monotonic: Seconds of a clock that is never stepped.
    """

    def __init__(self, threshold: int, pause: timedelta, longest_pause: timedelta, monotonic: Callable[[], float]) -> None:
        self._threshold = threshold
        self._first_pause = pause.total_seconds()
        self._longest_pause = longest_pause.total_seconds()
        self._monotonic = monotonic
        self._failing: set[str] = set()
        self._is_news = False
        self._pause = self._first_pause
        self._open_until: float | None = None

    @property
    def state(self) -> BreakerState:
        """``closed``: all is well. ``open``: nothing is to be sent. ``half_open``: a few sends are to be tried."""
        if self._open_until is None:
            return "closed"
        return "open" if self._monotonic() < self._open_until else "half_open"

    @property
    def trials(self) -> int:
        """How many sends are to be tried while it is half open."""
        return -(-self._threshold // 3)

    @property
    def failing(self) -> int:
        """How many schedules have failed since the broker took a message, or since it was opened last."""
        return len(self._failing)

    @property
    def remaining(self) -> float:
        """Seconds until it is half open; 0 if it is not open."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._monotonic())

    def succeeded(self) -> None:
        """Take note of a send that the broker took."""
        self._failing.clear()
        self._is_news = False
        self._pause = self._first_pause
        self._open_until = None

    def failed(self, schedule_id: str, *, is_retry: bool) -> bool:
        """Take note of a failed send of this schedule; return whether that opened the breaker."""
        if self.state == "open":
            return False
        self._failing.add(schedule_id)
        self._is_news |= not is_retry
        if len(self._failing) < (self._threshold if self._open_until is None else self.trials):
            return False
        if self._open_until is not None and self._is_news:
            self._pause = min(self._pause * 2, self._longest_pause)
        self._open_until = self._monotonic() + self._pause
        self._failing.clear()
        self._is_news = False
        return True
