"""One MongoDB database, through PyMongo's asynchronous client or Motor's: calls, transactions, errors, changes.

The two clients differ in what is awaited: :func:`answer` is all it takes to treat them alike.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Container, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient, InsertOne, ReadPreference, UpdateOne, WriteConcern
from pymongo.errors import BulkWriteError, ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from taskiq_sources.clock import EPOCH
from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.listening import Listener, Listeners
from taskiq_sources.tasking import Turnstile
from taskiq_sources_mongo.documents import Document
from taskiq_sources_mongo.errors import INTERRUPTED, connection_error, is_lost_connection, is_undone
from taskiq_sources_mongo.statements import statement

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

#: ``pymongo.AsyncMongoClient`` or ``motor.motor_asyncio.AsyncIOMotorClient``.
Client: TypeAlias = Any
Documents: TypeAlias = "AsyncCollection[Document]"
Write: TypeAlias = "InsertOne[Document] | UpdateOne"
T = TypeVar("T")

_NAIVE: CodecOptions[Document] = CodecOptions(tz_aware=False)
_NAIVE_EPOCH = EPOCH.replace(tzinfo=None)

#: Acknowledged when it survives the loss of the primary, and the death of a server that has no others.
_DURABLE = WriteConcern("majority", j=True)

_ALL_AT_ONCE = 10_000  # documents in the first answer, where the server would begin with 101
_PAUSES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # seconds: what is in the way is a statement or a transaction
_TRANSACTIONS = 2  # at once: the server works on one while the other waits for its journal, or for us
_COMMITS = 5  # each is interrupted by another one who finds leases of ours that have ended
_FLOOD = 50  # changes within a pause of this length are left unread for another one
_FLOOD_PAUSE = 0.05  # seconds
_LONGEST_FLOOD_PAUSE = 1.0
_CANCEL_GRACE = 1.0  # seconds: what was sent to the server takes milliseconds


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


class _Flood(Exception):
    """More changes come than are worth to be read."""


class Calls(ABC):
    """Calls of the driver, by themselves or in a transaction."""

    schedules: Documents
    runs: Documents

    @abstractmethod
    async def call(self, method: Callable[..., Any], *args: Any, repeat: bool = False, **options: Any) -> Any:
        """Return what a call of the driver comes to.

        Args:
            method: What to call.
            *args: Its arguments.
            repeat: Whether to call it again if the connection breaks: doing it twice is doing it once, and the driver does not.
            **options: Its keyword arguments.
        """

    async def run(self, name: str, **values: Any) -> Any:
        """Return what the statement `name` of :mod:`taskiq_sources_mongo.statements` comes to; of a query, its documents."""
        options = statement(name, values)
        method = options.pop("call")
        if method == "find":
            options["batch_size"] = _ALL_AT_ONCE
        done = await self.call(getattr(getattr(self, options.pop("on")), method), **options)
        return [aware(document) for document in done] if isinstance(done, list) else done

    async def ids(self, name: str, **values: Any) -> set[str]:
        """Return the ids of the documents that the statement `name` finds."""
        return {document["_id"] for document in await self.run(name, **values)}


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

    async def call(self, method: Callable[..., Any], *args: Any, repeat: bool = False, **options: Any) -> Any:
        return await answer(method(*args, **options, session=self._session))


class Database(Calls):
    """The database of one store while that is open. Of use in one event loop only.

    Args:
        where: How to name it in errors.
        client: The client to use.
        owned: Whether `close` closes the client.
        name: The name of the database.
        prefix: How the names of the collections begin.
        timeout: How long a transaction may wait for others.
    """

    def __init__(self, where: str, client: Client, *, owned: bool, name: str, prefix: str, timeout: timedelta) -> None:
        self.where = where
        self._client = client
        self._owned = owned
        self._listeners = Listeners()
        self._sessions: dict[Any, Any] = {}  # by what the server calls them
        self._free: deque[Any] = deque()  # those in which there is no transaction
        self._failed: deque[Any] = deque()  # those in which one may have been left at the server
        self._turns = Turnstile(_TRANSACTIONS)
        self._timeout = timeout.total_seconds()
        self._clock = asyncio.get_running_loop().time
        self._settled_at = -_FLOOD_PAUSE
        self._database = client.get_database(name, _NAIVE, ReadPreference.PRIMARY, _DURABLE)
        self.schedules = self._database[f"{prefix}schedules"]
        self.runs = self._database[f"{prefix}runs"]
        self.meta: Documents = self._database[f"{prefix}meta"]
        #: The schedules, for what can be done again by anybody.
        self.relaxed: Documents = self.schedules.with_options(write_concern=WriteConcern(1))

    async def hello(self) -> Document:
        """Return how the server introduces itself, and its clock."""
        return aware(await self.call(self._database.command, "hello"))

    async def use_transactions(self) -> None:
        """Make ready for `transaction`, on a server that has them."""
        for _ in range(_TRANSACTIONS):
            session = await answer(self._client.start_session(causal_consistency=False))
            self._sessions[session.session_id["id"]] = session
        self._free.extend(self._sessions.values())

    @property
    def session_ids(self) -> list[Any]:
        """What the server calls the sessions of all transactions from here; none where it has no transactions."""
        return list(self._sessions)

    async def close(self) -> None:
        """End watching, and close the client if it is owned, with its transactions; else those under way go on to their end."""
        await self._listeners.close()
        if self._owned:
            for session in self._sessions.values():
                await session.end_session()
            await answer(self._client.close())
        # Of a client of the application's, the server forgets our sessions in time: what is ended, the client hands on to the
        # application's calls, and whoever finds a lease that we have left would interrupt those.

    async def call(self, method: Callable[..., Any], *args: Any, repeat: bool = False, **options: Any) -> Any:
        """Return what a call of the driver comes to.

        Raises:
            SourceConnectionError: The server cannot be reached, refuses us or has gone away. It may have been done.
            BulkWriteError: There are documents already that were to be inserted, and nothing else went wrong.
        """

        async def attempt() -> Any:
            return await answer(method(*args, **options))

        return await self._done(attempt, repeat=repeat)

    async def transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Return what `work` returns, when what it has written is there as a whole.

        It is done again while somebody else has written to the same documents, or once if the connection breaks.

        Args:
            work: Makes its calls by what it is given.

        Raises:
            SourceConnectionError: As for `call`. What was not done is not done in part.
            BulkWriteError: As for `call`.
        """
        until = self._clock() + self._timeout
        try:
            return await self._done(partial(self._in_session, work, until), repeat=False)
        finally:
            self._settled_at = self._clock()

    async def _done(self, attempt: Callable[[], Awaitable[T]], *, repeat: bool) -> T:
        """Make attempts, in a task of its own.

        If the caller is cancelled meanwhile, they still end before the caller does, unless that takes too long: what the server
        was sent cannot be called back, and the driver may take a cancellation for itself, or lose a connection over it.
        """
        task = asyncio.ensure_future(_repeated(attempt) if repeat else attempt())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # its error interests nobody any more
            await asyncio.wait({task}, timeout=_CANCEL_GRACE)
            raise
        except PyMongoError as error:
            # What the server says may quote the whole command.
            raise connection_error(self.where, error) from (error if is_lost_connection(error) else None)

    async def _in_session(self, work: Callable[[Transaction], Awaitable[T]], until: float) -> T:
        """Make attempts in one session: what one has left behind at the server ends when the next one begins."""
        # Not for ever: those before us may wait for a server that hangs.
        if not await self._turns.take(within=max(0, until - self._clock())):
            problem = "cannot be used now: the settles before this one have not ended in time; try again"
            raise SourceConnectionError(f"{self.where} {problem}")
        session = (self._failed or self._free).popleft()
        give_back = self._failed.append
        try:
            result = await _repeated(partial(self._attempt, work, session))
            give_back = self._free.append
        finally:
            give_back(session)
            self._turns.pass_on()
        return result

    async def _attempt(self, work: Callable[[Transaction], Awaitable[T]], session: Any) -> T:
        await answer(session.start_transaction(ReadConcern("local"), _DURABLE, ReadPreference.PRIMARY))
        try:
            result = await work(Transaction(self, session))
        except BaseException:
            await session.abort_transaction()
            raise
        await self._commit(session)
        return result

    async def _commit(self, session: Any) -> None:
        """Commit, which the driver repeats by itself if the connection breaks: doing it twice is doing it once."""
        for left in reversed(range(_COMMITS)):
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
        """Undo what these sessions have begun and not committed, if the server lets us; of ours, those in which one failed."""
        working = {name for name, session in self._sessions.items() if session not in self._failed}
        sessions = [{"id": session_id} for session_id in session_ids if session_id not in working]
        with suppress(SourceConnectionError, OperationFailure):
            if sessions:
                await self.call(self._database.command, "killSessions", sessions)

    async def write_each(
        self, collection: Documents, writes: Mapping[str, Write], *, repeat: bool = False
    ) -> tuple[set[str], set[str]]:
        """Write documents independently of one another, by their ids.

        Returns:
            The ids that an upsert made, and those that could not be inserted because there is one.

        Raises:
            SourceConnectionError: As for `call`.
        """
        if not writes:
            return set(), set()
        try:
            done = await self.call(collection.bulk_write, list(writes.values()), ordered=False, repeat=repeat)
            details = done.bulk_api_result
        except BulkWriteError as error:
            details = error.details
        ids = list(writes)
        return {ids[one["index"]] for one in details["upserted"]}, {ids[one["index"]] for one in details["writeErrors"]}

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yield once when the subscription holds, and then after changes that may make something due; until `close`.

        A flood is not read to its end: all of it says the same as its beginning. The subscription is left then, and the next one
        yields at once, for all that came meanwhile. That is not begun while one settle of ours follows another, but for a second
        at most: they are a flood by themselves, of which the server would look up all, and whoever settles looks for more.

        Raises:
            SourceConnectionError: The subscription was lost.
        """
        while True:
            with suppress(_Flood):
                async with self._listeners.listener() as listener:
                    await self._subscribe(listener)
                    async for _ in listener.changes():
                        yield
                return
            pause, latest = _FLOOD_PAUSE, self._clock() + _LONGEST_FLOOD_PAUSE
            while pause > 0:
                await asyncio.sleep(pause)
                pause = min(self._settled_at + _FLOOD_PAUSE, latest) - self._clock()

    async def _subscribe(self, listener: Listener) -> None:
        """Have `listener` told of changes."""

        async def subscribe() -> Any:
            return await listener.resources.enter_async_context(await self.run("changes"))

        try:
            stream = await self.call(subscribe)
        except SourceConnectionError:
            if listener.has_ended:  # the client is closed
                return
            raise
        listener.follow(self._read(stream), within=_CANCEL_GRACE)

    async def _read(self, stream: Any) -> AsyncGenerator[None, None]:
        """Yield each change, until they come in a flood or the stream is lost: either is raised."""
        number, until = 0, 0.0
        try:
            while stream.alive:
                if await stream.try_next() is not None:
                    yield
                    now = self._clock()
                    number, until = (number + 1, until) if now < until else (1, now + _FLOOD_PAUSE)
                    if number == _FLOOD:
                        raise _Flood
        except PyMongoError as error:
            raise connection_error(self.where, error) from None
        raise SourceConnectionError(f"{self.where}: the change stream has ended; watch again")


async def _repeated(attempt: Callable[[], Awaitable[T]]) -> T:
    """Make an attempt again while it comes to nothing by no fault of its own, and once if the connection breaks."""
    pauses = iter(_PAUSES)
    while True:
        try:
            return await attempt()
        except PyMongoError as error:
            pause = next(pauses, None)
            if pause is None or not is_undone(error):
                raise
            if isinstance(error, ConnectionFailure):
                pauses = iter(())
        await asyncio.sleep(pause)


async def answer(result: Any) -> Any:
    """Return what a call of the driver comes to: PyMongo gives most things to be awaited, Motor not all. Cursors are read out."""
    result = await result if inspect.isawaitable(result) else result
    return await result.to_list(None) if hasattr(result, "to_list") else result


def aware(document: Document) -> Document:
    """Return a document with the instants in it aware, for which the driver takes ten times as long."""
    for name, value in document.items():
        if isinstance(value, datetime):
            document[name] = EPOCH + (value - _NAIVE_EPOCH)  # a fifth of what `datetime.replace` takes
    return document
