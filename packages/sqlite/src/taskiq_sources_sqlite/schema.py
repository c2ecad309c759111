"""Prepares a freshly opened connection: checks, pragmas, migrations. Runs on the connection's thread before anything else."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from taskiq_sources.backends import check_schema_version
from taskiq_sources.errors import BackendVersionError, SourceConnectionError
from taskiq_sources.sql import Migration, load_migrations, split_script
from taskiq_sources_sqlite.errors import is_locked
from taskiq_sources_sqlite.operations import execute, write_transaction

MIGRATIONS: Final = load_migrations("taskiq_sources_sqlite")

#: The first release with RETURNING (March 2021).
NEEDED_SQLITE: Final = (3, 35, 0)

#: How a commit reaches the disk, see `SQLiteStore`.
Synchronous: TypeAlias = Literal["FULL", "NORMAL"]
SYNCHRONOUS: Final[dict[str, str]] = {"FULL": "synchronous_full", "NORMAL": "synchronous_normal"}

_RETRY_PAUSE = 0.01  # seconds; a change of the journal mode takes about one


def check_sqlite_version(found: tuple[int, ...] = sqlite3.sqlite_version_info) -> None:
    """Refuse an SQLite library that is too old.

    Args:
        found: The version of the library.

    Raises:
        BackendVersionError: It is older than `NEEDED_SQLITE`.
    """
    if found < NEEDED_SQLITE:
        raise BackendVersionError(
            f"Python was built with SQLite {'.'.join(map(str, found))}; taskiq-sources-sqlite needs "
            f"{'.'.join(map(str, NEEDED_SQLITE))} or newer: use a newer Python build, or a newer operating system image",
        )


def prepare(connection: sqlite3.Connection, path: str, *, synchronous: Synchronous, patience: float) -> None:
    """Make a connection ready for work: WAL, durability, newest schema. Safe in many processes at the same moment.

    Args:
        connection: Just opened, in autocommit mode.
        path: Its file, to be named in errors.
        synchronous: When a commit counts as done.
        patience: For how many seconds to go on while other processes prepare the same file.

    Raises:
        BackendVersionError: The SQLite library is too old.
        SchemaVersionError: The file was written by a newer release; nothing was changed.
        SourceConnectionError: The file cannot be used for schedules.
        sqlite3.Error: The file cannot be read or written, or was locked all the while.
    """
    check_sqlite_version()
    retry_while_locked(lambda: _prepare(connection, path, SYNCHRONOUS[synchronous]), patience)


def migrate(connection: sqlite3.Connection, path: str, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Apply the migrations that the file lacks, all in one transaction.

    Args:
        connection: An open connection.
        path: Its file, to be named in errors.
        migrations: All that there are, oldest first.

    Raises:
        SchemaVersionError: The file has had more of them than this release knows; nothing was changed.
    """
    if _schema_version(connection, path, newest=len(migrations)) == len(migrations):
        return
    with write_transaction(connection):
        # Somebody else may have been faster.
        applied = _schema_version(connection, path, newest=len(migrations))
        execute(connection, "create_migrations")
        for version, migration in enumerate(migrations[applied:], start=applied + 1):
            for statement in split_script(migration.script):
                connection.execute(statement)
            execute(connection, "migrated", {"version": version, "name": migration.name})


def retry_while_locked(work: Callable[[], None], patience: float) -> None:
    """Do `work`, again and again while the file is locked.

    The busy timeout does not cover everything: SQLite reports a lock at once where waiting could end in a deadlock, as when
    several connections change the journal mode of a new file.

    Args:
        work: What to do; it must be harmless to repeat.
        patience: After how many seconds to let the error out.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if not is_locked(error) or time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_PAUSE)


def _prepare(connection: sqlite3.Connection, path: str, synchronous: str) -> None:
    encoding = execute(connection, "encoding").fetchone()[0]
    if encoding != "UTF-8":
        raise SourceConnectionError(
            f"SQLite database {path!r} keeps text as {encoding}, in which ids have another order: use a file of their own"
        )
    _schema_version(connection, path, newest=len(MIGRATIONS))  # refused before anything is written
    for setting in (synchronous, "checkpoint_seldom", "cache_more", "spill_to_memory"):
        execute(connection, setting)
    mode = execute(connection, "use_wal").fetchone()[0]
    if mode != "wal":
        raise SourceConnectionError(
            f"SQLite database {path!r} stays in journal mode {mode!r} and cannot use a write-ahead log: "
            "put the file on a local disk, not on a network share",
        )
    migrate(connection, path)


def _schema_version(connection: sqlite3.Connection, path: str, *, newest: int) -> int:
    if not execute(connection, "has_migrations").fetchone()[0]:
        return 0
    version: int = execute(connection, "schema_version").fetchone()[0]
    check_schema_version(version, newest, where=f"SQLite database {path!r}", package="taskiq-sources-sqlite")
    return version
