"""What a fork does to files that a database works on: a child cannot use, and must not even close, a connection of its parent.

For stores whose database is a file; what is said is of SQLite. It notes for each process which locks it has. A child inherits the
note and not the locks, and would read and write without them; what is more, the note is of the file, so it holds for every other
connection of the child to that file too. Closing might end the write-ahead log under the parent. And the thread that works on the
connection has stayed behind in the parent.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from taskiq_sources.errors import SourceClosedError

#: Which files this process, and none that it was forked from, has connections to.
_own: WeakKeyDictionary[Any, str] = WeakKeyDictionary()

#: To which files a process that this one was forked from had connections then.
_inherited: set[tuple[int, int]] = set()


class _Connection(Protocol):
    async def close(self) -> None: ...


def opened(connection: object, path: str) -> None:
    """Remember a connection, or one that is about to be made, until it is gone or closed by `close`."""
    _own[connection] = path


async def close(connection: _Connection) -> None:
    """Close a connection, and forget it."""
    await connection.close()
    _own.pop(connection, None)


def check(process: int, path: str) -> None:
    """Refuse what belongs to the process that this one was forked from.

    Args:
        process: The id of the process that it was made in.
        path: The file.

    Raises:
        SourceClosedError: This is another process.
    """
    if process != os.getpid():
        raise _error(path)


def check_file(path: str) -> None:
    """Refuse to open a file that was open when this process was forked.

    Raises:
        SourceClosedError: It was.
    """
    with suppress(FileNotFoundError):
        if _inherited and identity(path) in _inherited:
            raise _error(path)


def identity(path: str) -> tuple[int, int]:
    """Return what tells a file from all others.

    Raises:
        OSError: There is none, or it cannot be looked at.
    """
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _error(path: str) -> SourceClosedError:
    return SourceClosedError(
        f"the database {path!r} was open when this process was forked, and cannot be used in it: open sources after the fork, "
        "in each process, or await shutdown() before it; or start processes otherwise (multiprocessing: 'spawn', gunicorn: no "
        "--preload)"
    )


def _inherit() -> None:
    for connection, path in list(_own.items()):
        _keep(connection)
        with suppress(FileNotFoundError):
            _inherited.add(identity(path))
    _own.clear()


def _keep(connection: object) -> None:
    """Keep a connection from being closed, even when the interpreter exits: nobody has this reference, to give it up."""
    with suppress(ImportError, AttributeError):  # which interpreters other than CPython raise
        import ctypes  # here, because few processes need it

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inherit)
