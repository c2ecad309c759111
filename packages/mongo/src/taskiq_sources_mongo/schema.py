"""Collections and indexes, and the version of their arrangement."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pymongo import ASCENDING, DESCENDING, IndexModel

from taskiq_sources.errors import BackendVersionError, ScheduleValidationError, SchemaVersionError, SourceConnectionError
from taskiq_sources_mongo.database import Database
from taskiq_sources_mongo.statements import NEWEST, OLDEST_DUE, PENDING

#: Bumped when documents change so that older releases would not understand them; then `migrate` learns to bring up the old ones.
VERSION: Final = 1

_OLDEST_WIRE_VERSION = 13  # MongoDB 5.0
_VERSION_ID = "schema"
_PREFIX = re.compile(r"(?!system\.)[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}|")
_DATABASE = re.compile(r'[^/\\. "$*<>:|?\0]{1,63}')

#: Nothing that a claim writes is in an index. The last one has only schedules whose history is on its way.
SCHEDULE_INDEXES = [
    IndexModel(OLDEST_DUE, name="due", partialFilterExpression=PENDING),
    IndexModel([("task_name", ASCENDING), ("_id", ASCENDING)], name="task_name"),
    IndexModel([("owner", ASCENDING), ("_id", ASCENDING)], name="owner", partialFilterExpression={"owner": {"$gte": ""}}),
    IndexModel([("paused", ASCENDING), ("_id", ASCENDING)], name="paused", partialFilterExpression={"paused": True}),
    IndexModel(
        [("quarantined", ASCENDING), ("_id", ASCENDING)],
        name="quarantined",
        partialFilterExpression={"quarantined": True},
    ),
    IndexModel([("outbox.batch", ASCENDING)], name="outbox", partialFilterExpression={"outbox.batch": {"$exists": True}}),
]
RUN_INDEXES = [
    IndexModel(NEWEST, name="newest"),
    IndexModel([("schedule_id", DESCENDING), *NEWEST], name="schedule_id"),
    IndexModel([("status", DESCENDING), *NEWEST], name="status"),
]


@dataclass(frozen=True)
class Names:
    """What everything is called.

    Raises:
        ScheduleValidationError: The database or the prefix cannot be part of a name.
    """

    database: str
    prefix: str

    def __post_init__(self) -> None:
        if not _DATABASE.fullmatch(self.database):
            raise ScheduleValidationError("database", self.database, 'use up to 63 characters, none of them /\\. "$*<>:|?')
        if not _PREFIX.fullmatch(self.prefix):
            raise ScheduleValidationError("prefix", self.prefix, "use letters, digits, and after the first also _ - and .")

    @property
    def schedules(self) -> str:
        """The collection of schedules."""
        return f"{self.prefix}schedules"

    @property
    def runs(self) -> str:
        """The collection of history rows."""
        return f"{self.prefix}runs"

    @property
    def meta(self) -> str:
        """The collection of what is known about the others."""
        return f"{self.prefix}meta"


def check_server(hello: Mapping[str, Any], where: str, *, push: bool) -> None:
    """Check that a server will do.

    Args:
        hello: How it introduces itself.
        where: How to name it in errors.
        push: Whether it needs to have change streams.

    Raises:
        BackendVersionError: It is too old.
        SourceConnectionError: It has no change streams.
    """
    if hello["maxWireVersion"] < _OLDEST_WIRE_VERSION:
        raise BackendVersionError(f"{where} is too old: use MongoDB 5.0 or newer")
    if push and "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise SourceConnectionError(f"{where} is no replica set and has no change streams: pass push=False, which polls instead")


async def migrate(database: Database, names: Names) -> None:
    """Make what is missing. Every step may be taken by any number of processes at once, and again.

    Raises:
        SchemaVersionError: A newer release was here; nothing was changed.
    """
    meta = database.collection(names.meta)
    found = await database.find(meta, {"_id": _VERSION_ID})
    version = found[0]["version"] if found else 0
    if version > VERSION:
        raise SchemaVersionError(
            f"{database.where} has collections {names.prefix}* of a newer release (version {version}, this one knows {VERSION}): "
            "upgrade this process",
        )
    await database.write(lambda: database.collection(names.schedules).create_indexes(SCHEDULE_INDEXES), repeatable=True)
    await database.write(lambda: database.collection(names.runs).create_indexes(RUN_INDEXES), repeatable=True)
    if version < VERSION:
        raised = {"$max": {"version": VERSION}}
        await database.write(lambda: meta.update_one({"_id": _VERSION_ID}, raised, upsert=True), repeatable=True)
