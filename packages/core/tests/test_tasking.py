"""What asyncio leaves out: waiting that can be cancelled at any instant."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from taskiq_sources.tasking import Background, LoopEvent, Turnstile, end, event_or_timeout, in_slices, sparsely
from taskiq_sources_conformance.virtual_loop import VirtualEventLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_what_is_done_in_the_background_is_kept_and_its_error_interests_nobody(caplog: pytest.LogCaptureFixture) -> None:
    background, ended = Background(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()  # which nobody but this has
        finally:
            ended.set()

    async def fails() -> None:
        raise ValueError("x")

    background.start(work())
    background.start(fails())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()

    assert not ended.is_set()
    del background
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_work_gives_others_their_turn_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that take long let others have one after each; those that take nothing are not held up by it."""
    seconds = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: seconds)

    def work(takes: float) -> float:
        nonlocal seconds
        seconds += takes
        return seconds

    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.ensure_future(others())
    await asyncio.sleep(0)
    assert await in_slices(work, [1.0] * 5) == [1.0, 2.0, 3.0, 4.0, 5.0]
    after_slow = turns
    assert await in_slices(work, [0.0] * 500) == [5.0] * 500
    assert (after_slow, turns) == (5, 5)
    counting.cancel()


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_just_after_the_event_is_not_forgotten(turns: int) -> None:
    """However few turns of the loop lie between the event and the end of the one that waits for it, it ends."""
    event = asyncio.Event()

    async def wait_for_ever() -> None:
        await event_or_timeout(event, 60)
        await asyncio.Event().wait()

    task = asyncio.ensure_future(wait_for_ever())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)

    ending = asyncio.ensure_future(end([task]))
    done, _ = await asyncio.wait({ending}, timeout=5)
    task.cancel()

    assert done


async def test_it_waits_no_longer_than_it_is_told() -> None:
    event = asyncio.Event()

    await event_or_timeout(event, 0.001)

    assert not event.is_set()


def test_two_changes_come_at_once_and_others_one_by_one() -> None:
    async def all_the_time() -> AsyncIterator[None]:
        while True:
            await asyncio.sleep(0.001)
            yield

    async def times() -> list[float]:
        loop = asyncio.get_running_loop()
        begin, came = loop.time(), []
        changes = sparsely(all_the_time(), 0.01)
        async for _ in changes:
            came.append(round(loop.time() - begin, 3))
            if len(came) == 200:
                await changes.aclose()
        return came

    loop = VirtualEventLoop()
    try:
        first, second, *others = loop.run_until_complete(times())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()

    assert (first, second) == (0.001, 0.002)
    assert 1.9 <= others[-1] <= 2.3


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_event_wakes_who_waits_though_others_waited_in_a_loop_that_was_closed() -> None:
    """As watchers of a store that is used in one loop after another."""
    event = LoopEvent()
    loop = asyncio.new_event_loop()
    left = loop.create_task(event.wait(60))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def wake() -> None:
        waiting = asyncio.ensure_future(event.wait(60))
        await asyncio.sleep(0)
        event.set()
        await asyncio.wait_for(waiting, 5)
        await event.wait(60)

    asyncio.run(wake())
    assert event.is_set()
    assert not left.done()
    del left
    gc.collect()  # Python complains of the task of that loop, here and not in the next test


# -- turns -----------------------------------------------------------------------------------------------------------------------


async def waiting(turns: Turnstile, within: float = 60) -> asyncio.Task[bool]:
    """Return who waits for a turn, and does already."""
    task = asyncio.ensure_future(turns.take(within=within))
    await asyncio.sleep(0)
    return task


async def free_turns(turns: Turnstile) -> int:
    """Return how many turns can be had at once; they are taken."""
    free = 0
    while await turns.take(within=0):
        free += 1
    return free


def test_a_turn_that_is_free_is_had_without_leaving_the_way_to_others() -> None:
    """The event loop is not asked for anything: there is none here."""
    turns = Turnstile(2)

    for _ in range(2):
        with pytest.raises(StopIteration) as had:
            turns.take(within=0).send(None)
        assert had.value.value is True


async def test_turns_come_in_the_order_in_which_they_are_waited_for() -> None:
    """Nor does somebody who comes later get in between one who ends and one who waits."""
    turns = Turnstile(2)
    assert await turns.take(within=0)
    assert await turns.take(within=0)
    first, second = await waiting(turns), await waiting(turns)

    turns.pass_on()
    assert not await turns.take(within=0)
    assert first.done()
    assert not second.done()

    turns.pass_on()
    assert await asyncio.wait_for(asyncio.gather(first, second), 5) == [True, True]
    for _ in range(2):
        turns.pass_on()
    assert await free_turns(turns) == 2


async def test_who_has_waited_long_enough_takes_no_turn() -> None:
    turns = Turnstile(1)
    assert await turns.take(within=0)

    assert not await turns.take(within=0.001)

    turns.pass_on()
    assert await free_turns(turns) == 1


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("is_cancelled_first", [False, True])
async def test_a_turn_of_somebody_who_is_cancelled_is_passed_on(steps: int, is_cancelled_first: bool) -> None:
    """Long before it comes, together with it, or just after; and who is cancelled is."""
    turns = Turnstile(1)
    assert await turns.take(within=0)
    has_begun = False

    async def work() -> None:
        nonlocal has_begun
        assert await turns.take(within=60)
        try:
            has_begun = True
            await asyncio.Event().wait()
        finally:
            turns.pass_on()

    cancelled = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    following = await waiting(turns)
    doings = [turns.pass_on, cancelled.cancel]
    for doing in reversed(doings) if is_cancelled_first else doings:
        doing()
        for _ in range(steps):
            await asyncio.sleep(0)
    await asyncio.wait({cancelled, following}, timeout=5)

    assert cancelled.cancelled()
    assert has_begun == (steps > 1 and not is_cancelled_first)
    assert following.done()
    assert following.result()
    turns.pass_on()
    assert await free_turns(turns) == 1


async def test_who_is_cancelled_while_waiting_holds_nobody_up() -> None:
    turns = Turnstile(1)
    assert await turns.take(within=0)
    first, second = await waiting(turns), await waiting(turns)

    await end([first])
    turns.pass_on()

    assert first.cancelled()
    assert await asyncio.wait_for(second, 5)


def test_a_turn_that_comes_as_the_time_is_up_is_had_or_left_to_others() -> None:
    """It is not lost between the two, whichever the event loop sees first."""

    async def outcomes() -> set[bool]:
        came = set()
        loop = asyncio.get_running_loop()
        for pass_on_at in (0.9, 1.0, 1.1):
            for early in (False, True):
                turns = Turnstile(1)
                assert await turns.take(within=0)
                if early:
                    loop.call_later(pass_on_at, turns.pass_on)
                task = await waiting(turns, within=1.0)
                if not early:
                    loop.call_later(pass_on_at, turns.pass_on)
                has_turn = await task
                came.add(has_turn)
                await asyncio.sleep(1)
                if has_turn:
                    turns.pass_on()
                assert await free_turns(turns) == 1
        return came

    loop = VirtualEventLoop()
    try:
        assert loop.run_until_complete(outcomes()) == {False, True}
    finally:
        loop.close()
