"""One MongoDB database, through PyMongo's asynchronous client or Motor's: calls, their errors, changes. Knows no schedules.

The two clients differ in what is awaited: :func:`answer` is all it takes to treat them alike.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from datetime import timezone
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.errors import PyMongoError

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources_mongo.addresses import Address
from taskiq_sources_mongo.documents import Document
from taskiq_sources_mongo.errors import connection_error, is_lost_connection

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

Documents: TypeAlias = "AsyncCollection[Document]"
T = TypeVar("T")

_CODEC: CodecOptions[Document] = CodecOptions(tz_aware=True, tzinfo=timezone.utc)

#: Acknowledged when it survives the loss of the primary, and the death of a server that has no others.
DURABLE = WriteConcern("majority", j=True)

#: For what can be done again by anybody.
RELAXED = WriteConcern(1)

_CHANGE_WAIT_MS = 500  # how long the server holds back that nothing has changed, and Motor cannot be interrupted
_CANCEL_GRACE = 1.0  # seconds: what was sent to the server takes milliseconds


class Client(Protocol):
    """``pymongo.AsyncMongoClient`` or ``motor.motor_asyncio.AsyncIOMotorClient``: what of them is used here."""

    def get_database(self, *args: Any, **kwargs: Any) -> Any: ...
    def get_default_database(self, *args: Any, **kwargs: Any) -> Any: ...

    @property
    def topology_description(self) -> Any: ...


@dataclass(frozen=True)
class Settings:
    """How to connect.

    Attributes:
        where: How to name the database in errors.
        url: What to connect to; None with an injected client.
        address: What the URL says; None with an injected client.
        database: Name of the database.
        connect_timeout: Seconds to find and connect to a server in.
        command_timeout: Seconds that an answer may take, and for which is waited for a free connection.
    """

    where: str
    url: str | None
    address: Address | None
    database: str
    connect_timeout: float
    command_timeout: float


class Database:
    """The database of one store, from `Database.open` to `close`. Of use in one event loop only.

    Args:
        settings: How to connect.
        client: A client to use, which then stays open; None to make one.
    """

    def __init__(self, settings: Settings, client: Client | None) -> None:
        self.where = settings.where
        self._own: AsyncMongoClient[Document] | None = None
        self._closed = False
        self._followers: dict[asyncio.Event, asyncio.Future[None]] = {}
        if client is None:
            client = self._own = _connect(settings)
        self._database = client.get_database(
            settings.database,
            codec_options=_CODEC,
            read_preference=ReadPreference.PRIMARY,
            write_concern=DURABLE,
        )

    def collection(self, name: str) -> Documents:
        """Return a collection, whose writes are durable."""
        collection: Documents = self._database.get_collection(name)
        return collection

    async def hello(self) -> Document:
        """Return how the server introduces itself, and its clock."""
        hello: Document = await self.read(lambda: self._database.command("hello", codec_options=_CODEC))
        return hello

    async def close(self) -> None:
        """End watching, and close the client unless it was injected."""
        self._closed = True
        await asyncio.gather(*map(self._stop_following, list(self._followers)))
        if self._own is not None:
            await self._own.close()

    async def read(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns: a call of the driver that reads, which the driver repeats by itself.

        Raises:
            SourceConnectionError: The server cannot be reached, refuses us or has gone away.
        """
        try:
            return await _apart(answer(work()))
        except PyMongoError as error:
            raise connection_error(self.where, error) from _cause(error)

    async def find(
        self,
        collection: Documents,
        condition: Document,
        fields: Document | None = None,
        **options: Any,
    ) -> list[Document]:
        """Return the documents that fulfil `condition`: some fields of them, or all."""
        return await self.rows(lambda: collection.find(condition, fields, **options))

    async def rows(self, work: Callable[[], Any]) -> list[Document]:
        """Return all documents of the cursor that `work` returns."""
        rows: list[Document] = await self.read(lambda: _drained(work()))
        return rows

    async def write(self, work: Callable[[], Any], *, repeatable: bool = False) -> Any:
        """Return what `work` returns: a call of the driver that writes.

        If the connection breaks it is done again once, provided that it is `repeatable`: doing it twice is doing it once. If the
        caller is cancelled meanwhile, it still ends before the caller does: what the server was sent cannot be called back.

        Raises:
            SourceConnectionError: The server cannot be reached, refuses us or has gone away. It may have been done.
        """

        async def attempt() -> Any:
            try:
                return await answer(work())
            except PyMongoError as error:
                if not repeatable or not is_lost_connection(error):
                    raise
            return await answer(work())

        try:
            return await _apart(attempt(), to_its_end=True)
        except PyMongoError as error:
            raise connection_error(self.where, error) from _cause(error)

    async def changes(self, collection: Documents, pipeline: list[Document]) -> AsyncGenerator[None, None]:
        """Yield once when the subscription holds, and then after changes that `pipeline` lets through; until `close`.

        Raises:
            SourceConnectionError: The subscription was lost.
        """
        news = asyncio.Event()
        follower = asyncio.ensure_future(self._follow(collection, pipeline, news))
        follower.add_done_callback(lambda _: news.set())
        self._followers[news] = follower
        try:
            while True:
                await news.wait()
                news.clear()
                if follower.done():
                    break
                yield
        finally:
            await self._stop_following(news)
        if not self._closed:
            follower.result()
            raise SourceConnectionError(f"{self.where}: the change stream has ended; watch again")

    async def _follow(self, collection: Documents, pipeline: list[Document], news: asyncio.Event) -> None:
        try:
            async with await answer(collection.watch(pipeline, max_await_time_ms=_CHANGE_WAIT_MS)) as stream:
                news.set()
                while news in self._followers and stream.alive:
                    if await stream.try_next() is not None:
                        news.set()
        except PyMongoError as error:
            raise connection_error(self.where, error) from _cause(error)

    async def _stop_following(self, news: asyncio.Event) -> None:
        follower = self._followers.pop(news, None)
        if follower is not None:
            follower.cancel()
            await asyncio.wait({follower}, timeout=_CANCEL_GRACE)


