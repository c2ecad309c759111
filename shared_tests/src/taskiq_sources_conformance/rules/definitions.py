"""Rules for `get` and `delete`."""

from __future__ import annotations

from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import (
    claimable,
    listed,
    outcome,
    put_and_take,
    record,
    recorded,
    rich_schedule,
    run,
    schedule,
)


class GetRules:
    """`get` finds by id."""

    async def test_get_nothing(self, store: ScheduleStore) -> None:
        """`get` of no ids is an empty dict. (Look at the statement: an empty IN list.)"""
        await store.put([schedule()])

        assert await store.get([]) == {}

    async def test_get_leaves_out_what_does_not_exist(self, store: ScheduleStore) -> None:
        """An id that does not exist is absent, not None. (Look at how the result is built.)"""
        await store.put([schedule("a"), rich_schedule("b")])

        assert await store.get(["b", "nope", "a"]) == {"a": schedule("a"), "b": rich_schedule("b")}
        assert await store.get(["nope"]) == {}

    async def test_get_takes_any_collection(self, store: ScheduleStore) -> None:
        """Ids may come as a list with repetitions, a tuple, a set or the keys of a dict. (Look at how ids reach the driver.)"""
        await store.put([schedule()])

        for ids in (["a", "a"], ("a",), {"a"}, frozenset({"a"}), {"a": 1}.keys()):
            assert await store.get(ids) == {"a": schedule()}

    async def test_get_many(self, store: ScheduleStore) -> None:
        """`get` has no limit on the number of ids. (Look at the driver's limit on parameters.)"""
        ids = [f"schedule-{number}" for number in range(2500)]
        await store.put([schedule(schedule_id) for schedule_id in ids])

        assert set(await store.get([*ids, *(f"none-{number}" for number in range(2500))])) == set(ids)


class DeleteRules:
    """`delete` takes schedules away for good, but not their history."""

    async def test_delete_nothing(self, store: ScheduleStore) -> None:
        """`delete` of no ids does nothing. (Look at the statement: an empty IN list that matches all.)"""
        await store.put([schedule()])

        assert await store.delete([]) == frozenset()
        assert await listed(store) == ["a"]

    async def test_delete_returns_the_ids_that_existed(self, store: ScheduleStore) -> None:
        """`delete` tells what it deleted, and may be repeated. (Look at the returned ids: those asked for or those found.)"""
        await store.put([schedule("a"), schedule("b"), schedule("c")])

        assert await store.delete(["a", "nope", "c"]) == {"a", "c"}
        assert await store.delete(["a", "nope", "c"]) == frozenset()
        assert await listed(store) == ["b"]

    async def test_a_deleted_schedule_is_nowhere(self, store: ScheduleStore) -> None:
        """A deleted schedule is not found, not listed, not due. (Look at indexes kept beside the schedule.)"""
        await store.put([schedule()])
        await store.delete(["a"])

        assert await store.get(["a"]) == {}
        assert await listed(store) == []
        assert await store.next_due(schedule().created_at) is None
        assert await claimable(store) == []

    async def test_a_leased_schedule_can_be_deleted(self, store: ScheduleStore) -> None:
        """A lease protects nothing from `delete`. (Look at the where clause, and at lease entries left behind.)"""
        claim = await put_and_take(store)

        assert await store.delete(["a"]) == {"a"}
        assert await store.next_due(claim.claimed_at) is None
        assert await claimable(store, claim.lease_until) == []

    async def test_history_stays(self, store: ScheduleStore) -> None:
        """The history of a deleted schedule stays. (Look at `delete`: a cascade to the history rows.)"""
        await record(store, run("b@1", schedule_id="b"))
        claim = await put_and_take(store)
        await store.settle([outcome(claim, runs=(run("a@1"),))])
        await store.delete(["a"])

        assert await recorded(store) == ["b@1", "a@1"]

    async def test_delete_many(self, store: ScheduleStore) -> None:
        """`delete` has no limit on the number of ids. (Look at the driver's limit on parameters.)"""
        ids = [f"schedule-{number}" for number in range(2500)]
        await store.put([schedule(schedule_id) for schedule_id in ids])

        assert await store.delete(ids) == set(ids)
        assert await listed(store) == []
