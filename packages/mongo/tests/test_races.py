"""What may happen between two statements of a call, and what several do at once: with transactions and without."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pymongo.asynchronous.cursor import AsyncCursor

from taskiq_sources.errors import ScheduleNotFoundError, SourceConnectionError
from taskiq_sources.models import Claim, Outcome, RunQuery, ScheduleChanges
from taskiq_sources_conformance.build import LEASE, NOW, at, outcome, read, recorded, run, schedule, take, take_one
from taskiq_sources_mongo import MongoStore

pytestmark = pytest.mark.anyio

_TIMEOUT = 20.0


@pytest.fixture(params=["mongo", "mongo_motor", "mongo_standalone"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- claims, definitions ---------------------------------------------------------------------------------------------------------


async def _move(store: MongoStore) -> None:
    await store.update("a", ScheduleChanges(updated_at=NOW, scheduled_for=at(900), next_run_at=at(900), attempt=0))


async def _put_moved(store: MongoStore) -> None:
    await store.put([schedule(timing="moved", scheduled_for=at(900), next_run_at=at(900))])


@pytest.mark.parametrize("edit", [_move, _put_moved])
async def test_an_edit_of_when_amid_a_claim_is_kept(
    store: MongoStore, other: MongoStore, before: Callable[..., None], edit: Callable[[MongoStore], Awaitable[None]]
) -> None:
    """Whatever moves while it is being claimed is not sent at its old time, nor is its new time settled away."""
    await store.put([schedule("a"), schedule("b")])
    before(store, "update_many", lambda: edit(other))
    claims = await take(store)

    assert [claim.schedule.id for claim in claims] == ["b"]
    found = await read(other)
    assert (found.next_run_at, found.lease_until, found.attempt) == (at(900), None, 0)
    assert (await take_one(other, now=at(900))).schedule.attempt == 1


async def _rewrite(store: MongoStore) -> None:
    await store.update("a", ScheduleChanges(updated_at=NOW, document="new"))


async def _put_rewritten(store: MongoStore) -> None:
    await store.put([schedule(document="new")])


@pytest.mark.parametrize("edit", [_rewrite, _put_rewritten])
async def test_an_edit_of_arguments_amid_a_claim_does_no_harm(
    store: MongoStore, other: MongoStore, before: Callable[..., None], edit: Callable[[MongoStore], Awaitable[None]]
) -> None:
    """A new document that comes while its schedule is claimed is sent already; the occurrence is settled as ever."""
    await store.put([schedule()])
    before(store, "update_many", lambda: edit(other))
    [claim] = await take(store)

    assert (claim.schedule.document, claim.schedule.attempt, claim.schedule.revision) == ("new", 1, 2)
    assert await store.settle([outcome(claim)]) == frozenset()
    assert (await read(other)).next_run_at == at(3600)


async def test_an_edit_amid_a_claim_by_ids_is_no_reason_to_miss_it(
    store: MongoStore, other: MongoStore, before: Callable[..., None]
) -> None:
    """Whoever asks for a schedule by its id takes one that is not claimed for one that somebody else holds."""
    await store.put([schedule("a"), schedule("b")])
    before(store, "update_many", lambda: _rewrite(other))

    assert [claim.schedule.id for claim in await take(store, ids=["a", "b"])] == ["a", "b"]


async def test_a_claim_ends_however_fast_others_edit(
    store: MongoStore, other: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it cannot take is left to the next claim."""
    await store.put([schedule()])
    looks = 0
    take_found = MongoStore._take

    async def edited_first(session: MongoStore, *arguments: Any) -> list[Claim]:
        nonlocal looks
        looks += 1
        await _rewrite(other)
        return await take_found(session, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MongoStore, "_take", edited_first)
        assert await take(store) == []
    assert 1 < looks < 100
    assert [claim.schedule.document for claim in await take(store)] == ["new"]


