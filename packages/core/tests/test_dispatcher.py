"""The engine in virtual time, over the in-memory store: what is sent when, and what happens when something fails."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import taskiq
from engine_world import SECOND, START, World
from engine_world import task as _task
from taskiq import BrokerMessage, TaskiqScheduler
from taskiq.exceptions import ScheduledTaskCancelledError

from taskiq_sources import (
    DurableMixin,
    DurableScheduler,
    InMemoryScheduleSource,
    ScheduleValidationError,
    only_unique,
)
from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.metrics import Metrics
from taskiq_sources.models import Claim
from taskiq_sources.occurrences import Dispatch
from taskiq_sources.pace import Pace
from taskiq_sources_conformance.virtual import ForeignSource, outage
from taskiq_sources_conformance.virtual_loop import VirtualEventLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualEventLoop}


# -- when things are sent ----------------------------------------------------------------------------------------------------


async def test_each_occurrence_is_sent_when_it_is_due(world: World) -> None:
    """The engine wakes at the due time, not at its next poll."""
    await world.source.add_schedules(
        [
            _task("time", time=START + timedelta(seconds=7.3), args=[1]),
            _task("cron", cron="*/15 * * * * *", args=[2]),
        ]
    )
    await world.scheduler(poll_interval=timedelta(hours=1))

    await asyncio.sleep(46)

    assert world.broker.args() == [2, 1, 2, 2, 2]
    assert max(world.broker.lags()) <= timedelta(milliseconds=5)


async def test_a_change_wakes_the_engine(world: World) -> None:
    """A schedule added while the engine sleeps is sent at once."""
    await world.scheduler(poll_interval=timedelta(hours=1))
    await asyncio.sleep(600)

    await world.add(time=START)
    await asyncio.sleep(0.1)

    assert len(world.broker.sent) == 1


async def test_many_changes_are_looked_at_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that changes all the time is asked a hundred times a second, not once a change; none is overlooked for long."""
    source = world.another_source()
    claim = source.store.claim
    looks: list[datetime] = []

    async def counted(*args: Any, **arguments: Any) -> list[Claim]:
        looks.append(world.clock.read())
        return await claim(*args, **arguments)

    monkeypatch.setattr(source.store, "claim", counted)
    await world.scheduler(source, poll_interval=timedelta(hours=1))
    await asyncio.sleep(60)
    looks.clear()

    for _ in range(1000):
        await world.source.add_schedules([_task("later", time=START + timedelta(days=1))])
        await asyncio.sleep(0.001)
    assert 90 <= len(looks) <= 110

    await world.add(time=START)
    await asyncio.sleep(0.02)
    assert world.broker.args() == [0]


