"""`DurableScheduler`: the dispatch engine under taskiq's own command line, or inside an application. Knows no database.

Under ``taskiq scheduler`` the stock loop goes on serving sources that are not ours. It asks ``scheduler.sources``, and is shown
our sources without schedules, in its own tasks only: everybody else (dashboards, the application) sees what was passed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar, Token
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import taskiq
from taskiq import AsyncBroker, TaskiqScheduler
from taskiq.cli.scheduler.run import SchedulerLoop
from taskiq.kicker import AsyncKicker
from taskiq.utils import maybe_awaitable
from typing_extensions import Self, Unpack

from taskiq_sources.dispatched import DispatchedTask, dispatched_task
from taskiq_sources.dispatcher import Dispatcher
from taskiq_sources.errors import ScheduleValidationError, SourceClosedError
from taskiq_sources.health import Health, health_of
from taskiq_sources.kicking import kick
from taskiq_sources.merge import MergedScheduleSource, MergeFunction, finish_sends
from taskiq_sources.metrics import make_metrics
from taskiq_sources.occurrences import Dispatch
from taskiq_sources.sending import CancelledAfterSend, Send
from taskiq_sources.settings import DispatchOptions, DispatchSettings
from taskiq_sources.source import ScheduleSource
from taskiq_sources.stopping import StopSignals
from taskiq_sources.tasking import LoopLock, end, event_or_timeout, to_the_end

logger = logging.getLogger("taskiq_sources")

_LIVENESS_INTERVAL = 1.0  # seconds
_RESTART_PAUSE = 1.0  # seconds, after a dispatcher fell over; doubled up to …
_LONGEST_RESTART_PAUSE = 30.0
_LAST_GRACE = 15.0  # seconds; a dispatcher takes up to 10 to end what does not heed its end
_FOREIGN_PAUSE = 10.0  # seconds, after taskiq's loop fell over a source that is not ours: it will again

#: Starts and stops that this context is part of.
_CHANGES: ContextVar[frozenset[object]] = ContextVar("taskiq_sources_changes", default=frozenset())

#: Schedulers whose stock loop runs in this context; it is shown our sources without schedules.
_LOOPS: ContextVar[frozenset[int]] = ContextVar("taskiq_sources_stock_loops", default=frozenset())


class DurableMixin(TaskiqScheduler):
    """Puts the engine under any scheduler class: ``class Scheduler(DurableMixin, StreamScheduler): ...``.

    Occurrences of our sources are claimed by the engine and sent through that class's ``on_ready``, which has to call the
    source's ``pre_send`` and ``post_send`` as taskiq's own does.

    Args:
        broker: As for `taskiq.TaskiqScheduler`.
        sources: As for `taskiq.TaskiqScheduler`. Those of taskiq-sources are served by the engine, others by taskiq's own loop.
        merge_func: Merges the schedules of all sources, as the taskiq documentation describes. A merge needs whole lists, so all
            sources are served by taskiq's own loop then; they stay safe to share. None: sources are independent.
        liveness_file: A file, touched every second while the engine runs, has not fallen over and does not hang: for probes.
        **options: See `DispatchSettings`.

    Raises:
        ScheduleValidationError: An option is refused.
    """

    _sources: list[taskiq.ScheduleSource]

    def __init__(
        self,
        broker: AsyncBroker,
        sources: Sequence[taskiq.ScheduleSource],
        *,
        merge_func: MergeFunction | None = None,
        liveness_file: str | Path | None = None,
        **options: Unpack[DispatchOptions],
    ) -> None:
        given: object = sources
        if not isinstance(given, Iterable) or isinstance(given, taskiq.ScheduleSource):
            raise ScheduleValidationError("sources", given, "use a list of sources, even if there is one")
        sources = list(sources)
        for source in sources:
            if not isinstance(source, taskiq.ScheduleSource):
                raise ScheduleValidationError("sources", source, "use objects that are schedule sources, not classes or URLs")
        for option, value in options.items():
            if option not in DispatchSettings.__slots__:
                raise ScheduleValidationError(option, value, f"no such option; there are {', '.join(DispatchSettings.__slots__)}")
        self._merged = None if merge_func is None else MergedScheduleSource(sources, merge_func)
        super().__init__(broker, sources)
        self._ours = [] if merge_func is not None else [source for source in sources if isinstance(source, ScheduleSource)]
        self._settings = DispatchSettings(**options)
        if self._settings.max_concurrent_sends < len(self._ours):
            raise ScheduleValidationError(
                "max_concurrent_sends",
                self._settings.max_concurrent_sends,
                f"each of the {len(self._ours)} sources needs at least one",
            )
        if not isinstance(liveness_file, (str, Path, type(None))):
            raise ScheduleValidationError("liveness_file", liveness_file, "use a path")
        self._liveness_file = None if liveness_file is None else Path(liveness_file)
        self._dispatchers: list[Dispatcher] = []
        self._engine: asyncio.Task[None] | None = None
        self._foreign: asyncio.Task[None] | None = None
        self._has_started = False  # by `start`
        self._changing = LoopLock()  # held while `start` or `stop` is at work
        self._change = object()  # the last time that it was
        self._stopped: asyncio.Event
        self._signals = StopSignals()

    # -- sources -------------------------------------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # for the checker it is the attribute that taskiq declares

        @property
        def sources(self) -> list[taskiq.ScheduleSource]:
            """The sources that were passed in; for the stock loop, those that it has to serve."""
            if id(self) not in _LOOPS.get():
                return self._sources
            if self._merged is not None:
                return [self._merged]
            return [_Served(source) if source in self._ours else source for source in self._sources]

        @sources.setter
        def sources(self, sources: list[taskiq.ScheduleSource]) -> None:
            self._sources = sources

    # -- life, as taskiq's command line calls it -----------------------------------------------------------------------------

    async def startup(self) -> None:
        """Start the broker and the engine. Called by ``taskiq scheduler``, which has started the sources before."""
        await super().startup()
        _LOOPS.set(_LOOPS.get() | {id(self)})
        self._start_engine()
        if self.broker.is_scheduler_process:
            self._signals.heed()

    async def shutdown(self) -> None:
        """Stop claiming, let sends end or time out, settle, give the rest back; then stop the broker."""
        foreign, self._foreign = self._foreign, None
        try:
            await end([] if foreign is None else [foreign])
            await self._stop_engine()
            await finish_sends(self._sources)
        finally:
            await super().shutdown()

    # -- life, inside an application -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start sources, broker and engine, and taskiq's own loop for sources that are not ours. Idempotent."""
        if self._is_at_it():
            return
        async with self._changing.here():
            if self._runs:
                return
            changed = self._begin_change()
            try:
                await self._start_parts()
            finally:
                _CHANGES.reset(changed)
            self._has_started = True
            self._start_engine()
            if len(self._ours) < len(self._sources):
                self._foreign = asyncio.create_task(self._serve_foreign(), name="taskiq-sources-foreign")

    async def _start_parts(self) -> None:
        async with contextlib.AsyncExitStack() as started:
            for source in self._sources:
                await source.startup()
                started.push_async_callback(_quietly, source.shutdown)  # the first error is the one to be told
            started.push_async_callback(_quietly, super().shutdown)
            await super().startup()
            started.pop_all()

    async def stop(self) -> None:
        """Stop what `start` has started, whatever fails of it. Idempotent; if it is starting, as soon as it has.

        Raises:
            Exception: What one of them has raised.
        """
        if not self._is_at_it():
            await to_the_end(self._stop())

    async def _stop(self) -> None:
        async with self._changing.here():
            if self._engine is None and not self._has_started:
                return
            if self._engine is not None and self._runs and self._engine.get_loop() is not asyncio.get_running_loop():
                raise SourceClosedError(f"{type(self).__name__} runs in another event loop: stop it there")
            self._begin_change()
            self._has_started = False
            async with contextlib.AsyncExitStack() as stopping:  # from the last to the first
                for source in reversed(self._sources):
                    stopping.push_async_callback(source.shutdown)
                stopping.push_async_callback(self.shutdown)

    def _begin_change(self) -> Token[frozenset[object]]:
        self._change = object()
        return _CHANGES.set(_CHANGES.get() | {self._change})

    def _is_at_it(self) -> bool:
        """Whether it is started or stopped by who asks: by a handler of the broker's, say, which must not wait for itself."""
        return self._change in _CHANGES.get() and self._changing.here().locked()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _serve_foreign(self) -> None:
        _LOOPS.set(_LOOPS.get() | {id(self)})
        loop = SchedulerLoop(self)  # which remembers when it has sent what
        while True:
            try:
                await loop.run()
            except Exception:
                logger.exception("taskiq's own loop fell over one of the sources that are not ours, and is started again.")
            await asyncio.sleep(_FOREIGN_PAUSE)

    # -- the engine ----------------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Return how the engine fares: for probes, dashboards and tests."""
        return health_of(self._runs, list(zip(self._ours, self._dispatchers, strict=False)))

    @property
    def _runs(self) -> bool:
        # A task of an event loop that has ended is never done.
        return self._engine is not None and not self._engine.done() and self._engine.get_loop().is_running()

    def _start_engine(self) -> None:
        if not self._runs:
            self._dispatchers = [self._dispatcher(source) for source in self._ours]
            self._stopped = asyncio.Event()
            self._engine = asyncio.create_task(self._run_engine(), name="taskiq-sources-engine")
            logger.info("The engine serves %s.", ", ".join(map(repr, self._ours)) or "no source")

    async def _stop_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None or engine.get_loop() is not asyncio.get_running_loop():
            return  # the loop that it was started in has ended
        self._stopped.set()
        for dispatcher in self._dispatchers:
            dispatcher.stop()
        # Dispatchers end within drain_timeout; whatever still runs a while after it is cut off.
        done, _ = await asyncio.wait([engine], timeout=self._settings.drain_timeout.total_seconds() + 1)
        if not done and await end([engine], within=_LAST_GRACE):
            logger.error("The engine does not end, and is left to itself.")
        self._signals.ignore()

    async def _run_engine(self) -> None:
        liveness = asyncio.ensure_future(self._show_liveness())
        running = [asyncio.ensure_future(self._keep_running(dispatcher)) for dispatcher in self._dispatchers]
        try:
            await asyncio.gather(self._stopped.wait(), *running)
        finally:
            await end([liveness, *running])

    async def _keep_running(self, dispatcher: Dispatcher) -> None:
        """Run a dispatcher to its regular end; should it fall over a bug, start it again, when what was sent is settled."""
        pause = _RESTART_PAUSE
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await dispatcher.run()
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit):
                raise
            except SourceClosedError as error:
                pause = _RESTART_PAUSE
                if dispatcher.reach.serving:
                    logger.error("Nothing is sent until it is started again, by whoever has shut it down: %s", error)  # noqa: TRY400
            except BaseException:  # libraries that are written in other languages raise such
                logger.exception("A dispatcher fell over and is started again; please report this.")
            else:
                return
            dispatcher.reach.serving = False
            if self._stopped.is_set():
                return
            if asyncio.get_running_loop().time() - began > _LONGEST_RESTART_PAUSE:
                pause = _RESTART_PAUSE
            await event_or_timeout(self._stopped, pause)
            pause = min(2 * pause, _LONGEST_RESTART_PAUSE)

    def _dispatcher(self, source: ScheduleSource) -> Dispatcher:
        share = DispatchSettings(
            **{name: getattr(self._settings, name) for name in DispatchSettings.__slots__}
            | {"max_concurrent_sends": self._settings.max_concurrent_sends // len(self._ours)},
        )
        dispatcher = Dispatcher(
            source.desk,
            source.store,
            source.clock,
            self._sender(source),
            share,
            name=repr(source),
        )
        dispatcher.report_to(make_metrics(type(source).__name__, dispatcher))
        return dispatcher

    def _sender(self, source: ScheduleSource) -> Send:
        """Return what sends the occurrences of a source."""
        return partial(self._send, source)

    async def _send(self, source: ScheduleSource, dispatch: Dispatch) -> bool:
        task = dispatched_task(dispatch)
        try:
            await self.on_ready(source, task)
        except Exception:
            if not task.was_sent:
                raise
            logger.exception("Schedule %r was sent; what was to happen after that failed.", task.schedule_id)
        except asyncio.CancelledError as error:
            if not task.was_sent:
                raise
            logger.error("Schedule %r was sent; what was to happen after that was cut off.", task.schedule_id)  # noqa: TRY400
            raise CancelledAfterSend from error
        return task.result()

    async def _show_liveness(self) -> None:
        is_told = False
        while self._liveness_file is not None:
            try:
                if all(dispatcher.reach.serving and not dispatcher.reach.hangs for dispatcher in self._dispatchers):
                    await asyncio.to_thread(self._liveness_file.touch)
                is_told = False
            except OSError as error:  # sends go on, and so does trying: a disk may be full for a moment
                if not is_told:
                    logger.error("The liveness file cannot be touched: %s; make it a file that can be written.", error)  # noqa: TRY400
                is_told = True
            await asyncio.sleep(_LIVENESS_INTERVAL)


class DurableScheduler(DurableMixin):
    """A `taskiq.TaskiqScheduler` with a dispatch engine: sends when things are due, survives faults, at any number of replicas.

    Runs under ``taskiq scheduler module:scheduler`` unchanged, or inside an application with ``async with scheduler:``. Messages
    carry the labels ``schedule_id`` and ``scheduled_for``, and a ``task_id`` that is the same for every re-send of an occurrence.
    See `DurableMixin` for the arguments.
    """

    async def on_ready(self, source: taskiq.ScheduleSource, task: taskiq.ScheduledTask) -> None:
        """Send a task; called by the engine and, for sources that are not ours, by taskiq's own loop."""
        if not isinstance(task, DispatchedTask):
            await super().on_ready(source, task)
            return
        labels = {
            **task.labels,
            "schedule_id": task.schedule_id,
            "scheduled_for": task.scheduled_for.isoformat(timespec="milliseconds"),
        }
        with task.failing():
            await maybe_awaitable(source.pre_send(task))
            await AsyncKicker(task.task_name, self.broker, labels).with_task_id(task.task_id).kiq(*task.args, **task.kwargs)
        task.was_sent = True
        await maybe_awaitable(source.post_send(task))

    def _sender(self, source: ScheduleSource) -> Send:
        hooks = (
            (self.on_ready, DurableScheduler.on_ready),
            (source.pre_send, ScheduleSource.pre_send),
            (source.post_send, ScheduleSource.post_send),
        )
        if source.desk.serializer is not None or any(getattr(hook, "__func__", None) is not ours for hook, ours in hooks):
            return super()._sender(source)
        # Nobody would see the `ScheduledTask` that the hooks are called with, and making it costs as much as a third of a send.
        return partial(kick, self.broker)


async def _quietly(end_it: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(Exception):
        await end_it()


class _Served(taskiq.ScheduleSource):
    """One of our sources as the stock loop sees it: started and stopped, but without schedules, which the engine serves."""

    def __init__(self, source: ScheduleSource) -> None:
        self._source = source

    def __repr__(self) -> str:
        return repr(self._source)

    async def startup(self) -> None:
        await self._source.startup()

    async def shutdown(self) -> None:
        await self._source.shutdown()

    async def get_schedules(self) -> list[taskiq.ScheduledTask]:
        return []


__all__ = ["DurableMixin", "DurableScheduler"]
