"""What goes wrong between us and the server, in words: host, database, reason and fix, and never a password."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

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
    problem: str | None
    if isinstance(error, errors.BulkWriteError):
        problems = [*error.details["writeErrors"], *error.details["writeConcernErrors"]]
        worst = next((problem for problem in problems if problem["code"] != _DUPLICATE_KEY), None)
        if worst is None:
            return error
        problem = _advice(worst["code"], worst.get("errmsg"), worst) or f"refuses to write (error {worst['code']})"
    elif isinstance(error, errors.WaitQueueTimeoutError):
        problem = "no connection of the pool was free in time: make it larger (maxPoolSize)"
    elif isinstance(error, errors.ConnectionFailure):
        # The driver goes on with its settings and a dump of what it knows of the servers.
        reason = str(error).partition(", Timeout:")[0].partition(" (configured timeouts")[0]
        problem = f"cannot be reached: {shorten(reason)}; check host and port, and that the server runs"
    elif isinstance(error, errors.OperationFailure):
        problem = _advice(error.code, error, error.details or {})
    elif isinstance(error, (errors.ConfigurationError, errors.InvalidOperation, errors.ProtocolError)):
        problem = f"cannot be used: {shorten(str(error))}"
    else:
        problem = None
    return error if problem is None else SourceConnectionError(f"{where} {problem}")


def _advice(code: object, text: object, details: Mapping[str, Any]) -> str | None:
    """Return what there is to say of a server's error. Its own text quotes the command, and with it what users stored."""
    advice = Advice.load(__package__).of(f"{code} {text}")
    return advice and advice.format(details.get("codeName", f"error {code}"))