async def answer(result: Any) -> Any:
    """Return what a call of the driver comes to: PyMongo gives cursors and change streams to be awaited, Motor as they are."""
    return await result if inspect.isawaitable(result) else result


async def _drained(cursor: Any) -> list[Document]:
    rows: list[Document] = await (await answer(cursor)).to_list(None)
    return rows


async def _apart(work: Coroutine[Any, Any, T], *, to_its_end: bool = False) -> T:
    """Await `work` in a task of its own: on Python 3.10 the driver may take a cancellation for itself, and go on.

    Args:
        work: What to await.
        to_its_end: Whether, when the caller is cancelled, `work` is not, but awaited for a moment.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # its error interests nobody any more
        if not to_its_end:
            task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_GRACE)
        raise


def _connect(settings: Settings) -> AsyncMongoClient[Document]:
    """Return a client with our bounds on waiting, where the URL says nothing else. It connects when it is used."""
    connect_ms, command_ms = int(settings.connect_timeout * 1000), int(settings.command_timeout * 1000)
    defaults: dict[str, Any] = {
        "appName": "taskiq-sources",
        "serverSelectionTimeoutMS": connect_ms,
        "connectTimeoutMS": connect_ms,
        "socketTimeoutMS": command_ms,
        "waitQueueTimeoutMS": command_ms,
    }
    given = settings.address.options if settings.address else frozenset()
    try:
        return AsyncMongoClient(settings.url, **{name: value for name, value in defaults.items() if name.lower() not in given})
    except (PyMongoError, ValueError, TypeError):  # the text may quote secrets from the URL
        problem = "the URL has an option that is not valid, or a name that does not resolve"
        raise SourceConnectionError(f"{settings.where} cannot be used: {problem}") from None


def _cause(error: PyMongoError) -> BaseException | None:
    """Return what may be shown below our error: what the server says may quote the whole command."""
    return error if is_lost_connection(error) else None
