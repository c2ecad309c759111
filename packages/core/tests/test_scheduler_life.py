"""Starting and stopping a scheduler, and what it says of itself: in virtual time, over the in-memory store."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import taskiq
from taskiq import AsyncBroker, BrokerMessage, InMemoryBroker, TaskiqEvents, TaskiqState

from taskiq_sources import (
    DurableScheduler,
    Health,
    InMemoryScheduleSource,
    MergedScheduleSource,
    ScheduledTask,
    ScheduleValidationError,
    SourceClosedError,
    preserve_all,
)
from taskiq_sources.memory import MemoryData
from taskiq_sources_conformance.virtual import ForeignSource
from taskiq_sources_conformance.virtual_loop import LoopClock, VirtualEventLoop

pytestmark = pytest.mark.anyio

START = datetime(2030, 5, 14, 12, tzinfo=timezone.utc)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualEventLoop}


class Broker(AsyncBroker):
    """Counts messages; takes a while to start, and may be told to take one for a message, or to fail when it stops."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []
        self.takes = 0.0
        self.stops = 0
        self.stop_error: Exception | None = None

    async def startup(self) -> None:
        await asyncio.sleep(1)
        await super().startup()

    async def shutdown(self) -> None:
        await super().shutdown()
        self.stops += 1
        if self.stop_error is not None:
            raise self.stop_error

    async def kick(self, message: BrokerMessage) -> None:
        await asyncio.sleep(self.takes)
        if self.stops:
            raise ConnectionError("the broker was shut down")
        self.sent.append(message.task_name)

    async def listen(self) -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""


@pytest.fixture
def broker() -> Broker:
    return Broker()


def _source(data: MemoryData | None = None) -> InMemoryScheduleSource:
    return InMemoryScheduleSource(data or MemoryData(), clock=LoopClock(START))


def _task(**fields: Any) -> ScheduledTask:
    return ScheduledTask(task_name="job", labels={}, args=[], kwargs={}, **fields)


# -- starting and stopping ---------------------------------------------------------------------------------------------------


async def test_starts_at_the_same_time_are_one(broker: Broker) -> None:
    """What would be started twice would send twice, and go on when it is stopped once."""
    tasks = asyncio.all_tasks()
    scheduler = DurableScheduler(broker, [_source(), ForeignSource([])])

    await asyncio.gather(scheduler.start(), scheduler.start())
    await scheduler.stop()

    assert asyncio.all_tasks() == tasks


async def test_a_stop_amid_the_start_stops(broker: Broker) -> None:
    scheduler = DurableScheduler(broker, [_source()])
    starting = asyncio.ensure_future(scheduler.start())
    await asyncio.sleep(0.5)

    await scheduler.stop()

    assert starting.done()
    assert not scheduler.health().running


async def test_a_stop_that_is_cancelled_is_done_first(broker: Broker) -> None:
    """What is being sent is recorded, and the broker stopped, before whoever has lost patience goes on."""
    data = MemoryData()
    source = _source(data)
    await source.add_schedule(_task(time=START))
    broker.takes = 5
    tasks = asyncio.all_tasks()
    scheduler = DurableScheduler(broker, [source])
    await scheduler.start()
    await asyncio.sleep(1)

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(scheduler.stop(), 0.5)

    assert broker.stops == 1
    assert asyncio.all_tasks() == tasks
    assert [run.status for run in data.runs.values()] == ["sent"]


async def test_handlers_of_the_broker_may_start_and_stop_it(broker: Broker) -> None:
    """They are called by what they call: nobody waits for himself."""
    scheduler = DurableScheduler(broker, [_source()])

    @broker.on_event(TaskiqEvents.CLIENT_STARTUP)
    async def start(_: TaskiqState) -> None:
        await scheduler.start()

    @broker.on_event(TaskiqEvents.CLIENT_SHUTDOWN)
    async def stop(_: TaskiqState) -> None:
        await scheduler.stop()

    await asyncio.wait_for(scheduler.start(), 10)
    assert scheduler.health().ok
    await asyncio.wait_for(broker.shutdown(), 30)
    assert not scheduler.health().running


