"""Benchmarks of the engine, beside what bounds it in the same run: the bare ``kiq`` of the same broker."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from common import AT_ONCE, NullBroker, Place, burst_of, child, fill, new_place
from taskiq import AsyncBroker

from taskiq_sources import DurableScheduler, ScheduledTask, ScheduleSource
from taskiq_sources.models import ScheduleQuery

BURST = 5_000
EARLIER = 1_000
ROUNDS = 9


async def bare_rate(kiq: Callable[..., Awaitable[Any]], number: int, concurrent: int = 1) -> float:
    """Return how many messages a second `kiq` takes, with so many callers at once."""

    async def call(numbers: range) -> None:
        for index in numbers:
            await kiq(index, "two", three=3)

    begin = time.perf_counter()
    await asyncio.gather(*(call(range(start, number, concurrent)) for start in range(concurrent)))
    return number / (time.perf_counter() - begin)


async def burst_rates(place: Place, broker: AsyncBroker, sent: list[float], number: int) -> tuple[float, float]:
    """Return how many occurrences a second are sent and settled, from the first send, and from when they are due, to the last.

    The scheduler has sent a few before: it has its connections, and knows how fast its broker is, as after a while of work.
    """
    source = place.make()
    await source.startup()
    begin = len(sent) + EARLIER
    due = await source.clock.now() + timedelta(seconds=5)
    await burst_of(source, EARLIER, due - timedelta(seconds=1))
    await burst_of(source, number, due)
    scheduler = DurableScheduler(broker, [place.make()])
    async with scheduler:
        due_at = time.perf_counter() + (due - await source.clock.now()).total_seconds()
        await _keep_awake(source, until=lambda: len(sent) > begin)
        while len(sent) < begin + number or scheduler.health().sources[0].held:
            await asyncio.sleep(0.002)
        end = time.perf_counter()
    await source.shutdown()
    return number / (end - sent[begin]), number / (end - due_at)


async def _keep_awake(source: ScheduleSource, until: Callable[[], bool]) -> None:
    """Keep the processors busy, this one and that of the store's server, if there is one, as a bare ``kiq`` finds them.

    One that was idle may run at half its speed for longer than a burst takes, which would be measured in place of the engine.
    """

    async def ask() -> None:
        while not until():
            await source.store.now()
            await asyncio.sleep(0)

    asking = asyncio.ensure_future(ask())
    while not until():
        await asyncio.sleep(0)
    await asking


async def burst(backend: str, directory: Path) -> str:
    """One-offs due at one instant into a broker that does nothing, history on, against as many bare ``kiq``."""
    broker = NullBroker()

    @broker.task("bench:task")
    async def task(*_args: Any, **_kwargs: Any) -> None: ...

    rates, ratios, of_all = [], [], []
    for _ in range(ROUNDS):
        before = await bare_rate(task.kiq, BURST)
        rate, from_due = await burst_rates(new_place(backend, directory), broker, broker.sent, BURST)
        bare = (before + await bare_rate(task.kiq, BURST)) / 2
        rates.append(rate)
        ratios.append(rate / bare)
        of_all.append(from_due / bare)
    rate, ratio, from_due = map(statistics.median, (rates, ratios, of_all))
    return (
        f"burst of {BURST:,} one-offs, no-op broker: {rate:,.0f}/s = {ratio:.2f} x bare kiq, {from_due:.2f} from when it is due"
    )


async def stream(backend: str, directory: Path) -> str:
    """The same into taskiq-redis' stream broker, against its bare ``kiq`` from as many callers as the engine sends at once."""
    from taskiq_redis import RedisStreamBroker

    from taskiq_sources_conformance.servers import url_of

    class Noting(RedisStreamBroker):
        sent: list[float] = []  # noqa: RUF012 - one broker a run

        async def kick(self, message: Any) -> None:
            await super().kick(message)
            self.sent.append(time.perf_counter())

    rates, bare = [], []
    for number in range(3):
        broker = Noting(url_of("redis"), queue_name=f"bench-{number}")
        broker.sent = []

        @broker.task("bench:task")
        async def task(*_args: Any, **_kwargs: Any) -> None: ...

        await broker.startup()
        bare.append(await bare_rate(task.kiq, BURST, AT_ONCE))
        broker.sent.clear()
        rate, _ = await burst_rates(new_place(backend, directory), broker, broker.sent, BURST)
        rates.append(rate)
        await broker.shutdown()
    ratio = statistics.median(rate / base for rate, base in zip(rates, bare, strict=True))
    return (
        f"burst into taskiq-redis' stream broker: {statistics.median(rates):,.0f}/s = {ratio:.2f} x bare kiq of {AT_ONCE} callers"
    )