async def test_what_the_engine_makes_of_downtime_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever looks at the log sees that the engine runs, on which sources, and which occurrences it has sent as one."""
    caplog.set_level("INFO", "taskiq_sources")
    await world.add(cron="* * * * *")
    await asyncio.sleep(5 * 60 + 1)
    source = world.another_source()
    await world.scheduler(source)
    await asyncio.sleep(1)

    assert caplog.messages == [
        f"The engine serves {source!r}.",
        "Schedule '0': 6 late occurrences are sent as one, that of 2030-05-14T12:05:00+00:00.",
    ]


async def test_messages_carry_their_occurrence(world: World) -> None:
    """Messages have the labels ``schedule_id`` and ``scheduled_for``; what is stored gains none."""
    await world.add(cron="*/10 * * * * *", labels={"colour": "red"})
    await world.scheduler()

    await asyncio.sleep(15)

    first, second = (message for _, message in world.broker.sent)
    assert first.labels == {"colour": "red", "schedule_id": "0", "scheduled_for": "2030-05-14T12:00:00.000+00:00"}
    assert first.task_id != second.task_id
    info = await world.source.get_schedule("0")
    assert info is not None
    assert info.task is not None
    assert info.task.labels == {"colour": "red"}


async def test_several_schedulers_share_the_work(world: World) -> None:
    """Three schedulers send 2,000 occurrences once each."""
    await world.add(2000, time=START + SECOND)
    world.broker.takes = 0.01
    for _ in range(3):
        await world.scheduler()

    await asyncio.sleep(30)

    assert sorted(world.broker.args()) == list(range(2000))
    assert len({run.claimant for run in await world.runs()}) == 3


# -- bounds ------------------------------------------------------------------------------------------------------------------


async def test_a_trickle_does_not_teach_to_hoard(world: World) -> None:
    """After a while in which one occurrence at a time is due, a burst is still shared between schedulers with a slow broker."""
    await world.source.add_schedules(
        [_task(f"trickle{index}", time=START + 0.1 * index * SECOND, args=[index]) for index in range(40)]
        + [_task(f"burst{index}", time=START + 6 * SECOND, args=[index]) for index in range(600)]
    )
    schedulers = [await world.scheduler(max_concurrent_sends=10) for _ in range(2)]
    await asyncio.sleep(5.5)

    world.broker.takes = 2.0
    await asyncio.sleep(1)
    held = [scheduler.health().sources[0].held for scheduler in schedulers]
    await asyncio.sleep(70)

    assert max(held) <= 40
    assert len(world.broker.sent) == 640


async def test_what_has_become_too_much_is_given_back(world: World) -> None:
    """When a broker becomes slow: one scheduler held hundreds for minutes, while others had nothing to send."""
    await world.add(3_000, time=START)
    for _ in range(2):
        await world.scheduler(max_concurrent_sends=2)
    await asyncio.sleep(10)
    world.broker.takes = 1.0
    world.broker.sent.clear()
    await world.source.add_schedules(_task(f"slow-{index}", time=world.clock.read(), args=[index]) for index in range(400))
    await asyncio.sleep(105)

    assert sorted(world.broker.args()) == list(range(400))


async def test_what_is_claimed_is_kept_though_sends_are_slow(world: World) -> None:
    """A claim that is made while others wait was given back in part at once, to be claimed again later."""
    claimed = 0

    class Figures(Metrics):
        def claimed(self, number: int) -> None:
            nonlocal claimed
            claimed += number

    async def kick(message: BrokerMessage) -> None:
        world.broker.takes = 10.0 + len(world.broker.tried) % 20
        await taken(message)

    taken, world.broker.kick = world.broker.kick, kick  # type: ignore[method-assign]
    await world.add(1_000, time=START)
    scheduler = await world.scheduler(max_concurrent_sends=100)
    scheduler._dispatchers[0].report_to(Figures())
    await asyncio.sleep(300)

    assert (len(world.broker.sent), claimed) == (1_000, 1_000)


async def test_sends_are_bounded(world: World) -> None:
    """No more than ``max_concurrent_sends`` run at once, and no more is claimed than can be sent soon."""
    await world.add(1000, time=START)
    world.broker.takes = 60.0
    scheduler = await world.scheduler(max_concurrent_sends=7, batch_size=20, send_timeout=timedelta(hours=1))

    await asyncio.sleep(30)

    assert world.broker.most_running == 7
    assert scheduler.health().sources[0].held <= 7 + 2 * 20


@pytest.mark.parametrize(("takes", "workers"), [(0.0, 1), (0.001, 30)])
async def test_there_are_as_many_workers_as_the_broker_keeps_waiting(world: World, takes: float, workers: int) -> None:
    """One is enough for a broker that makes nobody wait; the others would only hold up the store's answers."""
    await world.add(300, time=START)
    world.broker.takes = takes
    scheduler = await world.scheduler(max_concurrent_sends=30)
    seen: list[int] = []

    def count(_message: Any) -> bool:
        seen.append(len(scheduler._dispatchers[0]._senders._workers))
        return False

    world.broker.fails = count
    await asyncio.sleep(5)

    assert len(world.broker.sent) == 300
    assert max(seen) == workers


async def test_the_collector_of_cycles_waits_while_something_is_held(world: World) -> None:
    before = gc.get_threshold()
    during: set[int] = set()

    def note(_message: Any) -> bool:
        during.add(gc.get_threshold()[0])
        return False

    world.broker.fails = note
    await world.add(300, time=START)
    await world.scheduler()
    await asyncio.sleep(5)

    assert min(during) > before[0]
    assert gc.get_threshold() == before


async def test_a_hung_send_delays_no_other(world: World) -> None:
    """Sends that hang are cut off after ``send_timeout`` and tried again; all others go out on time."""
    hung: set[str] = set()

    def hangs_once(message: taskiq.TaskiqMessage) -> bool:
        first_time = message.args[0] == 0 and message.task_id not in hung
        hung.add(message.task_id)
        return first_time

    world.broker.hangs = hangs_once
    await world.source.add_schedules([_task("hung", time=START, args=[0]), _task("free", interval=1, args=[1])])
    await world.scheduler(send_timeout=timedelta(seconds=5))

    await asyncio.sleep(20)

    free = [lag for lag, (_, message) in zip(world.broker.lags(), world.broker.sent, strict=True) if message.args == [1]]
    assert max(free) <= timedelta(milliseconds=10)
    assert world.broker.args().count(0) == 1
    failed = [run for run in await world.runs() if run.schedule_id == "hung"]
    assert [(run.status, run.attempt) for run in failed] == [("sent", 2)]


