"""Rules for `runs` and `prune_runs`. How rows are written: :mod:`taskiq_sources_conformance.rules.settle`."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from taskiq_sources.models import Run, RunQuery, RunStatus
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import CREATED, MS, NOW, at, record, recorded, run
from taskiq_sources_conformance.rules.page import TELLING_IDS

FULL: dict[str, Any] = {
    "occurrence_id": "nightly@2035-06-15T12:00:00.123Z",
    "schedule_id": "nightly",
    "task_name": "tasks:nightly",
    "scheduled_for": at(-11, ms=-7),
    "status": "failed",
    "recorded_at": at(ms=9),
    "task_id": "0e4f1a2b",
    "attempt": 3,
    "coalesced": 4,
    "claimant": "host-7:42",
    "error": "TimeoutError: « broker » n'a pas répondu 😀",
}

#: Three rows of each of two schedules, a second apart, with every status among them.
ROWS = [
    run("a@1", recorded_at=at(1), status="failed"),
    run("b@2", recorded_at=at(2), status="sent", schedule_id="b"),
    run("a@3", recorded_at=at(3), status="missed"),
    run("b@4", recorded_at=at(4), status="unknown", schedule_id="b"),
    run("a@5", recorded_at=at(5), status="sent"),
    run("b@6", recorded_at=at(6), status="sent", schedule_id="b"),
]
FILTERS: list[tuple[str, RunQuery, list[str]]] = [
    ("none", RunQuery(), ["b@6", "a@5", "b@4", "a@3", "b@2", "a@1"]),
    ("schedule_id", RunQuery(schedule_id="a"), ["a@5", "a@3", "a@1"]),
    ("schedule_id-unknown", RunQuery(schedule_id="A"), []),
    ("status-sent", RunQuery(status="sent"), ["b@6", "a@5", "b@2"]),
    ("status-failed", RunQuery(status="failed"), ["a@1"]),
    ("status-missed", RunQuery(status="missed"), ["a@3"]),
    ("status-unknown", RunQuery(status="unknown"), ["b@4"]),
    ("since-includes-its-instant", RunQuery(since=at(4)), ["b@6", "a@5", "b@4"]),
    ("since-just-after", RunQuery(since=at(4) + MS), ["b@6", "a@5"]),
    ("until-excludes-its-instant", RunQuery(until=at(3)), ["b@2", "a@1"]),
    ("until-just-after", RunQuery(until=at(3) + MS), ["a@3", "b@2", "a@1"]),
    ("since-until", RunQuery(since=at(2), until=at(5)), ["b@4", "a@3", "b@2"]),
    ("all", RunQuery(schedule_id="a", status="sent", since=at(1), until=at(6)), ["a@5"]),
    ("nothing", RunQuery(since=at(5), until=at(5)), []),
]


async def pages(store: ScheduleStore, query: RunQuery, limit: int) -> list[str]:
    """Return the occurrence ids of all pages of `limit` rows, in the order they come."""
    seen: list[str] = []
    after: Run | None = None
    while page := await store.runs(query, after=after, limit=limit):
        assert len(page) <= limit, f"a page of at most {limit} rows has {len(page)}"
        assert len(seen) <= 1000, "the pages do not end: `after` is ignored"
        seen += [row.occurrence_id for row in page]
        after = page[-1]
    return seen


class HistoryRules:
    """History is read newest first and thrown away oldest first."""

    async def test_history_of_an_empty_store(self, store: ScheduleStore) -> None:
        """An empty store has no history and nothing to prune. (Look at what `runs` does without rows.)"""
        assert await store.runs(RunQuery(), limit=10) == []
        assert await store.prune_runs(before=NOW, keep=0) == 0

    @pytest.mark.parametrize(
        "row", [run(), Run(**FULL), run(task_id=None, claimant=None, error=None)], ids=["plain", "full", "none"]
    )
    async def test_a_row_comes_back_as_written(self, store: ScheduleStore, row: Run) -> None:
        """Every field of a history row is kept. (Look at the insert and the select: columns left out or swapped.)"""
        await record(store, row)

        assert await store.runs(RunQuery(), limit=10) == [row]

    @pytest.mark.parametrize("status", get_args(RunStatus))
    async def test_every_status_can_be_recorded(self, store: ScheduleStore, status: RunStatus) -> None:
        """All statuses are kept. (Look at a check constraint or an enum of the database.)"""
        await record(store, run(status=status))

        assert [row.status for row in await store.runs(RunQuery(status=status), limit=10)] == [status]

    async def test_newest_first(self, store: ScheduleStore) -> None:
        """Rows are ordered by recorded_at, descending, to the millisecond. (Look at the order clause.)"""
        instants = {"early": at(-5), "middle": NOW, "later": NOW + MS, "last": at(5)}
        await record(
            store,
            *(
                run(schedule_id, recorded_at=instants[schedule_id], scheduled_for=at(-60))
                for schedule_id in ("later", "early", "last", "middle")
            ),
        )

        assert await recorded(store) == ["last", "later", "middle", "early"]

    async def test_equal_instants_by_occurrence_id(self, store: ScheduleStore) -> None:
        """Rows of one instant are ordered by code points of occurrence_id, descending. (Look at the second key, collation.)"""
        await record(store, *(run(schedule_id) for schedule_id in TELLING_IDS))

        assert await recorded(store) == sorted(TELLING_IDS, reverse=True)

    @pytest.mark.parametrize("limit", [1, 2, 7])
    async def test_history_pages_join_without_gap_or_repetition(self, store: ScheduleStore, limit: int) -> None:
        """Pages of any size give each row once, in order, equal instants included. (Look at `after`: both keys, collation.)"""
        rows = [run(f"{schedule_id}@{second}", recorded_at=at(second)) for second in range(3) for schedule_id in TELLING_IDS]
        await record(store, *rows)

        expected = sorted(rows, key=lambda row: (row.recorded_at, row.occurrence_id), reverse=True)
        assert await pages(store, RunQuery(), limit) == [row.occurrence_id for row in expected]

    @pytest.mark.parametrize(("query", "expected"), [case[1:] for case in FILTERS], ids=[case[0] for case in FILTERS])
    async def test_history_filters(self, store: ScheduleStore, query: RunQuery, expected: list[str]) -> None:
        """Each filter that is set has to hold, and all together, also over pages. (Look at the where clause of this filter.)"""
        await record(store, *ROWS)

        assert await recorded(store, query) == expected
        assert await pages(store, query, 1) == expected

    async def test_after_a_row_that_is_gone(self, store: ScheduleStore) -> None:
        """`after` is a place in the order; its row may have been pruned. (Look at `after`: looked up instead of compared.)"""
        await record(store, *ROWS)
        gone = run("zz@never", recorded_at=at(4))

        page = await store.runs(RunQuery(), after=gone, limit=2)
        assert [row.occurrence_id for row in page] == ["b@4", "a@3"]
        await store.prune_runs(before=at(99), keep=0)
        assert await store.runs(RunQuery(), after=ROWS[3], limit=10) == []

    async def test_new_rows_do_not_move_the_pages(self, store: ScheduleStore) -> None:
        """Rows that are written while one pages are not mixed in and move nothing. (Look for offsets.)"""
        await record(store, *ROWS)
        first = await store.runs(RunQuery(), limit=3)
        await record(store, run("c@7", recorded_at=at(7)), run("c@8", recorded_at=at(8)))

        second = await store.runs(RunQuery(), after=first[-1], limit=3)
        assert [row.occurrence_id for row in [*first, *second]] == ["b@6", "a@5", "b@4", "a@3", "b@2", "a@1"]

    async def test_a_replaced_row_moves(self, store: ScheduleStore) -> None:
        """A row that is written again takes its new place and leaves the old one. (Look at indexes kept beside the row.)"""
        await record(store, *ROWS)
        await record(store, run("a@1", recorded_at=at(9), status="sent", schedule_id="c"))

        assert await recorded(store) == ["a@1", "b@6", "a@5", "b@4", "a@3", "b@2"]
        assert await recorded(store, RunQuery(status="failed")) == []
        assert await recorded(store, RunQuery(schedule_id="a")) == ["a@5", "a@3"]
        assert await recorded(store, RunQuery(schedule_id="c")) == ["a@1"]
        assert await recorded(store, RunQuery(until=at(2))) == []

    @pytest.mark.parametrize(
        ("before", "keep", "left"),
        [
            (CREATED, 100, 6),
            (at(3), 100, 4),
            (at(3) + MS, 100, 3),
            (CREATED, 6, 6),
            (CREATED, 5, 5),
            (CREATED, 0, 0),
            (at(5), 3, 2),
            (at(3), 3, 3),
            (at(99), 100, 0),
        ],
    )
    async def test_prune(self, store: ScheduleStore, before: Any, keep: int, left: int) -> None:
        """Pruning deletes what is too old, then the oldest of too many, and counts both. (Look at both conditions, < and <=.)"""
        await record(store, *ROWS)

        assert await store.prune_runs(before=before, keep=keep) == 6 - left
        assert await recorded(store) == [row.occurrence_id for row in ROWS[::-1]][:left]
        assert await store.prune_runs(before=before, keep=keep) == 0

    async def test_prune_of_equal_instants_follows_the_order(self, store: ScheduleStore) -> None:
        """Of rows of one instant, those that come first in the order are kept. (Look at the order that `keep` counts by.)"""
        await record(store, *(run(schedule_id) for schedule_id in ("c", "a", "d", "b")))

        assert await store.prune_runs(before=CREATED, keep=2) == 2
        assert await recorded(store) == ["d", "c"]

    async def test_prune_empties_every_list(self, store: ScheduleStore) -> None:
        """Pruned rows are gone from every filter. (Look at indexes kept beside the row.)"""
        await record(store, *ROWS)
        await store.prune_runs(before=at(4), keep=100)

        assert await recorded(store, RunQuery(schedule_id="a")) == ["a@5"]
        assert await recorded(store, RunQuery(status="failed")) == []
        assert await recorded(store, RunQuery(until=at(4))) == []
