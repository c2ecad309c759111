"""Rules for `now`, and for not looking at a clock anywhere else."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import pytest

from taskiq_sources.clock import system_now
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import LEASE, MS, TIMEOUT, UTC, claimable, outcome, read, run, schedule, take_one

#: Far more than clocks of machines that belong together differ, and less than the smallest difference between time zones.
TOLERANCE = timedelta(minutes=10)


class ClockRules:
    """`now` tells the server's time; everything else lives in the time it is given."""

    async def test_now_is_aware_utc_in_whole_milliseconds(self, store: ScheduleStore) -> None:
        """`now` returns an aware UTC datetime cut to milliseconds. (Look at `now`: naive values, microseconds left in.)"""
        now = await store.now()

        assert now.utcoffset() == timedelta(0)
        assert now.microsecond % 1000 == 0

    async def test_now_is_the_present(self, store: ScheduleStore) -> None:
        """`now` is the present moment, whatever the server's time zone. (Look at `now`: local time taken for UTC.)"""
        assert abs(await store.now() - system_now()) < TOLERANCE

    async def test_now_goes_on(self, store: ScheduleStore) -> None:
        """`now` asks the clock each time. (Look at `now`: a cached value, the start of a transaction that never ends.)"""
        first = await store.now()
        deadline = time.monotonic() + TIMEOUT
        while await store.now() == first and time.monotonic() < deadline:
            continue

        assert await store.now() != first

    @pytest.mark.parametrize("year", [1971, 2001, 2035, 2199])
    async def test_time_is_what_the_caller_says(self, store: ScheduleStore, year: int) -> None:
        """A whole life of a schedule may happen in any year. (Look at uses of the server's clock or of expiry by the server.)"""
        now = datetime(year, 2, 28, 23, 59, 59, 999_000, tzinfo=UTC)
        row = run(recorded_at=now)
        await store.put([schedule(scheduled_for=now, next_run_at=now, anchor=now, created_at=now, updated_at=now)])

        assert await store.next_due(now) == now
        assert await claimable(store, now - MS) == []
        claim = await take_one(store, now=now)
        assert await claimable(store, now + LEASE - MS) == []
        assert await store.renew([claim], until=now + 2 * LEASE) == {"a"}
        assert await store.next_due(now) == now + 2 * LEASE
        following = now + timedelta(days=1)
        assert await store.settle([outcome(claim, scheduled_for=following, next_run_at=following, runs=(row,))]) == frozenset()
        assert (await read(store)).next_run_at == following
        assert await store.prune_runs(before=now, keep=10) == 0
        assert await store.prune_runs(before=now + MS, keep=10) == 1