async def test_a_lease_is_renewed_while_a_send_is_slow(world: World) -> None:
    """A send that takes much longer than the lease is not taken over by another scheduler."""
    await world.add(time=START)
    world.broker.takes = 100.0
    for _ in range(2):
        await world.scheduler(world.another_source(lease=timedelta(seconds=3)), send_timeout=timedelta(minutes=10))

    await asyncio.sleep(130)

    assert len(world.broker.sent) == len(world.broker.tried) == 1


# -- failures ----------------------------------------------------------------------------------------------------------------


async def test_a_broker_that_cancels_its_own_futures_stops_nothing(world: World) -> None:
    """A send may end in `CancelledError` without anybody having cancelled it: it has failed, and what is queued is sent."""
    await world.add(50, time=START)

    def connection_is_lost(_message: taskiq.TaskiqMessage) -> bool:
        if len(world.broker.tried) <= 3:
            raise asyncio.CancelledError
        return False

    world.broker.fails = connection_is_lost
    world.broker.takes = 0.5
    await world.scheduler(max_concurrent_sends=3, batch_size=20)

    await asyncio.sleep(60)

    assert sorted(world.broker.args()) == list(range(50))


async def test_a_failing_send_is_retried_with_its_nominal_time(world: World) -> None:
    """A send that fails is tried again after 0.5–1, 1–2, 2–4 … s, as the same message, until it succeeds."""
    await world.add(time=START)
    world.broker.fails = lambda _message: len(world.broker.tried) <= 4
    await world.scheduler()

    await asyncio.sleep(120)

    pauses = [
        (later - earlier).total_seconds() for earlier, later in zip(world.broker.tried, world.broker.tried[1:], strict=False)
    ]
    assert all(full / 2 <= pause <= full + 0.1 for pause, full in zip(pauses, [1, 2, 4, 8], strict=True)), pauses
    assert [(run.status, run.attempt) for run in await world.runs()] == [("sent", 5)]


async def test_the_breaker_stops_claiming_while_the_broker_is_down(world: World) -> None:
    """With a dead broker a few occurrences are tried, not all; when it is back, all are sent, once each."""
    await world.add(500, time=START)
    world.broker.fails = lambda _message: world.clock.read() < START + timedelta(seconds=60)
    scheduler = await world.scheduler(max_concurrent_sends=5, batch_size=10)

    await asyncio.sleep(50)
    tried, health = len(world.broker.tried), scheduler.health()
    await asyncio.sleep(150)

    assert tried < 50
    assert health.sources[0].breaker != "closed"
    assert not health.ok or health.sources[0].breaker == "half_open"
    assert sorted(world.broker.args()) == list(range(500))
    assert scheduler.health().ok


async def test_an_unsent_claim_does_not_count_as_an_attempt(world: World) -> None:
    """What was claimed and given back because the broker was down is sent as a first attempt."""
    await world.add(100, time=START)
    world.broker.fails = lambda _message: world.clock.read() < START + timedelta(seconds=3)
    await world.scheduler(max_concurrent_sends=2, batch_size=50, breaker_threshold=2)

    await asyncio.sleep(60)

    attempts = [run.attempt for run in await world.runs()]
    assert len(attempts) == 100
    assert attempts.count(1) >= 90


async def test_a_schedule_that_cannot_be_sent_is_quarantined(world: World) -> None:
    """After ``max_attempts`` failures a schedule is set aside with its error; it is sent when it is resumed and mended."""
    await world.add(time=START)
    world.broker.fails = lambda _message: len(world.broker.tried) <= 3
    await world.scheduler(max_attempts=3)
    await asyncio.sleep(600)

    info = await world.source.get_schedule("0")
    assert info is not None
    assert (info.state.quarantined, info.state.last_error) == (True, "ConnectionError: no broker")
    await world.source.resume("0")
    await asyncio.sleep(5)
    assert len(world.broker.sent) == 1


