"""What asyncio of Python 3.10 leaves out. No engine, no store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

QuestionT = TypeVar("QuestionT")
AnswerT = TypeVar("AnswerT")


async def event_or_timeout(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set, or for `seconds`.

    Not by `asyncio.wait_for`: before Python 3.12 it forgets a cancellation that comes just after the event.
    """
    if event.is_set():
        return
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=seconds)
    finally:
        waiting.cancel()


async def end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait until they have ended, however they do."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


class Batches(Generic[QuestionT, AnswerT]):
    """Has what is asked for at the same time answered together: the first at once, and what comes meanwhile in one go after it.

    Args:
        answer: Returns the answers to some questions, in order. If it raises, none of them has had any effect; each is then asked
            by itself, so that an error is that of the one who is to blame.
        size: How many questions are answered together at most.
        is_shared: Tells which errors are nobody's fault: everybody is told of those, and nothing is asked again.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[QuestionT]], Awaitable[Sequence[AnswerT]]],
        *,
        size: int,
        is_shared: Callable[[Exception], bool],
    ) -> None:
        self._answer = answer
        self._size = size
        self._is_shared = is_shared
        self._asked: list[tuple[QuestionT, asyncio.Future[AnswerT]]] = []
        self._answering: asyncio.Task[None] | None = None

    async def ask(self, question: QuestionT) -> AnswerT:
        """Return the answer. To be cancelled only ends the waiting for it."""
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._asked.append((question, future))
        if self._answering is None:
            self._answering = asyncio.ensure_future(self._answer_all())
        return await future

    async def end(self) -> None:
        """Wait until all is answered."""
        while self._answering is not None:
            await asyncio.wait({self._answering})

    async def _answer_all(self) -> None:
        try:
            while self._asked:
                some, self._asked = self._asked[: self._size], self._asked[self._size :]
                await self._answer_some(some)
        finally:
            self._answering = None

    async def _answer_some(self, some: Sequence[tuple[QuestionT, asyncio.Future[AnswerT]]]) -> None:
        try:
            answers = await self._answer([question for question, _ in some])
        except Exception as error:
            if len(some) > 1 and not self._is_shared(error):
                for one in some:
                    await self._answer_some([one])
                return
            for _, future in some:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), answer in zip(some, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


def uncancel(task: asyncio.Task[Any] | None) -> None:
    """Tell Python 3.11 and later that a cancellation was meant for something inside the task and has been dealt with."""
    function: Callable[[], int] | None = getattr(task, "uncancel", None)
    if function is not None:
        function()
