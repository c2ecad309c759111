"""The store's clock, carried on by the monotonic clock."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta, timezone

import pytest

from taskiq_sources import SourceConnectionError
from taskiq_sources.clock import StoreClock, floor_ms, from_ms, system_now, to_ms

pytestmark = pytest.mark.anyio

SERVER = datetime(2031, 6, 1, 12, 0, tzinfo=timezone.utc)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Server:
    """A server whose clock runs with the monotonic clock, and whose answers take `round_trip` seconds."""

    def __init__(self, round_trip: float = 0.0) -> None:
        self.monotonic = 1000.0
        self.round_trip = round_trip
        self.reads = 0
        self.gone = False
        self.step = timedelta(0)

    async def now(self) -> datetime:
        if self.gone:
            raise SourceConnectionError("gone")
        self.reads += 1
        self.monotonic += self.round_trip / 2
        answer = SERVER + self.step + timedelta(seconds=self.monotonic - 1000)
        self.monotonic += self.round_trip / 2
        return answer

    def clock(self) -> StoreClock:
        return StoreClock(self.now, monotonic=lambda: self.monotonic)


async def test_the_server_is_taken_to_answer_in_the_middle_of_the_round_trip() -> None:
    """A slow answer does not make the clock late."""
    server = Server(round_trip=0.2)

    assert await server.clock().now() == SERVER + timedelta(seconds=0.2)


async def test_a_long_round_trip_is_measured_again() -> None:
    """While a connection is made anew, nobody knows when in it the server answered: here, at its very end."""

    class Connecting(Server):
        async def now(self) -> datetime:
            if self.reads == 0:
                self.monotonic += 8
            return await super().now()

    server = Connecting(round_trip=0.1)

    assert await server.clock().now() == SERVER + timedelta(seconds=8.2)


async def test_a_server_that_is_slow_for_a_while_does_not_set_the_clock() -> None:
    """An earlier measurement is better than one that may be wrong by a second, and nobody asks again at each call."""
    server = Server()
    clock = server.clock()
    await clock.now()
    server.monotonic += 61
    server.round_trip, server.step = 3.0, timedelta(seconds=1)

    assert await clock.now() == SERVER + timedelta(seconds=61 + 9)
    reads = server.reads
    server.monotonic += 6
    assert await clock.now() == SERVER + timedelta(seconds=61 + 9 + 6)
    assert server.reads == reads


async def test_a_step_is_seen_though_the_server_is_always_slow() -> None:
    """By more than its answer can be wrong."""
    server = Server(round_trip=3.0)
    clock = server.clock()
    await clock.now()
    server.step = timedelta(hours=1)
    server.monotonic += 61

    assert await clock.now() == SERVER + timedelta(hours=1, seconds=9 + 61 + 9)


async def test_the_clock_is_read_once_a_minute() -> None:
    """In between the monotonic clock carries on, without a round trip."""
    server = Server()
    clock = server.clock()
    for _ in range(120):
        await clock.now()
        server.monotonic += 1

    assert server.reads == 2


def test_many_in_one_event_loop_after_another_read_it_once_each() -> None:
    """Those who ask at the same time wait for one answer, whichever loop was the first that waited."""

    class Slow(Server):
        async def now(self) -> datetime:
            for _ in range(3):
                await asyncio.sleep(0)
            return await super().now()

    server = Slow()
    clock = server.clock()

    async def ask() -> None:
        await asyncio.gather(*(clock.now() for _ in range(3)))

    for reads in (1, 2):
        asyncio.run(ask())
        server.monotonic += 61
        assert server.reads == reads


async def test_a_step_of_the_server_s_clock_is_seen_within_a_minute() -> None:
    """The server's clock decides, also after somebody has set it."""
    server = Server()
    clock = server.clock()
    await clock.now()
    server.step = timedelta(hours=1)
    server.monotonic += 61

    assert await clock.now() == SERVER + timedelta(hours=1, seconds=61)


async def test_an_outage_does_not_stop_the_clock() -> None:
    """A clock that was read once goes on while the server is away, and is read again when it is back."""
    server = Server()
    clock = server.clock()
    await clock.now()
    server.gone = True
    server.monotonic += 600

    assert await clock.now() == SERVER + timedelta(seconds=600)
    server.gone, server.step = False, timedelta(seconds=30)
    server.monotonic += 66
    assert await clock.now() == SERVER + timedelta(seconds=696)


async def test_who_asks_in_an_outage_does_not_wait_each_time() -> None:
    """For a driver that gives up after half a minute: the measurement is carried on for a while before it is asked again."""

    class Hanging(Server):
        async def now(self) -> datetime:
            if self.gone:
                self.monotonic += 30
            return await super().now()

    server = Hanging()
    clock = server.clock()
    await clock.now()
    server.gone = True
    server.monotonic += 61

    assert await clock.now() == SERVER + timedelta(seconds=61 + 30)
    server.monotonic += 4
    assert await clock.now() == SERVER + timedelta(seconds=61 + 30 + 4)
    server.monotonic += 2
    assert await clock.now() == SERVER + timedelta(seconds=61 + 30 + 6 + 30)


async def test_a_clock_that_was_never_read_raises() -> None:
    """Without any measurement there is no time to tell."""
    server = Server()
    server.gone = True

    with pytest.raises(SourceConnectionError):
        await server.clock().now()


async def test_a_wrong_local_clock_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """An offset over five seconds is logged when it appears, not with every measurement."""
    server = Server()
    clock = server.clock()
    with caplog.at_level(logging.WARNING, "taskiq_sources"):
        await clock.sync()
        await clock.sync()

    assert len(caplog.records) == 1
    assert "behind" in caplog.text


def test_milliseconds_are_exact() -> None:
    """Every whole millisecond from long ago to far ahead survives the way to an integer and back."""
    long_ago = datetime(1901, 1, 1, 0, 0, 0, 1000, tzinfo=timezone.utc)
    far_ahead = datetime(2999, 12, 31, 23, 59, 59, 999000, tzinfo=timezone.utc)
    for moment in (SERVER, long_ago, far_ahead):
        assert from_ms(to_ms(moment)) == moment


def test_times_are_cut_not_rounded() -> None:
    """Nothing becomes due later than it was said to be."""
    assert floor_ms(SERVER.replace(microsecond=1999)).microsecond == 1000
    assert floor_ms(datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))) == datetime(2030, 1, 1, tzinfo=timezone.utc)
    assert system_now().microsecond % 1000 == 0
