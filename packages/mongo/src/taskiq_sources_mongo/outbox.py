"""History on its way from the document of its schedule into the collection of runs.

A single server has no transactions, but what it does to one document is one step. (Else outboxes stay empty.) Hence:

1. ``settle`` changes the schedule, and appends an entry with the history rows to its ``outbox``, in one update of one document.
   The entry names the ``settle`` it comes from (``batch``). A finished schedule is marked, and nobody sees it any more.
2. The rows go into the runs. A row there gives way to newer versions of itself only (``seq`` counts the settles of a schedule,
   and is not below the server's clock), so that it does not matter who merges how often, or late. Nearly always nobody knows of
   an occurrence before it is settled, and then its row is inserted without a merge, by the settle itself. That does not know the
   entry's ``seq``, but has from its claim one that lies between those of the entries before and this one.
3. The entries are taken out of the outboxes; finished schedules are deleted.

The second step has to be durable before the third is taken, or else a server that dies between them and comes back without the
rows would be told to take away the entries too; the third may be lost.

Whoever dies before the first step has done nothing. What is left after it has an index, and `Outbox.move_all` finishes it: before
history is read or pruned, and when a store is opened. Dying after the second step means that the rows are merged once more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pymongo import InsertOne

from taskiq_sources.models import Outcome
from taskiq_sources_mongo.database import RELAXED, Database, drained
from taskiq_sources_mongo.documents import Document, rows_of

#: How long an entry is left to the settle it comes from, which may have to look for it to know what it has done.
_MILLISECONDS_TO_SETTLE = 10_000

_LEFT_BEHIND = {"$lt": ["$seq", {"$subtract": [{"$toLong": "$$NOW"}, _MILLISECONDS_TO_SETTLE]}]}
_NOT_EMPTY = {"outbox.batch": {"$exists": True}}


class Outbox:
    """The outboxes of all schedules of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._schedules = database.schedules
        self._relaxed = database.schedules.with_options(write_concern=RELAXED)

    async def move_all(self) -> None:
        """See to it that the runs have every row that was settled before this call."""
        entries: list[Document] = [
            {"$match": _NOT_EMPTY},
            {"$unwind": "$outbox"},
            {"$group": {"_id": "$outbox.batch", "seq": {"$max": "$outbox.seq"}}},
            {"$project": {"left_behind": _LEFT_BEHIND}},
        ]
        found = await self._database.read(drained, self._schedules.aggregate, entries, hint="outbox")
        await self.merge([entry["_id"] for entry in found])
        await self.clear([entry["_id"] for entry in found if entry["left_behind"]])

    async def move_of(self, ids: Collection[str]) -> None:
        """Empty the outboxes of these schedules, and delete those of them that are finished."""
        condition = {"_id": {"$in": list(ids)}, **_NOT_EMPTY}
        found = await self._database.find(self._schedules, condition, {"outbox.batch": 1}, hint="_id_")
        batches = list({entry["batch"] for document in found for entry in document["outbox"]})
        await self.merge(batches)
        await self.clear(batches)

    async def insert(self, outcomes: Sequence[Outcome], batch: str) -> None:
        """Write the rows of `outcomes`, which were settled as `batch`, into the runs."""
        rows = {name: InsertOne(document) for name, document in rows_of(outcomes).items()}
        _, known = await self._database.write_each(self._database.runs, rows, repeatable=True)
        if known:
            await self.merge([batch])

    async def merge(self, batches: list[str]) -> None:
        """Write the rows of all outboxes that hold entries of `batches` into the runs."""
        version = {"seq": "$outbox.seq", "n": "$outbox.n"}
        newest = {"$cond": [{"$gte": ["$$new.version", "$version"]}, "$$new", "$$ROOT"]}
        pipeline: list[Document] = [
            {"$match": {"outbox.batch": {"$in": batches}}},
            {"$unwind": "$outbox"},
            {"$unwind": {"path": "$outbox.rows", "includeArrayIndex": "outbox.n"}},
            {"$replaceWith": {"$mergeObjects": ["$outbox.rows", {"version": version}]}},
            {"$merge": {"into": self._database.runs.name, "whenMatched": [{"$replaceWith": newest}], "whenNotMatched": "insert"}},
        ]
        if batches:
            await self._database.write(drained, self._schedules.aggregate, pipeline, hint="outbox")

    async def clear(self, batches: list[str], *, finished: bool = True) -> None:
        """Take entries out whose rows are written. A schedule that is finished goes with its last entry.

        Args:
            batches: Which entries.
            finished: Whether there may be finished schedules among those that have them.
        """
        having = {"outbox.batch": {"$in": batches}}
        done = {**having, "finished": True, "outbox": {"$not": {"$elemMatch": {"batch": {"$nin": batches}}}}}
        taken = {"$pull": {"outbox": {"batch": {"$in": batches}}}}
        if batches and finished:
            await self._database.write(self._relaxed.delete_many, done, hint="outbox")
        if batches:
            await self._database.write(self._relaxed.update_many, having, taken, hint="outbox")

    async def forget(self, rows: Document) -> None:
        """Drop rows from entries that stay, so that they do not come back when they are merged once more.

        Args:
            rows: The condition of the rows.
        """
        dropped = {"$pull": {"outbox.$[].rows": rows}}
        await self._database.write(self._schedules.update_many, _NOT_EMPTY, dropped, hint="outbox")