async def test_what_runs_in_the_engine_may_stop_it(broker: Broker) -> None:
    """A hook that the engine calls is none of those handlers. (Look at the context in which the engine is made.)"""
    stopping: list[asyncio.Task[None]] = []

    class Stops(InMemoryScheduleSource):
        async def post_send(self, task: taskiq.ScheduledTask) -> None:
            await super().post_send(task)
            stopping.append(asyncio.ensure_future(scheduler.stop()))

    source = Stops(clock=LoopClock(START))
    await source.add_schedule(_task(time=START))
    scheduler = DurableScheduler(broker, [source])
    await scheduler.start()
    await asyncio.sleep(5)

    assert [task.done() for task in stopping] == [True]
    assert not scheduler.health().running


async def test_sources_may_come_from_an_iterator(broker: Broker) -> None:
    sources: Any = (source for source in [_source()])
    scheduler = DurableScheduler(broker, sources)
    await scheduler.start()

    assert len(scheduler.health().sources) == 1
    await scheduler.stop()


async def test_everything_is_stopped_though_something_fails(broker: Broker) -> None:
    """A broker that cannot be stopped keeps no source open."""
    broker.stop_error = ConnectionError("the broker went first")
    sources = [_source(), _source()]
    scheduler = DurableScheduler(broker, sources)
    await scheduler.start()

    with pytest.raises(ConnectionError, match="went first"):
        await scheduler.stop()

    assert all(source._closed for source in sources)


