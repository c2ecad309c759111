"""`Listener` and `Listeners`: the life of a subscription."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from taskiq_sources.listening import Listener, Listeners

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_first_value_comes_at_once_and_news_is_merged() -> None:
    """What is told while nobody waits is one value."""
    listener = Listener()
    changes = listener.changes()
    await anext(changes)
    listener.tell("whatever", "a driver passes")
    listener.tell()
    await anext(changes)
    waiting = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    assert not waiting.done()

    listener.tell()

    await waiting


async def test_a_loss_is_raised_and_an_end_ends() -> None:
    """Neither leaves anybody waiting."""
    lost, ended = Listener(), Listener()
    lost_changes, ended_changes = lost.changes(), ended.changes()
    await anext(lost_changes)
    await anext(ended_changes)

    lost.lose(ConnectionError("gone"))
    await ended.end()

    with pytest.raises(ConnectionError, match="gone"):
        await anext(lost_changes)
    with pytest.raises(StopAsyncIteration):
        await anext(ended_changes)


async def test_silence_is_checked() -> None:
    """After each while without news the check is asked; what it raises ends the changes."""
    answers = iter([None, ConnectionError("no answer")])

    async def check() -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    changes = Listener().changes(check=check, every=0.001)
    await anext(changes)

    with pytest.raises(ConnectionError, match="no answer"):
        await anext(changes)


async def test_news_that_have_to_be_asked_for_are_followed() -> None:
    """Each item is news, what is raised is the loss, and the end of the subscription is the end of asking."""
    asked: asyncio.Queue[object] = asyncio.Queue()
    ended = asyncio.Event()

    async def news() -> AsyncIterator[object]:
        try:
            while True:
                item = await asked.get()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            ended.set()

    listener, lost = Listener(), Listener()
    changes, lost_changes = listener.changes(), lost.changes()
    listener.follow(news())
    await anext(changes)
    await anext(lost_changes)

    asked.put_nowait("something")
    await asyncio.wait_for(anext(changes), 10)
    await listener.end()
    assert ended.is_set()

    lost.follow(news())
    asked.put_nowait(ConnectionError("gone"))
    with pytest.raises(ConnectionError, match="gone"):
        await asyncio.wait_for(anext(lost_changes), 10)
    await lost.end()


async def test_closing_ends_what_listens_and_what_is_to_come() -> None:
    """A session that is closed frees the resources of its subscriptions, whether or not somebody waits for their next value."""
    listeners, freed = Listeners(), []
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(listeners.listener())
        listener.resources.callback(freed.append, "connection")
        await anext(listener.changes())

        await listeners.close()

        assert freed == ["connection"]
        late = await stack.enter_async_context(listeners.listener())
        assert [value async for value in late.changes()] == []
    assert freed == ["connection"]
