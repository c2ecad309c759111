"""How many occurrences to claim at a time, learnt from how fast they are sent. Counts; knows no store and no broker."""

from __future__ import annotations

_SOON = 0.25  # seconds; what is claimed at a time is to be sent within about this: the rest is for other schedulers
_AHEAD = 0.05  # seconds; what waits to be sent when more is claimed is to last for about this: longer than a store takes


class Pace:
    """Says how much to claim, and when.

    Claims are few while sends are slow, and as many as one call takes where sends are fast. Then, too, more is claimed while much
    is still waiting, so that sends do not wait for the store.

    Args:
        lowest: How many to claim at a time at least: as many as can be sent at once.
        highest: How many at most.
    """

    def __init__(self, lowest: int, highest: int) -> None:
        self._lowest = min(lowest, highest)
        self._highest = highest
        self._sent = 0
        self._since = 0.0
        #: How many to claim at a time.
        self.batch = self._lowest
        #: More is to be claimed when no more than this wait to be sent.
        self.low_mark = self.batch // 2

    def begin(self, now: float) -> None:
        """Take note that there was nothing to send until now, in seconds on a clock that is never stepped."""
        self._since, self._sent = now, 0

    def sent(self) -> None:
        """Take note of a send that has ended."""
        self._sent += 1

    def judge(self, now: float) -> None:
        """Learn from what was sent since the last time, if that is enough to tell."""
        if self._sent <= self.batch // 2:
            return
        rate = self._sent / max(now - self._since, 1e-6)
        self.batch = max(self._lowest, min(round(rate * _SOON), self._highest))
        self.low_mark = max(self.batch // 2, min(round(rate * _AHEAD), 2 * self._highest))
        self.begin(now)
