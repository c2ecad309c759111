"""Rules for `page`."""

from __future__ import annotations

from typing import Any

import pytest

from taskiq_sources.models import ScheduleChanges, ScheduleQuery
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import MS, NOW, at, code_points, listed, put_and_take, rich_schedule, schedule

#: Ids whose order by code points differs from that of a locale, of UTF-16 (😀 before U+E000) and of numbers.
TELLING_IDS = [
    "B",
    "a",
    "A",
    "b",
    "ä",
    "Z",
    "z",
    "é",
    "e\u0301",
    "10",
    "9",
    "_",
    "-",
    " ",
    "~",
    "ÿ",
    "\ue000",
    "\ufffd",
    "😀",
    "𐀀",
    "東",
    "a b",
    "a-b",
]

#: One schedule for each filter, that alone passes it, among plain ones.
FILTERS: list[tuple[str, ScheduleQuery, list[str]]] = [
    ("none", ScheduleQuery(), ["due", "later", "never", "owned", "paused", "quarantined", "task"]),
    ("task_name", ScheduleQuery(task_name="tasks:special"), ["task"]),
    ("task_name-exactly", ScheduleQuery(task_name="tasks:spec"), []),
    ("task_name-case", ScheduleQuery(task_name="TASKS:SPECIAL"), []),
    ("task_name-wildcard", ScheduleQuery(task_name="tasks:%"), []),
    ("paused", ScheduleQuery(paused=True), ["paused"]),
    ("not-paused", ScheduleQuery(paused=False), ["due", "later", "never", "owned", "quarantined", "task"]),
    ("quarantined", ScheduleQuery(quarantined=True), ["quarantined"]),
    ("not-quarantined", ScheduleQuery(quarantined=False), ["due", "later", "never", "owned", "paused", "task"]),
    ("owner", ScheduleQuery(owner="billing"), ["owned"]),
    ("owner-exactly", ScheduleQuery(owner="bill"), []),
    ("owner-case", ScheduleQuery(owner="Billing"), []),
    ("due_before", ScheduleQuery(due_before=at(60)), ["due", "owned", "paused", "quarantined", "task"]),
    ("due_before-excludes-its-instant", ScheduleQuery(due_before=at(-1)), []),
    ("due_before-just-after", ScheduleQuery(due_before=at(60) + MS), ["due", "later", "owned", "paused", "quarantined", "task"]),
    ("all", ScheduleQuery(task_name="tasks:add", paused=False, quarantined=False, owner="billing", due_before=NOW), ["owned"]),
    ("contradiction", ScheduleQuery(paused=True, owner="billing"), []),
]


async def put_one_for_each_filter(store: ScheduleStore) -> None:
    """Store the schedules that `FILTERS` tells apart."""
    await store.put(
        [
            schedule("due"),
            schedule("later", next_run_at=at(60)),
            schedule("never", scheduled_for=None, next_run_at=None),
            schedule("owned", owner="billing"),
            schedule("paused", paused=True),
            schedule("quarantined", quarantined=True),
            schedule("task", task_name="tasks:special"),
        ]
    )