async def test_a_schedule_that_is_made_anew_amid_a_claim_is_claimed_as_it_is(
    store: MongoStore, other: MongoStore, before: Callable[..., None]
) -> None:
    """One that was deleted and stored again looks the same by its id, its instants and its revision."""

    async def make_anew() -> None:
        await other.delete(["a"])
        await other.put([schedule(document="new")])

    await store.put([schedule("a"), schedule("b")])
    before(store, "update_many", make_anew)
    claims = [*await take(store), *await take(store)]

    assert {claim.schedule.id: claim.schedule.document for claim in claims} == {"a": "new", "b": schedule("b").document}


async def test_what_is_settled_late_amid_a_claim_is_claimed_as_it_was_left(
    store: MongoStore, other: MongoStore, before: Callable[..., None]
) -> None:
    """Whoever slept until his lease had ended settles just before somebody else takes over: that one is not sent again."""
    await store.put([schedule()])
    [slept] = await take(other)
    before(store, "update_many", lambda: other.settle([outcome(slept, scheduled_for=at(-1), next_run_at=at(-1), run_count=1)]))
    [claim] = await take(store, now=NOW + LEASE)

    assert (claim.schedule.scheduled_for, claim.schedule.run_count) == (at(-1), 1)


@pytest.mark.parametrize("backend", ["mongo"])
async def test_what_moves_on_while_it_is_looked_for_is_claimed_once(
    store: MongoStore, other: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query is no snapshot: what it has returned, and what then has moved on in the index, it returns again."""
    await store.put([schedule("a", scheduled_for=at(-100), next_run_at=at(-100))])
    await store.put([schedule(f"b{number}", scheduled_for=at(-50), next_run_at=at(-50)) for number in range(6)])
    answered = 0
    ask = AsyncCursor._send_message

    async def send_between(cursor: Any, operation: Any) -> Any:
        nonlocal answered
        answered += 1
        if answered == 2:
            monkeypatch.setattr(AsyncCursor, "_send_message", ask)
            [claim] = await take(other, ids=["a"])
            await other.settle([outcome(claim, scheduled_for=at(-1), next_run_at=at(-1), run_count=1)])
        return await ask(cursor, operation)

    monkeypatch.setattr("taskiq_sources_mongo.database._ALL_AT_ONCE", 2)
    monkeypatch.setattr(AsyncCursor, "_send_message", send_between)
    claims = {claim.schedule.scheduled_for: claim for claim in await take(store) if claim.schedule.id == "a"}

    assert set(claims) == {at(-1)}
    assert claims[at(-1)].schedule.run_count == 1


@pytest.mark.parametrize("attempt", [0, 1])
async def test_what_others_have_sent_amid_a_claim_is_claimed_as_they_have_left_it(
    store: MongoStore, other: MongoStore, before: Callable[..., None], attempt: int
) -> None:
    """It is due again, be it the next occurrence or the same one: what is claimed is that, and not what was found before."""
    await store.put([schedule("a"), schedule("b")])

    async def send() -> None:
        [claim] = [claim for claim in await take(other) if claim.schedule.id == "a"]
        await other.settle([outcome(claim, next_run_at=at(-1), scheduled_for=at(-1), attempt=attempt, run_count=1)])

    before(store, "update_many", send)
    [claim] = await take(store)

    assert (claim.schedule.id, claim.schedule.scheduled_for, claim.schedule.attempt) == ("a", at(-1), attempt + 1)
    assert claim.schedule.run_count == 1
    assert await store.settle([outcome(claim, run_count=2)]) == frozenset()
    assert (await read(other)).run_count == 2


async def test_a_claim_returns_what_it_has_when_a_later_statement_fails(
    store: MongoStore, before: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken, and nobody else could send it before the lease ends. Whoever claims nothing is told why."""

    async def fail() -> None:
        raise SourceConnectionError("the server has gone")

    monkeypatch.setattr("taskiq_sources_mongo.store._BATCH", 2)
    await store.put([schedule(schedule_id) for schedule_id in "abcde"])
    before(store, "find", fail, time=3)
    assert [claim.schedule.id for claim in await take(store)] == ["a", "b", "c", "d"]
    before(store, "find", fail)
    with pytest.raises(SourceConnectionError):
        await take(store)

    assert [claim.schedule.id for claim in await take(store)] == ["e"]


async def test_what_others_take_amid_a_claim_is_made_up_for(
    store: MongoStore, other: MongoStore, before: Callable[..., None]
) -> None:
    """A claim that finds its candidates taken looks for others, up to the limit."""
    await store.put([schedule(f"{number}") for number in range(9)])
    before(store, "update_many", lambda: take(other, limit=4))
    claims = await take(store, limit=5)

    assert [claim.schedule.id for claim in claims] == ["4", "5", "6", "7", "8"]


async def test_schedules_that_come_and_go_while_they_are_put(
    store: MongoStore, other: MongoStore, before: Callable[..., None]
) -> None:
    """Of many that are put, one that appears meanwhile is replaced, and one that disappears is made; both are told right."""
    many = [schedule(f"{number:02}") for number in range(40)]
    await store.put([schedule("00")])

    async def meanwhile() -> None:
        await other.put([schedule("01")])
        await other.delete(["00"])

    before(store, "bulk_write", meanwhile)

    assert await store.put(many) == {"01"}
    found = await other.get(["00", "01", "02"])
    assert [(one.id, one.revision) for one in sorted(found.values(), key=lambda one: one.id)] == [("00", 1), ("01", 2), ("02", 1)]


async def test_rows_that_are_known_are_replaced_and_new_ones_written(store: MongoStore) -> None:
    """Of the rows of one settle, some may be of occurrences that failed before, and one may come twice: the last one counts."""
    await store.put([schedule("a"), schedule("b")])
    failed = [
        outcome(claim, next_run_at=at(-1), runs=(run(f"{claim.schedule.id}@1", status="failed"),)) for claim in await take(store)
    ]
    await store.settle(failed)
    sent = [
        outcome(
            claim,
            runs=tuple(run(f"{claim.schedule.id}@{number}", attempt=attempt) for attempt, number in ((1, 1), (1, 2), (2, 2))),
        )
        for claim in await take(store)
    ]
    await store.settle(sent)

    rows = {row.occurrence_id: (row.status, row.attempt) for row in await store.runs(RunQuery(), limit=9)}
    assert rows == {"a@1": ("sent", 1), "a@2": ("sent", 2), "b@1": ("sent", 1), "b@2": ("sent", 2)}


# -- outcomes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["delete_many", "update_many", "insert_many"])
@pytest.mark.parametrize("edit", [_move, _put_moved])
async def test_an_edit_of_when_amid_an_outcome_is_kept(
    store: MongoStore,
    other: MongoStore,
    before: Callable[..., None],
    edit: Callable[[MongoStore], Awaitable[None]],
    statement: str,
) -> None:
    """Whatever moves while its outcome is on its way keeps its new time, or has it if the outcome is first; nothing is lost."""
    await store.put([schedule("a"), schedule("b"), schedule("c")])
    outcomes = [_outcome(claim, finished=claim.schedule.id != "c") for claim in await take(store)]
    editing: list[asyncio.Future[None]] = []

    async def begin() -> None:
        editing.append(asyncio.ensure_future(edit(other)))
        await asyncio.wait(editing, timeout=0.1)

    before(store, statement, begin)
    lost = await store.settle(outcomes)
    results = await asyncio.gather(*editing, return_exceptions=True)

    found = await other.get(["a", "b", "c"])
    assert lost == frozenset()
    assert "b" not in found
    assert (found["c"].next_run_at, found["c"].lease_until) == (at(3600), None)
    if "a" in found:
        assert (found["a"].next_run_at, found["a"].lease_until) == (at(900), None)
    else:  # the outcome was first: there was nothing to edit any more
        assert [type(result) for result in results] in ([], [ScheduleNotFoundError])
    assert sorted(await recorded(other)) == ["a@1", "b@1", "c@1"]


@pytest.mark.parametrize("what", ["deletes", "takes over"])
async def test_outcomes_that_are_lost_amid_their_settle_are_named(
    store: MongoStore, other: MongoStore, before: Callable[..., None], what: str
) -> None:
    """Whoever is first, a delete, a take-over or the outcome: what the outcome says of itself is what is there."""
    await store.put([schedule(schedule_id) for schedule_id in ("a", "b", "c")])
    outcomes = [_outcome(claim, finished=claim.schedule.id == "a") for claim in await take(store)]

    async def act() -> None:
        await (other.delete(["b"]) if what == "deletes" else take(other, now=NOW + LEASE, ids=["b"]))

    before(store, "update_many", act)
    lost = await store.settle(outcomes)

    assert lost == {"b"}
    assert sorted(await recorded(other)) == ["a@1", "c@1"]
    assert set(await other.get(["a", "b", "c"])) == ({"c"} if what == "deletes" else {"b", "c"})


async def test_a_document_that_is_refused_is_not_quoted(place: Any, store: MongoStore) -> None:
    """A validator that somebody has put on a collection is named, with the way out, and nothing that users stored is."""
    await store.put([schedule("a")])
    claims = await take(store)
    refusing = {"validator": {"secret": "told"}, "validationLevel": "strict"}
    with place.direct() as database:
        database.command("collMod", "taskiq_schedules", **refusing)
        database.command("collMod", "taskiq_runs", **refusing)
    calls: list[Callable[[], Awaitable[Any]]] = [lambda: store.put([schedule("b", document="s3cr3t")])]
    if place.backend != "mongo_standalone":  # there history is moved by whoever comes next
        calls.append(lambda: store.settle([_outcome(claims[0], finished=True, runs=(run("a@1", error="s3cr3t"),))]))

    for call in calls:
        with pytest.raises(SourceConnectionError, match=r"refuses a document \(error 121\): take the validator off") as caught:
            await call()
        assert "s3cr3t" not in "".join(traceback.format_exception(caught.type, caught.value, caught.tb))


async def test_of_two_that_settle_the_same_claims_one_does(store: MongoStore, other: MongoStore) -> None:
    """Each outcome is applied by one of them, and lost to the other, and its row is written once."""
    ids = {f"{number:02}" for number in range(60)}
    await store.put([schedule(schedule_id) for schedule_id in ids])
    claims = await take(store)
    outcomes = [_outcome(claim, finished=int(claim.schedule.id) % 2 == 0) for claim in claims]
    lost_here, lost_there = await asyncio.wait_for(
        asyncio.gather(store.settle(outcomes[:40]), other.settle(outcomes[20:])), _TIMEOUT
    )

    both = {claim.schedule.id for claim in claims[20:40]}
    assert lost_here | lost_there == both
    assert lost_here & lost_there == frozenset()
    assert sorted(await recorded(store)) == sorted(f"{schedule_id}@1" for schedule_id in ids)


async def test_outcomes_of_one_store_may_be_settled_at_once(store: MongoStore) -> None:
    """As a scheduler does that settles each send by itself."""
    await store.put([schedule(f"{number:02}") for number in range(40)])
    outcomes = [_outcome(claim, finished=True) for claim in await take(store)]
    lost = await asyncio.wait_for(asyncio.gather(*(store.settle([one]) for one in outcomes)), _TIMEOUT)

    assert set(lost) == {frozenset()}
    assert len(await recorded(store)) == 40


async def test_a_settle_that_is_cancelled_is_done_or_not(store: MongoStore) -> None:
    """However it is cut short, an outcome is there as a whole or not at all, and the store works."""
    for turns in range(24):
        await store.put([schedule("a"), schedule("b")])
        outcomes = [_outcome(claim, finished=claim.schedule.id == "a") for claim in await take(store)]
        settling = asyncio.ensure_future(store.settle(outcomes))
        for _ in range(turns):
            await asyncio.sleep(0)
        settling.cancel()
        await asyncio.wait([settling])
        first = set(await recorded(store))
        lost = await store.settle(outcomes)

        assert (first, lost) in [(set(), frozenset()), ({"a@1", "b@1"}, {"a", "b"})]
        assert set(await recorded(store)) == {"a@1", "b@1"}
        await store.delete(["a", "b"])
        await store.prune_runs(before=NOW + LEASE, keep=0)


def _outcome(claim: Claim, **fields: Any) -> Outcome:
    schedule_id = claim.schedule.id
    return outcome(claim, **{"runs": (run(f"{schedule_id}@1", schedule_id=schedule_id),), **fields})
