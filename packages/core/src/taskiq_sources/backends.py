"""What the stores of different backends share beside the contract: being open, checking arguments, reading edits. No I/O."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import timedelta
from itertools import islice
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from taskiq_sources.errors import (
    RevisionConflictError,
    ScheduleNotFoundError,
    ScheduleValidationError,
    SchemaVersionError,
    SourceClosedError,
)
from taskiq_sources.models import UNSET, ScheduleChanges
from taskiq_sources.store import ScheduleStore
from taskiq_sources.tasking import LoopLock

T = TypeVar("T")

#: Editing one of these is an edit of *when*.
WHEN: Final = frozenset({"timing", "scheduled_for", "next_run_at"})


_LONGEST: Final = timedelta(days=36_525)  # there is a date that long ago, and in that time, for every store

_TOKEN_BYTES = 12  # of randomness; 16 letters


class Session(Protocol):
    """What a store works with from `SessionStore.open` to `SessionStore.close`."""

    async def close(self) -> None:
        """Free what it holds, however far it came."""


SessionT = TypeVar("SessionT", bound=Session)


class SessionStore(ScheduleStore, Generic[SessionT]):
    """A store that works with a session, such as a pool of connections, from `open` to `close`."""

    #: Whether a session is of use in the event loop only that it was begun in.
    _of_one_loop: ClassVar[bool] = True

    #: Makes a session, which has not been used yet. For `_begin`.
    _new_session: Callable[[], SessionT]

    def __init__(self) -> None:
        self._opened: SessionT | None = None
        self._home: tuple[asyncio.AbstractEventLoop, int] | None = None  # event loop and process of the session
        self._switching = LoopLock()  # held while it is opened or closed

    def _begin(self) -> SessionT:
        """Return a new session; overridden by those that have more to do for it than to make it."""
        return self._new_session()

    @abstractmethod
    async def _prepare(self, session: SessionT) -> None:
        """Connect, check the server, and make or migrate the schema."""

    async def _end(self, session: SessionT) -> None:
        """End a session, however far it came."""
        await session.close()

    async def open(self) -> None:
        """Begin a session, unless there is one."""
        self._leave_a_loop_that_ended()
        async with self._switching.here():
            if self._opened is not None:
                return
            session, self._home = self._begin(), (asyncio.get_running_loop(), os.getpid())
            try:
                await self._prepare(session)
            except BaseException:
                self._home = None
                await self._end(session)
                raise
            self._opened = session

    async def close(self) -> None:
        """End the session, if there is one."""
        self._leave_a_loop_that_ended()
        async with self._switching.here():
            session, self._opened, self._home = self._opened, None, None
            if session is not None:
                await self._end(session)

    def _leave_a_loop_that_ended(self) -> None:
        """Forget the session of an event loop that does not run any more: nobody can close it, and its connections go with it."""
        here = asyncio.get_running_loop(), os.getpid()
        if self._home in (None, here) or not self._of_one_loop:
            return
        (loop, process), (_, this_process) = self._home, here
        if process == this_process and loop.is_running():
            raise SourceClosedError(f"{self!r} is open in another event loop, which is running: make a source for each of them")
        self._opened, self._home = None, None

    @property
    def _session(self) -> SessionT:
        """The session.

        Raises:
            SourceClosedError: The store is not open.
        """
        if self._opened is None:
            raise SourceClosedError(f"{self!r} is not open: await startup() first")
        return self._opened


def some_of(found: Sequence[T], wanted: int) -> Sequence[T]:
    """Return up to `wanted` of what was found; of more than that, by chance, as others who find the same pick too."""
    return found if len(found) <= wanted else random.sample(found, wanted)


def changed_fields(changes: ScheduleChanges) -> dict[str, Any]:
    """Return the fields of an edit that are set."""
    return {field.name: value for field in fields(changes) if (value := getattr(changes, field.name)) is not UNSET}


def check_durations(**durations: object) -> None:
    """Refuse durations that are not timedeltas longer than 0, or longer than anybody waits; None is none.

    Raises:
        ScheduleValidationError: It names the argument and its value.
    """
    for name, value in durations.items():
        if value is not None and (not isinstance(value, timedelta) or value <= timedelta(0)):
            raise ScheduleValidationError(name, value, "use a timedelta longer than 0")
        if value is not None and value > _LONGEST:
            raise ScheduleValidationError(name, value, f"use a timedelta of at most a century, {_LONGEST.days:,} days")


def check_patience(**durations: object) -> None:
    """Refuse durations that are not timedeltas of 0, which is not to wait at all, or longer.

    Raises:
        ScheduleValidationError: It names the argument and its value.
    """
    for name, value in durations.items():
        if not isinstance(value, timedelta) or value < timedelta(0):
            raise ScheduleValidationError(name, value, "use a timedelta, of 0 or longer")
        check_durations(**{name: value or None})


def check_either(**arguments: object) -> None:
    """Refuse anything but one of several arguments that stand for each other. None is none.

    Raises:
        ScheduleValidationError: It names the arguments, and shows no value: some are URLs with a password.
    """
    given = [name for name, value in arguments.items() if value is not None]
    if len(given) != 1:
        first, *_ = given or arguments
        wanted = " or ".join(f"a {name}" for name in arguments)
        raise ScheduleValidationError(first, "…" if given else None, f"give either {wanted}")


def check_revision(schedule_id: str, found: int | None, expected: int | None) -> None:
    """Refuse to edit a schedule that is not there, or is at another revision than it should be.

    Args:
        schedule_id: The schedule.
        found: Its revision; None if there is no such schedule.
        expected: The revision that the edit is for; None for any.

    Raises:
        ScheduleNotFoundError: There is no such schedule.
        RevisionConflictError: It is at another revision.
    """
    if found is None:
        raise ScheduleNotFoundError(schedule_id)
    if expected is not None and expected != found:
        raise RevisionConflictError(schedule_id, expected, found)


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


def fresh_token() -> str:
    """Return text for the tokens of a call of ``claim``, never used before: letters, digits, ``-`` and ``_``."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def portions(values: Iterable[T], size: int | None, weigh: Callable[[T], int] | None = None) -> Iterator[list[T]]:
    """Yield the values in lists of `size`, or that weigh at most so much, or have one that weighs more; of None, in one list."""
    if weigh is None:
        left = iter(values)
        while portion := list(islice(left, size)):
            yield portion
        return
    portion = []
    weight = 0
    for value in values:
        more = weigh(value)
        if portion and size is not None and weight + more > size:
            yield portion
            portion, weight = [], 0
        portion.append(value)
        weight += more
        if size is not None and weight >= size:  # without a look at the next value, which may be made as it is needed
            yield portion
            portion, weight = [], 0
    if portion:
        yield portion


async def together(calls: Iterable[Coroutine[Any, Any, T]], *, at_once: int | None = None) -> list[T]:
    """Await `calls` and return their results.

    When one fails, its error is raised as soon as those beside it have ended, so that nothing goes on behind one's back. Those
    that would come after them are not begun.

    Args:
        calls: The calls; made as they are needed, if this is a generator.
        at_once: How many go on beside one another; None for all.
    """
    results: list[T] = []
    for some in portions(calls, at_once):
        if len(some) == 1:
            results.append(await some[0])
            continue
        for result in await asyncio.gather(*some, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            results.append(result)
    return results
