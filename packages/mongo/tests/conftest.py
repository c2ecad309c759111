"""What the tests of this package share: databases of each test's own, on the servers of the session, by either driver."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pymongo
import pytest
from motor.motor_asyncio import AsyncIOMotorClient

from taskiq_sources_conformance import Unreachable
from taskiq_sources_conformance.build import stepwise
from taskiq_sources_conformance.servers import url_or_skip
from taskiq_sources_mongo import MongoScheduleSource, MongoStore, StandaloneMongoStore
from taskiq_sources_mongo.database import Calls, Database, Transaction

#: What reaches the server.
AnyCall: TypeAlias = Callable[..., Awaitable[Any]]

#: So many documents are sooner taken out than their collection and its indexes are made anew.
_FEW = 300


class MotorPerLoop:
    """Motor's client, for stores that are opened in one event loop after another: Motor's own stays with the first."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._clients: dict[asyncio.AbstractEventLoop | None, Any] = {}

    def __getattr__(self, name: str) -> Any:
        loop = asyncio._get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = AsyncIOMotorClient(self._url)
        return getattr(self._clients[loop], name)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


@dataclass
class Place:
    """A server, by one of the drivers, and a database on it that is emptied in the end.

    Attributes:
        backend: Which server and driver: ``mongo``, with ``_motor`` and with ``_standalone`` behind it or without.
    """

    backend: str
    url: str
    database: str = field(default_factory=lambda: f"t{secrets.token_hex(6)}")
    clients: list[MotorPerLoop] = field(default_factory=list)

    def arguments(self) -> dict[str, Any]:
        """What a new store or source is told: the URL, or for Motor a client of its own."""
        if "motor" not in self.backend:
            return {"url": self.url, "database": self.database}
        self.clients.append(MotorPerLoop(self.url))
        return {"client": self.clients[-1], "database": self.database}

    def store(self) -> MongoStore:
        """A new store, unopened."""
        return (StandaloneMongoStore if "standalone" in self.backend else MongoStore)(**self.arguments())

    def store_elsewhere(self) -> Callable[[], MongoStore]:
        """How another process makes a store on the same database: always by PyMongo, beside Motor too."""
        return partial(StandaloneMongoStore if "standalone" in self.backend else MongoStore, self.url, database=self.database)

    def source(self, **options: Any) -> MongoScheduleSource:
        """A new source, unopened."""
        return MongoScheduleSource(**self.arguments(), **options)

    def unreachable(self) -> Unreachable:
        """A store at whose address nobody answers."""
        store = MongoStore("mongodb://me:s3cr3t@127.0.0.1:9/orders?serverSelectionTimeoutMS=300")
        return Unreachable(store, ("127.0.0.1:9", "orders"), "s3cr3t")

    @contextlib.contextmanager
    def direct(self) -> Iterator[Any]:
        """The database, by a client that waits for answers."""
        with pymongo.MongoClient(self.url) as client:
            yield client[self.database]

    def make_store_of(self, rules: Any) -> Callable[[], MongoStore]:
        """How the rules of the contract make a store; they are told, too, how to do to it what some of them do."""
        rules.server_version = self.server_version
        rules.make_schema_newer = self.make_schema_newer
        rules.drop_connections = self.drop_connections
        rules.each_step = self.each_step
        return self.store

    async def server_version(self, _store: MongoStore) -> str:
        """The version of the server."""
        with self.direct() as database:
            return str(database.command("buildInfo")["version"])

    async def make_schema_newer(self, _store: MongoStore) -> None:
        """Leave the database as a newer release would."""
        with self.direct() as database:
            database["taskiq_meta"].update_one({}, {"$set": {"version": 9999}})

    async def drop_connections(self, _store: MongoStore) -> None:
        """End all connections of this process to the server, as the server does when it stops."""
        port = urlsplit(self.url).port
        for number in map(int, os.listdir("/dev/fd")):
            with contextlib.suppress(OSError):  # it has been closed meanwhile, or is not connected
                if stat.S_ISSOCK(os.fstat(number).st_mode):
                    with socket.socket(fileno=os.dup(number)) as connection:
                        if connection.getpeername()[1:] == (port,):
                            connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def each_step(self, store: MongoStore, before: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """Do something before each call of the driver, and before each commit."""
        with _wrapped(store, lambda call: stepwise(call, before)):
            yield

    def close(self) -> None:
        """Close the clients."""
        for client in self.clients:
            client.close()

    def clear(self) -> bool:
        """Take the documents out, if they are few, and tell whether they are."""
        with self.direct() as database:
            collections = [database[name] for name in database.list_collection_names()]
            few = all(collection.estimated_document_count() <= _FEW for collection in collections)
            for collection in collections if few else []:
                collection.delete_many({})
        return few

    def drop(self) -> None:
        """Leave nothing behind."""
        with self.direct() as database:
            for name in database.list_collection_names():  # a replica set takes 0.1 s to drop a database, and 0.01 s to do this
                database.drop_collection(name)


@pytest.fixture(scope="session")
def used_places() -> Iterator[list[Place]]:
    """Databases that are empty again, but have their collections and indexes, which take longer to make than most tests."""
    places: list[Place] = []
    yield places
    for place in places:
        place.drop()


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """Which server and driver: what the class of the test says, or a replica set by PyMongo."""
    return getattr(request.cls, "backend", "mongo")


@pytest.fixture
def place(request: pytest.FixtureRequest, backend: str, used_places: list[Place]) -> Iterator[Place]:
    """Where a test's data is: on the server and by the driver of ``backend``.

    The rules of the contract are given databases again that others have used, unless they are about what opening makes.
    """
    place = Place(backend, url_or_skip("mongo" if "standalone" in backend else "mongo_replica_set"))
    again = hasattr(request.cls, "backend") and not re.search("open|schema", request.node.name)
    used = next((one for one in used_places if one.url == place.url), None) if again else None
    if used is not None:
        used_places.remove(used)
        place.database = used.database
    yield place
    place.close()
    if again and place.clear():
        used_places.append(place)
    else:
        place.drop()


@pytest.fixture
async def store(place: Place) -> AsyncIterator[MongoStore]:
    """A store that is open."""
    store = place.store()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def other(place: Place, store: MongoStore) -> AsyncIterator[MongoStore]:
    """Another one on the same database, which outlives the first."""
    other = place.store()
    await other.open()
    session_ids = store._session.session_ids
    yield other
    if session_ids:
        with place.direct() as database:  # what is left of the dead would be in the way of those who clear up
            database.command("killSessions", [{"id": session_id} for session_id in session_ids])
    await other.close()


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets something be done right before a store makes a call of the driver, by its name: for the first time, or a later one."""

    def plan(store: MongoStore, what: str, act: Callable[[], Awaitable[Any]], *, time: int = 1) -> None:
        schedules = store._session.schedules
        seen = 0

        def interrupted(original: Any) -> Any:
            async def call(calls: Calls, method: Any, *args: Any, **options: Any) -> Any:
                nonlocal seen
                if calls.schedules is schedules and method.__name__ == what:
                    seen += 1
                    if seen == time:
                        await act()
                return await original(calls, method, *args, **options)

            return call

        monkeypatch.setattr(Database, "call", interrupted(Database.call))
        monkeypatch.setattr(Transaction, "call", interrupted(Transaction.call))

    return plan


class _Died(BaseException):
    """The end of a process, for a test in one."""


@dataclass
class Life:
    """How far a process came.

    Attributes:
        calls: How many calls of the driver it had left, commits included.
        died: Whether it wanted to make one more.
        committed: Whether a transaction was committed.
    """

    calls: int
    died: bool = False
    committed: bool = False

    def mortal(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The same call, while there is life."""

        async def spend(*args: Any, **options: Any) -> Any:
            if self.calls == 0:
                raise _Died
            self.calls -= 1
            return await call(*args, **options)

        return spend


@pytest.fixture
def dying() -> Callable[[MongoStore, int], contextlib.AbstractContextManager[Life]]:
    """Makes a block in which a store reaches the server so often, and then no more: there the block ends, without an error."""
    return _dying


@contextlib.contextmanager
def _dying(store: MongoStore, calls: int) -> Iterator[Life]:
    life = Life(calls)

    def noticed(commit: AnyCall) -> AnyCall:
        async def commit_and_notice() -> None:
            await commit()
            life.committed = True

        return commit_and_notice

    with _wrapped(store, life.mortal) as patch:
        for session in store._session._sessions.values():
            patch.setattr(session, "commit_transaction", noticed(session.commit_transaction))
            patch.setattr(session, "abort_transaction", _nothing)
        try:
            yield life
        except _Died:
            life.died = True


@contextlib.contextmanager
def _wrapped(store: MongoStore, wrap: Callable[[AnyCall], AnyCall]) -> Iterator[pytest.MonkeyPatch]:
    """Wrap each call of the driver that a store makes, commits included, for a block."""
    database, of_transaction = store._session, Transaction.call
    ours = wrap(of_transaction)

    async def call(transaction: Transaction, *args: Any, **options: Any) -> Any:
        return await (ours if transaction.schedules is database.schedules else of_transaction)(transaction, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "call", wrap(database.call))
        patch.setattr(Transaction, "call", call)
        for session in database._sessions.values():
            patch.setattr(session, "commit_transaction", wrap(session.commit_transaction))
        yield patch


async def _nothing() -> None: ...


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"
