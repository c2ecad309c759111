"""`MongoStore`: the store contract on collections of a MongoDB database; `StandaloneMongoStore` for a server by itself.

What is asked of the server is in :mod:`taskiq_sources_mongo.statements`. A statement is atomic for each schedule, and nothing in
here relies on more; what does is in :mod:`taskiq_sources_mongo.settling`.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar
from urllib.parse import unquote

from pymongo import InsertOne, MongoClient, ReturnDocument

from taskiq_sources.backends import SessionStore, check_durations, portions
from taskiq_sources.clock import floor_ms
from taskiq_sources.errors import RevisionConflictError, ScheduleNotFoundError, ScheduleValidationError
from taskiq_sources.models import Capabilities, Claim, Outcome, Run, RunQuery, ScheduleChanges, ScheduleQuery, StoredSchedule
from taskiq_sources.store import ScheduleStore
from taskiq_sources_mongo import schema, statements
from taskiq_sources_mongo.addresses import address_of
from taskiq_sources_mongo.database import Client, Database, connect
from taskiq_sources_mongo.documents import Document, claim_from, new_schedule, run_from, schedule_from
from taskiq_sources_mongo.outbox import Outbox
from taskiq_sources_mongo.settling import settle
from taskiq_sources_mongo.statements import alive

_DEFAULT_DATABASE = "taskiq"

#: How many ids are named in one statement: of the longest there are, they still fit into a message.
_MOST_IDS = 5_000

#: How many schedules are claimed or settled, and how many history rows written, in one statement.
_BATCH = 1_000

_PRUNE_BATCH = 5_000

#: How many schedules `next_due` looks at: the first, and if that is in flight, more and more.
_FIRST_WINDOWS = (1, 100)
_WINDOW_GROWTH = 10


class MongoStore(SessionStore[Database]):
    """Schedules in the collections ``<prefix>schedules`` and ``<prefix>runs`` of a replica set or a sharded cluster.

    A call whose connection breaks is repeated where that is the same as doing it once, which is nearly everywhere. `put` and
    `update` are left to the driver, which repeats them on a replica set.

    Args:
        url: ``mongodb://user:password@host:27017/database``, with any option that PyMongo takes.
        client: A ``pymongo.AsyncMongoClient`` or Motor's ``AsyncIOMotorClient`` to use instead, which stays open. It belongs to
            the event loop that it was used in first, and so do the stores that it is given to.
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
        super().__init__()
        check_durations(connect_timeout=connect_timeout, command_timeout=command_timeout)
        if (url is None) == (client is None):
            raise ScheduleValidationError("url", "…" if url else url, "give either a url or a client")
        if isinstance(client, MongoClient):
            raise ScheduleValidationError("client", type(client), "use a pymongo.AsyncMongoClient or a motor AsyncIOMotorClient")
        if client is not None:
            name = database or client.get_default_database(_DEFAULT_DATABASE).name
            self._where = f"MongoDB (a client of the application's), database {name!r}"
        else:
            address = address_of(url or "")
            name = database or address.path or _DEFAULT_DATABASE
            self._where = f"MongoDB at {unquote(address.hosts)}, database {name!r}"
            self._connect = partial(connect, self._where, url or "", address.options, connect_timeout, command_timeout)
        schema.check_names(name, prefix)
        self._client = client
        self._name = name
        self._prefix = prefix

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where}, collections {self._prefix}*)"

    # -- lifecycle -----------------------------------------------------------------------------------------------------------

    def _begin(self) -> Database:
        client = self._connect() if self._client is None else self._client
        return Database(self._where, client, owned=self._client is None, name=self._name, prefix=self._prefix)

    async def _prepare(self, session: Database) -> None:
        await schema.prepare(session, push=self.capabilities.push)
        await Outbox(session).move_all()

    async def _end(self, session: Database) -> None:
        await session.close()

    async def now(self) -> datetime:
        hello = await self._session.hello()
        return floor_ms(hello["localTime"])

    # -- definitions ---------------------------------------------------------------------------------------------------------

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        database = self._session
        given = {schedule.id: schedule for schedule in schedules}
        absent = {schedule.id: InsertOne(new_schedule(schedule)) for schedule in schedules}
        _, left = await database.write_each(database.schedules, absent, repeatable=False)
        existing: set[str] = set()
        while left:
            writes = {schedule_id: statements.upsert(given[schedule_id], replace=replace) for schedule_id in left}
            created, refused = await database.write_each(database.schedules, writes, repeatable=False)
            existing |= left - created - refused
            # In the way of a new schedule is one that has finished but is not quite gone, or one that somebody else just stores.
            await Outbox(database).move_of(refused)
            left = refused
        return frozenset(existing)

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        found = [schedule_from(document) for some in portions(ids, _MOST_IDS) for document in await self._find(alive(some))]
        return {schedule.id: schedule for schedule in found}

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        found = await self._find(statements.matching(query, after), sort=[("_id", 1)], limit=limit)
        return [schedule_from(document) for document in found]

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        database = self._session
        existed: set[str] = set()
        for some in portions(ids, _MOST_IDS):
            left = await database.ids(alive(some))
            existed |= left
            while left:
                ready = {**alive(left), "outbox.batch": {"$exists": False}}
                done = await database.write(database.schedules.delete_many, ready, hint="_id_")
                if done.deleted_count == len(left):
                    break
                await Outbox(database).move_of(left)  # the history of a schedule stays
                left = await database.ids(alive(left))
        return frozenset(existed)

    async def update(
        self,
        id: str,  # noqa: A002 - the field's own word
        changes: ScheduleChanges,
        *,
        expected_revision: int | None = None,
    ) -> StoredSchedule:
        database = self._session
        condition = alive([id]) if expected_revision is None else {**alive([id]), "revision": expected_revision}
        how: dict[str, Any] = {"return_document": ReturnDocument.AFTER, "repeatable": False}
        while True:
            edited = await database.write(database.schedules.find_one_and_update, condition, statements.edit(changes), **how)
            if edited is not None:
                return schedule_from(edited)
            found = await self._find(alive([id]), {"revision": 1})
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
        fields = {"next_run_at": 1, "revision": 1, "lease_until": 1, "settles_in": 1}
        options: dict[str, Any] = {"fields": fields, "sort": statements.OLDEST_DUE, "limit": limit}
        if ids is None:
            found = await self._find(statements.eligible(now, horizon), hint="due", **options)
        else:
            batches = [statements.eligible(now, horizon, some) for some in portions(ids, _MOST_IDS)]
            found = [document for batch in batches for document in await self._find(batch, hint="_id_", **options)]
            found.sort(key=lambda document: (document["next_run_at"], document["_id"]))
        del found[limit:]
        # Whoever let a lease end may have died amid a transaction, which would hold us off for a minute.
        former = {document.get("settles_in") for document in found if document["lease_until"] is not None}
        await self._session.end_transactions(former)
        return {document["_id"]: document["revision"] for document in found}

    async def _take(
        self, revisions: Mapping[str, int], now: datetime, horizon: datetime, claimant: str, lease_until: datetime
    ) -> list[Claim]:
        """Claim those of these schedules that still may be claimed."""
        database, token = self._session, uuid.uuid4().hex
        free = statements.eligible(now, horizon, revisions)
        taken = statements.take(token, claimant, lease_until, database.session_id)
        # Whether it was done once, or twice because the first answer was lost: what has our token is ours.
        await database.write(database.schedules.update_many, free, taken, hint="_id_")
        claims, moved = [], []
        for document in await self._find({"_id": {"$in": list(revisions)}, "token": token}, hint="_id_"):
            found_at = revisions[document["_id"]]
            if document["timing_revision"] > found_at or document["revision"] < found_at:
                moved.append(document["_id"])  # edited since it was found, or made anew: it may not be due any more
            else:
                document["revision"] = found_at
                claims.append(claim_from(document, now=now))
        if moved:
            ours = {"_id": {"$in": moved}, "token": token}
            await database.write(database.schedules.update_many, ours, statements.GIVE_BACK)
        return claims

    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        database = self._session
        ours: set[str] = set()
        for some in portions(claims, _BATCH):
            held = statements.held(some)
            done = await database.write(database.schedules.update_many, held, {"$set": {"lease_until": until}}, hint="_id_")
            named = {claim.schedule.id for claim in some}
            ours |= named if done.matched_count == len(named) else await database.ids(held)
        return frozenset(ours)

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        database = self._session
        lost: set[str] = set()
        for some in _batches(outcomes):
            lost |= await settle(database, some)
        return frozenset(lost)

    async def next_due(self, now: datetime) -> datetime | None:
        window, larger = _FIRST_WINDOWS
        while True:
            options: dict[str, Any] = {"sort": statements.OLDEST_DUE, "limit": window, "hint": "due"}
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
        database = self._session
        await Outbox(database).move_all()
        found = await database.find(database.runs, statements.recorded(query, after), sort=statements.NEWEST, limit=limit)
        return [run_from(document) for document in found]

    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        database, outbox = self._session, Outbox(self._session)
        await outbox.move_all()
        # The oldest rows go, either up to an instant or up to the newest that is one too many: whichever leaves less.
        place: dict[str, Any] = {"sort": statements.NEWEST, "skip": keep, "limit": 1, "hint": "newest"}
        condition: Document = {"recorded_at": {"$lt": before}}
        for surplus in await database.find(database.runs, {}, {"recorded_at": 1}, **place):
            if surplus["recorded_at"] >= before:
                condition = statements.older(surplus["recorded_at"], surplus["_id"], or_equal=True)
        await outbox.forget(condition)
        total = 0
        while found := await database.find(database.runs, condition, {"_id": 1}, sort=statements.OLDEST, limit=_PRUNE_BATCH):
            still = {"_id": {"$in": [document["_id"] for document in found]}, **condition}
            total += (await database.write(database.runs.delete_many, still)).deleted_count
        return total

    # -- push ----------------------------------------------------------------------------------------------------------------

    async def watch(self) -> AsyncIterator[None]:
        database = self._session
        async with aclosing(database.changes(database.schedules, statements.NEWS)) as changes:
            async for _ in changes:
                yield

    # -- helpers -------------------------------------------------------------------------------------------------------------

    async def _find(self, condition: Document, fields: Document | None = None, **options: Any) -> list[Document]:
        return await self._session.find(self._session.schedules, condition, fields, **options)


class StandaloneMongoStore(MongoStore):
    """The same on a single server that belongs to no replica set: it has no change streams, and dispatchers poll.

    It does on replica sets too, wherever change streams are not wanted.
    """

    capabilities: ClassVar[Capabilities] = replace(MongoStore.capabilities, push=False)

    watch = ScheduleStore.watch


def _batches(outcomes: Sequence[Outcome]) -> Iterator[list[Outcome]]:
    """Yield the outcomes in lists that are written at once: of at least one, and of hardly more history rows than outcomes."""
    batch: list[Outcome] = []
    rows = 0
    for outcome in outcomes:
        if len(batch) >= _BATCH or (batch and rows + len(outcome.runs) > _BATCH):
            yield batch
            batch, rows = [], 0
        batch.append(outcome)
        rows += len(outcome.runs)
    if batch:
        yield batch
