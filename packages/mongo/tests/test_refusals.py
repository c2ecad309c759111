"""What a server may answer that does not do what it was asked: by a real one that is told to, and by the table of advice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pymongo
import pytest
from pymongo.errors import OperationFailure, ProtocolError, PyMongoError

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources_conformance.build import outcome, put_and_take, run, schedule, take
from taskiq_sources_conformance.servers import MongoServer, ServerUnavailable, start_mongo
from taskiq_sources_mongo import MongoStore
from taskiq_sources_mongo.errors import connection_error

pytestmark = pytest.mark.anyio

#: Numbers and names of what a server says that is short of something, busy, or about to stop.
_PRESSED = {
    24: "LockTimeout",
    46: "LockBusy",
    107: "LockFailed",
    117: "ConflictingOperationInProgress",
    134: "ReadConcernMajorityNotAvailableYet",
    146: "ExceededMemoryLimit",
    175: "QueryPlanKilled",
    202: "NetworkInterfaceExceededTimeLimit",
    211: "KeyNotFound",
    246: "SnapshotUnavailable",
    261: "TooManyLogicalSessions",
    290: "TransactionExceededLifetimeLimit",
    365: "TemporarilyUnavailable",
}


@pytest.fixture(scope="module")
def server() -> Iterator[MongoServer]:
    """A server that lets itself be told what to answer."""
    try:
        with start_mongo(replica_set=True, arguments=["--setParameter", "enableTestCommands=1"]) as server:
            yield server
    except ServerUnavailable as error:
        pytest.skip(f"no mongo server: {error}")


@pytest.fixture
async def store(server: MongoServer, request: pytest.FixtureRequest) -> AsyncIterator[MongoStore]:
    store = MongoStore(server.url, prefix=f"t{abs(hash(request.node.name))}_")
    await store.open()
    yield store
    await store.close()


@contextmanager
def _answering(server: MongoServer, command: str, code: int) -> Iterator[None]:
    told = {"failCommands": [command], "errorCode": code, "appName": "taskiq-sources"}
    server.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": told})
    try:
        yield
    finally:
        server.command({"configureFailPoint": "failCommand", "mode": "off"})


@pytest.mark.parametrize("code", _PRESSED)
async def test_a_server_under_pressure_is_named_whatever_was_asked(server: MongoServer, store: MongoStore, code: int) -> None:
    """Claims, reads and settles raise our error, and so are made again; they are as they were when the server is well."""
    claim = await put_and_take(store)
    settled = [outcome(claim, runs=(run(),))]
    calls = {"find": lambda: store.get(["a"]), "update": lambda: store.settle(settled), "insert": lambda: store.settle(settled)}
    for command, call in calls.items():
        with _answering(server, command, code), pytest.raises(SourceConnectionError) as caught:
            await call()
        assert f"127.0.0.1:{server.port}, database 'taskiq' cannot be " in str(caught.value)
        assert _PRESSED[code] in str(caught.value)

    assert await store.settle(settled) == frozenset()


async def test_an_index_that_was_dropped_is_named_and_made_again(server: MongoServer, store: MongoStore) -> None:
    await store.put([schedule()])
    with pymongo.MongoClient(server.url) as client:
        client["taskiq"][f"{store._prefix}schedules"].drop_index("due")
    with pytest.raises(SourceConnectionError, match="lost an index of ours, such as 'due': restart a scheduler"):
        await take(store)
    again = MongoStore(server.url, prefix=store._prefix)
    await again.open()
    await again.close()

    assert [claim.schedule.id for claim in await take(store)] == ["a"]


async def test_a_database_that_differs_in_letters_large_or_small_is_named(server: MongoServer, store: MongoStore) -> None:
    other = MongoStore(server.url, database="TASKIQ", prefix=store._prefix)

    with pytest.raises(SourceConnectionError, match=r"'TASKIQ' has a database of this name in other letters.*use that name"):
        await other.open()
    await other.close()


async def test_another_index_by_the_name_of_ours_is_named(server: MongoServer) -> None:
    with pymongo.MongoClient(server.url) as client:
        client["taskiq"]["taken_schedules"].create_index("mine", name="due")
    store = MongoStore(server.url, prefix="taken_")

    with pytest.raises(SourceConnectionError, match="another index by the name of one of ours"):
        await store.open()
    await store.close()


@pytest.mark.parametrize(
    "error",
    [OperationFailure("quotes it", 987_654, {"codeName": "New"}), OperationFailure("quotes it"), ProtocolError("cut off")],
)
def test_what_nobody_has_heard_of_is_the_servers(error: PyMongoError) -> None:
    """There are more such errors than can be listed. None is told in words that quote a command."""
    named = connection_error("MongoDB", error)

    assert isinstance(named, SourceConnectionError)
    assert str(named).startswith("MongoDB cannot be used")
    assert "quotes" not in str(named)


@pytest.mark.parametrize("code", [2, 9, 14, 40, 52, 168, 28_667, 31_034, 40_324, 51_270])
def test_a_statement_that_makes_no_sense_to_the_server_is_a_bug(code: int) -> None:
    """It fails each time, and what to do about it is not for operators: it goes on as it is."""
    error: Any = OperationFailure("Unrecognized expression '$hint'", code)

    assert connection_error("MongoDB", error) is error
