"""Finding the source class for a URL among the installed packages."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from typing_extensions import Unpack

from taskiq_sources.errors import ScheduleValidationError, UnknownBackendError, shorten
from taskiq_sources.info import SourceOptions
from taskiq_sources.source import ScheduleSource

#: Entry-point group of backends: URL scheme -> callable that takes the URL and the source's keyword arguments.
BACKENDS_GROUP = "taskiq_sources.backends"

#: Schemes of packages of this project that may not be installed, and the extra that installs them.
_EXTRAS = {
    "sqlite": "sqlite",
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
    "redis+sentinel": "redis",
    "redis+cluster": "redis",
    "postgres": "postgres",
    "postgresql": "postgres",
    "mongodb": "mongo",
    "mongodb+srv": "mongo",
}

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*):")


def source_from_url(url: str, **options: Unpack[SourceOptions]) -> ScheduleSource:
    """Return the source for a URL, from whichever installed package serves its scheme.

    Args:
        url: For example ``sqlite:///schedules.db`` or ``redis://localhost:6379/0``.
        **options: Passed on to the source.

    Raises:
        ScheduleValidationError: An argument is refused.
        UnknownBackendError: No installed package serves the scheme; the error says what to install.
    """
    given: object = url
    if not isinstance(given, str):
        raise ScheduleValidationError("url", given, "use text, such as 'sqlite:///schedules.db'")
    match = _SCHEME.match(url)
    installed = {entry.name: entry for entry in entry_points(group=BACKENDS_GROUP)}
    if match is None:
        raise UnknownBackendError(f"the schedule source URL has no scheme; it starts with one of {_listed(installed)}")
    scheme = match["scheme"].lower()
    if scheme not in installed:
        hint = f'; pip install "taskiq-sources[{_EXTRAS[scheme]}]" adds it' if scheme in _EXTRAS else ""
        raise UnknownBackendError(f"no installed package serves {shorten(scheme)} URLs; installed: {_listed(installed)}{hint}")
    make = cast("Callable[..., ScheduleSource]", installed[scheme].load())
    return make(url, **options)


def _listed(installed: dict[str, EntryPoint]) -> str:
    return ", ".join(sorted(f"{scheme}://" for scheme in installed)) or "none"
