"""Rules for datetimes: aware, UTC, whole milliseconds, of any year."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

import pytest

from taskiq_sources.models import RunQuery, ScheduleChanges, ScheduleQuery
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import (
    MS,
    UTC,
    at,
    claimable,
    outcome,
    put_and_take,
    read,
    record,
    recorded,
    rich_schedule,
    run,
    schedule,
    take_one,
)

INSTANTS = {
    "1969": datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    "1901": datetime(1901, 12, 13, 20, 45, 51, 1_000, tzinfo=UTC),
    "epoch": datetime(1970, 1, 1, tzinfo=UTC),
    "epoch+1ms": datetime(1970, 1, 1, 0, 0, 0, 1_000, tzinfo=UTC),
    "2001": datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC),
    "leap-day": datetime(2024, 2, 29, 12, 30, 15, 123_000, tzinfo=UTC),
    "spring-gap": datetime(2035, 3, 25, 1, 30, 0, 1_000, tzinfo=UTC),
    "autumn-fold": datetime(2035, 10, 28, 0, 30, 0, 999_000, tzinfo=UTC),
    "2038": datetime(2038, 1, 19, 3, 14, 8, 7_000, tzinfo=UTC),
    "2106": datetime(2106, 2, 7, 6, 28, 16, 1_000, tzinfo=UTC),
    "2200": datetime(2200, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
}


def instants_in(value: Any) -> Iterator[datetime]:
    """Yield the datetimes in a dataclass of the models."""
    for one in fields(value):
        content = getattr(value, one.name)
        if isinstance(content, datetime):
            yield content


def assert_clean(value: Any) -> None:
    """Check that each datetime in `value` is aware, in UTC and in whole milliseconds."""
    for instant in instants_in(value):
        assert instant.utcoffset() == timedelta(0), f"{instant!r} is not an aware UTC datetime"
        assert instant.tzname() == "UTC", f"{instant!r} is not in UTC"
        assert instant.microsecond % 1000 == 0, f"{instant!r} is not in whole milliseconds"


class DatetimeRules:
    """Every instant comes back as it went in."""

    async def test_every_returned_datetime_is_clean(self, store: ScheduleStore) -> None:
        """All methods return aware UTC datetimes in whole milliseconds. (Look at the function that reads a row.)"""
        await store.put([rich_schedule(), rich_schedule("b", next_run_at=at(60))])
        updated = await store.update("b", ScheduleChanges(updated_at=at(ms=1)))
        claim = await take_one(store)
        await store.settle([outcome(claim, runs=(run(),))])
        due = await store.next_due(at())

        assert due is not None
        assert (due.utcoffset(), due.microsecond % 1000) == (timedelta(0), 0)
        returned: list[Any] = [updated, claim, claim.schedule, *(await store.get(["a", "b"])).values()]
        returned += await store.page(ScheduleQuery(), limit=10)
        returned += await store.runs(RunQuery(), limit=10)
        assert len(returned) == 8
        for value in returned:
            assert_clean(value)

    @pytest.mark.parametrize("instant", INSTANTS.values(), ids=INSTANTS.keys())
    async def test_schedules_keep_every_instant(self, store: ScheduleStore, instant: datetime) -> None:
        """Each datetime of a schedule holds any instant of 1901 to 2200, exactly. (Look at integer sizes, floats, signs.)"""
        names = ("scheduled_for", "next_run_at", "anchor", "created_at", "updated_at")
        values: dict[str, Any] = {name: instant + number * MS for number, name in enumerate(names)}
        given = schedule(**values)
        await store.put([given])

        assert await read(store) == given
        assert await store.next_due(instant) == given.next_run_at
        edit = instant + 9 * MS
        assert await store.update(
            "a", ScheduleChanges(updated_at=edit, scheduled_for=edit, next_run_at=edit, anchor=edit)
        ) == schedule(
            scheduled_for=edit,
            next_run_at=edit,
            anchor=edit,
            created_at=given.created_at,
            updated_at=edit,
            revision=2,
            timing_revision=2,
        )
        assert await claimable(store, edit - MS) == []
        assert (await take_one(store, now=edit)).schedule.scheduled_for == edit

    @pytest.mark.parametrize("instant", INSTANTS.values(), ids=INSTANTS.keys())
    async def test_leases_and_outcomes_keep_every_instant(self, store: ScheduleStore, instant: datetime) -> None:
        """A lease and an outcome hold any instant, exactly. (Look at integer sizes, floats, signs.)"""
        claim = await put_and_take(store)
        await store.renew([claim], until=instant)
        assert (await read(store)).lease_until == instant
        await store.settle([outcome(claim, scheduled_for=instant, next_run_at=instant + MS)])

        found = await read(store)
        assert (found.scheduled_for, found.next_run_at) == (instant, instant + MS)

    @pytest.mark.parametrize("instant", INSTANTS.values(), ids=INSTANTS.keys())
    async def test_history_keeps_every_instant(self, store: ScheduleStore, instant: datetime) -> None:
        """A history row holds any instant, exactly, and is found by it. (Look at integer sizes, floats, signs.)"""
        row = run("x", scheduled_for=instant, recorded_at=instant)
        await record(store, row, run("before", recorded_at=instant - MS), run("after", recorded_at=instant + MS))

        assert await recorded(store) == ["after", "x", "before"]
        assert await store.runs(RunQuery(since=instant, until=instant + MS), limit=10) == [row]
        assert await store.prune_runs(before=instant, keep=100) == 1

    async def test_order_across_the_epoch(self, store: ScheduleStore) -> None:
        """Instants before 1970 are older than those after it. (Look at negative numbers stored as text, or unsigned.)"""
        await store.put([schedule(name, next_run_at=instant) for name, instant in INSTANTS.items()])

        by_age = sorted(INSTANTS, key=lambda name: INSTANTS[name])
        assert await store.next_due(at()) == INSTANTS["1901"]
        assert await claimable(store, INSTANTS["2200"]) == by_age