async def pick_up(backend: str, directory: Path, number: int = 200) -> str:
    """From adding a schedule that is due at once, in another process than the scheduler's, to its send.

    With an id as taskiq makes them; with one of its own, an application waits for three calls more: see ADR 0013.
    """
    place = new_place(backend, directory)
    source = place.make()
    await source.startup()
    added = []
    with child(place) as scheduler:
        await asyncio.sleep(1)
        for _ in range(number):
            added.append(time.perf_counter())
            await source.add_schedule(_one_off(time=await source.clock.now()))
            await asyncio.sleep(0.03)
        await _until_empty(source)
        sent = scheduler.stopped()["times"]
    await source.shutdown()
    return f"pick-up of a schedule added by another process for now: {_spread(added, sent)}"


async def lag(backend: str, directory: Path, number: int = 100) -> str:
    """From the instant that a one-off is due to its send, by an idle scheduler."""
    place = new_place(backend, directory)
    source = place.make()
    await source.startup()
    start = await source.clock.now() + timedelta(seconds=3)
    zero = time.perf_counter() - (await source.clock.now() - start).total_seconds()
    steps = [timedelta(milliseconds=97 * index) for index in range(number)]
    await source.add_schedules(_one_off(time=start + step) for step in steps)
    with child(place) as scheduler:
        await asyncio.sleep(3 + steps[-1].total_seconds())
        await _until_empty(source)
        sent = scheduler.stopped()["times"]
    await source.shutdown()
    return f"lag of an idle scheduler: {_spread([zero + step.total_seconds() for step in steps], sent)}"


async def idle(backend: str, directory: Path, stored: int, seconds: float = 30.0) -> str:
    """CPU and memory of a scheduler with so many schedules that are not due, and with 10."""
    figures = []
    for number in (10, stored):
        place = new_place(backend, directory)
        source = place.make()
        await source.startup()
        await fill(source, number)
        with child(place) as scheduler:
            await asyncio.sleep(3)
            before = scheduler.cpu()
            await asyncio.sleep(seconds)
            figures.append(((scheduler.cpu() - before) / seconds, scheduler.memory()))
            scheduler.stopped()
        await source.shutdown()
    (_, memory_of_few), (cpu, memory) = figures
    return f"idle with {stored:,} not due: {cpu:.2%} of a core, {memory - memory_of_few:+.1f} MiB against 10 of them"


async def pair(backend: str, directory: Path) -> str:
    """Two schedulers on one store against one, when the broker takes 2 ms a message.

    One that sends as many at once as it does unless told otherwise waits for its processor more than for such a broker: with two
    of them and the server on two cores, what there is to gain is what one leaves idle. With 20 at once it waits for the broker.
    """
    shown = []
    for at_once in (AT_ONCE, 20):
        one, two = await _pair_rates(backend, directory, at_once)
        shown.append(f"{at_once} sends at once, one scheduler {one:,.0f}/s, two {two:,.0f}/s = {two / one:.2f} x")
    return f"broker of 2 ms a message: {'; '.join(shown)}"


async def _pair_rates(backend: str, directory: Path, at_once: int, number: int = 20_000) -> tuple[float, float]:
    """Return how many occurrences a second one scheduler sends and settles, and two do: medians of five turns each."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for schedulers in (1, 2) * 5:
        place = new_place(backend, directory)
        source = place.make()
        await source.startup()
        await burst_of(source, number, await source.clock.now() + timedelta(seconds=number / 5_000 + 3))  # all are stored by then
        options: dict[str, Any] = {"takes": 0.002, "at_once": at_once, "watched": True}
        with child(place, **options) as first, child(place, **options) as second:
            others = [second]
            if schedulers == 1:
                others.pop().stopped()
            await _until_empty(source, look_every=0.25)  # two schedulers and a server need both cores
            results = [one.stopped() for one in (first, *others)]
        await source.shutdown()
        assert sum(result["sent"] for result in results) == number
        begin = min(result["times"][0] for result in results if result["sent"])
        rates[schedulers].append(number / (max(result["settled_at"] for result in results) - begin))
    return statistics.median(rates[1]), statistics.median(rates[2])


def _one_off(**fields: Any) -> ScheduledTask:
    return ScheduledTask(task_name="t", labels={}, args=[], kwargs={}, **fields)


async def _until_empty(source: ScheduleSource, look_every: float = 0.005) -> None:
    while await source.store.page(ScheduleQuery(), limit=1):
        await asyncio.sleep(look_every)


def _spread(begun: list[float], ended: list[float]) -> str:
    assert len(begun) == len(ended), (len(begun), len(ended))
    took = sorted(end - begin for begin, end in zip(begun, ended, strict=True))
    return f"median {statistics.median(took) * 1000:.1f} ms, p99 {took[int(len(took) * 0.99) - 1] * 1000:.1f} ms"
