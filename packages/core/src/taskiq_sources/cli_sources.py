"""SOURCE on the command line of ``taskiq schedules``: what it names, and the use of several sources of which some may be down."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

import taskiq
from taskiq.cli.utils import import_object
from taskiq.utils import maybe_awaitable

from taskiq_sources.cli_output import complain
from taskiq_sources.errors import ScheduleNotFoundError, SourceConnectionError, TaskiqSourcesError, redact_text, shorten
from taskiq_sources.merge import MergedScheduleSource
from taskiq_sources.plugins import source_from_url
from taskiq_sources.source import ScheduleSource

_PLACE = re.compile(r"[\w-]+(\.[\w-]+)*:\w+")
_NO_URL = re.compile(r"[\w./\\-]+(:\w*)?")  # and so without a password


class SourceRefusedError(Exception):
    """SOURCE makes no sense. The text shows nothing of what may hold a password."""


async def sources_at(where: str, *, app_dir: str | None) -> list[ScheduleSource]:
    """Return the sources of ours at a place.

    Like taskiq, this imports, and calls what makes a scheduler, in the event loop.

    Args:
        where: A URL, or ``module:variable``.
        app_dir: Where modules are looked for first; None for the working directory.

    Raises:
        SourceRefusedError: There are none.
        TaskiqSourcesError: No store can be there.
    """
    if "://" in where:
        return [_stored_at(where)]
    if not _PLACE.fullmatch(where):
        shown = repr(where) if _NO_URL.fullmatch(where) else "SOURCE, which is not shown because it may hold a password,"
        raise SourceRefusedError(f"{shown} is neither module:variable nor a URL, which begins with scheme://")
    try:
        found = import_object(where, app_dir=app_dir)
    except (ValueError, AttributeError, ModuleNotFoundError) as error:
        raise SourceRefusedError(f"{where!r} cannot be imported: {redact_text(str(error))}") from error
    if inspect.isfunction(found):
        found = await _made_by(found, where)
    sources = list(_ours(found))
    if not sources:
        raise SourceRefusedError(f"{where!r} is {type(found).__name__}, in which there is no source of taskiq-sources")
    return sources


def _stored_at(url: str) -> ScheduleSource:
    source = source_from_url(url)
    if not (source.store.capabilities.shared or source.store.capabilities.durable):
        raise SourceConnectionError("what is in the memory of another process cannot be seen from here; name a module:variable")
    # Starting the source would make a new file, which is what an application wants, and not who has mistyped a name.
    path = getattr(source.store, "path", None)
    if path is not None and not os.path.exists(path):
        raise SourceConnectionError(f"there is no file {path!r}; a new one is made by the application, not from here")
    return source


async def _made_by(function: Callable[[], object], where: str) -> object:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise SourceRefusedError(f"{where!r} is a function that cannot be called without arguments: {error}") from error
    return await maybe_awaitable(function())


def _ours(found: object) -> Iterable[ScheduleSource]:
    if isinstance(found, ScheduleSource):
        yield found
    elif isinstance(found, (taskiq.TaskiqScheduler, MergedScheduleSource)):
        for source in found.sources:
            yield from _ours(source)


class Sources:
    """The sources of a command. Each is started when it is used; what goes wrong is told, and the others are used all the same.

    Args:
        sources: In the order in which schedules are looked for.

    Attributes:
        status: The exit status: 1 once something has gone wrong.
    """

    def __init__(self, sources: Sequence[ScheduleSource]) -> None:
        self.status = 0
        self._sources = sources
        self._started: list[ScheduleSource] = []
        self._failed: list[ScheduleSource] = []

    def __iter__(self) -> Iterator[ScheduleSource]:
        """Iterate over those that have not failed: the next id need not wait for them again."""
        return (source for source in self._sources if source not in self._failed)

    def tell(self, error: TaskiqSourcesError) -> None:
        """Print an error, and remember that there was one."""
        self.status = complain(error)

    async def ask(self, source: ScheduleSource, work: Callable[[ScheduleSource], Awaitable[bool]]) -> bool:
        """Return what `work` returns of a source; False if the source fails, which is told."""
        try:
            if source not in self._started:
                await source.startup()
                self._started.append(source)
            return await work(source)
        except TaskiqSourcesError as error:
            self._failed.append(source)
            self.tell(error)
            return False

    async def that_has(self, schedule_id: str) -> ScheduleSource:
        """Return the first source that has a schedule.

        Raises:
            ScheduleNotFoundError: None has.
            SourceConnectionError: None has of those that do not fail.
        """

        async def has(source: ScheduleSource) -> bool:
            return await source.get_schedule(schedule_id) is not None

        for source in self:
            if await self.ask(source, has):
                return source
        if self._failed:
            raise SourceConnectionError(f"schedule {shorten(schedule_id)} was not found where it could be looked for")
        raise ScheduleNotFoundError(schedule_id)

    async def shutdown(self) -> None:
        """Shut down those that were started."""
        for source in self._started:
            try:
                await source.shutdown()
            except TaskiqSourcesError as error:
                self.tell(error)
