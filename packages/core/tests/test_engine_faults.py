"""What brokers, stores, clocks and single schedules may do to the engine: no occurrence is lost or held up by it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn

import anyio
import pytest
import taskiq
from engine_world import START, World
from engine_world import task as _task

from taskiq_sources import DurableScheduler, SourceConnectionError, occurrences
from taskiq_sources.claims import PRUNE_INTERVAL
from taskiq_sources.metrics import Metrics
from taskiq_sources.models import Outcome, ScheduleChanges
from taskiq_sources_conformance.virtual import lose_an_answer
from taskiq_sources_conformance.virtual_loop import VirtualEventLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualEventLoop}


class PanicException(BaseException):
    pass


def slowed(method: Callable[..., Awaitable[Any]], seconds: float, *, answering: bool = True) -> Callable[..., Awaitable[Any]]:
    """Return the method of a store with an answer, or a question, that is under way for so long."""

    async def slow(*args: Any, **options: Any) -> Any:
        if not answering:
            await asyncio.sleep(seconds)
        result = await method(*args, **options)
        if answering:
            await asyncio.sleep(seconds)
        return result

    return slow


def tripped(
    settle: Callable[..., Awaitable[frozenset[str]]], is_bad: Callable[[Outcome], object], raises: type[Exception] = TypeError
) -> Callable[..., Any]:
    """Return the `settle` of a store that fails for some outcomes: by a bug, or as it is told."""

    async def trips(outcomes: Sequence[Outcome]) -> frozenset[str]:
        if any(is_bad(outcome) for outcome in outcomes):
            raise raises("told to fail")
        return await settle(outcomes)

    return trips


class Unspeakable(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307


# -- the broker --------------------------------------------------------------------------------------------------------------


async def test_what_was_claimed_when_the_breaker_opened_is_given_back(world: World) -> None:
    """Though the answer to the claim comes when all else has been settled: it was held, and nothing was sent, for ever."""
    source = world.another_source()
    source.store.claim = slowed(source.store.claim, 0.2)  # type: ignore[method-assign]
    world.broker.takes = 0.1
    world.broker.fails = lambda _message: world.clock.read() < START + timedelta(seconds=3)
    await world.add(10, time=START)
    await world.source.add_schedule(_task("meanwhile", time=START + timedelta(seconds=0.1), args=[99]))
    scheduler = await world.scheduler(source)

    await asyncio.sleep(120)

    assert sorted(world.broker.args()) == [*range(10), 99]
    assert scheduler.health().ok


@pytest.mark.parametrize("raised", [PanicException, GeneratorExit])
async def test_whatever_a_broker_raises_is_a_failed_send(world: World, raised: type[BaseException]) -> None:
    """Success is what `kick` returns from, and nothing else."""

    def panics(_message: taskiq.TaskiqMessage) -> bool:
        if len(world.broker.tried) == 1:
            raise raised
        return False

    world.broker.fails = panics
    await world.add(3, time=START)
    await world.scheduler(max_concurrent_sends=1)

    await asyncio.sleep(30)

    assert sorted(world.broker.args()) == [0, 1, 2]
    assert sorted(run.attempt for run in await world.runs()) == [1, 1, 2]


async def test_an_error_without_a_text_is_a_failed_send(world: World) -> None:
    """A class of the broker's may be broken; the others are sent, once each."""

    def fails(message: taskiq.TaskiqMessage) -> bool:
        if message.args == [0]:
            raise Unspeakable
        return False

    world.broker.fails = fails
    await world.add(5, time=START)
    await world.scheduler(max_attempts=2)

    await asyncio.sleep(30)

    assert sorted(world.broker.args()) == [1, 2, 3, 4]
    info = await world.source.get_schedule("0")
    assert info is not None
    assert (info.state.quarantined, info.state.last_error) == (True, "Unspeakable")


@pytest.mark.parametrize("bad", [1, 9, 40])
async def test_some_that_always_fail_do_not_hold_up_the_others(world: World, bad: int) -> None:
    """The breaker is for a broker that takes nothing, as it seems to at first, when only those are tried that always fail."""
    await world.source.add_schedules(_task(f"bad-{index}", time=START, args=["bad"]) for index in range(bad))
    await world.source.add_schedules(_task(f"good-{index}", cron="* * * * *", misfire="fire_all") for index in range(5))
    await world.source.add_schedule(_task("hourly", cron="0 * * * *"))
    world.broker.fails = lambda message: message.args == ["bad"]
    scheduler = await world.scheduler()

    await asyncio.sleep(3610)

    assert len(world.broker.sent) == 5 * 61 + 2
    lags = world.broker.lags()
    assert max(lags) < timedelta(seconds=400 if bad >= 10 else 40)
    assert max(lags[60:]) < timedelta(seconds=5)
    assert scheduler.health().ok


