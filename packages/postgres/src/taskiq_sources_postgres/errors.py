"""What goes wrong between us and the server, in words: host, database, reason and fix, and never a password."""

from __future__ import annotations

import asyncio
import os
import re
from typing import NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg

from taskiq_sources.errors import ScheduleValidationError, SourceConnectionError

#: Conditions that are no bugs of ours, by the beginning of their SQLSTATE, and what to do about them; the first that fits counts.
_ADVICE = (
    ("25006", "this is a read-only server or transaction: connect to the primary"),
    ("26000", "if there is a PgBouncer in between, pass pgbouncer=True"),
    ("28", "check user and password, and pg_hba.conf on the server"),
    ("3D000", "create the database, or name another one"),
    ("3F000", "create the schema, or name another one"),
    ("42501", "GRANT this role SELECT, INSERT, UPDATE, DELETE on the tables, and USAGE on their schema"),
    ("42P01", "the tables have been dropped: restart this process, which makes them anew"),
    ("42P05", "if there is a PgBouncer in between, pass pgbouncer=True"),
    ("53300", "let the server take more connections, or this process fewer (max_connections)"),
    ("53", "the server is short of memory or disk space; nothing of this call was written"),
    ("55P03", "somebody holds a lock on the tables: look into pg_locks"),
    ("57014", "the server cancelled the call: look for statement_timeout, or for who holds a lock in pg_locks"),
    ("57", "the server is stopping or starting: try again"),
    ("58", "the server has trouble with its files: look into its log"),
    ("08", "look into the server's log"),
)
_HOSTS = re.compile(r"(?:[\w.%-]+|\[[\w:.%]+\])?(?::\d+)?(?:,(?:[\w.%-]+|\[[\w:.%]+\])?(?::\d+)?)*")


def describe(dsn: str) -> str:
    """Return how to name the database of `dsn` in errors and in ``repr``: host, port and database, nothing else.

    Raises:
        ScheduleValidationError: It is no URL of a PostgreSQL database. The error shows nothing of it but the scheme.
    """
    scheme, separator, _ = dsn.partition("://")
    if not separator or scheme not in {"postgres", "postgresql"}:
        shown = f"{scheme}://…" if separator and re.fullmatch(r"[\w+.-]{1,40}", scheme) else "…"
        raise ScheduleValidationError("dsn", shown, "use postgresql://user:password@host:5432/database")
    parts = urlsplit(dsn)
    user, _, hosts = parts.netloc.rpartition("@")
    if "@" in parts.path + parts.query + parts.fragment or parts.fragment or not _HOSTS.fullmatch(hosts):
        problem = "percent-encode what stands before the host: %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #"
        raise ScheduleValidationError("dsn", f"{scheme}://…", problem)
    options = dict(parse_qsl(parts.query))
    host = hosts or options.get("host") or os.environ.get("PGHOST") or "localhost"
    port = options.get("port") if not hosts else None
    database = unquote(parts.path.strip("/")) or options.get("dbname") or options.get("database") or os.environ.get("PGDATABASE")
    database = database or unquote(user.partition(":")[0]) or options.get("user") or "(the user's)"
    return f"PostgreSQL at {host}{f':{port}' if port else ''}, database {database!r}"


def is_conflict(error: BaseException) -> bool:
    """Tell whether the server has rolled a statement back because of others' writes, so that it can simply be repeated."""
    return isinstance(error, (asyncpg.SerializationError, asyncpg.DeadlockDetectedError))


def is_unsent(error: BaseException) -> bool:
    """Tell whether the server had ended the connection, and the driver noticed when it was about to send a statement."""
    return isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in str(error)


def is_lost_connection(error: BaseException) -> bool:
    """Tell whether the connection broke or could not be made, so that another one may do better."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate)[:4] in {"0800", "57P0"}
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)
    return isinstance(error, ConnectionError) and not isinstance(error, SourceConnectionError)


def raise_named(where: str, error: Exception) -> NoReturn:
    """Raise our error for one of the driver's or of the operating system; any other goes on as it is.

    Args:
        where: What `describe` returns.
        error: What was raised. Its text comes from the server or from this machine, and neither has a password to tell.
    """
    problem = None if isinstance(error, SourceConnectionError) else _problem(error)
    if problem is None:
        raise error
    raise SourceConnectionError(f"{where} {problem}") from error


def _problem(error: Exception) -> str | None:
    """Return what is wrong and what to do about it, or None if it is a bug."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return next((f"cannot be used: {error}; {advice}" for sign, advice in _ADVICE if state.startswith(sign)), None)
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return "does not answer in time: check that it runs, or allow it more time (connect_timeout, command_timeout)"
    if isinstance(error, OSError):
        return f"cannot be reached: {error.strerror or error}; check host and port, and that the server runs"
    if isinstance(error, asyncpg.ClientConfigurationError):
        return f"cannot be used: {error}; correct the dsn"
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)) and not isinstance(error, ValueError):
        return f"cannot be used: {error}; the next call connects anew"
    return None
