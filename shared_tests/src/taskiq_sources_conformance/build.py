"""Instants, builders and small helpers that the rules are written with.

All tests live in virtual time around `NOW`. A builder's defaults make the plainest valid value, so that a rule names only the
fields it is about.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from taskiq_sources.models import Claim, Outcome, Run, RunQuery, ScheduleQuery, StoredSchedule
from taskiq_sources.store import ScheduleStore

UTC = timezone.utc
MS = timedelta(milliseconds=1)
LEASE = timedelta(seconds=30)

#: The present of the rules. In the future of any test run, so that a store that looks at its own clock is found out.
NOW = datetime(2035, 6, 15, 12, 0, 0, 123_000, tzinfo=UTC)

CREATED = NOW - timedelta(days=2)

#: Bounds how long a rule waits for something that ought to happen at once.
TIMEOUT = 10.0


def at(seconds: float = 0, *, ms: int = 0) -> datetime:
    """Return the instant `seconds` and `ms` after `NOW`."""
    return NOW + timedelta(seconds=seconds, milliseconds=ms)


def schedule(schedule_id: str = "a", **fields: Any) -> StoredSchedule:
    """Return a schedule that has been due since one second before `NOW`."""
    values: dict[str, Any] = {
        "task_name": "tasks:add",
        "document": '{"version": 1}',
        "timing": "every minute",
        "scheduled_for": at(-1),
        "next_run_at": at(-1),
        "anchor": CREATED,
        "created_at": CREATED,
        "updated_at": CREATED,
    }
    return StoredSchedule(id=schedule_id, **{**values, **fields})


def rich_schedule(schedule_id: str = "a", **fields: Any) -> StoredSchedule:
    """Return a schedule each of whose fields differs from its default and from every other field."""
    values: dict[str, Any] = {
        "task_name": "tasks:rich",
        "document": '{"version": 1, "args": [1, 2]}',
        "timing": "rich timing",
        "scheduled_for": at(-11),
        "next_run_at": at(-7, ms=-5),
        "anchor": at(-3600),
        "created_at": at(-7200),
        "updated_at": at(-1800),
        "owner": "billing",
        "coalesced": 3,
        "attempt": 4,
        "run_count": 5,
        "last_error": "ConnectionError: broker is away",
    }
    return StoredSchedule(id=schedule_id, **{**values, **fields})


def run(occurrence_id: str = "a@1", **fields: Any) -> Run:
    """Return a history row of schedule ``a``, recorded at `NOW`."""
    values: dict[str, Any] = {
        "schedule_id": "a",
        "task_name": "tasks:add",
        "scheduled_for": at(-1),
        "status": "sent",
        "recorded_at": NOW,
    }
    return Run(occurrence_id=occurrence_id, **{**values, **fields})


def outcome(claim: Claim, **fields: Any) -> Outcome:
    """Return the outcome of an occurrence that was sent and is followed by one an hour after `NOW`."""
    values: dict[str, Any] = {
        "scheduled_for": at(3600),
        "next_run_at": at(3600),
        "run_count": claim.schedule.run_count + 1,
    }
    return Outcome(claim=claim, **{**values, **fields})


async def take(
    store: ScheduleStore,
    *,
    now: datetime = NOW,
    claimant: str = "scheduler-1",
    lease: timedelta = LEASE,
    limit: int = 1000,
    ids: Collection[str] | None = None,
    early: timedelta = timedelta(0),
) -> list[Claim]:
    """Claim with the rules' usual arguments."""
    return await store.claim(now, claimant=claimant, lease=lease, limit=limit, ids=ids, early=early)


async def take_one(store: ScheduleStore, schedule_id: str = "a", *, now: datetime = NOW, **arguments: Any) -> Claim:
    """Claim the schedule `id`, which has to be eligible."""
    claims = await take(store, now=now, ids=[schedule_id], **arguments)
    assert [claim.schedule.id for claim in claims] == [schedule_id], (
        f"schedule {schedule_id!r} is eligible at {now}, but claim() did not return it"
    )
    return claims[0]


async def put_and_take(store: ScheduleStore, schedule_id: str = "a", **fields: Any) -> Claim:
    """Store one due schedule and claim it at `NOW`."""
    await store.put([schedule(schedule_id, **fields)])
    return await take_one(store, schedule_id)


async def read(store: ScheduleStore, schedule_id: str = "a") -> StoredSchedule:
    """Return the stored schedule `id`, which has to exist."""
    found = await store.get([schedule_id])
    assert list(found) == [schedule_id], f"get([{schedule_id!r}]) returned {sorted(found)}"
    return found[schedule_id]


async def claimable(store: ScheduleStore, now: datetime = NOW, **arguments: Any) -> list[str]:
    """Return the ids that a claim returns at `now`; it does take them."""
    return [claim.schedule.id for claim in await take(store, now=now, **arguments)]


async def listed(store: ScheduleStore, query: ScheduleQuery | None = None, *, limit: int = 1000) -> list[str]:
    """Return the ids of all pages of `limit` schedules, in the order they come."""
    ids: list[str] = []
    after: str | None = None
    while page := await store.page(query or ScheduleQuery(), after=after, limit=limit):
        assert len(page) <= limit, f"a page of at most {limit} schedules has {len(page)}"
        assert ids[-1:] != [page[0].id], f"page() repeats {after!r}, which it was told to start after"
        ids += [found.id for found in page]
        after = page[-1].id
    return ids


async def recorded(store: ScheduleStore, query: RunQuery | None = None) -> list[str]:
    """Return the occurrence ids of the matching history rows, in the order they come."""
    return [row.occurrence_id for row in await store.runs(query or RunQuery(), limit=1000)]


async def record(store: ScheduleStore, *rows: Run) -> None:
    """Write history rows, the only way there is: by settling a claim. The schedule used for it is gone afterwards."""
    carrier = "\uffffcarrier"
    await store.put([schedule(carrier)])
    claim = await take_one(store, carrier)
    assert await store.settle([outcome(claim, finished=True, runs=rows)]) == frozenset()


def without_lease(found: StoredSchedule) -> StoredSchedule:
    """Return `found` as if nobody had claimed it, to compare everything else."""
    return replace(found, claimant=None, lease_until=None)


def code_points(ids: Collection[str]) -> list[str]:
    """Return `ids` in the contract's order. Python compares text by code points."""
    return sorted(ids)


def stepwise(call: Callable[..., Awaitable[Any]], before: Callable[[], Awaitable[None]]) -> Callable[..., Awaitable[Any]]:
    """Return `call`, made after `before`: what ``each_step`` does to whatever reaches a server."""

    async def step(*args: Any, **options: Any) -> Any:
        await before()
        return await call(*args, **options)

    return step
