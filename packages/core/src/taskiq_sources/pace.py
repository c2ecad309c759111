"""How many occurrences to claim at a time, learnt from how fast they are sent. Counts; knows no store and no broker."""

from __future__ import annotations

_SOON = 0.25  # seconds; what is claimed at a time is to be sent within about this: the rest is for other schedulers
_ENOUGH = 1.0  # seconds of all that can be sent at once; what took longer, however few they were, tells how fast sends are
_LATE = 5.0  # seconds; what waits is to last no longer than about this, should sends have become slow: others could send it
_AHEAD = 0.05  # seconds; what waits to be sent when more is claimed is to last for about this: longer than a store takes


class Pace:
    """Says how much to claim, and when.

    Claims are few while sends are slow, and as many as one call takes where sends are fast. Then, too, more is claimed while much
    is still waiting, so that sends do not wait for the store.

    Args:
        at_once: How many can be sent at once; as many are claimed at a time at least.
        highest: How many at most.
    """

    def __init__(self, at_once: int, highest: int) -> None:
        self._at_once = at_once
        self._lowest = min(at_once, highest)
        self._highest = highest
        self._sent = 0
        self._busy = 0.0  # seconds that those sends took
        self._since = 0.0
        #: How many to claim at a time.
        self.batch = self._lowest
        #: More is to be claimed when no more than this wait to be sent.
        self.low_mark = self.batch // 2
        #: What waits beyond this is to be given back.
        self.most = 3 * highest

    def begin(self, now: float) -> None:
        """Take note that there was nothing to send until now, in seconds on a clock that is never stepped."""
        self._since, self._sent, self._busy = now, 0, 0.0

    def sent(self, took: float) -> None:
        """Take note of a send that has ended, after so many seconds."""
        self._sent += 1
        self._busy += took

    def judge(self, now: float) -> None:
        """Learn from what was sent since the last time, if that is enough to tell."""
        if self._sent <= self.batch // 2 and self._busy <= self._at_once * _ENOUGH:
            return
        # Sends that began before this time was measured would make a slow broker a fast one, but for how long they took.
        rate = min(self._sent / max(now - self._since, 1e-6), self._at_once * self._sent / max(self._busy, 1e-6))
        self.batch = max(self._lowest, min(round(rate * _SOON), self._highest))
        self.low_mark = max(self.batch // 2, min(round(rate * _AHEAD), 2 * self._highest))
        self.most = max(self.low_mark + self.batch, min(round(rate * _LATE), 3 * self._highest))
        self.begin(now)
