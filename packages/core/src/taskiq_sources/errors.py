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

import re
from collections.abc import Collection

_SHOWN_CHARACTERS = 200  # enough to recognise a value, short enough for one log line
_SHOWN_IDS = 5
_USERINFO = re.compile(r"(?<=://)\S*@")
_SECRET_OPTION = re.compile(r"(?i)([?&](?:\w*password|passwd|pwd|token|secret)=)[^&#\s'\"]+")


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
    """Return `text` without user, password and secret options in the URLs in it: other people's error messages quote them."""
    return _SECRET_OPTION.sub(r"\1***", _USERINFO.sub("***@", text))
