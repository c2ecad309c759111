"""What the errors of SQLite and of the operating system mean, and what to do about them."""

from __future__ import annotations

import os
import sqlite3

from taskiq_sources.advice import Advice
from taskiq_sources.errors import SourceConnectionError


def connection_error(path: str, error: sqlite3.Error | OSError, *, busy_timeout: float) -> SourceConnectionError:
    """Return our error for one of SQLite's or of the operating system: it names the file, the reason and the fix.

    Args:
        path: The file.
        error: What was raised.
        busy_timeout: For how many seconds was waited, if it is about a lock.
    """
    reason = str(error.strerror if isinstance(error, OSError) else error)
    advice = Advice.load("taskiq_sources_sqlite").of(reason)
    if isinstance(error, FileNotFoundError):
        reason, advice = "it was deleted while it was in use", "put it back, or restart this process to begin with an empty one"
    elif not os.path.isdir(directory := os.path.dirname(path)):
        advice = f"directory {directory!r} does not exist: create it"
    elif os.path.isdir(path):
        advice = "this is a directory: name a file in it"
    if is_locked(error):
        reason += f" for longer than {busy_timeout:g} s"
    return SourceConnectionError(f"SQLite database {path!r} cannot be used: {reason}; {advice}")


def is_locked(error: BaseException) -> bool:
    """Tell whether `error` is SQLite's, because of somebody else's lock."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def is_of_the_file(error: sqlite3.Error | OSError) -> bool:
    """Tell whether `error` comes from the file. Others, such as a broken constraint, are bugs, or ours already."""
    ours = isinstance(error, SourceConnectionError)  # which is an OSError, by way of ConnectionError
    return type(error) in {sqlite3.OperationalError, sqlite3.DatabaseError} or (isinstance(error, OSError) and not ours)
