"""What goes wrong between us and the server, in words: host, database, reason and fix, and never a password."""

from __future__ import annotations

from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    ConnectionFailure,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)

from taskiq_sources.errors import SourceConnectionError, shorten

#: Error codes of the server that are not bugs of ours, and what to do about them.
_ADVICE = {
    11: "check user and password, and authSource",
    13: "give this user the role readWrite on the database",
    18: "check user and password, and authSource",
    8000: "check user and password",
    40573: "only replica sets have change streams: pass push=False",
}
_GONE = {
    6: "HostUnreachable",
    7: "HostNotFound",
    43: "CursorNotFound",
    50: "MaxTimeMSExpired",
    64: "WriteConcernFailed",
    89: "NetworkTimeout",
    91: "ShutdownInProgress",
    100: "UnsatisfiableWriteConcern",
    133: "FailedToSatisfyReadPreference",
    189: "PrimarySteppedDown",
    237: "CursorKilled",
    262: "ExceededTimeLimit",
    280: "ChangeStreamFatalError",
    286: "ChangeStreamHistoryLost",
    9001: "SocketException",
    10107: "NotWritablePrimary",
    11600: "InterruptedAtShutdown",
    11602: "InterruptedDueToReplStateChange",
    13435: "NotPrimaryNoSecondaryOk",
    13436: "NotPrimaryOrSecondary",
    14031: "OutOfDiskSpace",
}


def is_lost_connection(error: PyMongoError) -> bool:
    """Tell whether a connection broke under a call, so that another one may do better at once."""
    return isinstance(error, AutoReconnect) and not isinstance(error, ServerSelectionTimeoutError)


def connection_error(where: str, error: PyMongoError) -> Exception:
    """Return our error for one of the driver's; one that is a bug of ours is returned as it is.

    Args:
        where: How to name the database.
        error: What was raised.
    """
    if isinstance(error, WaitQueueTimeoutError):
        problem = "no connection of the pool was free in time: make it larger (maxPoolSize)"
    elif isinstance(error, ConnectionFailure):
        # The driver goes on with its settings and a dump of what it knows of the servers.
        reason = str(error).partition(", Timeout:")[0].partition(" (configured timeouts")[0]
        problem = f"cannot be reached: {shorten(reason)}; check host and port, and that the server runs"
    elif isinstance(error, OperationFailure) and error.code in _ADVICE:
        problem = f"refused us ({_code_name(error)}): {_ADVICE[error.code]}"
    elif isinstance(error, OperationFailure) and error.code in _GONE:
        problem = f"cannot be used now: {_GONE[error.code]}; try again"
    elif isinstance(error, (ConfigurationError, InvalidOperation)):
        problem = f"cannot be used: {shorten(str(error))}"
    else:
        return error
    return SourceConnectionError(f"{where} {problem}")


def _code_name(error: OperationFailure) -> str:
    # The whole message quotes the command, and with it what users stored.
    return str((error.details or {}).get("codeName", error.code))
