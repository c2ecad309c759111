"""Without transactions: dying after any statement, and what the next one finds; and what may happen between two statements."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from taskiq_sources.models import Claim, RunQuery, ScheduleQuery
from taskiq_sources_conformance.build import (
    LEASE,
    NOW,
    at,
    listed,
    outcome,
    put_and_take,
    read,
    recorded,
    run,
    schedule,
    take,
    take_one,
)
from taskiq_sources_mongo import MongoStore, outbox

pytestmark = pytest.mark.anyio

_TIMEOUT = 20.0


@pytest.fixture
def backend() -> str:
    return "mongo_standalone"


@pytest.fixture
def left_behind_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear entries of others at once, and not only when they had time to do it themselves."""
    monkeypatch.setattr(outbox, "_MILLISECONDS_TO_SETTLE", -1_000_000)


# -- crash points ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statements", range(6))
@pytest.mark.usefixtures("left_behind_at_once")
async def test_dying_after_any_statement_of_a_settle(
    place: Any, store: MongoStore, other: MongoStore, dying: Callable[..., Any], statements: int
) -> None:
    """An outcome is applied whole, with its history, or not at all; and nothing stays behind."""
    ids = ["finished", "going", "moved"]
    await store.put([schedule(schedule_id) for schedule_id in ids])
    outcomes = [_outcome(claim) for claim in await take(store)]
    with dying(store, statements) as life:
        assert await store.settle(outcomes) == frozenset()
    assert life.died or statements > 4, "this many statements are more than a settle has: the test has proved everything already"

    rows = await recorded(other)
    found = await other.get(ids)
    applied = statements > 0
    assert sorted(rows) == (sorted(f"{schedule_id}@1" for schedule_id in ids) if applied else [])
    assert set(found) == ({"going", "moved"} if applied else set(ids))
    assert {one.next_run_at for one in found.values()} == ({at(3600)} if applied else {at(-1)})
    assert await other.settle(outcomes) == (frozenset(ids) if applied else frozenset())
    assert len(await recorded(other)) == len(ids)
    assert _remains(place) == {"going": [], "moved": []}


@pytest.mark.parametrize("statements", range(5))
async def test_dying_after_any_statement_of_a_claim(
    store: MongoStore, other: MongoStore, dying: Callable[..., Any], statements: int
) -> None:
    """What a dead process has claimed comes free with its lease."""
    await store.put([schedule("a"), schedule("b")])
    claimed = []
    with dying(store, statements):
        claimed = await take(store)

    free = await take(other)
    later = await take(other, now=NOW + LEASE)
    assert len(claimed) + len(free) in {0, 2}
    assert [claim.schedule.id for claim in later] == ["a", "b"]


@pytest.mark.parametrize("statements", range(8))
@pytest.mark.usefixtures("left_behind_at_once")
async def test_dying_while_deleting_what_has_history_on_its_way(
    place: Any, store: MongoStore, other: MongoStore, monkeypatch: pytest.MonkeyPatch, dying: Callable[..., Any], statements: int
) -> None:
    """The history of a schedule stays when it is deleted, wherever its deletion breaks off."""
    await _leave_in_outbox(other, monkeypatch, await put_and_take(other))
    with dying(store, statements):
        assert await store.delete(["a"]) == {"a"}

    await other.delete(["a"])
    assert await recorded(other) == ["a@1"]
    assert _remains(place) == {}


