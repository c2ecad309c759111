"""`CreatedSchedule`: the handle that an application keeps of a schedule it has created, and `ManualRun`, that of a run."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import datetime, timedelta, tzinfo
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from taskiq import AsyncResultBackend, AsyncTaskiqTask
from taskiq.kicker import AsyncKicker
from taskiq.scheduler.created_schedule import CreatedSchedule as TaskiqCreatedSchedule

from taskiq_sources.edits import manual_id
from taskiq_sources.options import ScheduleOptions
from taskiq_sources.tasks import ScheduledTask

if TYPE_CHECKING:
    from taskiq_sources.source import ScheduleSource

_ReturnType = TypeVar("_ReturnType")
_Result = TypeVar("_Result")


class ManualRun(AsyncTaskiqTask[_ReturnType]):
    """A run that was asked for with `run_now`: taskiq's handle of a message, which the schedulers are going to send.

    Attributes:
        task_id: Of the message.
        schedule_id: Of the one-off that the run is until it has been sent.
    """

    def __init__(
        self,
        task_id: str,
        result_backend: AsyncResultBackend[_ReturnType],
        return_type: type[_ReturnType] | None,
        source: ScheduleSource,
    ) -> None:
        super().__init__(task_id, result_backend, return_type)
        self.schedule_id = manual_id(task_id)
        self._source = source

    async def unschedule(self) -> bool:
        """Call the run off, and return whether it was still there. A send that has begun is not recalled."""
        return bool(await self._source.delete_schedules([self.schedule_id]))


class CreatedSchedule(TaskiqCreatedSchedule[_ReturnType]):
    """A stored schedule: taskiq's handle, with pause, resume, reschedule and run-now.

    Attributes:
        schedule_id: Its id.
        task: What was stored.
        next_run_at: When its pending occurrence is due, as of the last call on this handle; aware UTC. None when nothing is
            pending.
    """

    source: ScheduleSource
    task: ScheduledTask

    def __init__(
        self,
        kicker: AsyncKicker[Any, _ReturnType],
        source: ScheduleSource,
        task: ScheduledTask,
        next_run_at: datetime | None,
    ) -> None:
        super().__init__(kicker, source, task)
        self.next_run_at = next_run_at

    async def pause(self) -> None:
        """Keep it from running until `resume`. Idempotent; raises `ScheduleNotFoundError` if it is gone."""
        self.next_run_at = (await self.source.pause(self.schedule_id)).state.next_run_at

    async def resume(self, *, catch_up: bool = False) -> None:
        """Let it run again, see `ScheduleSource.resume`."""
        self.next_run_at = (await self.source.resume(self.schedule_id, catch_up=catch_up)).state.next_run_at

    async def reschedule(
        self,
        *,
        cron: str | None = None,
        cron_offset: str | timedelta | tzinfo | None = None,
        interval: int | timedelta | None = None,
        time: datetime | None = None,
        options: ScheduleOptions | None = None,
    ) -> None:
        """Give it other triggers, see `ScheduleSource.reschedule`."""
        info = await self.source.reschedule(
            self.schedule_id,
            cron=cron,
            cron_offset=cron_offset,
            interval=interval,
            time=time,
            options=options,
        )
        self.next_run_at = info.state.next_run_at
        if info.task is not None:
            self.task = info.task

    # As taskiq does it for `kiq`: what a coroutine returns is what a result is.
    @overload
    async def run_now(self: CreatedSchedule[CoroutineType[Any, Any, _Result]]) -> ManualRun[_Result]: ...

    @overload
    async def run_now(self: CreatedSchedule[Coroutine[Any, Any, _Result]]) -> ManualRun[_Result]: ...

    @overload
    async def run_now(self: CreatedSchedule[_ReturnType]) -> ManualRun[_ReturnType]: ...

    async def run_now(self) -> Any:
        """Have it sent once more, now, through the schedulers; return the handle of that very run, which can be called off."""
        task_id = await self.source.run_now(self.schedule_id)
        backend: AsyncResultBackend[Any] = self.kicker.broker.result_backend
        return ManualRun(task_id, backend, self.kicker.return_type, self.source)
