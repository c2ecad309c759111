"""Lets a thread have the interpreter soon although an event loop is busy. No store, no engine."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

_SOON = 0.0001  # seconds, in place of the 0.005 of CPython
_ROUNDING = 5e-7  # CPython cuts to whole microseconds, which would make the time that is put back a little shorter each time


class Turns:
    """Has threads change places more often while there is a call whose thread must not wait for the interpreter.

    A driver loses the interpreter with each statement, several times an operation, and a busy event loop lets it have it again
    only when CPython says that its time is up. This is for the whole process, since there is no other way to say it, but only
    until the last call has ended. A shorter time that the application has chosen is left alone, and so is what it chooses
    meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[object] = set()
        self._before: float | None = None  # what to put back

    def begin(self) -> Callable[[], None]:
        """Begin a call; return what ends it, from any thread. To end it twice is to end it once."""
        call = object()
        with self._lock:
            before = sys.getswitchinterval()
            if not self._calls and before > _SOON + _ROUNDING:
                self._before = before
                sys.setswitchinterval(_SOON)
            self._calls.add(call)

        def end() -> None:
            with self._lock:
                self._calls.discard(call)
                self._put_back()

        return end

    def forget(self) -> None:
        """End all calls: a forked process has none of the threads that would do so, and its lock may be held by one of them."""
        self._lock = threading.Lock()
        self._calls.clear()
        self._put_back()

    def _put_back(self) -> None:
        if self._calls or self._before is None:
            return
        if abs(sys.getswitchinterval() - _SOON) < _ROUNDING:
            sys.setswitchinterval(self._before + _ROUNDING)
        self._before = None


TURNS = Turns()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TURNS.forget)