@pytest.mark.parametrize("finished", [True, False])
async def test_history_on_its_way_is_read_by_everybody(
    place: Any, store: MongoStore, other: MongoStore, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """A row counts as written when the outcome is, read by whomever; also by those who prune."""
    await _leave_in_outbox(store, monkeypatch, await put_and_take(store), finished=finished)

    assert await recorded(other) == ["a@1"]
    assert await other.get(["a"]) == {} if finished else (await read(other)).next_run_at == at(3600)
    assert await other.prune_runs(before=at(99), keep=9) == 1
    assert await recorded(store) == []


async def test_an_entry_is_left_to_its_settle_for_a_while(place: Any, store: MongoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads history moves rows, but takes entries away only when the one they come from must be dead."""
    await _leave_in_outbox(store, monkeypatch, await put_and_take(store))
    await recorded(store)
    assert _remains(place) == {"a": ["a@1"]}

    monkeypatch.setattr(outbox, "_MILLISECONDS_TO_SETTLE", -1_000_000)
    await recorded(store)
    assert _remains(place) == {"a": []}


async def test_opening_sees_to_what_is_left_behind(
    place: Any, store: MongoStore, monkeypatch: pytest.MonkeyPatch, left_behind_at_once: None
) -> None:
    await _leave_in_outbox(store, monkeypatch, await put_and_take(store), finished=True)
    assert _remains(place) == {"a": ["a@1"]}
    third = place.store()
    await third.open()

    assert _remains(place) == {}
    await third.close()


# -- late hands ------------------------------------------------------------------------------------------------------------------


async def test_a_row_merged_late_does_not_replace_a_newer_one(
    place: Any, store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that slept over its merge brings an old row when a newer one is there: the newer one stays."""
    claim = await put_and_take(store)
    entries: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "clear", _nothing)
        await store.settle([outcome(claim, next_run_at=at(-1), runs=(run("a@1", status="failed", attempt=1),))])
    with place.direct() as database:
        entries = database["taskiq_schedules"].find_one({"_id": "a"})["outbox"]
    await outbox.clear(store._session, [entries[0]["batch"]], ["a"])
    await store.settle([outcome(await take_one(store), runs=(run("a@1", status="sent", attempt=2),))])
    with place.direct() as database:
        database["taskiq_schedules"].update_one({"_id": "a"}, {"$set": {"outbox": entries}})
    await outbox.merge(store._session, [entries[0]["batch"]])

    assert [(row.status, row.attempt) for row in await store.runs(RunQuery(), limit=9)] == [("sent", 2)]


async def test_a_row_merged_late_does_not_replace_one_that_was_inserted(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one that was left behind replace a newer one whose settle found no row to merge with."""
    left = {"next_run_at": at(-1), "runs": (run("a@1", status="failed"),)}
    await _leave_in_outbox(store, monkeypatch, await put_and_take(store), **left)
    await store.settle([outcome(await take_one(store), runs=(run("a@1", status="sent"),))])

    assert [row.status for row in await store.runs(RunQuery(), limit=9)] == ["sent"]


async def test_who_takes_out_the_last_entry_of_a_finished_schedule_deletes_it(
    place: Any, store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the steps of two that clear their entries fall between each other."""
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "clear", _nothing)
        await store.settle([outcome(await put_and_take(store), next_run_at=at(-1), runs=(run("a@1"),))])
        await store.settle([outcome(await take_one(store), finished=True, runs=(run("a@2"),))])
    with place.direct() as database:
        batches = [entry["batch"] for entry in database["taskiq_schedules"].find_one({"_id": "a"})["outbox"]]
    session = store._session
    for batch in batches:
        await session.run("outbox_finished", batches=[batch])
    for batch in batches:
        await session.run("outbox_clear", batches=[batch])
    assert _remains(place) == {"a": []}
    await outbox.clear(session, [batches[0]], ["a"])

    assert _remains(place) == {}
    assert sorted(await recorded(store)) == ["a@1", "a@2"]


async def test_an_id_is_free_although_its_last_process_died_before_it_deleted_the_finished_schedule(
    place: Any, store: MongoStore
) -> None:
    """With an empty outbox, nothing else finds it."""
    await store.put([schedule()])
    with place.direct() as database:
        database["taskiq_schedules"].update_one({"_id": "a"}, {"$set": {"finished": True, "outbox": [], "next_run_at": None}})

    assert await asyncio.wait_for(store.put([schedule()]), _TIMEOUT) == frozenset()
    assert await listed(store) == ["a"]


async def test_a_finished_schedule_with_an_older_entry_keeps_it(
    place: Any, store: MongoStore, monkeypatch: pytest.MonkeyPatch, left_behind_at_once: None
) -> None:
    """Clearing one entry of a finished schedule does not take the other with it."""
    await _leave_in_outbox(store, monkeypatch, await put_and_take(store, next_run_at=at(-5)), next_run_at=at(-1))
    finished = outcome(await take_one(store), finished=True, runs=(run("a@2"),))
    await store.settle([finished])
    assert _remains(place) == {"a": ["a@1"]}, "the settle's own entry is cleared; the older one is there, though the rest is gone"

    assert sorted(await recorded(store)) == ["a@1", "a@2"]
    assert _remains(place) == {}


async def test_putting_over_one_that_has_just_finished(
    place: Any, store: MongoStore, other: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id is free as soon as the settle has finished it, whatever is still to be cleaned up; with and without `replace`."""
    for replace, many in ((True, 1), (False, 1), (True, 50), (False, 50)):
        schedule_id = f"{replace}-{many}"
        claim = await put_and_take(store, schedule_id)
        await _leave_in_outbox(store, monkeypatch, claim, finished=True)
        others = [schedule(f"{schedule_id}-{number}") for number in range(1, many)]

        assert await other.put([schedule(schedule_id, document="anew"), *others], replace=replace) == frozenset()
        assert (await read(other, schedule_id)).document == "anew"
        assert f"{schedule_id}@1" in await recorded(other)


# -- between two statements ------------------------------------------------------------------------------------------------------


async def test_a_take_over_amid_an_outcome_is_told_apart(
    store: MongoStore, other: MongoStore, before: Callable[..., None]
) -> None:
    """Of outcomes of one call, those that are lost are named, and no other, whoever reads history meanwhile."""
    await store.put([schedule(schedule_id) for schedule_id in ("a", "b", "c")])
    claims = {claim.schedule.id: claim for claim in await take(store)}
    await take(other, now=NOW + LEASE, ids=["b"])
    before(store, "find", lambda: other.runs(RunQuery(), limit=1))
    lost = await store.settle([_outcome(claims["a"], finished=True), _outcome(claims["b"]), _outcome(claims["c"])])

    assert lost == {"b"}
    assert sorted(await recorded(store)) == ["a@1", "c@1"]


async def test_many_processes_leave_and_find_history(
    place: Any, monkeypatch: pytest.MonkeyPatch, left_behind_at_once: None
) -> None:
    """Settles, readers that move everything at once, deletes and new schedules of the same ids: every row is there in the end."""
    stores = [place.store() for _ in range(4)]
    for one in stores:
        await one.open()
    expected: set[str] = set()

    async def work(one: MongoStore, number: int) -> None:
        for turn in range(12):
            schedule_id = f"{turn % 3}"
            await one.put([schedule(schedule_id)], replace=False)
            for claim in await take(one, ids=[schedule_id]):
                name = f"{number}-{turn}"
                ended = outcome(claim, finished=turn % 2 == 0, next_run_at=at(-1), runs=(run(name, schedule_id=schedule_id),))
                if await one.settle([ended]) == frozenset():
                    expected.add(name)
            if turn % 4 == number:
                await one.delete([schedule_id])
            await one.runs(RunQuery(), limit=1)

    await asyncio.wait_for(asyncio.gather(*(work(one, number) for number, one in enumerate(stores))), _TIMEOUT * 2)

    assert set(await recorded(stores[0])) == expected
    assert len(expected) > 10
    assert set(_remains(place)) == set(await listed(stores[0], ScheduleQuery()))
    assert all(entries == [] for entries in _remains(place).values())
    for one in stores:
        await one.close()


# -- helpers ---------------------------------------------------------------------------------------------------------------------


def _outcome(claim: Claim, **fields: Any) -> Any:
    schedule_id = claim.schedule.id
    return outcome(
        claim, **{"finished": schedule_id == "finished", "runs": (run(f"{schedule_id}@1", schedule_id=schedule_id),), **fields}
    )


async def _leave_in_outbox(store: MongoStore, monkeypatch: pytest.MonkeyPatch, claim: Claim, **fields: Any) -> None:
    """Settle a claim, as a process does that dies right afterwards."""
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "insert", _nothing)
        patch.setattr(outbox, "clear", _nothing)
        assert await store.settle([_outcome(claim, **fields)]) == frozenset()


async def _nothing(*_args: Any, **_kwargs: Any) -> None: ...


def _remains(place: Any) -> dict[str, list[str]]:
    """What there is of each schedule, finished ones included: the rows in its outbox."""
    with place.direct() as database:
        return {
            found["_id"]: [row["_id"] for entry in found.get("outbox", []) for row in entry["rows"]]
            for found in database["taskiq_schedules"].find()
        }