async def test_a_store_outage_loses_nothing(world: World) -> None:
    """The engine survives an outage, tells of it in its health, and makes up for it, without sending anything twice."""
    await world.add(20, interval=5)
    source = world.another_source()
    scheduler = await world.scheduler(source)
    await asyncio.sleep(12)

    async with outage(source.store):
        await asyncio.sleep(60)
        during = scheduler.health()
    await asyncio.sleep(30)

    assert not during.ok
    assert not during.sources[0].store_reachable
    assert scheduler.health().ok
    assert sum(run.coalesced for run in await world.runs()) == 20 * 21
    assert len({message.task_id for _, message in world.broker.sent}) == len(world.broker.sent)


async def test_a_driver_that_cancels_its_own_futures_stops_nothing(world: World) -> None:
    """A call to the store may end in `CancelledError` without anybody having cancelled it: the engine is started again."""
    await world.add(3, interval=5)
    source = world.another_source()
    scheduler = await world.scheduler(source)
    await asyncio.sleep(7)
    next_due = source.store.next_due

    async def cancelled_once(now: datetime) -> datetime | None:
        source.store.next_due = next_due  # type: ignore[method-assign]
        raise asyncio.CancelledError

    source.store.next_due = cancelled_once  # type: ignore[method-assign]
    await asyncio.sleep(60)

    assert scheduler.health().ok
    assert len(world.broker.sent) == 3 * 14


async def test_a_subscription_ends_with_the_engine(world: World) -> None:
    """Not when the garbage collector finds it: until then it would hold a connection."""
    source = world.another_source()
    ended = asyncio.Event()

    async def changes() -> AsyncIterator[None]:
        try:
            while True:
                yield
                await asyncio.sleep(0.001)
        finally:
            await asyncio.sleep(0)
            ended.set()

    watching = changes()  # this reference is what an exception's traceback may be elsewhere
    source.store.watch = lambda: watching  # type: ignore[method-assign]
    scheduler = await world.scheduler(source)
    await asyncio.sleep(3.005)  # between two changes, which it heeds every 0.01 s
    await scheduler.stop()

    assert ended.is_set()


async def test_a_watch_that_falls_over_costs_no_send(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Push is a convenience: a bug in it is told, and what is being sent goes on."""
    source = world.another_source()

    async def broken() -> AsyncIterator[None]:
        raise RuntimeError("a bug")
        yield

    source.store.watch = broken  # type: ignore[method-assign]
    world.broker.takes = 3.0
    await world.add(time=START)
    await world.scheduler(source)

    await asyncio.sleep(20)

    assert world.broker.args() == [0]
    assert "watching for changes fell over" in caplog.text
    assert "A dispatcher fell over" not in caplog.text


async def test_a_send_during_an_outage_is_settled_after_it(world: World) -> None:
    """What was sent while the store was away is settled when it is back, not sent again."""
    await world.add(time=START)
    world.broker.takes = 5.0
    source = world.another_source()
    await world.scheduler(source)
    await asyncio.sleep(1)

    async with outage(source.store):
        await asyncio.sleep(10)
    await asyncio.sleep(60)

    assert len(world.broker.sent) == 1
    assert [run.status for run in await world.runs()] == ["sent"]


async def test_a_result_under_a_lost_lease_is_dropped(world: World) -> None:
    """When another scheduler has taken over, the first one's result changes nothing."""
    await world.add(time=START)
    world.broker.takes = 40.0
    frozen = world.another_source(lease=timedelta(seconds=9))
    await world.scheduler(frozen, send_timeout=timedelta(minutes=5))
    await asyncio.sleep(1)  # the first one has begun to send, and loses touch with the store

    async with outage(frozen.store):
        await world.scheduler(send_timeout=timedelta(minutes=5))
        await asyncio.sleep(45)
    await asyncio.sleep(60)

    assert len(world.broker.sent) == 2
    assert len({message.task_id for _, message in world.broker.sent}) == 1
    assert [(run.status, run.attempt) for run in await world.runs()] == [("sent", 2)]


async def test_what_is_being_sent_is_not_claimed_again_after_a_suspension(world: World) -> None:
    """A process that was stopped for longer than its lease renews what nobody has taken over before it claims anything.

    Nor does it cut off, as having taken too long, what has ended while it was stopped.
    """
    await world.add(30, time=START)
    world.broker.takes = 0.5
    await world.scheduler(max_concurrent_sends=3, batch_size=20)
    await asyncio.sleep(2.5)

    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualEventLoop)
    loop.suspend(35)
    await asyncio.sleep(60)

    assert sorted(world.broker.args()) == list(range(30))
    assert [(run.status, run.attempt) for run in await world.runs()] == [("sent", 1)] * 30


