"""`RedisStore`: the store contract on Redis: what is asked of which script, and how the answers of the shards become one.

What an operation does is in ``lua``, one file each; how it gets there is in :mod:`taskiq_sources_redis.server`.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, ClassVar, TypeVar

from redis.asyncio import Redis, RedisCluster

from taskiq_sources.backends import WHEN, SessionStore, changed_fields, check_durations, together
from taskiq_sources.clock import from_ms, to_ms
from taskiq_sources.errors import (
    BackendVersionError,
    RevisionConflictError,
    ScheduleNotFoundError,
    ScheduleValidationError,
    SchemaVersionError,
    SourceConnectionError,
    redact_url,
)
from taskiq_sources.models import Capabilities, Claim, Outcome, Run, RunQuery, ScheduleChanges, ScheduleQuery, StoredSchedule
from taskiq_sources_redis import records
from taskiq_sources_redis.clients import Client, address_of, make_client
from taskiq_sources_redis.server import Server
from taskiq_sources_redis.shards import BATCH, Keys, Part, Shards

logger = logging.getLogger("taskiq_sources")

T = TypeVar("T")

_SCHEMA_VERSION = 1
_OLDEST_SERVER = (6, 2)
_MOST_SHARDS = 1_024
_PRUNE_BATCH = 2_000
_TOKEN_BYTES = 12  # of randomness; 16 letters
_END = b"\x01"  # behind every time of history, which begin with a zero
_NO_AOF = (
    "Redis at %s keeps no append-only file: when it restarts, schedules written since its last snapshot are gone, and what "
    "was sent since then is sent again. Set 'appendonly yes'."
)
_EVICTS = "Redis at %s may evict schedules when its memory is full (maxmemory-policy %s). Set 'maxmemory-policy noeviction'."


class RedisStore(SessionStore[Server]):
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
        super().__init__()
        if (url is None) == (client is None):
            raise ScheduleValidationError("url", url and redact_url(url), "give either a URL or a client")
        if client is not None and not isinstance(client, (Redis, RedisCluster)):
            raise ScheduleValidationError("client", type(client), "use a redis.asyncio.Redis or a redis.asyncio.RedisCluster")
        if not 1 <= shards <= _MOST_SHARDS:
            raise ScheduleValidationError("shards", shards, f"use a number from 1 to {_MOST_SHARDS}")
        check_durations(timeout=timeout)
        self._url, self._client, self._timeout, self._client_options = url, client, timeout, client_options or {}
        self._make_client()  # a URL that is not valid is refused now, not when the source is opened
        self._where = address_of(client) if url is None else redact_url(url)
        self._prefix = prefix
        self._shards = Shards(prefix, shards)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where!r}, prefix={self._prefix!r})"

    # -- lifecycle -----------------------------------------------------------------------------------------------------------

    def _begin(self) -> Server:
        return Server(*self._make_client(), where=self._where)

    def _make_client(self) -> Client:
        if self._url is None:
            return self._client, []
        return make_client(self._url, self._timeout, self._client_options)

    async def _prepare(self, session: Server) -> None:
        keys = self._shards.keys
        told = await session.run("open", keys[0], _SCHEMA_VERSION, len(keys))
        schema, shards, version, role, has_aof, policy = (one.decode() for one in told)
        if int(schema) > _SCHEMA_VERSION:
            problem = f"schema version {schema} under prefix {self._prefix!r}; this release knows {_SCHEMA_VERSION}: upgrade it"
            raise SchemaVersionError(f"Redis at {self._where}: {problem}")
        if int(shards) != len(keys):
            problem = f"the schedules of prefix {self._prefix!r} are spread over {shards}: use that, or another prefix"
            raise ScheduleValidationError("shards", len(keys), problem)
        if version and tuple(map(int, re.findall(r"\d+", version)[:2])) < _OLDEST_SERVER:
            raise BackendVersionError(f"Redis at {self._where} is version {version}; 6.2 or later is needed")
        if role == "slave":
            raise SourceConnectionError(f"Redis at {self._where} is a read-only replica; connect to the master")
        if has_aof == "0":
            logger.warning(_NO_AOF, self._where)
        if policy not in ("", "noeviction"):
            logger.warning(_EVICTS, self._where, policy)

    async def _end(self, session: Server) -> None:
        await session.close()

    async def now(self) -> datetime:
        seconds, microseconds = await self._session.command(self._shards.keys[0][0], "TIME")
        return from_ms(int(seconds) * 1000 + int(microseconds) // 1000)

    # -- definitions ---------------------------------------------------------------------------------------------------------

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        parts = ((one.id.encode(), records.pack_schedule(one), one.document.encode()) for one in schedules)
        return _ids(await self._run_batches("put", parts, self._shards.channel, int(replace)))

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        answers = await self._run_batches("get", _each(ids))
        return {one.id: one for answer in answers for one in records.unpack_schedules(answer)}

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        kinds = [b""]
        kinds += [] if query.task_name is None else [b"t" + records.digest(query.task_name)]
        kinds += [] if query.owner is None else [b"o" + records.digest(query.owner)]
        kinds += [kind for kind, flag in ((b"p", query.paused), (b"q", query.quarantined)) if flag]
        due_before = b"" if query.due_before is None else to_ms(query.due_before)
        flags = [b"" if flag is None else int(flag) for flag in (query.paused, query.quarantined)]

        def matching(answer: Sequence[bytes]) -> Iterator[StoredSchedule]:
            for one in records.unpack_schedules(answer):
                if query.task_name in (None, one.task_name) and query.owner in (None, one.owner):
                    yield one

        found = await self._list("page", (after or "").encode(), limit, (due_before, *flags, *kinds), matching)
        return sorted(found, key=attrgetter("id"))[:limit]

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        return _ids(await self._run_batches("delete", _each(ids), self._shards.channel))

    async def update(
        self,
        id: str,  # noqa: A002 - the field's own word
        changes: ScheduleChanges,
        *,
        expected_revision: int | None = None,
    ) -> StoredSchedule:
        given = changed_fields(changes)
        edits_when = int(not WHEN.isdisjoint(given))
        expected = b"" if expected_revision is None else expected_revision
        edits = records.join(part for name, value in given.items() for part in (name.encode(), records.pack_edit(name, value)))
        key = id.encode()
        keys = self._shards.of(key)
        answer, *found = await self._session.run("update", keys, self._shards.channel, key, expected, edits_when, edits)
        if answer == b"missing":
            raise ScheduleNotFoundError(id)
        if answer == b"conflict":
            raise RevisionConflictError(id, expected_revision or 0, found[0])
        return next(records.unpack_schedules(found))

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
        token, until, name = secrets.token_urlsafe(_TOKEN_BYTES), now + lease, claimant.encode()
        window = (to_ms(now), to_ms(now + early))
        mark = (to_ms(until), records.pack_lease(token, until, name), name)
        taken: list[StoredSchedule] = []
        while (wanted := min(limit - len(taken), BATCH)) > 0:
            more, offered = await self._take(window, wanted, mark, ids)
            taken += more
            if len(more) == offered < wanted:  # where others were faster with what was offered, there may be something else
                break
        if ids is not None or len(self._shards.keys) > 1:
            taken.sort(key=lambda one: (one.next_run_at or now, one.id))
        return [Claim(schedule=schedule, token=token, claimed_at=now, lease_until=until) for schedule in taken]

    async def _take(
        self, window: tuple[int, int], limit: int, mark: tuple[int, bytes, bytes], ids: Collection[str] | None
    ) -> tuple[list[StoredSchedule], int]:
        """Claim the oldest of all, or of `ids`; with several shards after a look at how many of them are in each.

        Returns:
            What was claimed, and how much there was to claim, up to `limit`.
        """
        if ids is None:
            places = [(keys, b"") for keys in self._shards.keys]
        else:
            batches = self._shards.batches(_each(set(ids)))
            places = [(keys, records.join(batch)) for keys, some in batches.items() for batch in some]
        quotas = Counter({0: limit} if places else {})
        if len(places) > 1:
            offers = await together([self._session.run("peek", keys, *window, limit, given) for keys, given in places])
            due = [(*one, place) for place, offer in enumerate(offers) for one in zip(offer[1::2], offer[::2], strict=True)]
            quotas = Counter(place for *_, place in sorted(due)[:limit])
        answers = await together(
            [self._session.run("claim", places[one][0], *window, quota, *mark, places[one][1]) for one, quota in quotas.items()]
        )
        taken = [schedule for answer in answers for schedule in records.unpack_schedules(answer)]
        return taken, sum(quotas.values()) if len(places) > 1 else len(taken)

    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        parts = ((claim.schedule.id.encode(), records.pack_token(claim.token)) for claim in claims)
        return _ids(await self._run_batches("renew", parts, records.pack_instant(until)))

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        return _ids(await self._run_batches("settle", map(records.pack_outcome, outcomes), self._shards.channel))

    async def next_due(self, now: datetime) -> datetime | None:
        found = await self._run_everywhere("next_due", to_ms(now))
        return min((from_ms(one) for one in found if one is not None), default=None)

    # -- history: a row is in the shard of the schedule that was settled -----------------------------------------------------

    async def runs(self, query: RunQuery, *, after: Run | None = None, limit: int) -> list[Run]:
        status = b"" if query.status is None else records.status_letter(query.status)
        kind = b""
        if query.schedule_id is not None:
            kind = b"s" + records.digest(query.schedule_id)
        elif query.status is not None and query.status != "sent":  # sent ones are most: they have no list of their own
            kind = status
        uppers = [_END]
        uppers += [] if query.until is None else [records.time_key(query.until)]
        uppers += [] if after is None else [records.time_key(after.recorded_at) + after.occurrence_id.encode()]
        low = b"[" + kind + (b"" if query.since is None else records.time_key(query.since))

        def matching(answer: Sequence[bytes]) -> Iterator[Run]:
            return (row for row in records.unpack_runs(answer) if query.schedule_id in (None, row.schedule_id))

        found = await self._list("runs", b"(" + kind + min(uppers), limit, (kind, low, status), matching)
        return sorted(found, key=attrgetter("recorded_at", "occurrence_id"), reverse=True)[:limit]

    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        pruned = await self._prune_below(records.time_key(before))
        while True:
            counts = [count for count, _ in await self._run_everywhere("oldest_runs", 0)]
            surplus = min(sum(counts) - keep, _PRUNE_BATCH)
            if surplus <= 0:
                return pruned
            heads = await self._run_everywhere("oldest_runs", surplus + 1)
            oldest = sorted(member for _, members in heads for member in members)
            pruned += await self._prune_below([*oldest, _END][surplus])

    async def _prune_below(self, member: bytes) -> int:
        """Delete the rows that come before a member of the index of history, letting others go between the batches."""
        pruned = 0
        for keys in self._shards.keys:
            deleted = _PRUNE_BATCH
            while deleted == _PRUNE_BATCH:
                deleted = await self._session.run("prune_runs", keys, member, _PRUNE_BATCH)
                pruned += deleted
        return pruned

    # -- push ----------------------------------------------------------------------------------------------------------------

    def watch(self) -> AsyncIterator[None]:
        return self._session.watch(self._shards.channel)

    # -- over all shards -----------------------------------------------------------------------------------------------------

    async def _run_everywhere(self, script: str, *arguments: Any) -> list[Any]:
        """Run a script in every shard, and return the answers."""
        session = self._session
        return await together([session.run(script, keys, *arguments) for keys in self._shards.keys])

    async def _run_batches(self, script: str, parts: Iterable[Part], *fixed: Any) -> list[Any]:
        """Run a script over many schedules, in batches, all shards at once; return the answers.

        Args:
            script: What.
            parts: What it is told of each schedule.
            fixed: The arguments that come before those.
        """
        session = self._session

        async def run(keys: Keys, batches: Iterable[list[bytes]]) -> list[Any]:
            return [await session.run(script, keys, *fixed, records.join(batch)) for batch in batches]

        answers = await together([run(keys, batches) for keys, batches in self._shards.batches(parts).items()])
        return [answer for of_shard in answers for answer in of_shard]

    async def _list(
        self,
        script: str,
        start: bytes,
        limit: int,
        arguments: Iterable[Any],
        unpack: Callable[[Sequence[bytes]], Iterable[T]],
    ) -> list[T]:
        """Return up to `limit` of what a script lists in each shard; it says where to go on."""
        session = self._session

        async def of_shard(keys: Keys) -> list[T]:
            found: list[T] = []
            position = start
            while True:
                position, *answer = await session.run(script, keys, position, limit - len(found), *arguments)
                found += unpack(answer)
                if not position or len(found) >= limit:
                    return found

        pages = await together([of_shard(keys) for keys in self._shards.keys])
        return [one for page in pages for one in page]


def _ids(answers: Iterable[list[bytes]]) -> frozenset[str]:
    return frozenset(schedule_id.decode() for answer in answers for schedule_id in answer)


def _each(ids: Iterable[str]) -> Iterator[Part]:
    return ((schedule_id.encode(),) for schedule_id in ids)
