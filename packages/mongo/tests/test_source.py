"""What the source makes of its arguments: addresses, names, and whether there is push."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from bson.binary import Binary
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.errors import BulkWriteError

from taskiq_sources import source_from_url
from taskiq_sources.errors import ScheduleValidationError, SourceConnectionError
from taskiq_sources_conformance.build import NOW, outcome, schedule, take
from taskiq_sources_mongo import MongoScheduleSource, MongoStore, StandaloneMongoStore
from taskiq_sources_mongo.errors import connection_error

pytestmark = pytest.mark.anyio

_SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "shown", "push"),
    [
        ("mongodb://localhost", "MongoDB at localhost, database 'taskiq'", False),
        (f"mongodb://me:{_SECRET}@db:27018/orders", "MongoDB at db:27018, database 'orders'", False),
        (f"mongodb://me:{_SECRET}%40%2F@db/orders?authSource=admin", "MongoDB at db, database 'orders'", False),
        ("mongodb://db/orders?replicaSet=rs0", "MongoDB at db, database 'orders'", True),
        ("mongodb://db/orders?replicaset=rs0", "MongoDB at db, database 'orders'", True),
        ("mongodb://db/orders?replicaSet=rs0&directConnection=true", "MongoDB at db, database 'orders'", False),
        (f"mongodb://me:{_SECRET}@a:1,b:2,c/?w=1", "MongoDB at a:1,b:2,c, database 'taskiq'", True),
        (f"mongodb+srv://me:{_SECRET}@cluster.example.org/orders?retryWrites=true", "MongoDB at cluster.example.org, ", True),
        ("mongodb://[::1]:27017/orders", "MongoDB at [::1]:27017, database 'orders'", False),
        ("mongodb://%2Ftmp%2Fmongodb-27017.sock/orders", "MongoDB at /tmp/mongodb-27017.sock, database 'orders'", False),
    ],
)
def test_a_url_tells_the_database_and_whether_there_is_push(url: str, shown: str, push: bool) -> None:
    source = source_from_url(url)

    assert isinstance(source, MongoScheduleSource)
    assert type(source.store) is (MongoStore if push else StandaloneMongoStore)
    assert shown in repr(source.store)
    assert _SECRET not in repr(source.store)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:27017",
        f"mongo://me:{_SECRET}@db",
        "mongodb://",
        "mongodb:///orders",
        f"mongodb://me:{_SECRET}@a@db/orders",
        f"mongodb://me:{_SECRET}/a@db/orders",
        f"mongodb://me:{_SECRET}:b@db/orders",
        "mongodb://db:port/orders",
        f"mongodb://me:{_SECRET}%zz@db/orders",
    ],
)
def test_what_is_no_url_is_refused_without_showing_it(url: str) -> None:
    """A password with odd characters turns up anywhere but where it belongs, so nothing of the URL is shown."""
    with pytest.raises(ScheduleValidationError, match="url") as caught:
        MongoScheduleSource(url)

    assert _SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"url": "mongodb://db", "client": "a client"},
        {"url": "mongodb://db", "database": "a b"},
        {"url": "mongodb://db", "database": "a.b"},
        {"url": "mongodb://db", "database": "d" * 64},
        {"url": "mongodb://db", "prefix": "$"},
        {"url": "mongodb://db", "prefix": "a\0"},
        {"url": "mongodb://db", "prefix": "system."},
        {"url": "mongodb://db", "connect_timeout": timedelta(0)},
        {"url": "mongodb://db", "command_timeout": timedelta(seconds=-1)},
    ],
    ids=str,
)
def test_arguments_that_cannot_work_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ScheduleValidationError):
        MongoScheduleSource(**arguments)


@pytest.mark.parametrize("driver", [AsyncMongoClient, AsyncIOMotorClient])
async def test_a_client_tells_the_database_and_whether_there_is_push(place: Any, driver: Any) -> None:
    """A client that was told of a replica set, or has found one, brings push; its URL may name the database."""
    for url, database, push in [
        (place.url, "taskiq", True),
        (place.url.replace("/?", "/orders?"), "orders", True),
        ("mongodb://127.0.0.1:9/orders", "orders", False),
    ]:
        client = driver(url, connect=False)
        store = MongoScheduleSource(client=client).store

        assert type(store) is (MongoStore if push else StandaloneMongoStore)
        assert f"database '{database}'" in repr(store)
        closing = client.close()
        if closing is not None:
            await closing


async def test_options_in_the_url_go_first(place: Any) -> None:
    """The bounds on waiting are defaults: who sets them in the URL gets what he says."""
    store = MongoStore(f"{place.url}&serverSelectionTimeoutMS=1234&socketTimeoutMS=9876", database=place.database)
    await store.open()
    options = store._session.schedules.database.client.options

    assert options.server_selection_timeout == 1.234
    assert options.pool_options.socket_timeout == 9.876
    assert options.pool_options.wait_queue_timeout == 30
    await store.close()


async def test_weak_write_concerns_of_the_application_do_not_weaken_us(place: Any) -> None:
    """A schedule that was stored is stored, whatever the application's client is content with."""
    client: AsyncMongoClient[Any] = AsyncMongoClient(place.url, w=0, tz_aware=False, readPreference="secondaryPreferred")
    store = MongoStore(client=client, database=place.database)
    await store.open()

    assert await store.put([schedule()]) == frozenset()
    assert await store.put([schedule()]) == {"a"}
    assert (await store.get(["a"]))["a"].anchor.tzinfo is not None
    await store.close()
    await client.close()


