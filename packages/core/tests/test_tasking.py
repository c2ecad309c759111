"""What asyncio leaves out: waiting that can be cancelled at any instant."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from taskiq_sources.tasking import LoopEvent, end, event_or_timeout, sparsely
from taskiq_sources_conformance.virtual_loop import VirtualEventLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
