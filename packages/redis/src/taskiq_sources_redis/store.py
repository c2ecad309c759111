"""`RedisStore`: the store contract on Redis: what is asked of which script, and how the answers of the shards become one.

What an operation does is in ``lua``, one file each; how it gets there is in :mod:`taskiq_sources_redis.server`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, ClassVar

from redis.asyncio import Redis, RedisCluster

from taskiq_sources.clock import from_ms, to_ms
from taskiq_sources.errors import (
    RevisionConflictError,
    ScheduleNotFoundError,
    ScheduleValidationError,
    SourceClosedError,
    redact_url,
)
from taskiq_sources.models import (
    UNSET,
    Capabilities,
    Claim,
    Outcome,
    Run,
    RunQuery,
    ScheduleChanges,
    ScheduleQuery,
    StoredSchedule,
)
from taskiq_sources.store import ScheduleStore
from taskiq_sources_redis.clients import Client, address_of, make_client
from taskiq_sources_redis.opening import prepare
from taskiq_sources_redis.records import (
    digest,
    pack_edit,
    pack_instant,
    pack_lease,
    pack_outcome,
    pack_schedule,
    status_letter,
    time_key,
    unpack_run,
    unpack_schedule,
)
from taskiq_sources_redis.server import Server
from taskiq_sources_redis.shards import BATCH, Keys, Part, Shards, together

_MOST_SHARDS = 1_024
_PRUNE_BATCH = 2_000
_END = b":"  # behind every time of history: a colon comes after the digits

#: Editing one of these is an edit of *when*.
_WHEN = ("timing", "scheduled_for", "next_run_at")


class RedisStore(ScheduleStore):
    """Schedules in Redis. The arguments are those of `RedisScheduleSource`."""

    capabilities: ClassVar[Capabilities] = Capabilities(shared=True, durable=True, push=True)

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Any = None,
        prefix: str = "taskiq-sources",
        shards: int = 1,
        timeout: timedelta = timedelta(seconds=5),
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        if (url is None) == (client is None):
            raise ScheduleValidationError("url", url and redact_url(url), "give either a URL or a client")
        if client is not None and not isinstance(client, (Redis, RedisCluster)):
            raise ScheduleValidationError("client", type(client), "use a redis.asyncio.Redis or a redis.asyncio.RedisCluster")
        if not 1 <= shards <= _MOST_SHARDS:
            raise ScheduleValidationError("shards", shards, f"use a number from 1 to {_MOST_SHARDS}")
        if timeout <= timedelta(0):
            raise ScheduleValidationError("timeout", timeout, "use a positive time")
        self._url, self._client, self._timeout, self._client_options = url, client, timeout, client_options or {}
        self._make_client()  # a URL that is not valid is refused now, not when the source is opened
        self._where = address_of(client) if url is None else redact_url(url)
        self._prefix = prefix
        self._shards = Shards(prefix, shards)
        self._server: Server | None = None
        self._switching = asyncio.Lock()  # held while it is opened or closed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where!r}, prefix={self._prefix!r})"

    # -- lifecycle -----------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        async with self._switching:
            if self._server is not None:
                return
            server = Server(*self._make_client(), where=self._where)
            try:
                await prepare(server, self._shards, self._prefix)
            except BaseException:
                await server.close()
                raise
            self._server = server

    async def close(self) -> None:
        async with self._switching:
            server, self._server = self._server, None
            if server is not None:
                await server.close()

    async def now(self) -> datetime:
        seconds, microseconds = await self._opened().command(self._shards.keys[0][0], "TIME")
        return from_ms(int(seconds) * 1000 + int(microseconds) // 1000)

    # -- definitions ---------------------------------------------------------------------------------------------------------

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        parts = ((one.id, (one.id.encode(), pack_schedule(one), one.document.encode())) for one in schedules)
        return _ids(await self._shards.run_batches(self._opened(), "put", parts, self._shards.channel, int(replace)))

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        found = await self._shards.run_batches(self._opened(), "get", _each_id(ids))
        return {one.id: one for one in _schedules(found)}

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        kinds = [b"i"]
        kinds += [] if query.task_name is None else [b"t" + digest(query.task_name)]
        kinds += [] if query.owner is None else [b"o" + digest(query.owner)]
        kinds += [kind for kind, flag in ((b"p", query.paused), (b"q", query.quarantined)) if flag]
        due_before = b"" if query.due_before is None else to_ms(query.due_before)
        flags = [b"" if flag is None else int(flag) for flag in (query.paused, query.quarantined)]
        filters = (due_before, *flags, *kinds)

        async def page_of(keys: Keys) -> list[StoredSchedule]:
            found: list[StoredSchedule] = []
            start = (after or "").encode()
            while len(found) < limit:
                start, *more = await self._opened().run("page", keys, start, limit - len(found), *filters)
                found += [
                    one
                    for one in _schedules([more])
                    if query.task_name in (None, one.task_name) and query.owner in (None, one.owner)
                ]
                if not start:
                    break
            return found

        pages = await together([page_of(keys) for keys in self._shards.keys])
        return sorted((one for page in pages for one in page), key=lambda one: one.id)[:limit]

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        return _ids(await self._shards.run_batches(self._opened(), "delete", _each_id(ids), self._shards.channel))

    async def update(
        self,
        id: str,  # noqa: A002 - the field's own word
        changes: ScheduleChanges,
        *,
        expected_revision: int | None = None,
    ) -> StoredSchedule:
        given = {field.name: getattr(changes, field.name) for field in fields(changes)}
        given = {name: value for name, value in given.items() if value is not UNSET}
        documents = [given.pop("document").encode()] if "document" in given else []
        edits_when = int(not given.keys().isdisjoint(_WHEN))
        expected = b"" if expected_revision is None else expected_revision
        edits = [part for name, value in given.items() for part in (name.encode(), pack_edit(name, value))]
        keys = self._shards.of(id)
        answer, *found = await self._opened().run(
            "update", keys, self._shards.channel, id.encode(), expected, edits_when, len(documents), *documents, *edits
        )
        if answer == b"missing":
            raise ScheduleNotFoundError(id)
        if answer == b"conflict":
            raise RevisionConflictError(id, expected_revision or 0, found[0])
        return next(_schedules([found]))

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
        token = uuid.uuid4().hex
        taken = await self._take(
            (to_ms(now), to_ms(now + early)),
            limit,
            pack_lease(token, now + lease, claimant),
            None if ids is None else dict.fromkeys(ids),
        )
        taken.sort(key=lambda one: (one.next_run_at or now, one.id))
        return [Claim(schedule=schedule, token=token, claimed_at=now, lease_until=now + lease) for schedule in taken]

    async def _take(self, window: tuple[int, int], limit: int, mark: bytes, ids: Collection[str] | None) -> list[StoredSchedule]:
        """Claim the oldest of all, or of `ids`."""
        taken: list[StoredSchedule] = []
        chosen: Collection[str] = ()
        while (wanted := limit - len(taken)) > 0:
            if ids is None and len(self._shards.keys) == 1:
                asked = min(wanted, BATCH)
                more = list(_schedules([await self._opened().run("claim", self._shards.keys[0], *window, asked, b"all", mark)]))
                is_last = len(more) < asked
            else:
                before, chosen = chosen, await self._choose(window, wanted, ids)
                claim = self._shards.run_batches(self._opened(), "claim", _each_id(chosen), *window, wanted, b"ids", mark)
                more = list(_schedules(await claim))
                # Where others were faster with what was chosen, there may be something else to choose.
                is_last = len(more) == len(chosen) < wanted or chosen == before or (ids is not None and len(ids) <= limit)
            taken += more
            if is_last:
                break
        return taken

    async def _choose(self, window: tuple[int, int], limit: int, ids: Collection[str] | None) -> Collection[str]:
        """Return the ids of what is to be claimed: the oldest of all shards, or of `ids` if those are too many."""
        if ids is None:
            offers = await self._shards.run(self._opened(), "peek", *window, limit, b"all")
        elif len(ids) <= limit:
            return ids
        else:
            offers = await self._shards.run_batches(self._opened(), "peek", _each_id(ids), *window, limit, b"ids")
        oldest = sorted(pair for offer in offers for pair in zip(offer[1::2], offer[::2], strict=True))[:limit]
        return [schedule_id.decode() for _, schedule_id in oldest]

    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        parts = ((claim.schedule.id, (claim.schedule.id.encode(), claim.token.encode())) for claim in claims)
        return _ids(await self._shards.run_batches(self._opened(), "renew", parts, pack_instant(until)))

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        parts = ((outcome.claim.schedule.id, pack_outcome(outcome)) for outcome in outcomes)
        return _ids(await self._shards.run_batches(self._opened(), "settle", parts, self._shards.channel))

    async def next_due(self, now: datetime) -> datetime | None:
        found = await self._shards.run(self._opened(), "next_due", to_ms(now))
        return min((from_ms(one) for one in found if one is not None), default=None)

    # -- history: a row is in the shard of the schedule that was settled -----------------------------------------------------

    async def runs(self, query: RunQuery, *, after: Run | None = None, limit: int) -> list[Run]:
        status = b"" if query.status is None else status_letter(query.status)
        kind = b"r"
        if query.schedule_id is not None:
            kind = b"s" + digest(query.schedule_id)
        elif query.status is not None and query.status != "sent":  # sent ones are most: they have no list of their own
            kind = status
        uppers = [_END]
        uppers += [] if query.until is None else [time_key(query.until)]
        uppers += [] if after is None else [time_key(after.recorded_at) + after.occurrence_id.encode()]
        low = b"[" + kind + (b"" if query.since is None else time_key(query.since))

        async def runs_of(keys: Keys) -> list[Run]:
            found: list[Run] = []
            high = kind + min(uppers)
            while len(found) < limit:
                high, *more = await self._opened().run("runs", keys, kind, b"(" + high, low, limit - len(found), status)
                rows = (unpack_run(*pair) for pair in zip(more[::2], more[1::2], strict=True))
                found += [row for row in rows if query.schedule_id in (None, row.schedule_id)]
                if not high:
                    break
            return found

        pages = await together([runs_of(keys) for keys in self._shards.keys])
        newest_first = sorted((row for page in pages for row in page), key=lambda row: (row.recorded_at, row.occurrence_id))[::-1]
        return newest_first[:limit]

    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        pruned = await self._prune_below(b"r" + time_key(before))
        while True:
            counts = [count for count, _ in await self._shards.run(self._opened(), "oldest_runs", 0)]
            surplus = min(sum(counts) - keep, _PRUNE_BATCH)
            if surplus <= 0:
                return pruned
            heads = await self._shards.run(self._opened(), "oldest_runs", surplus + 1)
            oldest = sorted(member for _, members in heads for member in members)
            pruned += await self._prune_below([*oldest, b"r" + _END][surplus])

    async def _prune_below(self, member: bytes) -> int:
        """Delete the rows that come before a member of the index of history, letting others go between the batches."""
        pruned = 0
        for keys in self._shards.keys:
            more = True
            while more:
                deleted = await self._opened().run("prune_runs", keys, member, _PRUNE_BATCH)
                pruned += deleted
                more = deleted == _PRUNE_BATCH
        return pruned

    # -- push ----------------------------------------------------------------------------------------------------------------

    def watch(self) -> AsyncIterator[None]:
        return self._opened().watch(self._shards.channel)

    # -- helpers -------------------------------------------------------------------------------------------------------------

    def _make_client(self) -> Client:
        if self._url is None:
            return self._client, []
        return make_client(self._url, self._timeout, self._client_options)

    def _opened(self) -> Server:
        if self._server is None:
            raise SourceClosedError(f"the store of {self._where} is not open: await startup() first")
        return self._server


def _schedules(answers: Iterable[Sequence[list[Any]]]) -> Iterator[StoredSchedule]:
    """Yield the schedules of answers that each are lists of ids, records, leases and documents."""
    for answer in answers:
        for schedule_id, record, lease, document in zip(*answer, strict=True):
            if record is not None:
                yield unpack_schedule(schedule_id, record, lease, document or b"")


def _ids(answers: Iterable[list[bytes]]) -> frozenset[str]:
    return frozenset(schedule_id.decode() for answer in answers for schedule_id in answer)


def _each_id(ids: Iterable[str]) -> Iterator[Part]:
    return ((schedule_id, (schedule_id.encode(),)) for schedule_id in ids)
