"""`MongoScheduleSource`: the source that applications construct."""

from __future__ import annotations

from datetime import timedelta

from typing_extensions import Unpack

from taskiq_sources.source import ScheduleSource, SourceOptions
from taskiq_sources_mongo.addresses import address_of, speaks_of_replicas
from taskiq_sources_mongo.database import Client
from taskiq_sources_mongo.store import MongoStore, StandaloneMongoStore


class MongoScheduleSource(ScheduleSource):
    """Schedules in a MongoDB database (5.0 or newer), for any number of processes on any number of machines.

    Args:
        url: ``mongodb://user:password@host:27017/database`` or ``mongodb+srv://…``, with any option that PyMongo takes.
        client: A ``pymongo.AsyncMongoClient`` or Motor's ``AsyncIOMotorClient`` to use instead of a URL. It stays open, and
            belongs to the event loop that it was used in first, and the source with it.
        database: Name of the database; None for the one in the URL, or ``taskiq``.
        prefix: How the names of the collections begin, so that several applications can share a database.
        push: Whether other processes tell at once of what they change, by a change stream, which a replica set (or a sharded
            cluster) has and a single server has not; without it schedulers poll. None: if the URL or the client speaks of a
            replica set, that is by the scheme ``mongodb+srv``, the option ``replicaSet``, several hosts, or being connected.
        connect_timeout: How long finding and connecting to a server may take; ``serverSelectionTimeoutMS`` in the URL goes first.
        command_timeout: How long an answer may take, where ``socketTimeoutMS`` in the URL goes first; and how long outcomes may
            wait until others of this source are recorded.
        **options: As for `ScheduleSource`.

    Raises:
        ScheduleValidationError: An argument is not valid.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Client | None = None,
        database: str | None = None,
        prefix: str = "taskiq_",
        push: bool | None = None,
        connect_timeout: timedelta = timedelta(seconds=5),
        command_timeout: timedelta = timedelta(seconds=30),
        **options: Unpack[SourceOptions],
    ) -> None:
        make_store = MongoStore if (_speaks_of_replicas(url, client) if push is None else push) else StandaloneMongoStore
        store = make_store(
            url,
            client=client,
            database=database,
            prefix=prefix,
            connect_timeout=connect_timeout,
            command_timeout=command_timeout,
        )
        super().__init__(store, **options)


def _speaks_of_replicas(url: str | None, client: Client | None) -> bool:
    if url is not None:
        return speaks_of_replicas(address_of(url))
    return client is not None and str(client.topology_description.topology_type_name).startswith(("ReplicaSet", "Sharded"))
