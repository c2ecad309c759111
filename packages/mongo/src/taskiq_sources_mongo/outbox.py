"""History on its way from the document of its schedule into the collection of runs.

A single server has no transactions, but what it does to one document is one step. (Else outboxes stay empty.) Hence:

1. ``settle`` changes the schedule, and appends an entry with the history rows to its ``outbox``, in one update of one document.
   The entry names the ``settle`` it comes from (``batch``). A finished schedule is marked, and nobody sees it any more.
2. The rows go into the runs. A row there gives way to newer versions of itself only (``seq`` counts the settles of a schedule,
   and is not below the server's clock), so that it does not matter who merges how often, or late. Nearly always nobody knows of
   an occurrence before it is settled, and then its row is inserted without a merge, by the settle itself. That does not know the
   entry's ``seq``, but has from its claim one that lies between those of the entries before and this one.
3. The entries are taken out of the outboxes. A finished schedule is deleted by whoever takes out the last one; who dies before he
   comes to that leaves a document that nobody sees, and that goes when somebody wants to use its id.

The second step has to be durable before the third is taken, or else a server that dies between them and comes back without the
rows would be told to take away the entries too; the third may be lost.

Whoever dies before the first step has done nothing. What is left after it has an index, and `move_all` finishes it: before
history is read or pruned, and when a store is opened. Dying after the second step means that the rows are merged once more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pymongo import InsertOne

from taskiq_sources.models import Outcome
from taskiq_sources_mongo.database import Database
from taskiq_sources_mongo.documents import rows_of

#: How long an entry is left to the settle it comes from, which may have to look for it to know what it has done.
_MILLISECONDS_TO_SETTLE = 10_000


async def move_all(database: Database) -> None:
    """See to it that the runs have every row that was settled before this call."""
    found = await database.run("outbox_batches", milliseconds_to_settle=_MILLISECONDS_TO_SETTLE)
    await merge(database, [entry["_id"] for entry in found])
    left_behind = [entry for entry in found if entry["left_behind"]]
    await clear(database, [entry["_id"] for entry in left_behind], {name for entry in left_behind for name in entry["ids"]})


async def move_of(database: Database, ids: Collection[str]) -> None:
    """Empty the outboxes of these schedules, and delete those of them that are finished."""
    found = await database.run("outbox_of", ids=list(ids))
    batches = list({entry["batch"] for document in found for entry in document["outbox"]})
    await merge(database, batches)
    await clear(database, batches, ids)


async def insert(database: Database, outcomes: Sequence[Outcome], batch: str) -> None:
    """Write the rows of `outcomes`, which were settled as `batch`, into the runs."""
    rows = {name: InsertOne(document) for name, document in rows_of(outcomes).items()}
    _, known = await database.write_each(database.runs, rows, repeat=True)
    if known:
        await merge(database, [batch])


async def merge(database: Database, batches: list[str]) -> None:
    """Write the rows of all outboxes that hold entries of `batches` into the runs."""
    if batches:
        await database.run("outbox_merge", batches=batches, runs=database.runs.name)


async def clear(database: Database, batches: list[str], ids: Collection[str]) -> None:
    """Take entries out whose rows are written. A schedule that is finished goes with its last entry.

    Args:
        database: Where.
        batches: Which entries.
        ids: Which schedules they are of.
    """
    if batches:
        await database.run("outbox_finished", batches=batches)
        await database.run("outbox_clear", batches=batches)
    # Others may have taken entries out of the same schedules meanwhile, or have died before they came to this.
    if ids:
        await database.run("outbox_emptied", ids=list(ids))