@pytest.mark.parametrize("number", [5, 60])
async def test_an_outage_of_the_broker_is_not_worn_out_by_retries(world: World, number: int) -> None:
    """Though all that is due has failed before: the pauses between trials grow, and few attempts are used up."""
    down_until = START + timedelta(minutes=10)
    world.broker.takes = 0.5
    world.broker.fails = lambda _message: world.clock.read() < down_until
    await world.add(number, time=START)
    scheduler = await world.scheduler(max_attempts=15)
    await asyncio.sleep(540)
    health = scheduler.health().sources[0]
    tried = len(world.broker.tried)
    await asyncio.sleep(240)

    assert tried < 2 * number + 120
    assert health.breaker != "closed"
    assert min(number, 10) <= health.failing <= number
    assert sorted(world.broker.args()) == list(range(number))
    assert scheduler.health().sources[0].failing == 0


async def test_a_late_answer_to_a_claim_is_no_more_than_a_trial(world: World) -> None:
    """At most once is used up by each send that is tried on a broker that is down."""
    source = world.another_source()
    source.store.claim = slowed(source.store.claim, 1.9)  # type: ignore[method-assign]
    world.broker.takes = 0.1
    world.broker.fails = lambda _message: True
    await world.add(400, time=START, delivery="at_most_once")
    await world.scheduler(source)
    await asyncio.sleep(10)

    assert len(world.broker.tried) < 130


@pytest.mark.parametrize("hung", [1, 20])
async def test_sends_that_hang_since_before_do_not_hold_up_those_that_are_tried(world: World, hung: int) -> None:
    """A broker that dies may leave a connection without an answer: others were not sent until that was cut off."""
    world.broker.hangs = lambda message: message.args[0] < hung and world.clock.read() == START
    world.broker.fails = lambda _message: world.clock.read() < START + timedelta(seconds=2)
    await world.add(60, time=START)
    scheduler = await world.scheduler()
    await asyncio.sleep(7)

    assert world.broker.running > 0
    assert len(world.broker.sent) == 60 - world.broker.running
    assert scheduler.health().ok
    for _ in range(60):
        await asyncio.sleep(0.5)
        assert scheduler.health().ok  # when they are cut off, too
    assert sorted(world.broker.args()) == list(range(60))


async def test_what_an_application_cancels_says_nothing_of_the_broker(world: World) -> None:
    """Else one that cancels now and then would have all others tried on a broker that is down."""
    source = world.another_source()

    async def pre_send(task: taskiq.ScheduledTask) -> None:
        if int(task.schedule_id) % 5 == 0:
            raise taskiq.ScheduledTaskCancelledError

    source.pre_send = pre_send  # type: ignore[method-assign]
    world.broker.fails = lambda _message: True
    await world.add(500, time=START)
    await world.scheduler(source, max_concurrent_sends=5, batch_size=10)

    await asyncio.sleep(3)

    assert len(world.broker.tried) < 40


