"""The circuit breaker: while the broker as a whole is down, claims are not burnt on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeAlias

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]

_REMEMBERED = 600.0  # seconds for which a failure is remembered: what always fails is tried each minute
_MOST_REMEMBERED = 10_000  # of more, some may open the breaker once again


class Breaker:
    """Opens after a number of failures in a row; after a pause a few sends are tried, which close it, or open it for longer.

    What has failed before the broker took something else fails for a reason of its own, and says nothing of the broker: so a few
    schedules that always fail neither open it for all others, nor stand in the way of those that would close it.

    Args:
        threshold: How many failures in a row open it; a fifth as many are tried after a pause, and open it again.
        pause: How long it stays open the first time.
        longest_pause: How long it stays open at most; each trial that fails doubles the pause.
        monotonic: Seconds of a clock that is never stepped.
    """

    def __init__(self, threshold: int, pause: timedelta, longest_pause: timedelta, monotonic: Callable[[], float]) -> None:
        self._threshold = threshold
        self._first_pause = pause.total_seconds()
        self._longest_pause = longest_pause.total_seconds()
        self._monotonic = monotonic
        self._failures = 0
        # When schedules failed that were not sent since: after the last message that the broker took was begun, and before that.
        self._suspects: dict[str, float] = {}
        self._known: dict[str, float] = {}
        self._pause = self._first_pause
        self._open_until: float | None = None
        #: From when on a send is one of those that are tried; what began before that says nothing more of the broker.
        self.half_open_since = -math.inf

    @property
    def state(self) -> BreakerState:
        """``closed``: all is well. ``open``: nothing is to be sent. ``half_open``: a few sends are to be tried."""
        if self._open_until is None:
            return "closed"
        return "open" if self._monotonic() < self._open_until else "half_open"

    @property
    def trials(self) -> int:
        """How many sends are to be tried while it is half open."""
        return -(-self._threshold // 5)

    @property
    def failing(self) -> int:
        """How many schedules have failed in the last minutes, and were not sent since."""
        since = self._monotonic() - _REMEMBERED
        return sum(failed_at > since for failed_at in (self._known | self._suspects).values())

    @property
    def remaining(self) -> float:
        """Seconds until it is half open; 0 if it is not open."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._monotonic())

    def succeeded(self, schedule_id: str, began: float) -> None:
        """Take note that the broker took a message of this schedule, whose send began then: what failed later may be an outage.

        Args:
            schedule_id: The schedule.
            began: On the same clock as `monotonic`.
        """
        if self._suspects:
            self._known |= {name: failed_at for name, failed_at in self._suspects.items() if failed_at <= began}
            self._suspects = {name: failed_at for name, failed_at in self._suspects.items() if failed_at > began}
        self._suspects.pop(schedule_id, None)
        self._known.pop(schedule_id, None)
        self._failures = len(self._suspects)
        self._pause = self._first_pause
        if self._open_until is not None:
            self.half_open_since, self._open_until = min(self._open_until, self._monotonic()), None

    def failed(self, schedule_id: str, began: float) -> bool:
        """Take note of a failed send of this schedule, which began then; return whether that opened the breaker."""
        now, state = self._monotonic(), self.state
        if began < self.half_open_since:
            return False
        if self._known.get(schedule_id, now - _REMEMBERED) > now - _REMEMBERED:
            self._known[schedule_id] = now
            return False
        if len(self._suspects) + len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
            self._suspects.clear()
        self._suspects[schedule_id] = now
        self._failures += 1
        if self._failures < (self._threshold if state == "closed" else self.trials):
            return False
        if state == "half_open":
            self._pause = min(self._pause * 2, self._longest_pause)
        self.half_open_since = self._open_until = now + self._pause
        self._failures = 0
        return True
