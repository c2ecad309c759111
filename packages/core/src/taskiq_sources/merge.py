"""Several sources as one: merge functions as taskiq documents them, and the source that applies one.

A merge function takes what was found so far and what the next source returned, and returns what is to be used. Any such function
works, one that filters or changes schedules included.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

import taskiq
from taskiq.utils import maybe_awaitable

from taskiq_sources.clock import MonotonicTimer
from taskiq_sources.errors import ScheduleNotFoundError, ScheduleValidationError
from taskiq_sources.source import ScheduleSource
from taskiq_sources.stock import origin_of

logger = logging.getLogger("taskiq_sources")

Schedules: TypeAlias = list[taskiq.ScheduledTask]
MergeFunction: TypeAlias = Callable[[Schedules, Schedules], Schedules]


def preserve_all(old: Schedules, new: Schedules) -> Schedules:
    """Keep everything: what was found so far, then what is new."""
    return [*old, *new]


def only_unique(old: Schedules, new: Schedules) -> Schedules:
    """Keep everything once: a schedule equal to one that was found already is left out. Linear in the number of schedules."""
    result = list(old)
    seen: dict[str, Schedules] = {}
    for schedule in old:
        seen.setdefault(schedule.schedule_id, []).append(schedule)
    for schedule in new:
        # Equal schedules have equal ids; comparing within one id keeps this linear although schedules cannot be hashed.
        alike = seen.setdefault(schedule.schedule_id, [])
        if schedule not in alike:
            alike.append(schedule)
            result.append(schedule)
    return result


def only_new(_old: Schedules, new: Schedules) -> Schedules:
    """Keep only what the last source returned."""
    return list(new)


@dataclass(frozen=True, slots=True)
class _Owned:
    """A schedule that was handed out, and whose it is. Holds it, so that its ``id()`` stays its own."""

    schedule: taskiq.ScheduledTask
    source: taskiq.ScheduleSource


@dataclass(frozen=True, slots=True)
class _Sending:
    """Whose a schedule is that is being sent. Does not hold it: of a send that fails, nobody is told."""

    schedule: weakref.ref[taskiq.ScheduledTask]
    source: taskiq.ScheduleSource


class MergedScheduleSource(taskiq.ScheduleSource):
    """Several sources behind one, merged by a function.

    Each schedule still belongs to the source it came from: that one's ``pre_send`` and ``post_send`` are called, and it is asked
    to delete it. A source that fails does not silence the others; its last list is served for a while, so that the scheduler does
    not forget what it has sent.

    Args:
        sources: The sources, in the order in which they are merged.
        merge_func: How two lists become one.
        stale_for: How long the last list of a failing source is served.

    Raises:
        ScheduleValidationError: There is no source.
    """

    def __init__(
        self,
        sources: Sequence[taskiq.ScheduleSource],
        merge_func: MergeFunction = preserve_all,
        *,
        stale_for: timedelta = timedelta(minutes=10),
    ) -> None:
        given: object = sources
        if isinstance(given, taskiq.ScheduleSource):
            raise ScheduleValidationError("sources", given, "use a list of sources")
        if not sources:
            raise ScheduleValidationError("sources", sources, "give at least one source")
        self.sources = list(sources)
        self.merge_func = merge_func
        self._stale_for = stale_for
        self._last_good: dict[int, tuple[MonotonicTimer, Schedules]] = {}
        self._by_object: dict[int, _Owned] = {}
        self._by_id: dict[str, taskiq.ScheduleSource] = {}
        self._sending: dict[int, _Sending] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.sources!r}, {getattr(self.merge_func, '__name__', self.merge_func)})"

    async def startup(self) -> None:
        """Start all sources; if one fails, stop those that were started."""
        started: list[taskiq.ScheduleSource] = []
        try:
            for source in self.sources:
                await source.startup()
                started.append(source)
        except BaseException:
            await _shut_down(started)
            raise

    async def shutdown(self) -> None:
        """Shut all sources down, also when one of them fails; the first error is raised then."""
        error = await _shut_down(self.sources)
        if error is not None:
            raise error

    async def finish_sends(self) -> None:
        """Wait until what taskiq's loop is sending is sent, and settled, where a source knows of it."""
        await finish_sends(self.sources)

    async def get_schedules(self) -> Schedules:
        """Return the schedules of all sources, merged."""
        merged: Schedules = []
        by_object: dict[int, _Owned] = {}
        by_id: dict[str, taskiq.ScheduleSource] = {}
        for index, source in enumerate(self.sources):
            found = await self._schedules_of(index, source)
            for schedule in found:
                by_object[id(schedule)] = _Owned(schedule, source)
                by_id.setdefault(schedule.schedule_id, source)
                by_id.setdefault(origin_of(schedule), source)
            merged = found if index == 0 else self.merge_func(merged, found)
        # A merge function may return copies: those are found by their id.
        self._by_object, self._by_id = by_object, by_id
        return merged

    async def add_schedule(self, schedule: taskiq.ScheduledTask) -> None:
        """Add a schedule to the first source that supports it."""
        for source in self.sources:
            try:
                await source.add_schedule(schedule)
            except NotImplementedError:
                continue
            return
        msg = "none of the merged sources supports adding schedules"
        raise NotImplementedError(msg)

    async def delete_schedule(self, schedule_id: str) -> None:
        """Delete a schedule from the source that it came from, or from every source if that is not known."""
        owner = self._by_id.get(schedule_id)
        deleted = False
        for source in self.sources if owner is None else [owner]:
            try:
                await source.delete_schedule(schedule_id)
            except NotImplementedError:
                continue
            deleted = True
        if not deleted:
            msg = "the source of this schedule does not support deleting schedules"
            raise NotImplementedError(msg)

    async def pre_send(self, task: taskiq.ScheduledTask) -> None:
        """Call ``pre_send`` of the source that the schedule came from."""
        owned = self._by_object.get(id(task))
        # What was handed out for one occurrence has another id after each, and remembers whose it is.
        source = self._by_id.get(task.schedule_id, self._by_id.get(origin_of(task))) if owned is None else owned.source
        if source is None:
            raise ScheduleNotFoundError(task.schedule_id)
        # Remembered by object: a source may change the id while it sends, and a refresh may come in between.
        key, sending = id(task), self._sending
        sending[key] = _Sending(weakref.ref(task, lambda _: sending.pop(key, None)), source)
        try:
            await maybe_awaitable(source.pre_send(task))
        except BaseException:
            del sending[key]
            raise

    async def post_send(self, task: taskiq.ScheduledTask) -> None:
        """Call ``post_send`` of the source that the schedule came from."""
        sending = self._sending.pop(id(task), None)
        if sending is None:
            raise ScheduleNotFoundError(task.schedule_id)
        await maybe_awaitable(sending.source.post_send(task))

    async def _schedules_of(self, index: int, source: taskiq.ScheduleSource) -> Schedules:
        try:
            found = await source.get_schedules()
        except Exception:  # whatever a source raises must not silence the others
            timer, last = self._last_good.get(index, (MonotonicTimer(), []))
            if timer.elapsed() > self._stale_for:
                last = []
            logger.exception("%r failed; serving %d schedule(s) that it returned before.", source, len(last))
            return [schedule.model_copy(deep=True) for schedule in last]
        self._last_good[index] = (MonotonicTimer(), [schedule.model_copy(deep=True) for schedule in found])
        return found


async def finish_sends(sources: Iterable[taskiq.ScheduleSource]) -> None:
    """Wait until what taskiq's loop is sending of these is sent, and settled, where they know of it."""
    ours = [source for source in sources if isinstance(source, (ScheduleSource, MergedScheduleSource))]
    await asyncio.gather(*(source.finish_sends() for source in ours))


async def _shut_down(sources: Sequence[taskiq.ScheduleSource]) -> Exception | None:
    first: Exception | None = None
    for source in reversed(sources):
        try:
            await source.shutdown()
        except Exception as error:  # the others are to be shut down all the same
            logger.exception("%r could not be shut down.", source)
            first = first or error
    return first