async def test_twenty_open_empty_data_at_once_and_again(place: Any) -> None:
    """Indexes and version are made by whoever is first, without a lock; later openings change nothing."""
    stores = [MongoStore(place.url, database=place.database) for _ in range(20)]
    await asyncio.gather(*(store.open() for store in stores))
    with place.direct() as database:
        indexes = sorted(database["taskiq_schedules"].index_information()) + sorted(database["taskiq_runs"].index_information())
        versions = list(database["taskiq_meta"].find())
    await stores[0].close()
    await stores[0].open()

    assert indexes == [
        "_id_",
        "due",
        "outbox",
        "owner",
        "paused",
        "quarantined",
        "task_name",
        "_id_",
        "failed_or_missed",
        "newest",
        "schedule_id",
        "unknown",
    ]
    assert versions == [{"_id": "schema", "version": 2}]
    for store in stores:
        await store.close()


@pytest.mark.parametrize("settles_in", [{}, {"settles_in": None}, {"settles_in": Binary.from_uuid(uuid4())}])
async def test_schedules_of_an_older_release_are_claimed(place: Any, settles_in: dict[str, Any]) -> None:
    """They have no version, and name one session of their outcome or none: a store that is opened makes up for it."""
    first = place.store()
    await first.open()
    await first.put([schedule("free"), schedule("held")])
    await take(first, ids=["held"])
    with place.direct() as database:
        database["taskiq_schedules"].update_many({}, {"$unset": {"version": 1, "settles_in": 1}})
        database["taskiq_schedules"].update_one({"_id": "held"}, {"$set": {"lease_until": NOW, **settles_in}})
        database["taskiq_meta"].update_one({"_id": "schema"}, {"$set": {"version": 1}})
    await first.close()

    store = place.store()
    await store.open()
    claims = await take(store)

    assert [(claim.schedule.id, claim.schedule.attempt) for claim in claims] == [("free", 1), ("held", 2)]
    assert await store.settle([outcome(claim) for claim in claims]) == frozenset()
    with place.direct() as database:
        versions = {one["version"] for one in database["taskiq_schedules"].find()}
    assert len(versions) == 2
    await store.close()


def test_of_several_writes_the_worst_problem_counts_and_none_is_quoted() -> None:
    """Duplicates alone tell which there are already, and are left to whoever wrote; all else is ours, known or not."""
    duplicate, other = ({"index": 0, "code": code, "errmsg": "quotes a document"} for code in (11_000, 17_419))
    only_known, worse = (
        BulkWriteError({"writeErrors": problems, "writeConcernErrors": []}) for problems in ([duplicate], [duplicate, other])
    )

    assert connection_error("MongoDB", only_known) is only_known
    assert isinstance(named := connection_error("MongoDB", worse), SourceConnectionError)
    assert str(named) == "MongoDB cannot be used now (error 17419): try again, and look at its log"
