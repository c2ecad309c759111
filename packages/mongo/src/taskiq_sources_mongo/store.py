"""`MongoStore`: the store contract on collections of a MongoDB database; `StandaloneMongoStore` for a server by itself.

What is asked of the server is in :mod:`taskiq_sources_mongo.statements`. A statement is atomic for each schedule, and nothing in
here relies on more.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar

from pymongo import InsertOne, ReturnDocument

from taskiq_sources.clock import floor_ms
from taskiq_sources.errors import (
    RevisionConflictError,
    ScheduleNotFoundError,
    ScheduleValidationError,
    SourceClosedError,
    SourceConnectionError,
)
from taskiq_sources.models import Capabilities, Claim, Outcome, Run, RunQuery, ScheduleChanges, ScheduleQuery, StoredSchedule
from taskiq_sources.store import ScheduleStore
from taskiq_sources_mongo import statements
from taskiq_sources_mongo.addresses import address_of
from taskiq_sources_mongo.bulk import batches, portions, upsert, write_each
from taskiq_sources_mongo.database import Client, Database, Documents, Settings
from taskiq_sources_mongo.documents import Document, claim_from, new_schedule, run_from, schedule_from
from taskiq_sources_mongo.outbox import Outbox
from taskiq_sources_mongo.schema import Names, check_server, migrate

logger = logging.getLogger("taskiq_sources")


_DEFAULT_DATABASE = "taskiq"

#: How many ids are named in one statement: of the longest there are, they still fit into a message.
_MOST_IDS = 5_000

#: How many schedules are claimed or settled, and how many history rows written, in one statement.
_BATCH = 1_000

_FEW = 20  # so many schedules are put without looking which of them exist
_PRUNE_BATCH = 5_000

#: How many schedules `next_due` looks at: the first, and if that is in flight, more and more.
_FIRST_WINDOWS = (1, 100)
_WINDOW_GROWTH = 10


@dataclass(frozen=True)
class _Opened:
    """What a store works with while it is open."""

    database: Database
    schedules: Documents
    runs: Documents
    outbox: Outbox


class MongoStore(ScheduleStore):
    """Schedules in the collections ``<prefix>schedules`` and ``<prefix>runs`` of a replica set or a sharded cluster.

    A call whose connection breaks is repeated where that is the same as doing it once, which is nearly everywhere. `put` and
    `update` are left to the driver, which repeats them on a replica set.

    Args:
        url: ``mongodb://user:password@host:27017/database``, with any option that PyMongo takes.
        client: A ``pymongo.AsyncMongoClient`` or Motor's ``AsyncIOMotorClient`` to use instead, which stays open.
        database: Name of the database; None for the one in the URL, or ``taskiq``.
        prefix: How the names of the collections begin, so that several stores can share a database.
        connect_timeout: How long finding and connecting to a server may take. An injected client has its own bounds.
        command_timeout: How long an answer may take, and for how long is waited for a free connection.

    Raises:
        ScheduleValidationError: An argument is not valid.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(shared=True, durable=True, push=True)

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Client | None = None,
        database: str | None = None,
        prefix: str = "taskiq_",
        connect_timeout: timedelta = timedelta(seconds=5),
        command_timeout: timedelta = timedelta(seconds=30),
    ) -> None:
        if (url is None) == (client is None):
            raise ScheduleValidationError("url", "…" if url else url, "give either a url or a client")
        for name, value in (("connect_timeout", connect_timeout), ("command_timeout", command_timeout)):
            if value <= timedelta(0):
                raise ScheduleValidationError(name, value, "use a positive time")
        address = None if url is None else address_of(url)
        if database is None and client is not None:
            database = client.get_default_database(_DEFAULT_DATABASE).name
        self._names = Names(database or (address and address.database) or _DEFAULT_DATABASE, prefix)
        server = "MongoDB (a client of the application's)" if address is None else f"MongoDB at {address.hosts}"
        self._client = client
        self._settings = Settings(
            where=f"{server}, database {self._names.database!r}",
            url=url,
            address=address,
            database=self._names.database,
            connect_timeout=connect_timeout.total_seconds(),
            command_timeout=command_timeout.total_seconds(),
        )
        self._open: _Opened | None = None
        self._switching = asyncio.Lock()  # held while it is opened or closed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.where}, collections {self._names.prefix}*)"

    # -- lifecycle -----------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        async with self._switching:
            if self._open is not None:
                return
            database = Database(self._settings, self._client)
            try:
                check_server(await database.hello(), database.where, push=self.capabilities.push)
                await migrate(database, self._names)
                outbox = Outbox(database, self._names)
                await outbox.move_all()
            except BaseException:
                await database.close()
                raise
            schedules, runs = database.collection(self._names.schedules), database.collection(self._names.runs)
            self._open = _Opened(database, schedules, runs, outbox)

    async def close(self) -> None:
        async with self._switching:
            opened, self._open = self._open, None
            if opened is not None:
                await opened.database.close()

    async def now(self) -> datetime:
        hello = await self._opened().database.hello()
        return floor_ms(hello["localTime"])

    # -- definitions ---------------------------------------------------------------------------------------------------------

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        opened = self._opened()
        given = {schedule.id: schedule for schedule in schedules}
        likely = set(given) if len(given) <= _FEW else await self._existing(given)
        absent = {schedule_id: InsertOne(new_schedule(given[schedule_id])) for schedule_id in given if schedule_id not in likely}
        left = likely | (await write_each(opened.database, opened.schedules, absent)).refused
        existing: set[str] = set()
        while left:
            writes = {schedule_id: upsert(given[schedule_id], replace=replace) for schedule_id in given if schedule_id in left}
            done = await write_each(opened.database, opened.schedules, writes)
            existing |= left - done.created - done.refused
            # In the way of a new schedule is one that has finished but is not quite gone, or one that somebody else just stores.
            await opened.outbox.move_of(done.refused)
            left = set(done.refused)
        return frozenset(existing)

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        found: dict[str, StoredSchedule] = {}
        for some in portions(ids, _MOST_IDS):
            for document in await self._find(statements.alive(some)):
                found[document["_id"]] = schedule_from(document)
        return found

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        found = await self._find(statements.matching(query, after), sort=[("_id", 1)], limit=limit)
        return [schedule_from(document) for document in found]

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        opened = self._opened()
        existed: set[str] = set()
        for some in portions(ids, _MOST_IDS):
            left = await self._existing(some)
            existed |= left
            while left:
                ready = {**statements.alive(left), "outbox.batch": {"$exists": False}}
                done = await opened.database.write(partial(opened.schedules.delete_many, ready, hint="_id_"), repeatable=True)
                if done.deleted_count == len(left):
                    break
                await opened.outbox.move_of(left)  # the history of a schedule stays
                left = await self._existing(left)
        return frozenset(existed)

    async def update(
        self,
        id: str,  # noqa: A002 - the field's own word
        changes: ScheduleChanges,
        *,
        expected_revision: int | None = None,
    ) -> StoredSchedule:
        opened = self._opened()
        revision = {} if expected_revision is None else {"revision": expected_revision}
        edit = partial(
            opened.schedules.find_one_and_update,
            {"_id": id, "finished": False, **revision},
            statements.edit(changes),
            return_document=ReturnDocument.AFTER,
        )
        while True:
            edited = await opened.database.write(edit)
            if edited is not None:
                return schedule_from(edited)
            found = await self._find(statements.alive([id]), {"revision": 1})
            if not found:
                raise ScheduleNotFoundError(id)
            if expected_revision not in {None, found[0]["revision"]}:
                raise RevisionConflictError(id, expected_revision or 0, found[0]["revision"])

    # -- dispatch ------------------------------------------------------------------------------------------------------------

    async def claim(
        self,
        now: datetime,
        *,
        claimant: str,
        lease: timedelta,
        limit: int,
        ids: Collection[str] | None = None,
        early: timedelta = timedelta(0),
    ) -> list[Claim]:
        claims: list[Claim] = []
        while len(claims) < limit:
            wanted = min(limit - len(claims), _BATCH)
            found = await self._eligible(now, now + early, wanted, ids)
            if found:
                claims += await self._take(found, now, now + early, claimant, now + lease)
            if len(found) < wanted:
                break
        return sorted(claims, key=lambda claim: (claim.schedule.next_run_at or now, claim.schedule.id))

    async def _eligible(self, now: datetime, horizon: datetime, limit: int, ids: Collection[str] | None) -> dict[str, int]:
        """Return the oldest that may be claimed, and at which revision they are."""
        options: dict[str, Any] = {"sort": statements.OLDEST_DUE, "limit": limit}
        fields = {"next_run_at": 1, "revision": 1}
        found: list[Document] = []
        if ids is None:
            found = await self._find(statements.eligible(now, horizon), fields, hint="due", **options)
        for some in portions(ids or (), _MOST_IDS):
            found += await self._find(statements.eligible(now, horizon, some), fields, hint="_id_", **options)
        found.sort(key=lambda document: (document["next_run_at"], document["_id"]))
        return {document["_id"]: document["revision"] for document in found[:limit]}

    async def _take(
        self,
        revisions: Mapping[str, int],
        now: datetime,
        horizon: datetime,
        claimant: str,
        lease_until: datetime,
    ) -> list[Claim]:
        """Claim those of these schedules that still may be claimed."""
        opened = self._opened()
        token = uuid.uuid4().hex
        free, taken = statements.eligible(now, horizon, revisions), statements.take(token, claimant, lease_until)
        # Whether it was done once, or twice because the first answer was lost: what has our token is ours.
        await opened.database.write(partial(opened.schedules.update_many, free, taken, hint="_id_"), repeatable=True)
        claims, moved = [], []
        for document in await self._find({"_id": {"$in": list(revisions)}, "token": token}, hint="_id_"):
            if document["timing_revision"] > revisions[document["_id"]]:
                moved.append(document["_id"])  # edited since it was found: it may not be due any more
            else:
                claims.append(claim_from(document, revision=revisions[document["_id"]], now=now))
        if moved:
            ours = {"_id": {"$in": moved}, "token": token}
            await opened.database.write(partial(opened.schedules.update_many, ours, statements.GIVE_BACK), repeatable=True)
        return claims

    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        opened = self._opened()
        ours: set[str] = set()
        for some in portions(claims, _BATCH):
            held, renewed = statements.held(some), {"$set": {"lease_until": until}}
            done = await opened.database.write(partial(opened.schedules.update_many, held, renewed, hint="_id_"), repeatable=True)
            named = {claim.schedule.id for claim in some}
            ours |= named if done.matched_count == len(named) else await self._ids(held)
        return frozenset(ours)

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        self._opened()
        lost: set[str] = set()
        for some in batches(outcomes, _BATCH):
            lost |= await self._settle(some)
        return frozenset(lost)

    async def _settle(self, outcomes: Sequence[Outcome]) -> set[str]:
        opened = self._opened()
        batch = uuid.uuid4().hex
        ids = {outcome.claim.schedule.id for outcome in outcomes}
        held = statements.held([outcome.claim for outcome in outcomes])
        pipeline = statements.settle(outcomes, batch)
        done = await opened.database.write(partial(opened.schedules.update_many, held, pipeline, hint="_id_"), repeatable=True)
        # Usually all. Else the outbox tells, as it does if the answer was lost and the statement repeated.
        applied = ids if done.matched_count == len(ids) else await self._ids({"_id": {"$in": list(ids)}, "outbox.batch": batch})
        going = [outcome.claim for outcome in outcomes if not (outcome.release or outcome.finished)]
        ended = {claim.schedule.id for claim in going} - await self._ids(statements.held(going)) if going else set()
        try:
            await opened.outbox.merge([batch])
            await opened.outbox.clear([batch], finished=any(outcome.finished for outcome in outcomes))
        except SourceConnectionError:
            logger.debug("%r: settled; whoever comes next moves the history.", self, exc_info=True)
        return (ids - applied) | ended

    async def next_due(self, now: datetime) -> datetime | None:
        window, larger = _FIRST_WINDOWS
        while True:
            options: dict[str, Any] = {"sort": statements.OLDEST_DUE, "limit": window, "batch_size": window, "hint": "due"}
            found = await self._find(statements.PENDING, {"next_run_at": 1, "lease_until": 1}, **options)
            earliest: datetime | None = None
            for document in found:
                due, lease_until = document["next_run_at"], document["lease_until"]
                if earliest is not None and earliest <= due:
                    return earliest
                instant = due if lease_until is None or lease_until <= now else max(due, lease_until)
                earliest = instant if earliest is None else min(earliest, instant)
            if len(found) < window or earliest == found[-1]["next_run_at"]:
                return earliest
            window, larger = larger, larger * _WINDOW_GROWTH

    # -- history -------------------------------------------------------------------------------------------------------------

    async def runs(self, query: RunQuery, *, after: Run | None = None, limit: int) -> list[Run]:
        opened = self._opened()
        await opened.outbox.move_all()
        condition = statements.recorded(query, after)
        found = await opened.database.find(opened.runs, condition, sort=statements.NEWEST, limit=limit)
        return [run_from(document) for document in found]

    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        opened = self._opened()
        await opened.outbox.move_all()
        # The oldest rows go, either up to an instant or up to the newest that is one too many: whichever leaves less.
        place: dict[str, Any] = {"sort": statements.NEWEST, "skip": keep, "limit": 1, "hint": "newest"}
        condition: Document = {"recorded_at": {"$lt": before}}
        for surplus in await opened.database.find(opened.runs, {}, {"recorded_at": 1}, **place):
            if surplus["recorded_at"] >= before:
                condition = statements.older(surplus["recorded_at"], surplus["_id"], or_equal=True)
        await opened.outbox.forget(condition)
        oldest: dict[str, Any] = {"sort": statements.OLDEST, "limit": _PRUNE_BATCH}
        total = 0
        while found := await opened.database.find(opened.runs, condition, {"_id": 1}, **oldest):
            still = {"_id": {"$in": [document["_id"] for document in found]}, **condition}
            done = await opened.database.write(partial(opened.runs.delete_many, still), repeatable=True)
            total += done.deleted_count
        return total

    # -- push ----------------------------------------------------------------------------------------------------------------

    async def watch(self) -> AsyncIterator[None]:
        opened = self._opened()
        async with aclosing(opened.database.changes(opened.schedules, statements.NEWS)) as changes:
            async for _ in changes:
                yield

    # -- helpers -------------------------------------------------------------------------------------------------------------

    def _opened(self) -> _Opened:
        if self._open is None:
            raise SourceClosedError(f"{self!r} is not open: await startup() first")
        return self._open

    async def _find(self, condition: Document, fields: Document | None = None, **options: Any) -> list[Document]:
        opened = self._opened()
        return await opened.database.find(opened.schedules, condition, fields, **options)

    async def _ids(self, condition: Document) -> set[str]:
        return {document["_id"] for document in await self._find(condition, {"_id": 1}, hint="_id_")}

    async def _existing(self, ids: Collection[str]) -> set[str]:
        return {schedule_id for some in portions(ids, _MOST_IDS) for schedule_id in await self._ids(statements.alive(some))}


class StandaloneMongoStore(MongoStore):
    """The same on a single server that belongs to no replica set: it has no change streams, and dispatchers poll.

    It does on replica sets too, wherever change streams are not wanted.
    """

    capabilities: ClassVar[Capabilities] = replace(MongoStore.capabilities, push=False)

    watch = ScheduleStore.watch
