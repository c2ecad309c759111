"""Many schedules in one call: in portions that a message holds, and each told apart from the others in what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeAlias, TypeVar

from pymongo import InsertOne, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure

from taskiq_sources.models import Outcome, StoredSchedule
from taskiq_sources_mongo import statements
from taskiq_sources_mongo.database import Database, Documents
from taskiq_sources_mongo.documents import Document
from taskiq_sources_mongo.errors import connection_error

T = TypeVar("T")
Write: TypeAlias = "InsertOne[Document] | UpdateOne"

_DUPLICATE_KEY = 11_000


@dataclass(frozen=True)
class Written:
    """What came of writes.

    Attributes:
        created: The schedules that an upsert made.
        refused: Those that could not be made because there is one of that id.
    """

    created: frozenset[str]
    refused: frozenset[str]


async def write_each(database: Database, schedules: Documents, writes: Mapping[str, Write]) -> Written:
    """Write schedules independently of one another, by their ids.

    Raises:
        SourceConnectionError: The server cannot be reached, refuses us or has gone away.
    """
    if not writes:
        return Written(frozenset(), frozenset())
    errors = []
    try:
        done = await database.write(partial(schedules.bulk_write, list(writes.values()), ordered=False))
        upserted = done.bulk_api_result["upserted"]
    except BulkWriteError as error:
        upserted = error.details["upserted"]
        errors = [*error.details["writeErrors"], *error.details["writeConcernErrors"]]
    for problem in errors:
        if problem["code"] != _DUPLICATE_KEY:
            raise connection_error(database.where, OperationFailure(problem["errmsg"], problem["code"], problem)) from None
    ids = list(writes)
    created = frozenset(ids[entry["index"]] for entry in upserted)
    return Written(created=created, refused=frozenset(ids[problem["index"]] for problem in errors))


def upsert(schedule: StoredSchedule, *, replace: bool) -> UpdateOne:
    """Return the write that stores a schedule which may exist."""
    write = statements.insert_or_replace(schedule) if replace else statements.insert_only(schedule)
    return UpdateOne({"_id": schedule.id, "finished": False}, write, upsert=True, hint="_id_")


def portions(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the values in lists of at most `size`."""
    remaining = iter(values)
    while portion := list(islice(remaining, size)):
        yield portion


def batches(outcomes: Sequence[Outcome], size: int) -> Iterator[list[Outcome]]:
    """Yield the outcomes in lists of at most `size`, and of hardly more history rows; each list has at least one outcome."""
    batch: list[Outcome] = []
    rows = 0
    for outcome in outcomes:
        if batch and (len(batch) >= size or rows + len(outcome.runs) > size):
            yield batch
            batch, rows = [], 0
        batch.append(outcome)
        rows += len(outcome.runs)
    if batch:
        yield batch
