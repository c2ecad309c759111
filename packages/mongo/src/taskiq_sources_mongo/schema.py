"""Collections and indexes, and the version of their arrangement."""

from __future__ import annotations

import re
from typing import Final

from pymongo import ASCENDING, DESCENDING, IndexModel

from taskiq_sources.errors import BackendVersionError, ScheduleValidationError, SchemaVersionError, SourceConnectionError
from taskiq_sources_mongo.database import Database
from taskiq_sources_mongo.statements import NEWEST, OLDEST_DUE, PENDING

#: Bumped when documents change so that older releases would not understand them; then `prepare` learns to bring up the old ones.
VERSION: Final = 1

_OLDEST_WIRE_VERSION = 13  # MongoDB 5.0
_VERSION_ID = {"_id": "schema"}
_PREFIX = re.compile(r"(?!system\.)[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}|")
_DATABASE = re.compile(r'[^/\\. "$*<>:|?\0]{1,63}')

#: Nothing that a claim writes is in an index. The last one has only schedules whose history is on its way.
SCHEDULE_INDEXES = [
    IndexModel(OLDEST_DUE, name="due", partialFilterExpression=PENDING),
    IndexModel([("task_name", ASCENDING), ("_id", ASCENDING)], name="task_name"),
    IndexModel([("owner", ASCENDING), ("_id", ASCENDING)], name="owner", partialFilterExpression={"owner": {"$gte": ""}}),
    IndexModel([("paused", ASCENDING), ("_id", ASCENDING)], name="paused", partialFilterExpression={"paused": True}),
    IndexModel(
        [("quarantined", ASCENDING), ("_id", ASCENDING)], name="quarantined", partialFilterExpression={"quarantined": True}
    ),
    IndexModel([("outbox.batch", ASCENDING)], name="outbox", partialFilterExpression={"outbox.batch": {"$exists": True}}),
]
RUN_INDEXES = [
    IndexModel(NEWEST, name="newest"),
    IndexModel([("schedule_id", DESCENDING), *NEWEST], name="schedule_id"),
    IndexModel([("status", DESCENDING), *NEWEST], name="status"),
]


def check_names(database: str, prefix: str) -> None:
    """Check that a database and its collections can be called so.

    Raises:
        ScheduleValidationError: They cannot.
    """
    if not _DATABASE.fullmatch(database):
        raise ScheduleValidationError("database", database, 'use up to 63 characters, none of them /\\. "$*<>:|?')
    if not _PREFIX.fullmatch(prefix):
        raise ScheduleValidationError("prefix", prefix, "use letters, digits, and after the first also _ - and .")


async def prepare(database: Database, *, push: bool) -> None:
    """Check the server, and make what is missing. Every step may be taken by any number of processes at once, and again.

    Args:
        database: Where.
        push: Whether the server needs to have change streams.

    Raises:
        BackendVersionError: The server is too old.
        SourceConnectionError: It has no change streams.
        SchemaVersionError: A newer release was here; nothing was changed.
    """
    hello = await database.hello()
    if hello["maxWireVersion"] < _OLDEST_WIRE_VERSION:
        raise BackendVersionError(f"{database.where} is too old: use MongoDB 5.0 or newer")
    if "setName" in hello or hello.get("msg") == "isdbgrid":
        await database.use_transactions()
    elif push:
        problem = "is no replica set and has no change streams: pass push=False, which polls instead"
        raise SourceConnectionError(f"{database.where} {problem}")
    found = await database.find(database.meta, _VERSION_ID)
    version = found[0]["version"] if found else 0
    if version > VERSION:
        problem = f"of a newer release (version {version}, this one knows {VERSION}): upgrade this process"
        raise SchemaVersionError(f"{database.where} has in {database.meta.name} that its collections are {problem}")
    await database.write(database.schedules.create_indexes, SCHEDULE_INDEXES)
    await database.write(database.runs.create_indexes, RUN_INDEXES)
    if version < VERSION:
        await database.write(database.meta.update_one, _VERSION_ID, {"$max": {"version": VERSION}}, upsert=True)
