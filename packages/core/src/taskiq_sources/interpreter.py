"""Settings of CPython that are changed while something is under way, and put back. No store, no engine."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Setting:
    """A setting that is another one until the last of those who want it so has ended.

    It is for the whole process, since there is no other way to say it. What the application has chosen to the same end is left
    alone, and so is what it chooses meanwhile.

    Args:
        read: Returns it.
        write: Sets it.
        wanted: What it is meanwhile.
        helps: Whether that is better than what it was.
    """

    def __init__(self, read: Callable[[], int], write: Callable[[int], None], wanted: int, helps: Callable[[int], bool]) -> None:
        self._read, self._write, self._wanted, self._helps = read, write, wanted, helps
        self._lock = threading.RLock()  # a collection amid what follows may end the use of an engine that nobody has any more
        self._users: set[object] = set()
        self._before: int | None = None  # what to put back

    def change(self) -> Callable[[], None]:
        """Have it changed; return what ends that, from any thread. To end it twice is to end it once."""
        user = object()
        with self._lock:
            self._users.add(user)
            before = self._read()
            if self._helps(before):
                self._before = before
                self._write(self._wanted)

        def end() -> None:
            with self._lock:
                self._users.discard(user)
                self._put_back()

        return end

    def forget(self) -> None:
        """End all uses: a forked process has none of the threads that would do so, and its lock may be held by one of them."""
        self._lock = threading.RLock()
        self._users.clear()
        self._put_back()

    def _put_back(self) -> None:
        if self._users or self._before is None:
            return
        before, self._before = self._before, None
        if self._read() == self._wanted:
            self._write(before)


def _set_switch_interval(microseconds: int) -> None:
    sys.setswitchinterval((microseconds + 0.5) / 1e6)  # it is cut to whole ones


def _set_threshold(allocations: int) -> None:
    gc.set_threshold(allocations, *gc.get_threshold()[1:])


#: After how many microseconds a busy thread lets another one have the interpreter. A driver that works in a thread loses it with
#: each statement, several times an operation, and a busy event loop keeps it for CPython's 5,000 each time.
TURNS = Setting(lambda: round(sys.getswitchinterval() * 1e6), _set_switch_interval, 100, lambda before: before > 100)

#: After how many objects more than before the collector of cycles looks at the young ones. What is claimed becomes thousands of
#: objects that are all in use until it is settled, and gone then without a collector. Their number alone makes it run, and it
#: finds nothing; what it has seen a few times it takes for old, and when much is old it looks at every object of the process,
#: which is a pause of many milliseconds.
COLLECTOR = Setting(lambda: gc.get_threshold()[0], _set_threshold, 20_000, lambda before: 0 < before < 20_000)


@contextmanager
def collector_waits() -> Iterator[None]:
    """Have the collector run more seldom while thousands of objects are made."""
    end = COLLECTOR.change()
    try:
        yield
    finally:
        end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TURNS.forget)
    os.register_at_fork(after_in_child=COLLECTOR.forget)