class PageRules:
    """`page` lists in one order, without repetition and without gaps."""

    async def test_page_of_an_empty_store(self, store: ScheduleStore) -> None:
        """An empty store has one empty page. (Look at what `page` does without rows.)"""
        assert await store.page(ScheduleQuery(), limit=10) == []
        assert await store.page(ScheduleQuery(), after="a", limit=10) == []

    async def test_page_returns_whole_schedules(self, store: ScheduleStore) -> None:
        """A page holds the same schedules that `get` returns. (Look at the columns that `page` reads.)"""
        await store.put([schedule("a"), rich_schedule("b")])
        claim = await put_and_take(store, "c")

        assert await store.page(ScheduleQuery(), limit=10) == [schedule("a"), rich_schedule("b"), claim.schedule]

    async def test_page_is_ordered_by_code_points(self, store: ScheduleStore) -> None:
        """Ids are ordered by Unicode code points, as their UTF-8 bytes are. (Look at collation, and at UTF-16 comparison.)"""
        await store.put([schedule(schedule_id) for schedule_id in TELLING_IDS])

        assert await listed(store) == code_points(TELLING_IDS)

    @pytest.mark.parametrize("limit", [1, 2, 5])
    async def test_pages_join_without_gap_or_repetition(self, store: ScheduleStore, limit: int) -> None:
        """Pages of any size give each schedule once, in order. (Look at `after`: its collation has to be that of the order.)"""
        await store.put([schedule(schedule_id) for schedule_id in TELLING_IDS])

        assert await listed(store, limit=limit) == code_points(TELLING_IDS)

    async def test_after_need_not_exist(self, store: ScheduleStore) -> None:
        """`after` is a place in the order, not a schedule. (Look at `after`: looked up instead of compared.)"""
        await store.put([schedule("a"), schedule("c")])

        assert [found.id for found in await store.page(ScheduleQuery(), after="b", limit=10)] == ["c"]
        assert [found.id for found in await store.page(ScheduleQuery(), after="c", limit=10)] == []
        assert [found.id for found in await store.page(ScheduleQuery(), after="A", limit=10)] == ["a", "c"]

    @pytest.mark.parametrize(("query", "expected"), [case[1:] for case in FILTERS], ids=[case[0] for case in FILTERS])
    async def test_filters(self, store: ScheduleStore, query: ScheduleQuery, expected: list[str]) -> None:
        """Each filter that is set has to hold, exactly, and all together. (Look at the where clause of this filter.)"""
        await put_one_for_each_filter(store)

        assert await listed(store, query) == expected
        assert await listed(store, query, limit=1) == expected

    async def test_the_limit_counts_matching_schedules(self, store: ScheduleStore) -> None:
        """The limit applies after the filters: a page is full while there is more. (Look at filters applied to a read page.)"""
        await store.put([schedule(f"{number:03}", paused=number % 50 == 49) for number in range(200)])

        page = await store.page(ScheduleQuery(paused=True), limit=3)
        assert [found.id for found in page] == ["049", "099", "149"]

    async def test_filters_see_edits(self, store: ScheduleStore) -> None:
        """Filters judge the schedule as it is now. (Look at indexes that `update` and `put` do not keep up.)"""
        await store.put([schedule("a"), schedule("b", owner="billing", task_name="tasks:old")])
        await store.update("a", ScheduleChanges(updated_at=NOW, paused=True, next_run_at=at(99)))
        await store.put([schedule("b", owner="shipping", task_name="tasks:new")])

        assert await listed(store, ScheduleQuery(paused=True)) == ["a"]
        assert await listed(store, ScheduleQuery(due_before=NOW)) == ["b"]
        assert await listed(store, ScheduleQuery(owner="billing")) == []
        assert await listed(store, ScheduleQuery(owner="shipping")) == ["b"]
        assert await listed(store, ScheduleQuery(task_name="tasks:old")) == []
        assert await listed(store, ScheduleQuery(task_name="tasks:new")) == ["b"]

    async def test_edits_between_pages_lose_and_repeat_nothing(self, store: ScheduleStore) -> None:
        """What exists and matches all the while is listed once, whatever is edited meanwhile. (Look for offsets or cursors.)"""
        stable = [f"{number:02}-stable" for number in range(20)]
        await store.put([schedule(schedule_id) for schedule_id in stable])
        await store.put([schedule(f"{number:02}-doomed") for number in range(20)])
        seen: list[str] = []
        after: str | None = None
        for step in range(100):
            page = await store.page(ScheduleQuery(), after=after, limit=3)
            if not page:
                break
            seen += [found.id for found in page]
            after = page[-1].id
            await store.delete([f"{step:02}-doomed", f"{19 - step:02}-doomed"])
            await store.put([schedule(f"{step:02}-added"), schedule(stable[step % 20], document=f"edit {step}")])
            await store.update(stable[-1 - step % 20], ScheduleChanges(updated_at=at(step), next_run_at=at(step)))

        assert [schedule_id for schedule_id in seen if schedule_id in stable] == stable
        assert len(seen) == len(set(seen))

    @pytest.mark.parametrize("query", [{}, {"due_before": NOW}, {"task_name": "tasks:add"}, {"owner": "x"}], ids=str)
    async def test_a_page_is_no_longer_than_its_limit(self, store: ScheduleStore, query: dict[str, Any]) -> None:
        """`limit` bounds a page under every filter. (Look at the limit clause.)"""
        await store.put([schedule(str(number), owner="x") for number in range(10, 30)])

        page = await store.page(ScheduleQuery(**query), limit=7)
        assert [found.id for found in page] == [str(number) for number in range(10, 17)]
