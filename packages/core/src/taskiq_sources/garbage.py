"""Keeps the cycle collector of CPython away while a batch is made. No store, no engine."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_waits() -> Iterator[None]:
    """Hold back collections while thousands of objects are made that are all in use, unless they are held back already.

    Their number alone makes the collector run, and it finds nothing. What it has seen a few times it takes for old, and when much
    is old it looks at every object of the process, which is a pause of many milliseconds. So it runs once, when this ends; by the
    time that it runs again, most of the batch is sent, settled and gone.

    Not for code that waits for something, though others may get their turn: they are not to go without collections for long.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