async def test_a_send_that_does_not_heed_its_end_is_left_to_itself(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It counts as failed, its place is another's, and stopping does not wait for it."""
    released = asyncio.Event()

    async def kick(message: taskiq.BrokerMessage) -> None:
        parsed = world.broker.formatter.loads(message.message)
        world.broker.tried.append(world.clock.read())
        while parsed.args == [0] and len(world.broker.tried) == 1 and not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        world.broker.sent.append((world.clock.read(), parsed))

    world.broker.kick = kick  # type: ignore[method-assign]
    await world.add(3, time=START)
    scheduler = await world.scheduler(max_concurrent_sends=1, send_timeout=timedelta(seconds=2))
    await asyncio.sleep(60)

    assert sorted(world.broker.args()) == [0, 1, 2]
    assert sorted((run.status, run.attempt) for run in await world.runs()) == [("sent", 1), ("sent", 1), ("sent", 2)]
    assert "left to itself" in caplog.text
    await scheduler.stop()
    released.set()
    await asyncio.sleep(1)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks do not count cancellations")
async def test_a_send_that_was_cut_off_is_none_for_the_next(world: World) -> None:
    """Whatever a driver makes of its cancellation: what waits for several things by newer means would take it for its own."""
    counts = []

    async def kick(_message: taskiq.BrokerMessage) -> None:
        worker: Any = asyncio.current_task()
        counts.append(worker.cancelling())
        try:
            await asyncio.sleep(100 if len(counts) == 1 else 0)
        except asyncio.CancelledError:
            raise ConnectionError("broken off") from None

    world.broker.kick = kick  # type: ignore[method-assign]
    await world.add(3, time=START)
    await world.scheduler(max_concurrent_sends=1, send_timeout=timedelta(seconds=2))
    await asyncio.sleep(20)

    assert counts == [0, 0, 0, 0]


async def test_stopping_does_not_wait_for_what_does_not_heed_it(world: World) -> None:
    released = asyncio.Event()

    async def kick(_message: taskiq.BrokerMessage) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    world.broker.kick = kick  # type: ignore[method-assign]
    await world.add(time=START)
    scheduler = await world.scheduler(drain_timeout=timedelta(seconds=4))
    await asyncio.sleep(1)
    before = world.clock.read()
    await scheduler.stop()

    assert world.clock.read() - before <= timedelta(seconds=6)
    [run] = await world.runs()
    assert run.status == "failed"
    released.set()
    await asyncio.sleep(1)


async def test_what_hangs_after_a_send_does_not_send_it_again(world: World) -> None:
    """`post_send` is cut off, and what was sent counts as sent."""
    source = world.another_source()

    async def post_send(_task: taskiq.ScheduledTask) -> None:
        await asyncio.sleep(10**6)

    source.post_send = post_send  # type: ignore[method-assign]
    await world.add(time=START)
    await world.scheduler(source, send_timeout=timedelta(seconds=2))

    await asyncio.sleep(60)

    assert world.broker.args() == [0]
    assert [run.status for run in await world.runs()] == ["sent"]


async def test_no_password_of_the_broker_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Messages of drivers quote URLs; taskiq's own error does not say what its cause was."""

    def fails(_message: taskiq.TaskiqMessage) -> NoReturn:
        try:
            raise ConnectionError("no redis at redis://user:s3cret@10.0.0.1:6379/0")
        except ConnectionError as error:
            raise taskiq.SendTaskError from error

    world.broker.fails = fails
    await world.add(3, time=START)
    await world.scheduler(max_attempts=2, breaker_threshold=3)
    await asyncio.sleep(30)

    said = [record.getMessage() for record in caplog.records]
    assert not any("s3cret" in text for text in said)
    for what in ("it is tried again: ", "is quarantined", "the broker seems to be down"):
        assert any(what in text and "redis://***@10.0.0.1" in text for text in said)


async def test_what_is_not_tried_again_is_said_not_to_be(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.broker.fails = lambda _message: True
    await world.add(time=START, delivery="at_most_once")
    await world.scheduler()
    await asyncio.sleep(5)

    [record] = [record for record in caplog.records if "could not be sent" in record.getMessage()]
    assert record.levelno == logging.ERROR
    assert "not tried again (at_most_once)" in record.getMessage()


# -- the store ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raised", [TypeError, PanicException])
@pytest.mark.parametrize("method", ["claim", "next_due", "settle", "renew"])
async def test_a_bug_of_a_store_has_nothing_sent_twice(world: World, method: str, raised: type[BaseException]) -> None:
    """What the broker has is settled before a dispatcher that fell over is started again."""
    source = world.another_source(lease=timedelta(seconds=9))
    real = getattr(source.store, method)
    world.broker.takes = 5.0
    await world.add(20, time=START)
    scheduler = await world.scheduler(source, max_concurrent_sends=20)
    await asyncio.sleep(1)

    async def once(*_args: Any, **_options: Any) -> NoReturn:
        setattr(source.store, method, real)
        raise raised("a bug")

    setattr(source.store, method, once)
    await world.source.add_schedule(_task("later", time=START + timedelta(seconds=2), args=[20]))
    await asyncio.sleep(120)

    assert sorted(set(world.broker.args())) == list(range(21))
    # The batch that was being settled by who fell over is sent again, under the same task ids; nothing else is.
    assert len(world.broker.sent) == 21 or (method == "settle" and raised is PanicException)
    assert scheduler.health().ok


async def test_what_is_given_back_was_not_lost(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Though leases are renewed before the answer to the settle comes: those had ended with it."""
    source = world.another_source(lease=timedelta(seconds=3))
    source.store.settle = slowed(source.store.settle, 1.5)  # type: ignore[method-assign]
    world.broker.takes = 0.1
    world.broker.fails = lambda _message: True
    await world.add(100, time=START)
    await world.scheduler(source, max_concurrent_sends=20, batch_size=100)
    await asyncio.sleep(5)

    assert not any("lost" in message for message in caplog.messages)


async def test_health_tells_when_something_was_settled(world: World) -> None:
    """Not when that was tried first."""
    source = world.another_source()
    back_at = START + timedelta(seconds=60)
    settle = tripped(source.store.settle, lambda _: world.clock.read() < back_at, SourceConnectionError)
    source.store.settle = settle  # type: ignore[method-assign]
    await world.add(time=START)
    scheduler = await world.scheduler(source)
    await asyncio.sleep(90)

    [health] = scheduler.health().sources
    assert health.last_settle_at is not None
    assert health.last_settle_at >= START + timedelta(seconds=60)
    assert health.lag >= timedelta(seconds=60)


async def test_one_outcome_that_trips_a_bug_does_not_take_the_others_with_it(world: World) -> None:
    source = world.another_source(lease=timedelta(seconds=9))
    source.store.settle = tripped(source.store.settle, lambda outcome: outcome.claim.schedule.id == "7")  # type: ignore[method-assign]
    await world.add(20, time=START)
    scheduler = await world.scheduler(source)
    await asyncio.sleep(5)

    assert sorted(world.broker.args()) == list(range(20))
    assert len(await world.runs()) == 19
    assert scheduler.health().ok


async def test_an_outcome_that_cannot_be_recorded_has_its_schedule_set_aside(world: World) -> None:
    """It would be sent again at the end of each lease."""
    source = world.another_source(lease=timedelta(seconds=9))
    source.store.settle = tripped(source.store.settle, lambda outcome: outcome.claim.schedule.id == "7" and outcome.runs)  # type: ignore[method-assign]
    await world.add(20, time=START)
    await world.scheduler(source)
    await asyncio.sleep(120)

    assert sorted(world.broker.args()) == list(range(20))
    info = await world.source.get_schedule("7")
    assert info is not None
    assert info.state.quarantined


@pytest.mark.parametrize("where", ["store", "trigger", "both"])
async def test_what_is_set_aside_after_its_send_is_counted(world: World, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    class Figures(Metrics):
        set_aside = 0

        def quarantined(self, number: int) -> None:
            self.set_aside += number

    def no_next(*_args: Any) -> NoReturn:
        raise TypeError("a bug")

    source, figures = world.another_source(), Figures()
    if where != "trigger":
        source.store.settle = tripped(source.store.settle, lambda outcome: outcome.runs)  # type: ignore[method-assign]
    if where != "store":
        monkeypatch.setattr(occurrences, "sent", no_next)
    await world.add(time=START + timedelta(seconds=1))
    scheduler = await world.scheduler(source)
    scheduler._dispatchers[0].report_to(figures)
    await asyncio.sleep(5)

    assert world.broker.args() == [0]
    assert figures.set_aside == 1


async def test_what_cannot_be_read_is_told_of_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """However often that it is set aside cannot be recorded."""
    source = world.another_source()
    settle = source.store.settle

    source.store.settle = tripped(settle, lambda _: True, SourceConnectionError)  # type: ignore[method-assign]
    await world.add(time=START)
    await world.source.store.update("0", ScheduleChanges(updated_at=START, document="{"))
    for _ in range(3):
        scheduler = await world.scheduler(source)
        await asyncio.sleep(2)
        await scheduler.stop()
    assert "is quarantined" not in caplog.text
    source.store.settle = settle  # type: ignore[method-assign]
    await world.scheduler(source)
    await asyncio.sleep(60)

    assert caplog.text.count("is quarantined") == 1


async def test_settling_first_has_ended_when_the_scheduler_has_stopped(world: World) -> None:
    """Were it left to itself, it would come after what is given back."""
    source, events = world.another_source(), []
    settle = source.store.settle

    async def hanging(outcomes: Sequence[Outcome]) -> frozenset[str]:
        if outcomes[0].release:
            events.append("given back")
            return await settle(outcomes)
        try:
            await asyncio.sleep(10**6)
        finally:
            await asyncio.sleep(0.5)
            events.append("rolled back")
        return frozenset()

    source.store.settle = hanging  # type: ignore[method-assign]
    await world.source.add_schedule(_task("minutely", cron="* * * * *"))
    await asyncio.sleep(600)
    scheduler = await world.scheduler(source)
    await asyncio.sleep(1)
    await scheduler.stop()

    assert events == ["rolled back", "given back"]


async def test_what_is_settled_is_not_held_while_the_clock_is_read(world: World) -> None:
    """A clock that hangs then would have stopping take all of its time."""
    source = world.another_source()
    record, has_settled = source.store.settle, False

    async def settle(outcomes: Sequence[Outcome]) -> frozenset[str]:
        nonlocal has_settled
        has_settled = True
        return await record(outcomes)

    async def now() -> datetime:
        if has_settled:
            await asyncio.sleep(20)
        return world.clock.read()

    source.store.settle = settle  # type: ignore[method-assign]
    source.clock.now = now  # type: ignore[method-assign]
    await world.add(time=START)
    scheduler = await world.scheduler(source)
    await asyncio.sleep(1)
    assert (has_settled, scheduler.health().sources[0].held) == (True, 0)


async def test_one_late_schedule_that_trips_a_bug_does_not_hold_up_the_others(world: World) -> None:
    source = world.another_source(lease=timedelta(seconds=9))
    source.store.settle = tripped(source.store.settle, lambda outcome: outcome.claim.schedule.id == "bad")  # type: ignore[method-assign]
    await world.source.add_schedule(_task("bad", cron="* * * * *", misfire="skip"))
    await asyncio.sleep(600)
    await world.source.add_schedules(_task(f"good-{index}", cron="* * * * *", args=[index]) for index in range(3))
    scheduler = await world.scheduler(source)
    await asyncio.sleep(600)

    assert len(world.broker.sent) == 3 * 10
    assert max(world.broker.lags()) < timedelta(seconds=1)
    assert scheduler.health().ok


async def test_a_slow_renewal_does_not_have_a_claim_begin_with_an_ended_lease(world: World) -> None:
    """The present is asked for anew after it, or two would send what was claimed."""
    first, second = (world.another_source(lease=timedelta(seconds=9)) for _ in range(2))
    first.store.renew = slowed(first.store.renew, 30, answering=False)  # type: ignore[method-assign]
    world.broker.takes = 4.0
    await world.add(80, time=START, delivery="at_most_once")
    for source in (first, second):
        await world.scheduler(source, max_concurrent_sends=5, batch_size=10)
    await asyncio.sleep(400)

    assert sorted(world.broker.args()) == list(range(80))
    assert {run.status for run in await world.runs()} <= {"sent", "unknown"}
    assert sum(run.status == "unknown" for run in await world.runs()) < 15


async def test_what_waits_to_be_settled_first_is_renewed(world: World) -> None:
    """While the store fails one scheduler's settles: another would take it over, and at most once would be used up."""
    first, second = (world.another_source(lease=timedelta(seconds=9)) for _ in range(2))
    back_at = START + timedelta(seconds=640)
    settle = tripped(first.store.settle, lambda _: world.clock.read() < back_at, SourceConnectionError)
    first.store.settle = settle  # type: ignore[method-assign]
    for index in range(3):
        await world.source.add_schedule(_task(str(index), cron="0 12 * * *", delivery="at_most_once", args=[index]))
        await world.source.add_schedule(_task(f"m{index}", cron="* * * * *", delivery="at_most_once", args=[10 + index]))
    await asyncio.sleep(600)
    await world.scheduler(first)
    await asyncio.sleep(1)
    await world.scheduler(second)
    await asyncio.sleep(50)

    assert {run.status for run in await world.runs()} == {"sent"}


@pytest.mark.parametrize(("raised", "after"), [(SourceConnectionError, 0), (SourceConnectionError, 9), (PanicException, 0)])
async def test_what_is_asked_for_ahead_is_not_lost(world: World, raised: type[BaseException], after: int) -> None:
    """Though what is late cannot be settled: nobody renewed it meanwhile, and at most once was used up by whoever came next."""
    first, second = (world.another_source(lease=timedelta(seconds=9)) for _ in range(2))
    settle, back_at = first.store.settle, None

    async def away(outcomes: Sequence[Outcome]) -> frozenset[str]:
        nonlocal back_at
        if back_at is None and any(not outcome.release for outcome in outcomes):
            back_at = world.clock.read() + timedelta(seconds=30)
        if back_at is not None and world.clock.read() < back_at:
            back_at = START if raised is PanicException else back_at  # which is once only
            await asyncio.sleep(after)
            raise raised("away")
        return await settle(outcomes)

    first.store.settle = away  # type: ignore[assignment]
    first.store.claim = slowed(first.store.claim, 0.01)  # type: ignore[method-assign]
    world.broker.takes = 0.001
    for name, time in (("early", START - timedelta(hours=1)), ("late", START + timedelta(seconds=90))):
        once = {"time": time, "delivery": "at_most_once", "args": [0]}
        await world.source.add_schedules(_task(f"{name}-{index}", **once) for index in range(3000))
    await world.source.add_schedule(_task("minutely", cron="* * * * *", args=[0]))
    await asyncio.sleep(600)
    await world.scheduler(first)
    await asyncio.sleep(1)
    await world.scheduler(second)
    await asyncio.sleep(58)

    assert {run.status for run in await world.runs()} == {"sent"}
    assert len(world.broker.sent) == 6001


@pytest.mark.parametrize("turns", range(12))
async def test_stopping_gives_back_what_would_not_be_sent(world: World, turns: int) -> None:
    """At whatever step of a claim it comes: what is dropped is recorded as missed, by whoever claims it next."""
    await world.source.add_schedules(_task(str(index), cron="0 12 * * *", misfire="skip") for index in range(250))
    await asyncio.sleep(3600)
    scheduler = await world.scheduler()
    for _ in range(turns):
        await asyncio.sleep(0)
    await scheduler.stop()

    leased = [info async for info in world.source.iter_schedules() if info.state.lease_until is not None]
    assert leased == []
    await world.scheduler()
    await asyncio.sleep(60)
    assert {run.status for run in await world.runs()} == {"missed"}


async def test_a_fault_amid_an_outage_of_the_store_is_over_with_it(world: World) -> None:
    """What waits to be settled first is given back then, and does not keep the dispatcher from being started again."""
    source = world.another_source()
    renew, back_at = source.store.renew, START + timedelta(seconds=602)
    settle = tripped(source.store.settle, lambda _: world.clock.read() < back_at, SourceConnectionError)

    async def panics(*_args: Any, **_options: Any) -> NoReturn:
        source.store.renew = renew  # type: ignore[method-assign]
        raise PanicException

    source.store.settle, source.store.renew = settle, panics  # type: ignore[method-assign]
    await world.source.add_schedule(_task("minutely", cron="* * * * *"))
    await asyncio.sleep(600)
    scheduler = await world.scheduler(source)
    source.desk.lease = timedelta(seconds=3)
    await asyncio.sleep(20)

    assert len(world.broker.sent) == 1
    assert scheduler.health().ok


async def test_what_is_missed_is_told_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """When it is recorded: what is given back instead is found late again, by whoever claims it next."""
    source = world.another_source()
    settle = tripped(source.store.settle, lambda outcome: outcome.runs, SourceConnectionError)
    source.store.settle = settle  # type: ignore[method-assign]
    await world.source.add_schedule(_task("hourly", cron="0 * * * *", misfire="skip"))
    await asyncio.sleep(1800)
    scheduler = await world.scheduler(source)
    await asyncio.sleep(2)
    await scheduler.stop()
    assert not any("not sent" in message for message in caplog.messages)
    await world.scheduler()
    await asyncio.sleep(2)

    assert [run.status for run in await world.runs()] == ["missed"]
    assert sum("not sent" in message for message in caplog.messages) == 1


async def test_stopping_drains_though_a_claim_hangs(world: World) -> None:
    source = world.another_source()
    world.broker.takes = 3.0
    await world.add(20, time=START)
    scheduler = await world.scheduler(source)
    await asyncio.sleep(1)

    async def hangs(*_args: Any, **_options: Any) -> NoReturn:
        await asyncio.sleep(10**6)
        raise AssertionError

    source.store.claim = hangs  # type: ignore[method-assign]
    await world.source.add_schedule(_task("more", time=world.clock.read()))
    await asyncio.sleep(1.5)
    await scheduler.stop()

    assert sorted(world.broker.args()) == list(range(20))
    assert [run.status for run in await world.runs()] == ["sent"] * 20


async def test_a_watch_that_panics_costs_no_send(world: World) -> None:
    """Nor does stopping then take the processor."""
    source = world.another_source()
    looks = 0

    async def panics() -> AsyncIterator[None]:
        nonlocal looks
        looks += 1
        raise PanicException
        yield

    source.store.watch = panics  # type: ignore[method-assign]
    await world.add(3, time=START + timedelta(seconds=5))
    scheduler = await world.scheduler(source)
    await asyncio.sleep(20)
    await scheduler.stop()

    assert sorted(world.broker.args()) == [0, 1, 2]
    assert looks < 15


async def test_a_hiccup_of_the_store_costs_no_claims(world: World) -> None:
    """What collapses is settled first; should that fail, it is tried again, and what was claimed with it is sent meanwhile."""
    source = world.another_source()
    settle = source.store.settle
    hiccups = 3

    async def failing(outcomes: list[Outcome]) -> frozenset[str]:
        nonlocal hiccups
        if hiccups and any(not outcome.release for outcome in outcomes):
            hiccups -= 1
            raise SourceConnectionError("gone for a moment")
        return await settle(outcomes)

    source.store.settle = failing  # type: ignore[assignment]
    await world.source.add_schedule(_task("minutely", cron="* * * * *", args=[1]))
    await asyncio.sleep(600)
    await world.source.add_schedule(_task("once", time=world.clock.read(), delivery="at_most_once", args=[2]))
    await world.scheduler(source)
    await asyncio.sleep(30)

    assert sorted(world.broker.args()) == [1, 2]
    assert sorted((run.status, run.coalesced) for run in await world.runs()) == [("sent", 1), ("sent", 11)]


async def test_a_step_of_the_clock_has_nothing_sent_twice(world: World) -> None:
    """Our own leases seem to have ended then: they are renewed before anything is claimed."""
    source = world.another_source(lease=timedelta(seconds=9))
    world.broker.takes = 5.0
    await world.add(3, time=START)
    await world.scheduler(source)
    await asyncio.sleep(2)
    step = timedelta(minutes=2)
    read = world.clock.read
    world.clock.read = lambda: read() + step  # type: ignore[method-assign]
    await world.source.add_schedule(_task("now", time=world.clock.read(), args=[3]))
    await asyncio.sleep(30)

    assert sorted(world.broker.args()) == [0, 1, 2, 3]


async def test_a_moment_without_the_store_is_over_though_the_broker_is_down(world: World) -> None:
    """`health` goes by the last call: while nothing is claimed, the store is asked what is due."""
    source = world.another_source()
    next_due = source.store.next_due
    world.broker.fails = lambda _message: True
    await world.add(20, time=START)
    scheduler = await world.scheduler(source, breaker_pause=timedelta(seconds=30))
    await asyncio.sleep(2)

    async def away(_now: datetime) -> NoReturn:
        source.store.next_due = next_due  # type: ignore[method-assign]
        raise SourceConnectionError("away")

    source.store.next_due = away  # type: ignore[method-assign]
    await asyncio.sleep(3)

    assert source.store.next_due == next_due
    assert scheduler.health().sources[0].breaker == "open"
    assert scheduler.health().sources[0].store_reachable


@pytest.mark.parametrize("operation", ["claim", "next_due", "settle", "renew"])
async def test_a_store_that_does_not_answer_is_not_healthy(world: World, operation: str) -> None:
    """A client without time-outs waits for ever for a server that has vanished, and no error says so."""
    source = world.another_source()
    call = getattr(source.store, operation)
    answers = asyncio.Event()

    async def waits(*arguments: Any, **options: Any) -> Any:
        await answers.wait()
        return await call(*arguments, **options)

    setattr(source.store, operation, waits)
    world.broker.takes = 12.0 if operation == "renew" else 0.0
    await world.add(time=START)
    scheduler = await world.scheduler(source)

    await asyncio.sleep(2 * source.desk.lease.total_seconds() - 1)
    assert scheduler.health().ok
    await asyncio.sleep(15)
    assert not scheduler.health().sources[0].store_reachable
    assert not scheduler.health().ok

    answers.set()
    await asyncio.sleep(2)
    assert scheduler.health().ok
    assert world.broker.args() == [0]


async def test_a_clock_that_does_not_answer_is_not_healthy(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It may ask the store. Here it does once something is claimed."""
    source = world.another_source()
    claim, now = source.store.claim, world.clock.now
    has_claimed = False

    async def claims(*arguments: Any, **options: Any) -> Any:
        nonlocal has_claimed
        claimed = await claim(*arguments, **options)
        has_claimed = has_claimed or bool(claimed)
        return claimed

    async def present() -> datetime:
        if has_claimed:
            await asyncio.Event().wait()
        return await now()

    source.store.claim = claims  # type: ignore[method-assign]
    world.clock.now = present  # type: ignore[method-assign]
    await world.add(time=START)
    scheduler = await world.scheduler(source)
    await asyncio.sleep(3 * source.desk.lease.total_seconds())

    assert has_claimed
    assert not scheduler.health().ok
    assert "a call has been waiting for the store's answer for 60 s" in caplog.text


async def test_many_short_calls_are_no_long_one(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A store that answers each time is there, however long the engine has to ask."""
    source = world.another_source()
    settle = source.store.settle

    async def settles(outcomes: Sequence[Outcome]) -> frozenset[str]:
        if len(outcomes) > 1:
            raise TypeError("a bug")
        await asyncio.sleep(0.5)
        return await settle(outcomes)

    source.store.settle = settles  # type: ignore[method-assign]
    await world.add(300, cron="* * * * *")
    await asyncio.sleep(3600)
    scheduler = await world.scheduler(source)
    health = []
    for _ in range(150):
        await asyncio.sleep(1)
        health.append(scheduler.health().ok)

    assert all(health)
    assert "has been waiting" not in caplog.text


async def test_what_a_call_that_broke_off_has_recorded_is_not_taken_for_lost(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The server did it, and its answer got lost; what is recorded already is reported as lost to the next call."""
    source = world.another_source()
    lost: list[int] = []

    class Figures(Metrics):
        def lost(self, number: int) -> None:
            lost.append(number)

    lose_an_answer(source.store)
    await world.add(20, time=START)
    scheduler = await world.scheduler(source)
    scheduler._dispatchers[0].report_to(Figures())
    caplog.set_level(logging.INFO)
    await asyncio.sleep(30)

    assert sorted(world.broker.args()) == [*range(20)]
    assert "taken over" not in caplog.text
    assert "recorded by a call that broke off" in caplog.text
    assert sum(lost) == 0


async def test_a_history_that_is_never_cut_does_not_stop_sends(world: World) -> None:
    """Only one of those who settle waits for it."""
    source = world.another_source()

    async def hangs(**_options: Any) -> int:
        await asyncio.Event().wait()
        return 0

    source.store.prune_runs = hangs  # type: ignore[method-assign]
    await world.add(time=START)
    scheduler = await world.scheduler(source)
    for index in range(1, 5):
        await asyncio.sleep(2 * PRUNE_INTERVAL.total_seconds())
        await world.source.add_schedule(_task(f"later-{index}", args=[-index], time=world.clock.read()))
    now = world.clock.read()
    await world.source.add_schedules(_task(f"many-{index}", args=[index], time=now) for index in range(1, 4_001))
    await asyncio.sleep(60)

    assert sorted(world.broker.args()) == [*range(-4, 4_001)]
    assert scheduler.health().sources[0].held == 0


@pytest.mark.parametrize(("error", "shows_where"), [(SourceConnectionError("no route to it"), False), (TypeError("a bug"), True)])
async def test_a_history_that_cannot_be_cut_is_told(
    world: World, caplog: pytest.LogCaptureFixture, error: Exception, *, shows_where: bool
) -> None:
    """And tried again later. A traceback helps against a bug only."""
    source = world.another_source()
    tries = 0

    async def fails(**_limits: Any) -> NoReturn:
        nonlocal tries
        tries += 1
        raise error

    source.store.prune_runs = fails  # type: ignore[method-assign]
    await world.add(time=START)
    await world.scheduler(source)
    await asyncio.sleep(2 * PRUNE_INTERVAL.total_seconds())
    await world.source.add_schedule(_task("later", time=world.clock.read()))
    await asyncio.sleep(10)

    assert tries == 2
    assert caplog.text.count("could not be pruned") == 2
    assert str(error) in caplog.text
    assert ("Traceback" in caplog.text) is shows_where


@pytest.mark.parametrize("step", [timedelta(0), timedelta(days=365)])
async def test_stopping_does_not_wait_for_the_history_to_be_cut(
    world: World, caplog: pytest.LogCaptureFixture, step: timedelta
) -> None:
    """What is settled is not held meanwhile. It is cut again though the store's clock was set back since."""
    source = world.another_source()
    prunings = []

    async def prune(**_limits: Any) -> int:
        prunings.append(world.clock.read())
        await asyncio.sleep(20)
        return 0

    source.store.prune_runs = prune  # type: ignore[method-assign]
    read = world.clock.read
    world.clock.read = lambda: read() + step  # type: ignore[method-assign]
    await world.add(5, time=START)
    scheduler = await world.scheduler(source)
    await asyncio.sleep(30)
    world.clock.read = read  # type: ignore[method-assign]
    await world.source.add_schedule(_task("later", time=START + timedelta(minutes=11), args=[5]))
    await asyncio.sleep(640)
    before = world.clock.read()
    await scheduler.stop()

    assert world.clock.read() - before < timedelta(seconds=1)
    assert len(prunings) == 2
    assert caplog.messages == []


async def test_overdue_is_told_while_much_is_late(world: World) -> None:
    """In a backlog as in an outage of the broker."""
    await world.add(500, time=START - timedelta(hours=2))
    world.broker.takes = 1.0
    scheduler = await world.scheduler(max_concurrent_sends=2, batch_size=10)
    await asyncio.sleep(20)
    busy = scheduler.health().sources[0].overdue
    world.broker.fails = lambda _message: True
    await asyncio.sleep(60)

    assert busy >= timedelta(hours=2)
    assert scheduler.health().sources[0].breaker != "closed"
    assert scheduler.health().sources[0].overdue >= timedelta(hours=2)


async def test_overdue_is_nothing_when_nothing_is_due(world: World) -> None:
    await world.add(20, time=START - timedelta(hours=2))
    scheduler = await world.scheduler()
    await asyncio.sleep(20)

    assert scheduler.health().sources[0].overdue == timedelta(0)


async def test_sends_that_are_cut_off_say_nothing_of_the_broker(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """When a source is shut down under them: their results could not be recorded."""
    source = world.another_source()
    world.broker.takes = 5.0
    await world.add(20, time=START)
    scheduler = await world.scheduler(source)
    await asyncio.sleep(1)
    await source.shutdown()
    await asyncio.sleep(3)

    assert world.broker.running == 0
    assert scheduler.health().sources[0].breaker == "closed"
    assert [record.getMessage()[:15] for record in caplog.records] == ["Nothing is sent"]


# -- the application ---------------------------------------------------------------------------------------------------------


async def test_a_cancelled_scope_of_anyio_stops_it_in_good_order(world: World) -> None:
    """anyio cancels again and again, until a scope is left."""
    await world.add(20, time=START)
    world.broker.takes = 3.0
    source = world.another_source()
    with anyio.move_on_after(1):
        async with DurableScheduler(world.broker, [source]):
            await anyio.sleep_forever()

    assert len(world.broker.sent) == 20
    assert [run.status for run in await world.runs()] == ["sent"] * 20


async def test_what_may_have_been_sent_is_not_counted_as_missed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """At most once, after a crash: nobody knows, and neither the figures nor the log say that it was not sent."""
    missed: list[int] = []

    class Figures(Metrics):
        def missed(self, number: int) -> None:
            missed.append(number)

    await world.add(time=START, delivery="at_most_once")
    doomed = world.another_source()
    await doomed.startup()
    assert len(await doomed.desk.take(limit=1)) == 1
    scheduler = await world.scheduler()
    scheduler._dispatchers[0].report_to(Figures())
    await asyncio.sleep(60)

    assert [run.status async for run in world.source.runs()] == ["unknown"]
    assert missed == []
    assert "not sent again: the scheduler that claimed it did not come back" in caplog.text
