"""What asyncio leaves out: waiting that can be cancelled at any instant."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from taskiq_sources.tasking import Batches, end, event_or_timeout

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


class Answerer:
    """Answers when it is told to, and keeps what it was asked together."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.free = asyncio.Event()

    async def __call__(self, questions: Sequence[str]) -> Sequence[str]:
        self.asked.append(list(questions))
        await self.free.wait()
        for question in questions:
            if question.startswith("bad"):
                raise ValueError(question)
        if "down" in questions:
            raise ConnectionError
        return [question.upper() for question in questions]


def batches_of(answerer: Answerer, size: int = 10) -> Batches[str, str]:
    return Batches(answerer, size=size, is_shared=lambda error: isinstance(error, ConnectionError))


async def asked(batches: Batches[str, str], questions: str) -> list[asyncio.Future[str]]:
    futures = []
    for question in questions.split():
        futures.append(asyncio.ensure_future(batches.ask(question)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return futures


async def test_what_comes_while_others_are_answered_is_answered_together() -> None:
    answerer = Answerer()
    answers = await asked(batches_of(answerer, size=2), "a b c d")
    answerer.free.set()

    assert await asyncio.gather(*answers) == ["A", "B", "C", "D"]
    assert answerer.asked == [["a"], ["b", "c"], ["d"]]


async def test_one_that_is_refused_does_not_spoil_the_others() -> None:
    answerer = Answerer()
    answers = await asked(batches_of(answerer), "a b bad c")
    answerer.free.set()
    got = await asyncio.gather(*answers, return_exceptions=True)

    assert [str(answer) for answer in got] == ["A", "B", "bad", "C"]
    assert answerer.asked == [["a"], ["b", "bad", "c"], ["b"], ["bad"], ["c"]]


async def test_an_error_that_is_nobody_s_fault_is_told_to_all() -> None:
    answerer = Answerer()
    answers = await asked(batches_of(answerer), "a b down c")
    answerer.free.set()
    got = await asyncio.gather(*answers, return_exceptions=True)

    assert [type(answer) for answer in got] == [str, ConnectionError, ConnectionError, ConnectionError]
    assert answerer.asked == [["a"], ["b", "down", "c"]]


async def test_who_is_cancelled_only_stops_waiting() -> None:
    answerer = Answerer()
    batches = batches_of(answerer)
    first, second, third = await asked(batches, "a b c")
    second.cancel()
    answerer.free.set()

    assert await first == "A"
    assert await third == "C"
    assert answerer.asked == [["a"], ["b", "c"]]


async def test_the_end_comes_when_all_are_answered() -> None:
    answerer = Answerer()
    batches = batches_of(answerer)
    answers = await asked(batches, "a b")
    ending = asyncio.ensure_future(batches.end())
    await asyncio.sleep(0)
    assert not ending.done()
    answerer.free.set()
    await ending

    assert answerer.asked == [["a"], ["b"]]
    assert await asyncio.gather(*answers, batches.ask("c")) == ["A", "B", "C"]