def test_event_loops_may_run_it_one_after_the_other() -> None:
    """As tests of an application do, each in a loop of its own."""
    scheduler = DurableScheduler(InMemoryBroker(), [InMemoryScheduleSource()])

    async def live() -> None:
        async with scheduler:
            await asyncio.gather(scheduler.start(), scheduler.start())
            assert scheduler.health().ok

    async def start() -> None:
        await scheduler.start()
        assert scheduler.health().ok

    for use in (live, live, start, live):  # the third is ended by the end of its loop
        asyncio.run(use())


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "left-open"])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_is_started_again_after_a_loop_that_ended_over_it(is_closed: bool) -> None:
    """Its tasks there are never done, and nobody can wait for them."""
    source = InMemoryScheduleSource()
    broker = InMemoryBroker()
    sent = asyncio.Event()

    @broker.task("job")
    async def job() -> None:
        sent.set()

    scheduler = DurableScheduler(broker, [source, ForeignSource([])])
    loop = asyncio.new_event_loop()
    loop.run_until_complete(scheduler.start())
    if is_closed:
        loop.close()

    async def again() -> None:
        assert not scheduler.health().running
        await scheduler.start()
        assert scheduler.health().running
        await source.add_schedule(_task(time=START - timedelta(days=3650)))
        await sent.wait()
        await scheduler.stop()

    asyncio.run(asyncio.wait_for(again(), 10))
    loop.close()
    gc.collect()  # Python complains of the tasks of that loop, here and not in the next test


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_is_stopped_after_a_loop_that_was_left_open(broker: Broker) -> None:
    scheduler = DurableScheduler(broker, [InMemoryScheduleSource(), ForeignSource([])])
    loop = asyncio.new_event_loop()
    loop.run_until_complete(scheduler.start())

    asyncio.run(scheduler.stop())

    assert broker.stops == 1
    loop.close()
    gc.collect()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_collector_of_cycles_is_as_before_after_a_loop_that_ended_in_the_middle_of_a_send() -> None:
    broker = InMemoryBroker()
    before, begun = gc.get_threshold(), asyncio.Event()

    async def kick(_message: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    broker.kick = kick  # type: ignore[method-assign]

    async def live() -> None:
        source = InMemoryScheduleSource()
        await DurableScheduler(broker, [source]).start()
        await source.add_schedule(_task(time=START - timedelta(days=3650)))
        await begun.wait()
        assert gc.get_threshold() != before

    loop = asyncio.new_event_loop()
    loop.run_until_complete(live())
    loop.close()
    del loop  # nothing else has the engine
    gc.collect()

    assert gc.get_threshold() == before


def test_it_is_stopped_where_it_runs(broker: Broker) -> None:
    """In a loop of another thread that can do nothing for it, that is said, and it goes on."""
    scheduler = DurableScheduler(broker, [InMemoryScheduleSource()])

    async def live() -> None:
        async with scheduler:
            with pytest.raises(SourceClosedError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, scheduler.stop())

            assert scheduler.health().ok

    asyncio.run(live())
    assert broker.stops == 1


def test_it_is_stopped_in_a_later_loop_than_it_was_started_in(broker: Broker) -> None:
    scheduler = DurableScheduler(broker, [InMemoryScheduleSource(), ForeignSource([])])
    asyncio.run(scheduler.start())

    asyncio.run(scheduler.stop())

    assert broker.stops == 1


async def test_a_task_that_began_in_a_handler_stops_it_like_any_other(broker: Broker) -> None:
    """Handlers must not wait for what they are part of; what outlives them is part of nothing. (See `_is_at_it`.)"""
    told = asyncio.Event()
    scheduler = DurableScheduler(broker, [_source()])
    supervisors: list[asyncio.Future[None]] = []

    async def restart() -> None:
        await told.wait()
        await scheduler.stop()
        await scheduler.start()

    def begin(_state: TaskiqState) -> None:
        if not supervisors:
            supervisors.append(asyncio.ensure_future(restart()))

    broker.add_event_handler(TaskiqEvents.CLIENT_STARTUP, begin)
    await scheduler.start()

    stopping = asyncio.ensure_future(scheduler.stop())
    await asyncio.sleep(0)
    told.set()
    await asyncio.gather(stopping, *supervisors)

    assert scheduler.health().running
    await scheduler.stop()


async def test_a_start_that_fails_leaves_nothing_open(broker: Broker) -> None:
    """Handlers that were called at the start are followed by those of the end, as taskiq does it."""
    closed: list[str] = []

    def fail(_state: TaskiqState) -> None:
        raise OSError("no")

    broker.add_event_handler(TaskiqEvents.CLIENT_STARTUP, fail)
    broker.add_event_handler(TaskiqEvents.CLIENT_SHUTDOWN, lambda _state: closed.append("closed"))
    scheduler = DurableScheduler(broker, [_source()])

    with pytest.raises(OSError, match="no"):
        await scheduler.start()

    assert (closed, broker.stops) == (["closed"], 1)
    assert not scheduler.health().running


# -- health ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def touches(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What would touch a liveness file, without the thread, which virtual time could not wait for."""
    called: list[object] = []

    async def call(function: object) -> None:
        called.append(function)

    monkeypatch.setattr(asyncio, "to_thread", call)
    return called


def test_any_thread_may_ask_how_it_is() -> None:
    """Web frameworks call a probe that is no coroutine in a thread; virtual time would not wait for that."""
    source = InMemoryScheduleSource()

    async def ask() -> Health:
        async with DurableScheduler(InMemoryBroker(), [source]) as scheduler:
            return await asyncio.to_thread(scheduler.health)

    assert asyncio.run(ask()).ok


@pytest.mark.parametrize("merge", [None, preserve_all], ids=["foreign sources", "merged"])
async def test_an_engine_without_a_source_of_its_own_is_well(broker: Broker, touches: list[object], merge: Any) -> None:
    """taskiq's loop serves what there is; a probe must not end the process for that."""
    sources: list[taskiq.ScheduleSource] = [ForeignSource([])] if merge is None else [_source()]
    scheduler = DurableScheduler(broker, sources, merge_func=merge, liveness_file="alive")
    await scheduler.start()
    await asyncio.sleep(3)

    assert scheduler.health().ok
    assert len(touches) >= 2
    await scheduler.stop()
    assert not scheduler.health().ok


async def test_a_source_that_was_shut_down_is_not_well(
    broker: Broker, touches: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    """An engine that sends nothing says so, once in the log, and to probes for as long as it lasts."""
    data = MemoryData()
    source = _source(data)
    scheduler = DurableScheduler(broker, [source], liveness_file="alive")
    await scheduler.start()
    await source.shutdown()
    await _source(data).add_schedule(_task(time=START))
    await asyncio.sleep(10)
    touches.clear()
    await asyncio.sleep(10)

    assert [one.serving for one in scheduler.health().sources] == [False]
    assert not scheduler.health().ok
    assert touches == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR]

    await source.startup()
    await asyncio.sleep(3)
    assert scheduler.health().ok
    assert broker.sent == ["job"]
    await scheduler.stop()


# -- what others raise -------------------------------------------------------------------------------------------------------


async def test_a_hook_that_fails_after_the_send_costs_no_second_one(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """What is known to have been sent is recorded as sent."""

    class Broken(InMemoryScheduleSource):
        async def post_send(self, task: taskiq.ScheduledTask) -> None:
            await super().post_send(task)
            raise RuntimeError("no metrics")

    source = Broken(clock=LoopClock(START))
    await source.add_schedule(_task(time=START))
    scheduler = DurableScheduler(broker, [source])
    await scheduler.start()
    await asyncio.sleep(60)
    await scheduler.stop()
    await source.startup()

    assert broker.sent == ["job"]
    assert [run.status async for run in source.runs()] == ["sent"]
    assert "what was to happen after that failed" in caplog.text


async def test_taskiqs_loop_is_started_again(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """A schedule that is not ours, and that taskiq's loop falls over, is told of in the log, and does not end the loop."""

    class Broken(ForeignSource):
        calls = 0

        async def get_schedules(self) -> list[taskiq.ScheduledTask]:
            self.calls += 1
            return [_task(cron="*/0 * * * *")] if self.calls < 3 else []

    source = Broken([])
    scheduler = DurableScheduler(broker, [source])
    await scheduler.start()
    await asyncio.sleep(600)

    assert source.calls == 3
    assert "fell over one of the sources that are not ours" in caplog.text
    await scheduler.stop()


@pytest.mark.parametrize("by", ["merge_func", "source"])
async def test_it_waits_for_what_taskiqs_loop_is_sending(broker: Broker, by: str) -> None:
    """The broker is stopped when it has the message, and the source when that is recorded."""
    source = _source()
    await source.add_schedule(_task(interval=3600))
    broker.takes = 5.0
    if by == "source":
        scheduler = DurableScheduler(broker, [MergedScheduleSource([source])])
    else:
        scheduler = DurableScheduler(broker, [source], merge_func=preserve_all)
    await scheduler.start()
    await asyncio.sleep(3)
    assert broker.sent == []
    await scheduler.stop()
    assert broker.sent == ["job"]
    await source.startup()

    assert [run.status async for run in source.runs()] == ["sent"]


async def test_a_send_that_hangs_in_taskiqs_loop_is_waited_for_once(broker: Broker) -> None:
    """Before the broker is stopped, and not once more before its source is."""
    source = _source()
    await source.add_schedule(_task(interval=3600))
    broker.takes = 10.0**6
    scheduler = DurableScheduler(broker, [source], merge_func=preserve_all)
    await scheduler.start()
    await asyncio.sleep(3)
    begin = asyncio.get_running_loop().time()
    await scheduler.stop()

    assert 10 <= asyncio.get_running_loop().time() - begin < 11


async def test_a_scheduler_that_was_shut_down_leaves_nothing_behind(broker: Broker) -> None:
    """As by a framework that calls taskiq's own method: taskiq's loop ends with it, and `stop` closes the sources still."""
    ours, theirs = _source(), ForeignSource([])
    scheduler = DurableScheduler(broker, [ours, theirs])
    await scheduler.start()
    before = asyncio.all_tasks()
    await scheduler.shutdown()
    assert not {task for task in asyncio.all_tasks() & before if task.get_name().startswith("taskiq-sources")}
    await scheduler.stop()

    with pytest.raises(SourceClosedError):
        await ours.get_schedules()


@pytest.mark.parametrize("sources", [["sqlite:///x.db"], [InMemoryScheduleSource]])
async def test_what_is_no_source_is_refused(broker: Broker, sources: Any) -> None:
    with pytest.raises(ScheduleValidationError, match="not classes or URLs"):
        DurableScheduler(broker, sources)


async def test_an_option_that_does_not_exist_is_refused(broker: Broker) -> None:
    options: Any = {"send_timout": 3}
    with pytest.raises(ScheduleValidationError, match=r"^send_timout 3 is not valid: no such option; there are .*send_timeout"):
        DurableScheduler(broker, [_source()], **options)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_who_watched_a_memory_in_a_loop_that_was_closed_keeps_nobody_from_writing() -> None:
    source = InMemoryScheduleSource()
    loop = asyncio.new_event_loop()

    async def watch() -> None:
        async for _ in source.store.watch():
            pass

    async def begin() -> asyncio.Future[None]:
        await source.startup()
        watching = asyncio.ensure_future(watch())
        await asyncio.sleep(0)
        return watching

    left = loop.run_until_complete(begin())
    loop.close()
    asyncio.run(source.add_schedule(_task(interval=60)))
    asyncio.run(source.shutdown())

    assert not left.done()
    del left
    gc.collect()  # Python complains of the task of that loop, here and not in the next test
