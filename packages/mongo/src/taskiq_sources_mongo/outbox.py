"""History on its way from the document of its schedule into the collection of runs.

A single server has no transactions; what it does to one document is one step all the same, and so it is everywhere. Hence:

1. ``settle`` changes the schedule, and appends an entry with the history rows to its ``outbox``, in one update of one document.
   The entry names the ``settle`` it comes from (``batch``). A finished schedule is marked, and nobody sees it any more.
2. The rows are merged into the runs. A row there gives way to newer versions of itself only (``seq`` counts the settles of a
   schedule, and is not below the server's clock), so that it does not matter who merges how often, or late.
3. The entries are taken out of the outboxes; finished schedules are deleted.

The second step has to be durable before the third is taken, or else a server that dies between them and comes back without the
rows would be told to take away the entries too; the third may be lost.

Whoever dies before the first step has done nothing. What is left after it has an index, and `Outbox.move_all` finishes it: before
history is read or pruned, and when a store is opened. Dying after the second step means that the rows are merged once more.
"""

from __future__ import annotations

from collections.abc import Collection

from taskiq_sources_mongo import database as drivers
from taskiq_sources_mongo.database import Database
from taskiq_sources_mongo.documents import Document
from taskiq_sources_mongo.schema import Names

#: How long an entry is left to the settle it comes from, which may have to look for it to know what it has done.
_MILLISECONDS_TO_SETTLE = 10_000

_LEFT_BEHIND = {"$lt": ["$seq", {"$subtract": [{"$toLong": "$$NOW"}, _MILLISECONDS_TO_SETTLE]}]}
_NOT_EMPTY = {"outbox.batch": {"$exists": True}}


class Outbox:
    """The outboxes of all schedules of a store."""

    def __init__(self, database: Database, names: Names) -> None:
        self._database = database
        self._schedules = database.collection(names.schedules)
        self._relaxed = self._schedules.with_options(write_concern=drivers.RELAXED)
        self._runs = names.runs

    async def move_all(self) -> None:
        """See to it that the runs have every row that was settled before this call."""
        entries: list[Document] = [
            {"$match": _NOT_EMPTY},
            {"$unwind": "$outbox"},
            {"$group": {"_id": "$outbox.batch", "seq": {"$max": "$outbox.seq"}}},
            {"$project": {"left_behind": _LEFT_BEHIND}},
        ]
        found = await self._database.rows(lambda: self._schedules.aggregate(entries, hint="outbox"))
        if found:
            await self.merge([entry["_id"] for entry in found])
            await self.clear([entry["_id"] for entry in found if entry["left_behind"]])

    async def move_of(self, ids: Collection[str]) -> None:
        """Empty the outboxes of these schedules, and delete those of them that are finished."""
        condition = {"_id": {"$in": list(ids)}, **_NOT_EMPTY}
        found = await self._database.find(self._schedules, condition, {"outbox.batch": 1}, hint="_id_")
        batches = list({entry["batch"] for document in found for entry in document["outbox"]})
        await self.merge(batches)
        await self.clear(batches)

    async def forget(self, rows: Document) -> None:
        """Drop rows from entries that stay, so that they do not come back when they are merged once more.

        Args:
            rows: The condition of the rows.
        """
        dropped = {"$pull": {"outbox.$[].rows": rows}}
        await self._database.write(lambda: self._schedules.update_many(_NOT_EMPTY, dropped, hint="outbox"), repeatable=True)

    async def merge(self, batches: list[str]) -> None:
        """Write the rows of all outboxes that hold entries of `batches` into the runs."""
        version = {"seq": "$outbox.seq", "n": "$outbox.n"}
        newest = {"$cond": [{"$gte": ["$$new.version", "$version"]}, "$$new", "$$ROOT"]}
        pipeline: list[Document] = [
            {"$match": {"outbox.batch": {"$in": batches}}},
            {"$unwind": "$outbox"},
            {"$unwind": {"path": "$outbox.rows", "includeArrayIndex": "outbox.n"}},
            {"$replaceWith": {"$mergeObjects": ["$outbox.rows", {"version": version}]}},
            {"$merge": {"into": self._runs, "whenMatched": [{"$replaceWith": newest}], "whenNotMatched": "insert"}},
        ]

        async def run() -> None:
            await (await drivers.answer(self._schedules.aggregate(pipeline, hint="outbox"))).to_list(None)

        if batches:
            await self._database.write(run, repeatable=True)

    async def clear(self, batches: list[str], *, finished: bool = True) -> None:
        """Take entries out whose rows are merged. A schedule that is finished goes with its last entry.

        Args:
            batches: Which entries.
            finished: Whether there may be finished schedules among those that have them.
        """
        having = {"outbox.batch": {"$in": batches}}
        others = {"$elemMatch": {"batch": {"$nin": batches}}}
        done = {**having, "finished": True, "outbox": {"$not": others}}
        taken = {"$pull": {"outbox": {"batch": {"$in": batches}}}}
        if batches and finished:
            await self._database.write(lambda: self._relaxed.delete_many(done, hint="outbox"), repeatable=True)
        if batches:
            await self._database.write(lambda: self._relaxed.update_many(having, taken, hint="outbox"), repeatable=True)
