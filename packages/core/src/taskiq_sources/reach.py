"""Whether a store answers. Calls nothing: whoever calls it tells of that here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from taskiq_sources.errors import SourceConnectionError

logger = logging.getLogger("taskiq_sources")


class Reach:
    """Takes note of what calls to a store end with, and of those that do not end.

    Args:
        longest: After this long without an answer the store is taken to be out of reach; what it answers then is of no use.
        monotonic: Seconds of a clock that is never stepped.
        name: The source, for log lines.
    """

    def __init__(self, longest: timedelta, monotonic: Callable[[], float], *, name: str) -> None:
        self._longest = longest.total_seconds()
        self._monotonic = monotonic
        self._name = name
        self._calls: dict[object, float] = {}
        #: Whether the last call to end was not answered.
        self.has_failed = False
        #: Set to False by whoever has seen fall over what serves the source, until the store has answered again.
        self.serving = True

    @property
    def reachable(self) -> bool:
        """Whether the last call was answered, and none waits for too long."""
        begun = list(self._calls.values())  # at once: other threads ask, too
        return not self.has_failed and (not begun or self._monotonic() - min(begun) <= self._longest)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Take note of how long a call waits for its answer."""
        call = object()
        self._calls[call] = self._monotonic()
        try:
            yield
        finally:
            del self._calls[call]

    def failed(self, error: SourceConnectionError) -> None:
        """Take note of an error that says that the store cannot be reached."""
        if not self.has_failed:
            logger.error("%s: the store cannot be reached, trying on: %s", self._name, error)
        self.has_failed = True

    def answered(self) -> None:
        """Take note of an answer."""
        if self.has_failed:
            logger.warning("%s: the store can be reached again.", self._name)
        self.has_failed, self.serving = False, True
