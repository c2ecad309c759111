"""`MongoStore`: the store contract on collections of a MongoDB database; `StandaloneMongoStore` for a server by itself.

What is asked of the server is in :mod:`taskiq_sources_mongo.statements`. A statement is atomic for each schedule, and nothing in
here relies on more; what does is in :mod:`taskiq_sources_mongo.settling`.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import ClassVar
from urllib.parse import unquote

from pymongo import InsertOne, MongoClient, UpdateOne

from taskiq_sources.backends import (
    WHEN,
    SessionStore,
    changed_fields,
    check_durations,
    check_either,
    check_revision,
    portions,
    some_of,
)
from taskiq_sources.clock import floor_ms
from taskiq_sources.errors import ScheduleValidationError, SourceConnectionError
from taskiq_sources.models import Capabilities, Claim, Outcome, Run, RunQuery, ScheduleChanges, ScheduleQuery, StoredSchedule
from taskiq_sources.store import ScheduleStore
from taskiq_sources_mongo import outbox, schema
from taskiq_sources_mongo.addresses import address_of
from taskiq_sources_mongo.database import Client, Database, aware, connect
from taskiq_sources_mongo.documents import Document, claim_from, columns, new_schedule, run_from, schedule_from
from taskiq_sources_mongo.settling import settle
from taskiq_sources_mongo.statements import statement

_DEFAULT_DATABASE = "taskiq"
_FOREVER = datetime.max.replace(tzinfo=timezone.utc)

#: How many ids are named in one statement: of the longest there are, they still fit into a message.
_MOST_IDS = 5_000

#: How many schedules are claimed or settled, and how many history rows written, in one statement.
_BATCH = 1_000

#: So much is written in one settle: a message holds twice that, and a transaction must fit into a part of the server's cache.
_BATCH_BYTES = 8 * 1024 * 1024

#: So often a claim looks beyond what its batches need, for what others have edited or taken between its looking and its taking.
_ROUNDS = 10

_PRUNE_BATCH = 5_000


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
        command_timeout: How long an answer may take, and for how long is waited for a free connection, or for settles before one.

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
        check_either(url=url, client=client)
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
        self._command_timeout = command_timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where}, collections {self._prefix}*)"

    # -- lifecycle -----------------------------------------------------------------------------------------------------------

    def _begin(self) -> Database:
        client = self._connect() if self._client is None else self._client
        options: Document = {"name": self._name, "prefix": self._prefix, "timeout": self._command_timeout}
        return Database(self._where, client, owned=self._client is None, **options)

    async def _prepare(self, session: Database) -> None:
        await schema.prepare(session, push=self.capabilities.push)
        await outbox.move_all(session)

    async def now(self) -> datetime:
        hello = await self._session.hello()
        return floor_ms(hello["localTime"])

    # -- definitions ---------------------------------------------------------------------------------------------------------

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        database = self._session
        given = {schedule.id: new_schedule(schedule) for schedule in schedules}
        _, left = await database.write_each(database.schedules, {name: InsertOne(new) for name, new in given.items()})
        existing: set[str] = set()
        while left:
            upserts = {name: UpdateOne(**statement("put", {"id": name, "new": given[name], "replace": replace})) for name in left}
            created, refused = await database.write_each(database.schedules, upserts)
            existing |= left - created - refused
            # In the way of a new schedule is one that has finished but is not quite gone, or one that somebody else just stores.
            await outbox.move_of(database, refused)
            left = refused
        return frozenset(existing)

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        database = self._session
        found = [document for some in portions(ids, _MOST_IDS) for document in await database.run("get", ids=some)]
        return {document["_id"]: schedule_from(document) for document in found}

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        all_states = query.paused is None and query.quarantined is None
        due = {"due_of_all": query.due_before if all_states else None, "due_of_these": None if all_states else query.due_before}
        found = await self._session.run("page", **asdict(query), **due, after=after, limit=limit)
        return [schedule_from(document) for document in found]

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        database = self._session
        existed: set[str] = set()
        for some in portions(ids, _MOST_IDS):
            left = some
            while left := list(await database.ids("alive", ids=left)):
                deleted, may_be_others = await self._delete(left)
                if deleted or may_be_others:
                    existed.update(left)
                if deleted == len(left):
                    break
                await outbox.move_of(database, left)  # the history of a schedule stays
        return frozenset(existed)

    async def _delete(self, ids: list[str]) -> tuple[int, bool]:
        """Delete what has no outbox; return how many, and whether somebody else may have deleted those that are missing."""
        if len(ids) == 1:
            with suppress(SourceConnectionError):  # it may have been done: then it was there, as far as can be known
                return (await self._session.run("delete_one", id=ids[0])).deleted_count, False
        return (await self._session.run("delete", ids=ids)).deleted_count, True

    async def update(
        self,
        id: str,  # noqa: A002 - the field's own word
        changes: ScheduleChanges,
        *,
        expected_revision: int | None = None,
    ) -> StoredSchedule:
        given = changed_fields(changes)
        edit = {"changes": given, "of_when": not WHEN.isdisjoint(given), "expected_revision": expected_revision}
        while True:
            edited = await self._session.run("update", id=id, **edit)
            if edited is not None:
                return schedule_from(aware(edited))
            found = await self._session.run("alive", ids=[id])
            check_revision(id, found[0]["revision"] if found else None, expected_revision)

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
        claims: dict[str, Claim] = {}
        window = {"now": now, "horizon": now + early}
        beaten = 0
        try:
            for _ in range(limit // _BATCH + _ROUNDS):
                wanted = min(limit - len(claims), _BATCH)
                # Where many look for the oldest, all but one come too late. Whoever did looks further.
                found = await self._eligible(window, min(wanted << beaten, _BATCH), ids)
                picked = some_of(found, wanted)
                taken = await self._take(picked, window, claimant, floor_ms(now + lease)) if picked else []
                claims.update((claim.schedule.id, claim) for claim in taken)
                if len(claims) == limit:
                    break
                # What others have edited is not to be missed, where it is asked for by its id. Else what we hold is not to wait.
                if len(found) < wanted and (len(taken) == len(found) or (claims and ids is None)):
                    break
                beaten += len(taken) < len(picked)
        except SourceConnectionError:
            # What has been taken is kept from others until its lease ends. An error that lasts comes again with the next call.
            if not claims:
                raise
        return sorted(claims.values(), key=lambda claim: (claim.schedule.next_run_at or now, claim.schedule.id))

    async def _eligible(self, window: Document, limit: int, ids: Collection[str] | None) -> list[Document]:
        """Return the oldest that may be claimed."""
        database = self._session
        places = [("due", None)] if ids is None else [("_id_", some) for some in portions(ids, _MOST_IDS)]
        place = {**window, "limit": limit, "fields": None}
        offers = [await database.run("eligible", **place, index=index, ids=some) for index, some in places]
        # One that has moved on while it was looked for is found at both places, and is as it was found last.
        latest = {one["_id"]: one for one in chain(*offers)}.values()
        found = sorted(latest, key=itemgetter("next_run_at", "_id"))[:limit]
        # Whoever let a lease end may have died amid a transaction, which would hold us off for a minute.
        await database.end_transactions({name for one in found if one["lease_until"] for name in one["settles_in"]})
        return found

    async def _take(self, found: Sequence[Document], window: Document, claimant: str, lease_until: datetime) -> list[Claim]:
        """Claim those of these that are as they were found: what others have edited or taken meanwhile is left alone."""
        database, token = self._session, uuid.uuid4().hex
        ids, versions = [one["_id"] for one in found], [one["version"] for one in found]
        marks = {"token": token, "claimant": claimant, "lease_until": lease_until}
        done = await database.run("claim", **window, **marks, session_ids=database.session_ids, ids=ids, versions=versions)
        if done.modified_count < len(found):  # or it was done twice, because the first answer was lost
            ours = await database.ids("claimed", ids=ids, token=token)
            found = [one for one in found if one["_id"] in ours]
        return [claim_from({**one, **marks, "attempt": one["attempt"] + 1}, now=window["now"]) for one in found]

    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        database = self._session
        ours: set[str] = set()
        for some in portions(claims, _BATCH):
            held = columns(some)
            done = await database.run("renew", **held, until=until)
            named = set(held["ids"])
            ours |= named if done.matched_count == len(named) else await database.ids("held", **held)
        return frozenset(ours)

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        database = self._session
        lost: set[str] = set()
        for some in portions(outcomes, _BATCH_BYTES, _weight):
            lost |= await settle(database, some)
        return frozenset(lost)

    async def next_due(self, now: datetime) -> datetime | None:
        database = self._session
        place = {"now": now, "horizon": _FOREVER, "index": "due", "ids": None, "limit": 1}
        free = await database.run("eligible", **place, fields={"next_run_at": 1})
        horizon = free[0]["next_run_at"] if free else _FOREVER
        leased = await database.run("in_flight", horizon=horizon)
        return min((one["next_run_at"] for one in [*free, *leased]), default=None)

    # -- history -------------------------------------------------------------------------------------------------------------

    async def runs(self, query: RunQuery, *, after: Run | None = None, limit: int) -> list[Run]:
        database = self._session
        await outbox.move_all(database)
        place = {"after_recorded_at": after and after.recorded_at, "after_id": after and after.occurrence_id}
        return [run_from(document) for document in await database.run("runs", **asdict(query), **place, limit=limit)]

    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        database = self._session
        await outbox.move_all(database)
        # The oldest rows go, either up to an instant or up to the newest that is one too many: whichever leaves less.
        surplus = [(row["recorded_at"], row["_id"]) for row in await database.run("surplus", keep=keep)]
        recorded_at, row_id = max([(before, ""), *surplus])
        place = {"recorded_at": recorded_at, "id": row_id}
        await database.run("forget", **place)
        total = 0
        while found := await database.ids("outdated", **place, limit=_PRUNE_BATCH):
            total += (await database.run("prune", **place, ids=list(found))).deleted_count
        return total

    # -- push ----------------------------------------------------------------------------------------------------------------

    def watch(self) -> AsyncIterator[None]:
        return self._session.changes()


def _weight(outcome: Outcome) -> int:
    """Return how many bytes an outcome has the server write: of the document too, which it writes anew; a row counts as many."""
    texts = [outcome.claim.schedule.document, outcome.last_error, *(run.error for run in outcome.runs)]
    return max(sum(len(text.encode()) for text in texts if text), max(1, len(outcome.runs)) * _BATCH_BYTES // _BATCH)


class StandaloneMongoStore(MongoStore):
    """The same on a single server that belongs to no replica set: it has no change streams, and dispatchers poll.

    It does on replica sets too, wherever change streams are not wanted.
    """

    capabilities: ClassVar[Capabilities] = replace(MongoStore.capabilities, push=False)

    watch = ScheduleStore.watch
