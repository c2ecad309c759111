"""Lets a thread have the interpreter soon although an event loop is busy. No store, no engine."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SOON = 0.0002  # seconds, in place of the 0.005 of CPython
_ROUNDING = 5e-7  # CPython cuts to whole microseconds, which would make the time that is put back a little shorter each time

_lock = threading.Lock()
_waiting = 0  # how many wait for threads just now
_before = 0.0  # what holds when nobody does


@contextmanager
def threads_get_turns() -> Iterator[None]:
    """Have threads change places more often, while an event loop that goes on sending waits for what a thread does.

    A driver gives the interpreter away around each call of its library, a dozen times an operation, and a busy event loop lets it
    have it again only when CPython says that its time is up. This is for the whole process, since there is no other way to say
    it, but only until it ends. A shorter time that the application has chosen is left alone, and so is what it chooses meanwhile.
    """
    global _waiting, _before  # noqa: PLW0603 - so is the setting
    with _lock:
        _waiting += 1
        if _waiting == 1:
            _before = sys.getswitchinterval()
            if _before > _SOON:
                sys.setswitchinterval(_SOON)
    try:
        yield
    finally:
        with _lock:
            _waiting -= 1
            if _waiting == 0 and abs(sys.getswitchinterval() - _SOON) < _ROUNDING:
                sys.setswitchinterval(_before + _ROUNDING)
