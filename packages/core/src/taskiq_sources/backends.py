"""What the stores of different backends share beside the contract: being open, checking arguments, reading edits. No I/O."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar

from taskiq_sources.errors import ScheduleValidationError, SchemaVersionError, SourceClosedError
from taskiq_sources.models import UNSET, ScheduleChanges
from taskiq_sources.store import ScheduleStore

T = TypeVar("T")
SessionT = TypeVar("SessionT")

#: Editing one of these is an edit of *when*.
WHEN: Final = frozenset({"timing", "scheduled_for", "next_run_at"})


class SessionStore(ScheduleStore, Generic[SessionT]):
    """A store that works with a session, such as a pool of connections, from `open` to `close`."""

    def __init__(self) -> None:
        self._opened: SessionT | None = None
        self._switching = asyncio.Lock()  # held while it is opened or closed

    @abstractmethod
    def _begin(self) -> SessionT:
        """Return a new session that has not been used yet."""

    @abstractmethod
    async def _prepare(self, session: SessionT) -> None:
        """Connect, check the server, and make or migrate the schema."""

    @abstractmethod
    async def _end(self, session: SessionT) -> None:
        """End a session, however far it came."""

    async def open(self) -> None:
        """Begin a session, unless there is one."""
        async with self._switching:
            if self._opened is not None:
                return
            session = self._begin()
            try:
                await self._prepare(session)
            except BaseException:
                await self._end(session)
                raise
            self._opened = session

    async def close(self) -> None:
        """End the session, if there is one."""
        async with self._switching:
            session, self._opened = self._opened, None
            if session is not None:
                await self._end(session)

    @property
    def _session(self) -> SessionT:
        """The session.

        Raises:
            SourceClosedError: The store is not open.
        """
        if self._opened is None:
            raise SourceClosedError(f"{self!r} is not open: await startup() first")
        return self._opened


def changed_fields(changes: ScheduleChanges) -> dict[str, Any]:
    """Return the fields of an edit that are set."""
    return {field.name: value for field in fields(changes) if (value := getattr(changes, field.name)) is not UNSET}


def check_durations(**durations: object) -> None:
    """Refuse durations that are not timedeltas longer than 0; None is none.

    Raises:
        ScheduleValidationError: It names the argument and its value.
    """
    for name, value in durations.items():
        if value is not None and (not isinstance(value, timedelta) or value <= timedelta(0)):
            raise ScheduleValidationError(name, value, "use a timedelta longer than 0")


def check_schema_version(found: int, known: int, *, where: str, package: str) -> None:
    """Refuse what a newer release has made.

    Args:
        found: Which version of the schema there is.
        known: The newest that this release knows.
        where: What has that schema.
        package: Which distribution to upgrade.

    Raises:
        SchemaVersionError: It is newer.
    """
    if found > known:
        raise SchemaVersionError(
            f"{where} has schema version {found}, made by a newer release of {package}; this one knows versions up to {known}: "
            "upgrade it"
        )


def portions(values: Iterable[T], size: int, weigh: Callable[[T], int] = lambda _: 1) -> Iterator[list[T]]:
    """Yield the values in lists that weigh at most `size`, or have a single one that weighs more. Unweighed, each weighs 1."""
    portion: list[T] = []
    weight = 0
    for value in values:
        weight += weigh(value)
        if portion and weight > size:
            yield portion
            portion, weight = [], weigh(value)
        portion.append(value)
    if portion:
        yield portion


async def together(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all of `calls` at once; raise the first error when all have ended, so that nothing goes on behind one's back."""
    if len(calls) == 1:
        return [await calls[0]]
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise errors[0]
    return [result for result in results if not isinstance(result, BaseException)]
