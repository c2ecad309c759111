"""What goes wrong between us and the server, in words: host, database, reason and fix, and never a password."""

from __future__ import annotations

import os
import re
from typing import Final, NoReturn

import asyncpg

from taskiq_sources.addresses import parse_address
from taskiq_sources.advice import Advice, classes_of
from taskiq_sources.errors import SourceConnectionError

#: Signs of a connection that broke or was refused for the moment. A ValueError of the driver is an argument that we got wrong.
_LOST: Final = re.compile(r"^0800|^57P0|\bConnectionError\b|\bInterfaceError\b(?!.*\bValueError\b)")
_ADVICE: Final = Advice.load("taskiq_sources_postgres")


def describe(dsn: str) -> str:
    """Return how to name the database of `dsn` in errors and in ``repr``: host, port and database, nothing else.

    Raises:
        ScheduleValidationError: It is no URL of a PostgreSQL database. The error shows nothing of it but the scheme.
    """
    form = "use postgresql://user:password@host:5432/database"
    address = parse_address(dsn, schemes={"postgres", "postgresql"}, form=form, argument="dsn")
    # What the URL leaves open is taken from its options and from the environment, in the order in which asyncpg looks there.
    option = address.options.get
    host = address.hosts or option("host") or os.environ.get("PGHOST") or "localhost"
    port = "" if address.hosts or not option("port") else f":{option('port')}"
    database = address.path.strip("/") or option("dbname") or option("database") or os.environ.get("PGDATABASE")
    return f"PostgreSQL at {host}{port}, database {database or address.user or option('user') or '(that of the user)'!r}"


def is_undone(error: BaseException) -> bool:
    """Tell whether nothing was done, so that it can simply be done again.

    The server has rolled it back because of others' writes; or it had ended the connection, and the driver noticed when it was
    about to send a statement.
    """
    was_ended = isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in str(error)
    return was_ended or isinstance(error, (asyncpg.SerializationError, asyncpg.DeadlockDetectedError))


def is_lost_connection(error: BaseException) -> bool:
    """Tell whether the connection broke or could not be made, so that another one may do better."""
    return bool(_LOST.search(_signs(error))) and not isinstance(error, SourceConnectionError)


def raise_named(where: str, error: Exception) -> NoReturn:
    """Raise our error for one of the driver's or of the operating system; any other goes on as it is.

    Args:
        where: What `describe` returns.
        error: What was raised. Its text comes from the server or from this machine, and neither has a password to tell.
    """
    _ADVICE.raise_named(where, error, _signs(error), cause=error)


def _signs(error: BaseException) -> str:
    """Return what an error is known by: its SQLSTATE, or a dash, and the names of its classes, the most special one first."""
    return f"{getattr(error, 'sqlstate', None) or '-'} {classes_of(error)}"
