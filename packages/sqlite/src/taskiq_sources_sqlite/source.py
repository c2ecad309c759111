"""`SQLiteScheduleSource`: the source that applications construct, and what they may call its file."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from urllib.parse import unquote, urlsplit

from typing_extensions import Unpack

from taskiq_sources.addresses import path_of
from taskiq_sources.errors import ScheduleValidationError, redact_url
from taskiq_sources.source import ScheduleSource, SourceOptions
from taskiq_sources_sqlite.schema import Synchronous
from taskiq_sources_sqlite.store import SQLiteStore

_FORMS = "use a path, sqlite:///relative/path.db or sqlite:////absolute/path.db"
_IN_MEMORY = f"a database in memory cannot be shared by processes: {_FORMS}, or taskiq_sources.InMemoryScheduleSource"
_NO_OPTIONS = "give options as keyword arguments; if the path has a '?' or '#', write %3F or %23"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two characters at least: C: is a drive


class SQLiteScheduleSource(ScheduleSource):
    """Schedules in one SQLite file, for any number of processes on one machine.

    Args:
        url: The file, as a path or a URL: ``schedules.db``, ``sqlite:///schedules.db`` (relative to the working directory) or
            ``sqlite:////var/lib/app/schedules.db`` (absolute). There is no default: two processes started in different
            directories would each work on a file of their own. The file may hold other tables too.
        busy_timeout: How long a call waits for other processes' transactions before it fails.
        synchronous: ``FULL`` (default): what was written survives a power failure. ``NORMAL``: cheaper writes that survive the
            death of any process, while the last moments before a power failure may be lost.
        poll_interval: How often to look for changes made by other processes.
        **options: As for `ScheduleSource`.

    Raises:
        ScheduleValidationError: An argument is not valid.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        busy_timeout: timedelta = timedelta(seconds=5),
        synchronous: Synchronous = "FULL",
        poll_interval: timedelta = timedelta(milliseconds=75),
        **options: Unpack[SourceOptions],
    ) -> None:
        store = SQLiteStore(path_from_url(url), busy_timeout=busy_timeout, synchronous=synchronous, poll_interval=poll_interval)
        super().__init__(store, **options)


def path_from_url(url: str | os.PathLike[str]) -> str:
    """Return the path of the file that `url` names.

    Args:
        url: A path, or ``sqlite://`` and an empty host, and after one more slash the path, percent-encoded where need be.

    Raises:
        ScheduleValidationError: It names no file that processes can share.
    """
    path = given = path_of(url, _FORMS)
    problems: dict[str, bool] = {}
    if isinstance(url, str) and _SCHEME.match(url):
        parts = urlsplit(url)
        path = unquote(parts.path[1:])
        problems = {
            f"this is no sqlite:// URL: {_FORMS}": not url.lower().startswith("sqlite://"),
            f"a file has no host, and a path begins after the third slash: {_FORMS}": parts.netloc != "",
            _NO_OPTIONS: parts.query + parts.fragment != "",
        }
    problems[_IN_MEMORY] = path in {"", ":memory:"}
    problems["a path has no NUL character"] = "\0" in path
    for problem, is_there in problems.items():
        if is_there:
            raise ScheduleValidationError("url", redact_url(given), problem)
    return path
