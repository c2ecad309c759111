"""Collections and indexes, and the version of their arrangement.

Nothing that a claim writes is in an index. The index ``outbox`` has only schedules whose history is on its way. What was sent is
nearly all of history, and no index has it by its status.
"""

from __future__ import annotations

import re
from typing import Final

from pymongo import IndexModel

from taskiq_sources.backends import check_schema_version
from taskiq_sources.errors import BackendVersionError, ScheduleValidationError, SourceConnectionError
from taskiq_sources_mongo.database import Database
from taskiq_sources_mongo.statements import load

#: Bumped when documents change so that older releases would not understand them; then `prepare` learns to bring up the old ones.
VERSION: Final = 2

_OLDEST_WIRE_VERSION = 13  # MongoDB 5.0
_PREFIX = re.compile(r"(?!system\.)[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}|")
_DATABASE = re.compile(r'[^/\\. "$*<>:|?\0]{1,63}')


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
    [found] = await database.run("version") or [{"version": 0}]
    version = found["version"]
    check_schema_version(version, VERSION, where=database.where, package="taskiq-sources-mongo")
    for collection, indexes in ((database.schedules, "schedules"), (database.runs, "runs")):
        models = [IndexModel(**index) for index in load("indexes.json")[indexes]]
        await database.call(collection.create_indexes, models, repeat=True)
    if version < VERSION:
        await database.run("give_version")
        await database.run("set_version", version=VERSION)
