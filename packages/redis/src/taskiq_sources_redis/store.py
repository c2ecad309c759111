"""`RedisStore`: the store contract on Redis: what is asked of which script, and how the answers of the shards become one.

What an operation does is in ``lua``, one file each; how it gets there is in :mod:`taskiq_sources_redis.server`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any, ClassVar

from taskiq_sources import errors
from taskiq_sources.backends import SessionStore, changed_fields, check_durations, check_revision, fresh_token, some_of, together
from taskiq_sources.clock import from_ms, to_ms
from taskiq_sources.interpreter import collector_waits
from taskiq_sources.models import Capabilities, Claim, Outcome, Run, RunQuery, ScheduleChanges, ScheduleQuery, StoredSchedule
from taskiq_sources.rows import new_claim
from taskiq_sources_redis import records
from taskiq_sources_redis.records import Part
from taskiq_sources_redis.server import Server
from taskiq_sources_redis.shards import BATCH, Keys, Place, Shards

logger = logging.getLogger("taskiq_sources")

_SCHEMA_VERSION = 2  # of the first, nothing was released
_OLDEST_SERVER = "6.2"
_MOST_SHARDS = 1_024
_MOST_PLACES = 8  # asked at once
_PRUNE_BATCH = 2_000
_REFUSALS = {b"schema": errors.SchemaVersionError, b"version": errors.BackendVersionError, b"role": errors.SourceConnectionError}


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
        if not 1 <= shards <= _MOST_SHARDS:
            raise errors.ScheduleValidationError("shards", shards, f"use a number from 1 to {_MOST_SHARDS}")
        check_durations(timeout=timeout)
        self._new_session = partial(Server, url, client, timeout, client_options or {})
        self._where = self._new_session().where  # a URL that is not valid is refused now, not when the source is opened
        self._prefix = prefix
        self._shards = Shards(prefix, shards)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where!r}, prefix={self._prefix!r})"

    # -- lifecycle -----------------------------------------------------------------------------------------------------------

    async def _prepare(self, session: Server) -> None:
        keys = self._shards.keys
        for kind, text in await session.run("open", keys[0], _SCHEMA_VERSION, len(keys), _OLDEST_SERVER):
            if kind == b"shards":
                raise errors.ScheduleValidationError("shards", len(keys), text.decode())
            finding = f"Redis at {self._where} {text.decode()}"
            if kind != b"warning":
                raise _REFUSALS[kind](finding)
            logger.warning(finding)

    async def now(self) -> datetime:
        return from_ms(await self._session.run("now", self._shards.keys[0]))

    # -- definitions ---------------------------------------------------------------------------------------------------------

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        return _ids(await self._run("put", self._shards.channel, int(replace), parts=records.pack_schedules(schedules)))

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        return {one.id: one for one in records.unpack_schedules(await self._list("get", self._shards.places(_each(ids))))}

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        found = records.unpack_schedules(await self._list("page", self._shards.places(told=(after or "").encode()), limit, query))
        return sorted(found, key=attrgetter("id"))[:limit]

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        return _ids(await self._run("delete", self._shards.channel, parts=_each(ids)))

    async def update(self, id: str, changes: ScheduleChanges, *, expected_revision: int | None = None) -> StoredSchedule:  # noqa: A002
        given = changed_fields(changes)
        edits = [(name.encode(), value.encode() if name == "document" else records.pack(value)) for name, value in given.items()]
        part = (id.encode(), *chain(*edits))
        [(found, *edited)] = await self._run("update", self._shards.channel, records.pack(expected_revision), parts=[part])
        check_revision(id, found, expected_revision)
        return next(records.unpack_schedules([edited]))

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
        token, until = fresh_token(), now + lease
        window = (to_ms(now), to_ms(now + early))
        mark = (to_ms(until), records.pack(token, until, claimant) + b",\n")
        places = self._shards.places(None if ids is None else _each(set(ids)))
        taken: dict[str, StoredSchedule] = {}  # of what was taken, and then deleted and made anew, the new one
        tried: set[bytes] = set()
        beaten = 0

        async def take(wanted: int, keys: Keys, told: bytes) -> int:
            """Take from a place; return how many there were to take that had not been, be they more than an answer holds."""
            is_cut, *answer = await self._session.run("claim", keys, *window, wanted, *mark, told)
            with collector_waits():
                some = list(records.unpack_schedules([answer]))
            new = sum(one.id not in taken for one in some)
            taken.update((one.id, one) for one in some)
            return wanted if is_cut and new else new

        try:
            while (wanted := min(limit - len(taken), BATCH)) > 0:
                if len(places) == 1:
                    if await take(wanted, *places[0]) < wanted:
                        break
                    continue
                # Where many look for the oldest, all but one come too late. Whoever did looks further.
                picked = some_of(await self._oldest(places, window, min(wanted << beaten, BATCH)), wanted)
                chosen = self._shards.places((schedule_id,) for schedule_id in picked)
                found = sum(await together((take(wanted, *place) for place in chosen), at_once=_MOST_PLACES))
                if not found and tried.issuperset(picked):  # what was tried twice in vain cannot be had
                    break
                tried.update(picked)
                beaten += found < len(picked)
        except errors.SourceConnectionError:
            # What has been taken is kept from others until its lease ends. An error that lasts comes again with the next call.
            if not taken:
                raise
        ordered = sorted(taken.values(), key=lambda one: (one.next_run_at or now, one.id))
        with collector_waits():
            return [new_claim(schedule, token, now, until) for schedule in ordered]

    async def _oldest(self, places: Sequence[Place], window: tuple[int, int], limit: int) -> list[bytes]:
        """Return the ids of the oldest of what may be claimed in several places."""
        offers = await self._run("claim", *window, limit, b"", b"", places=places)
        return [schedule_id for _, schedule_id in sorted(chain(*offers))[:limit]]

    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        parts = ((claim.schedule.id.encode(), records.pack(claim.token)) for claim in claims)
        return _ids(await self._run("renew", to_ms(until), parts=parts))

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        return _ids(await self._run("settle", self._shards.channel, parts=records.pack_outcomes(outcomes)))

    async def next_due(self, now: datetime) -> datetime | None:
        found = await self._run("next_due", to_ms(now))
        return min((from_ms(one) for one in found if one is not None), default=None)

    # -- history: a row is in the shard of the schedule that was settled -----------------------------------------------------

    async def runs(self, query: RunQuery, *, after: Run | None = None, limit: int) -> list[Run]:
        start = b"" if after is None else b"%d %b" % (to_ms(after.recorded_at), after.occurrence_id.encode())
        found = records.unpack_runs(await self._list("runs", self._shards.places(told=start), limit, query))
        return sorted(found, key=attrgetter("recorded_at", "occurrence_id"), reverse=True)[:limit]

    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        pruned, last = 0, b""
        while True:  # others get their turn between the batches
            deleted, left = map(sum, zip(*await self._run("prune_runs", to_ms(before), last, _PRUNE_BATCH), strict=True))
            pruned += deleted
            if not deleted:
                surplus = min(left - keep, _PRUNE_BATCH)
                if surplus <= 0:
                    return pruned
                last = sorted(chain(*await self._run("oldest_runs", surplus)))[surplus - 1]

    # -- push ----------------------------------------------------------------------------------------------------------------

    def watch(self) -> AsyncIterator[None]:
        return self._session.watch(self._shards.channel)

    # -- over all shards -----------------------------------------------------------------------------------------------------

    async def _run(self, script: str, *arguments: Any, parts: Iterable[Part] | None = None, places: Any = None) -> list[Any]:
        """Run a script in some places, else where those schedules are of which it is told something; return the answers."""
        session, places = self._session, self._shards.places(parts) if places is None else places
        return await together((session.run(script, keys, *arguments, given) for keys, given in places), at_once=_MOST_PLACES)

    async def _list(self, script: str, places: Iterable[Place], limit: int = 0, query: Any = None) -> list[Any]:
        """Return the answers of a script that lists up to `limit` in each place. It says where to go on if it stopped before."""
        session = self._session
        filters = [records.pack(value) for value in astuple(query)] if query else []

        async def of_place(keys: Keys, position: bytes) -> list[Any]:
            answers: list[Any] = []
            wanted = limit
            while position or not answers:
                position, wanted, *answer = await session.run(script, keys, position, wanted, *filters)
                answers.append(answer)
            return answers

        return list(chain(*await together((of_place(*place) for place in places), at_once=_MOST_PLACES)))


def _ids(answers: Iterable[list[bytes]]) -> frozenset[str]:
    return frozenset(schedule_id.decode() for answer in answers for schedule_id in answer)


def _each(ids: Iterable[str]) -> Iterator[Part]:
    return ((schedule_id.encode(),) for schedule_id in ids)
