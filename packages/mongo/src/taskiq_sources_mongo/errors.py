"""What goes wrong between us and the server, in words: host, database, reason and fix, and never a password."""

from __future__ import annotations

from typing import Final

from pymongo import errors

from taskiq_sources.advice import Advice
from taskiq_sources.errors import SourceConnectionError, shorten

#: Somebody has ended the session, or what it was doing.
INTERRUPTED: Final = 11_601

_DUPLICATE_KEY = 11_000


def is_lost_connection(error: errors.PyMongoError) -> bool:
    """Tell whether a connection broke under a call, so that another one may do better at once."""
    return isinstance(error, errors.AutoReconnect) and not isinstance(error, errors.ServerSelectionTimeoutError)


def is_undone(error: errors.PyMongoError) -> bool:
    """Tell whether a call or a transaction has come to nothing by no fault of its own: to do it again may do better."""
    if error.has_error_label("UnknownTransactionCommitResult"):
        return False
    if isinstance(error, errors.OperationFailure):
        return error.code == INTERRUPTED or error.has_error_label("TransientTransactionError")
    return is_lost_connection(error)


def connection_error(where: str, error: errors.PyMongoError) -> Exception:
    """Return our error for one of the driver's.

    One that is a bug of ours is returned as it is, and so is one that says no more than which documents there are already.

    Args:
        where: How to name the database.
        error: What was raised.
    """
    if isinstance(error, errors.BulkWriteError):
        problems = [*error.details["writeErrors"], *error.details["writeConcernErrors"]]
        worst = next((problem for problem in problems if problem["code"] != _DUPLICATE_KEY), None)
        if worst is None:
            return error
        # Its text quotes documents.
        told = Advice.load(__package__).of(str(worst["code"])) or "refuses to write (error {})"
        problem = told.format(worst.get("codeName", worst["code"]))
    elif isinstance(error, errors.WaitQueueTimeoutError):
        problem = "no connection of the pool was free in time: make it larger (maxPoolSize)"
    elif isinstance(error, errors.ConnectionFailure):
        # The driver goes on with its settings and a dump of what it knows of the servers.
        reason = str(error).partition(", Timeout:")[0].partition(" (configured timeouts")[0]
        problem = f"cannot be reached: {shorten(reason)}; check host and port, and that the server runs"
    elif isinstance(error, errors.OperationFailure) and (advice := Advice.load(__package__).of(str(error.code))):
        # The whole message quotes the command, and with it what users stored.
        problem = advice.format(_name(error))
    elif error.has_error_label("TransientTransactionError"):
        problem = f"cannot be used now ({_name(error)}): try again"
    elif isinstance(error, (errors.ConfigurationError, errors.InvalidOperation)):
        problem = f"cannot be used: {shorten(str(error))}"
    else:
        return error
    return SourceConnectionError(f"{where} {problem}")


def _name(error: errors.PyMongoError) -> str:
    details = getattr(error, "details", None) or {}
    return str(details.get("codeName", getattr(error, "code", None)))
