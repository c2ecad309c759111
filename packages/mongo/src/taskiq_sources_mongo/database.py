"""One MongoDB database, through PyMongo's asynchronous client or Motor's: calls, transactions, errors, changes.

The two clients differ in what is awaited: :func:`answer` is all it takes to treat them alike.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Container, Coroutine, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient, InsertOne, ReadPreference, UpdateOne, WriteConcern
from pymongo.errors import BulkWriteError, ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from taskiq_sources.clock import EPOCH
from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.listening import Listener, Listeners
from taskiq_sources_mongo.documents import Document
from taskiq_sources_mongo.errors import INTERRUPTED, connection_error, is_lost_connection, is_undone

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

Documents: TypeAlias = "AsyncCollection[Document]"
Write: TypeAlias = "InsertOne[Document] | UpdateOne"
T = TypeVar("T")

_CODEC: CodecOptions[Document] = CodecOptions(tz_aware=True, tzinfo=timezone.utc)
_NAIVE: CodecOptions[Document] = CodecOptions(tz_aware=False)
_NAIVE_EPOCH = EPOCH.replace(tzinfo=None)

#: Acknowledged when it survives the loss of the primary, and the death of a server that has no others.
DURABLE = WriteConcern("majority", j=True)

#: For what can be done again by anybody.
RELAXED = WriteConcern(1)

DUPLICATE_KEY = 11_000
_ALL_AT_ONCE = 10_000  # documents in the first answer, where the server would begin with 101
_CONFLICT_PAUSES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # seconds: what is in the way is a statement or a transaction
_COMMITS = 5  # each is interrupted by another one who finds leases of ours that have ended
_CHANGE_WAIT_MS = 500  # how long the server holds back that nothing has changed, and Motor cannot be interrupted
_CANCEL_GRACE = 1.0  # seconds: what was sent to the server takes milliseconds


class Client(Protocol):
    """``pymongo.AsyncMongoClient`` or ``motor.motor_asyncio.AsyncIOMotorClient``: what of them is used here."""

    def get_database(self, *args: Any, **kwargs: Any) -> Any: ...
    def get_default_database(self, *args: Any, **kwargs: Any) -> Any: ...
    def start_session(self, *args: Any, **kwargs: Any) -> Any: ...
    def close(self) -> Any: ...

    @property
    def topology_description(self) -> Any: ...


def connect(where: str, url: str, options: Container[str], connect_timeout: timedelta, command_timeout: timedelta) -> Client:
    """Return a client with bounds on waiting, where `options` of the URL say nothing else. It connects when it is used.

    Raises:
        SourceConnectionError: The URL has an option that is not valid, or a name that does not resolve.
    """
    connect_ms, command_ms = int(connect_timeout.total_seconds() * 1000), int(command_timeout.total_seconds() * 1000)
    defaults: dict[str, Any] = {
        "appName": "taskiq-sources",
        "serverSelectionTimeoutMS": connect_ms,
        "connectTimeoutMS": connect_ms,
        "socketTimeoutMS": command_ms,
        "waitQueueTimeoutMS": command_ms,
    }
    try:
        return AsyncMongoClient(url, **{name: value for name, value in defaults.items() if name.lower() not in options})
    except (PyMongoError, ValueError, TypeError):  # the text may quote secrets from the URL
        problem = "the URL has an option that is not valid, or a name that does not resolve"
        raise SourceConnectionError(f"{where} cannot be used: {problem}") from None


class Calls(ABC):
    """Calls of the driver, by themselves or in a transaction."""

    schedules: Documents
    runs: Documents

    @abstractmethod
    async def read(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Return what a call of the driver returns that reads."""

    @abstractmethod
    async def write(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Return what a call of the driver returns that writes."""

    async def find(
        self, collection: Documents, condition: Document, fields: Document | None = None, **options: Any
    ) -> list[Document]:
        """Return the documents that fulfil `condition`: some fields of them, or all."""
        found = collection.with_options(codec_options=_NAIVE).find
        rows = await self.read(drained, found, condition, fields, batch_size=_ALL_AT_ONCE, **options)
        return [_aware(row) for row in rows]

    async def ids(self, condition: Document) -> set[str]:
        """Return the ids of the schedules that fulfil `condition`, which names ids."""
        return {document["_id"] for document in await self.find(self.schedules, condition, {"_id": 1}, hint="_id_")}


class Transaction(Calls):
    """What is done as one, or not at all. Errors are the driver's.

    Args:
        database: The database.
        session: The session, in which the transaction has begun.
    """

    def __init__(self, database: Database, session: Any) -> None:
        self.schedules = database.schedules
        self.runs = database.runs
        self._session = session

    async def read(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return await answer(call(*args, **options, session=self._session))

    write = read


class Database(Calls):
    """The database of one store while that is open. Of use in one event loop only.

    Args:
        where: How to name it in errors.
        client: The client to use.
        owned: Whether `close` closes the client.
        name: The name of the database.
        prefix: How the names of the collections begin.
    """

    def __init__(self, where: str, client: Client, *, owned: bool, name: str, prefix: str) -> None:
        self.where = where
        self._client = client
        self._owned = owned
        self._listeners = Listeners()
        self._session: Any = None
        self._turn = asyncio.Lock()  # a session has one transaction at a time
        self._database = client.get_database(
            name, codec_options=_CODEC, read_preference=ReadPreference.PRIMARY, write_concern=DURABLE
        )
        self.schedules = self._database.get_collection(f"{prefix}schedules")
        self.runs = self._database.get_collection(f"{prefix}runs")
        self.meta: Documents = self._database.get_collection(f"{prefix}meta")

    async def hello(self) -> Document:
        """Return how the server introduces itself, and its clock."""
        hello: Document = await self.read(self._database.command, "hello", codec_options=_CODEC)
        return hello

    async def use_transactions(self) -> None:
        """Make ready for `transaction`, on a server that has them."""
        self._session = await answer(self._client.start_session(causal_consistency=False))

    @property
    def session_id(self) -> Any:
        """What the server calls the session of all transactions from here; None where there are none."""
        return self._session and self._session.session_id["id"]

    async def close(self) -> None:
        """End watching and transactions, and close the client if it is owned."""
        await self._listeners.close()
        if self._session is not None:
            await self._session.end_session()
        if self._owned:
            await answer(self._client.close())

    async def read(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Return what a call of the driver returns that reads, and which the driver repeats by itself.

        Raises:
            SourceConnectionError: The server cannot be reached, refuses us or has gone away.
        """
        try:
            return await _apart(answer(call(*args, **options)))
        except PyMongoError as error:
            raise connection_error(self.where, error) from _cause(error)

    async def write(self, call: Callable[..., Any], *args: Any, repeatable: bool = True, **options: Any) -> Any:
        """Return what a call of the driver returns that writes.

        If the connection breaks it is done again once, provided that it is `repeatable`: doing it twice is doing it once. If the
        caller is cancelled meanwhile, it still ends before the caller does: what the server was sent cannot be called back.

        Raises:
            SourceConnectionError: The server cannot be reached, refuses us or has gone away. It may have been done.
        """

        async def attempt() -> Any:
            try:
                return await answer(call(*args, **options))
            except PyMongoError as error:
                if not repeatable or not is_lost_connection(error):
                    raise
            return await answer(call(*args, **options))

        try:
            return await _apart(attempt(), to_its_end=True)
        except BulkWriteError:
            raise  # it tells what came of each write
        except PyMongoError as error:
            raise connection_error(self.where, error) from _cause(error)

    async def transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Return what `work` returns, when what it has written is there as a whole.

        It is done again while somebody else has written to the same documents, or once if the connection breaks. If the caller is
        cancelled meanwhile, it still ends before the caller does.

        Args:
            work: Makes its calls by what it is given.

        Raises:
            SourceConnectionError: As for `write`. What was not done is not done in part.
        """

        async def attempts() -> T:
            pauses = iter(_CONFLICT_PAUSES)
            while True:
                try:
                    async with self._turn:
                        return await self._attempt(work)
                except PyMongoError as error:
                    pause = next(pauses, None)
                    if pause is None or not is_undone(error):
                        raise
                    if isinstance(error, ConnectionFailure):
                        pauses = iter(())
                await asyncio.sleep(pause)

        try:
            return await _apart(attempts(), to_its_end=True)
        except BulkWriteError:
            raise
        except PyMongoError as error:
            raise connection_error(self.where, error) from _cause(error)

    async def _attempt(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        session = self._session
        how = {"read_concern": ReadConcern("local"), "write_concern": DURABLE, "read_preference": ReadPreference.PRIMARY}
        await answer(session.start_transaction(**how))
        try:
            result = await work(Transaction(self, session))
        except BaseException:
            await session.abort_transaction()
            raise
        await self._commit(session)
        return result

    async def _commit(self, session: Any) -> None:
        """Commit, which the driver repeats by itself if the connection breaks: doing it twice is doing it once."""
        left = _COMMITS
        while left:
            left -= 1
            try:
                await session.commit_transaction()
            except OperationFailure as error:
                if error.code != INTERRUPTED:
                    raise
                if not left:
                    raise connection_error(self.where, error) from None
                # Who took us for dead was too late for the commit, perhaps, and not for its answer: ask again.
            else:
                return

    async def end_transactions(self, session_ids: Collection[Any]) -> None:
        """Undo what these sessions of others have begun and not committed, if the server lets us."""
        sessions = [{"id": session_id} for session_id in session_ids if session_id not in {None, self.session_id}]
        with suppress(SourceConnectionError, OperationFailure):
            if sessions:
                await self.read(self._database.command, "killSessions", sessions)

    async def write_each(
        self, collection: Documents, writes: Mapping[str, Write], *, repeatable: bool
    ) -> tuple[set[str], set[str]]:
        """Write documents independently of one another, by their ids.

        Returns:
            The ids that an upsert made, and those that could not be inserted because there is one.

        Raises:
            SourceConnectionError: As for `write`.
        """
        if not writes:
            return set(), set()
        try:
            done = await self.write(collection.bulk_write, list(writes.values()), ordered=False, repeatable=repeatable)
            details = done.bulk_api_result
        except BulkWriteError as error:
            details = error.details
        problems = [*details["writeErrors"], *details["writeConcernErrors"]]
        for problem in problems:
            if problem["code"] != DUPLICATE_KEY:
                raise connection_error(self.where, OperationFailure(problem["errmsg"], problem["code"], problem)) from None
        ids = list(writes)
        return {ids[made["index"]] for made in details["upserted"]}, {ids[problem["index"]] for problem in problems}

    async def changes(self, collection: Documents, pipeline: list[Document]) -> AsyncGenerator[None, None]:
        """Yield once when the subscription holds, and then after changes that `pipeline` lets through; until `close`.

        Raises:
            SourceConnectionError: The subscription was lost.
        """
        async with self._listeners.listener() as listener:

            async def subscribe() -> Any:
                stream = await answer(collection.watch(pipeline, max_await_time_ms=_CHANGE_WAIT_MS))
                return await listener.resources.enter_async_context(stream)

            follower = asyncio.ensure_future(self._follow(await self.read(subscribe), listener))
            listener.resources.push_async_callback(_stopped, follower)
            async for _ in listener.changes():
                yield

    async def _follow(self, stream: Any, listener: Listener) -> None:
        try:
            while stream.alive:
                if await stream.try_next() is not None:
                    listener.tell()
            listener.lose(SourceConnectionError(f"{self.where}: the change stream has ended; watch again"))
        except PyMongoError as error:
            listener.lose(connection_error(self.where, error))


async def _stopped(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=_CANCEL_GRACE)


async def answer(result: Any) -> Any:
    """Return what a call of the driver comes to: PyMongo gives cursors and change streams to be awaited, Motor as they are."""
    return await result if inspect.isawaitable(result) else result


def _aware(document: Document) -> Document:
    # To have the driver do it takes ten times as long, and `datetime.replace` five times.
    for name, value in document.items():
        if isinstance(value, datetime):
            document[name] = EPOCH + (value - _NAIVE_EPOCH)
    return document


async def drained(query: Callable[..., Any], *args: Any, **options: Any) -> list[Document]:
    """Return all documents of the cursor that `query`, a call of the driver, returns."""
    rows: list[Document] = await (await answer(query(*args, **options))).to_list(None)
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


def _cause(error: PyMongoError) -> BaseException | None:
    """Return what may be shown below our error: what the server says may quote the whole command."""
    return error if is_lost_connection(error) else None
