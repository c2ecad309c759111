"""Every error this project raises on purpose.

::

    TaskiqSourcesError
    ├── ScheduleValidationError  (ValueError)       input refused before anything was written
    ├── ScheduleDecodeError      (ValueError)       a stored record that cannot be read
    ├── ScheduleNotFoundError    (LookupError)      no schedule has this id
    ├── ScheduleExistsError      (ValueError)       ``on_conflict="error"`` met an existing id
    ├── RevisionConflictError    (RuntimeError)     the schedule was edited by somebody else meanwhile
    ├── UnknownBackendError      (LookupError)      no installed package serves this URL
    ├── SourceClosedError        (RuntimeError)     used after ``shutdown()``
    └── SourceConnectionError    (ConnectionError)  the store cannot be reached or refused us
        ├── BackendVersionError                     the server or library is too old
        └── SchemaVersionError                      the stored schema is newer than this release

No message contains a credential: URLs are passed through :func:`redact_url` before they are shown.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Collection

_SHOWN_CHARACTERS = 200  # enough to recognise a value, short enough for one log line
_SHOWN_IDS = 5
_KEPT_CHARACTERS = 2_000  # of an error
_MOST_READ = 8_000  # of what others raise: it may quote a whole message
_WORD = re.compile(r"\S+")
_SECRET_OPTION = re.compile(  # password=x, 'token': 'x', password: x
    r"(?i)(\b\w*(?:password|passwd|pwd|token|secret)(?:\s*=\s*|['\"]\s*:\s*|(?:(?<=password)|(?<=passwd)|(?<=pwd)):\s*))"
    r"('[^']*'|\"[^\"]*\"|[^&#\s'\"]+)"
)
_AUTHORIZATION = re.compile(  # Authorization: Basic x, 'authorization': 'x', bearer x1
    r"(?i)(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:[a-z]+\s+)?|\bbearer\s+(?=\S*\d))[\w.~+/=-]+"
)


class TaskiqSourcesError(Exception):
    """Root of all errors of taskiq-sources."""


class ScheduleValidationError(TaskiqSourcesError, ValueError):
    """Input that was refused; nothing was written.

    Args:
        field: The field that is wrong, for example ``cron`` or ``args[0]``.
        value: The offending value, shown shortened.
        problem: What is wrong with it, and what would be right.
        schedule_id: The schedule concerned, if it is known.
    """

    def __init__(self, field: str, value: object, problem: str, *, schedule_id: str | None = None) -> None:
        self.field = field
        self.value = value
        self.problem = problem
        self.schedule_id = schedule_id
        subject = "" if schedule_id is None else f"schedule {shorten(schedule_id)}: "
        super().__init__(f"{subject}{field} {shorten(value)} is not valid: {problem}")

    def for_schedule(self, schedule_id: str) -> ScheduleValidationError:
        """Return the same error, naming the schedule."""
        return ScheduleValidationError(self.field, self.value, self.problem, schedule_id=schedule_id)


class ScheduleDecodeError(TaskiqSourcesError, ValueError):
    """A stored record that this release cannot read."""

    def __init__(self, schedule_id: str, problem: str) -> None:
        self.schedule_id = schedule_id
        self.problem = problem
        super().__init__(
            f"schedule {shorten(schedule_id)}: the stored record cannot be read: {problem}; write it again or delete it",
        )


class ScheduleNotFoundError(TaskiqSourcesError, LookupError):
    """No schedule has this id: it never existed, was deleted, or has finished."""

    def __init__(self, schedule_id: str) -> None:
        self.schedule_id = schedule_id
        super().__init__(f"schedule {shorten(schedule_id)} does not exist: it was deleted, has finished, or never was")


class ScheduleExistsError(TaskiqSourcesError, ValueError):
    """``on_conflict="error"`` met schedules that exist. Those were left alone; the others of the call are written."""

    def __init__(self, schedule_ids: Collection[str]) -> None:
        self.schedule_ids = frozenset(schedule_ids)
        shown = ", ".join(shorten(schedule_id) for schedule_id in sorted(self.schedule_ids)[:_SHOWN_IDS])
        more = "" if len(self.schedule_ids) <= _SHOWN_IDS else f" and {len(self.schedule_ids) - _SHOWN_IDS} more"
        super().__init__(f"already stored: {shown}{more}; use on_conflict='replace' or 'keep', or another schedule_id")


class RevisionConflictError(TaskiqSourcesError, RuntimeError):
    """The schedule was edited since it was read. Read it again and repeat the edit."""

    def __init__(self, schedule_id: str, expected: int, found: int) -> None:
        self.schedule_id = schedule_id
        self.expected = expected
        self.found = found
        super().__init__(
            f"schedule {shorten(schedule_id)} is at revision {found}, not {expected}: it was edited meanwhile; "
            "read it again and repeat the change",
        )


class UnknownBackendError(TaskiqSourcesError, LookupError):
    """No installed package serves this URL scheme."""


class SourceClosedError(TaskiqSourcesError, RuntimeError):
    """The source was shut down and has to be started again before it is used."""


class SourceConnectionError(TaskiqSourcesError, ConnectionError):
    """The store cannot be reached, or refused us. The message names host and database, never the password."""


class BackendVersionError(SourceConnectionError):
    """The database server or library is older than this backend needs."""


class SchemaVersionError(SourceConnectionError):
    """The stored schema was made by a newer release; upgrade this process. Nothing was changed."""


def shorten(value: object) -> str:
    """Return ``repr(value)``, cut to a length that fits into one log line."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def redact_url(url: str) -> str:
    """Return `url` without user, password, query and fragment: what is left may be logged.

    Everything up to the last ``@`` goes: a password that should have been quoted may contain any character.
    """
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{re.split('[?#]', rest.rpartition('@')[2])[0]}"


def redact_text(text: str) -> str:
    """Return `text` without users and passwords of URLs, secret options and headers: other people's error messages quote them."""
    without_headers = _AUTHORIZATION.sub(r"\1***", _WORD.sub(_without_userinfo, text))
    return _SECRET_OPTION.sub(r"\1***", without_headers)


def _redact_traceback(record: logging.LogRecord) -> bool:
    """Have a traceback in our log lines told without credentials: those who format it take the text that is there already."""
    if record.exc_info and not record.exc_text:
        record.exc_text = redact_text("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return True


logging.getLogger("taskiq_sources").addFilter(_redact_traceback)


def _without_userinfo(word: re.Match[str]) -> str:
    text = word[0]
    begin, end = text.find("://"), text.rfind("@")
    return f"{text[: begin + 3]}***{text[end:]}" if 0 <= begin < end else text


def error_text(error: BaseException | str) -> str:
    """Return what is told and kept of an error: without credentials, and such that every store can keep it.

    taskiq wraps the broker's error, so the cause is what helps; our own errors say all themselves.
    """
    if isinstance(error, BaseException):
        cause = error if error.__cause__ is None or isinstance(error, TaskiqSourcesError) else error.__cause__
        try:
            error = str(cause) if isinstance(cause, TaskiqSourcesError) else f"{type(cause).__name__}: {cause}"
        except Exception:  # of a class whose text cannot be made
            error = type(cause).__name__
    if len(error) > _MOST_READ:
        begin, separator, cut = error[:_MOST_READ].rpartition("://")  # a password that is cut off would not be known for one
        error = begin if separator and not any(map(str.isspace, cut)) else error[:_MOST_READ]
    storable = error.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()
    return redact_text(storable)[:_KEPT_CHARACTERS]