# -- stopping ----------------------------------------------------------------------------------------------------------------


async def test_stopping_lets_sends_end_and_gives_the_rest_back(world: World) -> None:
    """On stop, what is being sent is settled, what is only claimed is free for others at once, and nothing is lost."""
    await world.add(300, time=START)
    world.broker.takes = 2.0
    scheduler = await world.scheduler(max_concurrent_sends=10, batch_size=100)
    await asyncio.sleep(1)

    await scheduler.stop()

    sent = len(world.broker.sent)
    assert sent == 10
    assert all(schedule.lease_until is None for schedule in world.data.schedules.values())
    assert all(schedule.attempt == 0 for schedule in world.data.schedules.values())
    await world.scheduler()
    await asyncio.sleep(60)
    assert sorted(world.broker.args()) == list(range(300))


class Eager(Pace):
    """Claims ahead from the beginning, and not only when sends have proved to be fast."""

    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.low_mark = 10


async def test_the_store_looks_for_more_while_claims_are_made_ready(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim is under way before the one before it is planned; on stop, what comes of it is given back."""
    await world.add(30, time=START)
    source = world.another_source()
    claim, plan = source.store.claim, source.desk.plan
    steps: list[str] = []

    async def slow_claim(*args: Any, **arguments: Any) -> list[Claim]:
        steps.append("claim")
        if len(steps) > 1:
            await asyncio.sleep(5)
        return await claim(*args, **arguments)

    async def noted_plan(claims: Sequence[Claim]) -> list[Dispatch]:
        await asyncio.sleep(0)  # as long as a claim needs to begin
        steps.append(f"plan {len(claims)}")
        return await plan(claims)

    monkeypatch.setattr(source.store, "claim", slow_claim)

    monkeypatch.setattr(source.desk, "plan", noted_plan)
    monkeypatch.setattr("taskiq_sources.dispatcher.Pace", Eager)
    scheduler = await world.scheduler(source, max_concurrent_sends=10, batch_size=10)
    await asyncio.sleep(1)
    assert steps == ["claim", "claim", "plan 10"]

    await scheduler.stop()

    assert steps[3:] == ["plan 10"]
    assert len(world.broker.sent) == 10
    assert all(schedule.lease_until is None for schedule in world.data.schedules.values())


async def test_claims_in_hand_do_not_wait_for_renewals(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that are to be renewed are, before more is claimed; not between a claim and the sends of what it brought."""
    await world.add(20, time=START)
    late: list[Any] = [[], ["a lease that is late"]]  # before the first claim, and after it

    async def fail(*_: Any) -> None:
        raise SourceConnectionError("the store cannot be reached")

    monkeypatch.setattr("taskiq_sources.dispatcher.Pace", Eager)
    monkeypatch.setattr("taskiq_sources.dispatcher.Leases.late", lambda *_: late.pop(0) if late else [])
    monkeypatch.setattr("taskiq_sources.dispatcher.Leases.renew", fail)
    await world.scheduler(max_concurrent_sends=10, batch_size=10)
    await asyncio.sleep(10)

    assert late == []
    assert sorted(world.broker.args()) == list(range(20))


async def test_stopping_does_not_wait_for_ever(world: World) -> None:
    """A send that does not end is cut off within ``drain_timeout``, and tried again by the next scheduler."""
    await world.add(time=START)
    world.broker.hangs = lambda _message: len(world.broker.tried) == 1
    scheduler = await world.scheduler(drain_timeout=timedelta(seconds=4))
    await asyncio.sleep(1)
    before = world.clock.read()

    await scheduler.stop()

    assert world.clock.read() - before <= timedelta(seconds=4)
    await world.scheduler()
    await asyncio.sleep(10)
    assert [(run.status, run.attempt) for run in await world.runs()] == [("sent", 2)]


async def test_start_and_stop_are_idempotent_and_repeatable(world: World) -> None:
    """A scheduler may be started and stopped many times, twice each; nothing of it stays behind."""
    await world.add(interval=1)
    tasks = len(asyncio.all_tasks())
    scheduler = DurableScheduler(world.broker, [world.another_source()])
    for _ in range(20):
        await scheduler.start()
        await scheduler.start()
        await asyncio.sleep(0.7)
        await scheduler.stop()
        await scheduler.stop()

    assert len(asyncio.all_tasks()) == tasks
    assert len(world.broker.sent) == len({message.task_id for _, message in world.broker.sent})


# -- other schedulers and sources --------------------------------------------------------------------------------------------


async def test_foreign_sources_are_served_beside_the_engine(world: World) -> None:
    """A source that is not ours is served by taskiq's loop in the same process; ``sources`` stays what was passed in."""
    long_ago = datetime(2020, 1, 1, tzinfo=timezone.utc)
    foreign = ForeignSource([taskiq.ScheduledTask(task_name="f", labels={}, args=["foreign"], kwargs={}, time=long_ago)])
    source = world.another_source()
    scheduler = DurableScheduler(world.broker, [source, foreign])
    world.schedulers.append(scheduler)
    await world.add(interval=1)
    await scheduler.start()

    await asyncio.sleep(5.5)

    assert scheduler.sources == [source, foreign]
    assert await scheduler.sources[0].get_schedules()
    assert world.broker.args().count("foreign") == 1
    assert world.broker.args().count(0) == 6


async def test_the_engine_sends_through_the_class_it_is_put_under(world: World) -> None:
    """Under another scheduler class, every send goes through that class's ``on_ready``."""
    seen = []

    class Theirs(TaskiqScheduler):
        async def on_ready(self, source: taskiq.ScheduleSource, task: taskiq.ScheduledTask) -> None:
            seen.append((task.schedule_id, dict(task.labels)))
            await super().on_ready(source, task)

    class Both(DurableMixin, Theirs):
        pass

    await world.add(time=START, labels={"colour": "red"})
    async with Both(world.broker, [world.another_source()]):
        await asyncio.sleep(1)

    assert seen == [("0", {"colour": "red"})], "no label is added that the class did not ask for"
    assert world.broker.args() == [0]


async def test_an_application_may_cancel_in_pre_send(world: World) -> None:
    """A source that overrides ``pre_send`` to cancel keeps taskiq's meaning: nothing is sent, and the history says so."""

    class Picky(InMemoryScheduleSource):
        async def pre_send(self, task: taskiq.ScheduledTask) -> None:
            raise ScheduledTaskCancelledError

    await world.add(time=START)
    await world.scheduler(Picky(world.data, clock=world.clock))
    await asyncio.sleep(1)

    assert world.broker.tried == []
    assert [run.status for run in await world.runs()] == ["missed"]


async def test_merge_func_means_what_the_documentation_says(world: World) -> None:
    """With a merge function all sources are merged by it and served by taskiq's own loop."""
    merged = DurableScheduler(world.broker, [world.another_source(), world.another_source()], merge_func=only_unique)

    assert len(merged.sources) == 2
    assert merged.health().sources == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_concurrent_sends", 0),
        ("batch_size", -1),
        ("batch_size", True),
        ("send_timeout", timedelta(0)),
        ("drain_timeout", 5),
        ("poll_interval", timedelta(seconds=-1)),
        ("max_attempts", 0),
        ("breaker_threshold", 1.5),
    ],
)
async def test_a_refused_setting_is_named(world: World, name: str, value: Any) -> None:
    """Settings are checked when the scheduler is made; the error names the setting and the value."""
    with pytest.raises(ScheduleValidationError) as caught:
        DurableScheduler(world.broker, [world.source], **{name: value})

    assert caught.value.field == name


async def test_every_source_needs_a_send(world: World) -> None:
    """The bound on sends is shared by all sources, so it must not be less than their number."""
    with pytest.raises(ScheduleValidationError, match="max_concurrent_sends"):
        DurableScheduler(world.broker, [world.source, world.another_source()], max_concurrent_sends=1)


async def test_others_have_their_turn_while_many_are_planned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of a database driver need the interpreter meanwhile, and sends the event loop: however long a single one takes."""
    monkeypatch.setattr("taskiq_sources.tasking.SLICE", 0.0)
    await world.add(500, time=START)
    source = world.another_source()
    await source.startup()
    turns: list[int] = []

    async def others() -> None:
        while True:
            turns.append(len(world.broker.sent))
            await asyncio.sleep(0)

    claims = await source.desk.claim(limit=500)
    counting = asyncio.ensure_future(others())
    await source.desk.plan(claims)
    counting.cancel()

    assert len(turns) >= 500
