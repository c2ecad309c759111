"""What all implementations of ``ScheduleStore.watch`` have in common: news, silence, loss and the end. Knows no database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from taskiq_sources.tasking import end, event_or_timeout


class Listener:
    """One subscription to changes.

    Whoever subscribes puts into `resources` what ends the subscription, and hands `tell` and `lose` to the driver; or lets it
    `follow` news that have to be asked for.
    """

    def __init__(self) -> None:
        self.resources = AsyncExitStack()
        self._news = asyncio.Event()
        self._ended = False
        self._loss: BaseException | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nobody wants to be told any more."""
        return self._ended

    def tell(self, *_: object) -> None:
        """Say that something may have changed. Takes whatever a driver passes to its callbacks."""
        self._news.set()

    def lose(self, loss: BaseException) -> None:
        """Say that the subscription was lost: `changes` raises `loss`."""
        self._loss = loss
        self._news.set()

    def follow(self, news: AsyncIterator[object], *, within: float | None = None) -> None:
        """Read `news` until the subscription ends: `tell` of each item, and `lose` what it raises. It does not end by itself.

        Args:
            news: What comes.
            within: How many seconds to wait for its end when the subscription ends; None for as long as it takes.
        """
        following = asyncio.ensure_future(self._follow(news))
        self.resources.push_async_callback(end, [following], within=within)

    async def _follow(self, news: AsyncIterator[object]) -> None:
        try:
            async for _ in news:
                self.tell()
        except Exception as error:
            self.lose(error)

    async def end(self) -> None:
        """End the subscription, and with it `changes`. Idempotent."""
        self._ended = True
        self._news.set()
        await self.resources.aclose()

    async def changes(
        self, *, check: Callable[[], Awaitable[object]] | None = None, every: float | None = None
    ) -> AsyncIterator[None]:
        """Yield at once, and then whenever there is news, until the end.

        Args:
            check: Asked in silence whether the subscription still holds; raises if not.
            every: After how many seconds without news.

        Raises:
            Exception: What `check` raised, or what the subscription was lost with.
        """
        self._news.set()
        while True:
            if not self._news.is_set():
                await (self._news.wait() if every is None else event_or_timeout(self._news, every))
            if self._ended:
                return
            if self._loss is not None:
                raise self._loss
            if self._news.is_set():
                self._news.clear()
                yield
            elif check is not None:
                await check()


class Listeners:
    """The subscriptions of a session, so that they end with it."""

    def __init__(self) -> None:
        self._listening: set[Listener] = set()
        self._closed = False

    @asynccontextmanager
    async def listener(self) -> AsyncIterator[Listener]:
        """Provide a subscription that ends with the block, and with `close`."""
        listener = Listener()
        self._listening.add(listener)
        try:
            if self._closed:
                await listener.end()
            yield listener
        finally:
            self._listening.discard(listener)
            await listener.end()

    async def close(self) -> None:
        """End all subscriptions, those to come included."""
        self._closed = True
        await asyncio.gather(*(listener.end() for listener in self._listening))
