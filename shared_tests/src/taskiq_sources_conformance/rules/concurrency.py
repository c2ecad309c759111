"""Rules for many callers at once: tasks on one handle, and two handles on the same data."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import pytest

from taskiq_sources.errors import RevisionConflictError
from taskiq_sources.models import Claim, Outcome, RunQuery, ScheduleChanges
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import (
    LEASE,
    NOW,
    TIMEOUT,
    at,
    claimable,
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

Handles: TypeAlias = tuple[ScheduleStore, ScheduleStore]

CALLERS = 16
SCHEDULES = 200
THREADS = 4


class ConcurrencyRules:
    """Whatever happens at once, each occurrence has one holder and no edit is lost."""

    # -- claims ----------------------------------------------------------------------------------------------------------------

    async def test_parallel_claims_never_overlap(self, handles: Handles) -> None:
        """Many claims at once share out the schedules. (Look at `claim`: reading what is due, then writing the lease.)"""
        await handles[0].put([schedule(f"{number:03}") for number in range(SCHEDULES)])
        batches = await asyncio.gather(*(take(handles[caller % 2], claimant=f"c{caller}", limit=20) for caller in range(CALLERS)))
        batches.append(await take(handles[0], limit=SCHEDULES))  # what concurrent claims have stepped over

        times = Counter(claim.schedule.id for batch in batches for claim in batch)
        assert max(times.values()) == 1
        assert len(times) == SCHEDULES
        assert {found.attempt for found in (await handles[1].get(list(times))).values()} == {1}

    async def test_catching_up_side_by_side(self, handles: Handles) -> None:
        """Who claims while others catch up gets each schedule once, as they have left it. (Look at `claim`: reading twice.)"""
        oldest = -4
        times = {"scheduled_for": at(oldest), "next_run_at": at(oldest)}
        await handles[0].put([schedule(f"{number:03}", **times) for number in range(SCHEDULES)])
        sent: Counter[tuple[str, datetime | None]] = Counter()

        def next_after(claim: Claim) -> Outcome:
            coming = (claim.schedule.scheduled_for or NOW) + timedelta(seconds=1)
            return outcome(claim, scheduled_for=coming, next_run_at=coming, finished=coming > NOW)

        async def catch_up(store: ScheduleStore) -> None:
            while sent.total() < SCHEDULES * (1 - oldest):
                claims = await take(store, limit=SCHEDULES // 2)
                assert len({claim.schedule.id for claim in claims}) == len(claims)
                sent.update((claim.schedule.id, claim.schedule.scheduled_for) for claim in claims)
                assert await store.settle([next_after(claim) for claim in claims]) == frozenset()
                await asyncio.sleep(0)

        await asyncio.wait_for(asyncio.gather(*(catch_up(handles[caller % 2]) for caller in range(4))), TIMEOUT)

        assert set(sent.values()) == {1}
        assert await listed(handles[0]) == []

    async def test_parallel_claims_of_one_schedule_have_one_winner(self, handles: Handles) -> None:
        """Of many that want the same schedule, one gets it. (Look at `claim` with ids, and its isolation.)"""
        for round_ in range(10):
            schedule_id = f"prize-{round_}"
            await handles[0].put([schedule(schedule_id)])
            batches = await asyncio.gather(
                *(take(handles[caller % 2], ids=[schedule_id], claimant=f"c{caller}") for caller in range(CALLERS))
            )

            winners = [claim for batch in batches for claim in batch]
            assert len(winners) == 1
            assert (await read(handles[1], schedule_id)).claimant == winners[0].schedule.claimant

    async def test_parallel_take_overs_have_one_winner(self, handles: Handles) -> None:
        """Of many that find an ended lease, one takes over. (Look at `claim`: the lease is not among the conditions.)"""
        claim = await put_and_take(handles[0])
        batches = await asyncio.gather(*(take(handles[caller % 2], now=claim.lease_until) for caller in range(CALLERS)))

        winners = [claim for batch in batches for claim in batch]
        assert [winner.schedule.attempt for winner in winners] == [2]

    def test_claims_of_threads_never_overlap(self, make_store: Callable[[], ScheduleStore]) -> None:
        """Nor do claims of handles with event loops of their own. (Look at locks that hold within one process or loop only.)"""
        first = make_store()
        if not first.capabilities.shared:
            pytest.skip(f"{type(first).__name__} does not declare the capability 'shared'")

        async def fill() -> None:
            await first.open()
            await first.put([schedule(f"{number:03}") for number in range(SCHEDULES)])
            await first.close()

        asyncio.run(fill())
        start = threading.Barrier(THREADS)
        taken: list[str] = []
        errors: list[BaseException] = []

        async def drain(handle: ScheduleStore) -> None:
            await handle.open()
            start.wait(TIMEOUT)
            while claims := await take(handle, limit=7):
                taken.extend(claim.schedule.id for claim in claims)
                assert await handle.settle([outcome(claim, finished=True) for claim in claims]) == frozenset()
            await handle.close()

        def run_thread() -> None:
            try:
                asyncio.run(drain(make_store()))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run_thread) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT * 3)

        async def collect_the_rest() -> None:
            await first.open()
            taken.extend(await claimable(first))  # what concurrent claims have stepped over
            await first.close()

        asyncio.run(collect_the_rest())
        assert errors == []
        assert Counter(taken) == {f"{number:03}": 1 for number in range(SCHEDULES)}

    # -- settles, renewals, edits ----------------------------------------------------------------------------------------------

    async def test_parallel_settles_of_one_claim_apply_once(self, handles: Handles) -> None:
        """Of many outcomes for one claim, one applies. (Look at `settle`: checking the token, then writing.)"""
        claim = await put_and_take(handles[0])
        results = await asyncio.gather(
            *(
                handles[caller % 2].settle([outcome(claim, run_count=caller, runs=(run(f"a@{caller}"),))])
                for caller in range(CALLERS)
            )
        )

        applied = [caller for caller, lost in enumerate(results) if not lost]
        assert len(applied) == 1
        assert (await read(handles[1])).run_count == applied[0]
        assert await recorded(handles[1]) == [f"a@{applied[0]}"]

    async def test_settle_against_take_over(self, handles: Handles) -> None:
        """Of a late outcome and a take-over, the one that comes first decides for both. (Look at both where clauses.)"""
        for round_ in range(10):
            schedule_id = f"contested-{round_}"
            claim = await put_and_take(handles[0], schedule_id)
            row = run(f"{schedule_id}@1", schedule_id=schedule_id)
            lost, taken = await asyncio.gather(
                handles[round_ % 2].settle([outcome(claim, runs=(row,))]),
                take(handles[1 - round_ % 2], now=claim.lease_until, ids=[schedule_id]),
            )

            # Settled first: not due any more, so nothing to take. Taken first: the outcome is lost, with its row.
            assert (lost == {schedule_id}) == (len(taken) == 1)
            assert await recorded(handles[0], RunQuery(schedule_id=schedule_id)) == ([] if taken else [row.occurrence_id])

    async def test_parallel_edits_are_all_counted(self, handles: Handles) -> None:
        """Each of many edits at once gets a revision of its own. (Look at `update`: reading the revision, then writing.)"""
        await handles[0].put([schedule()])
        edited = await asyncio.gather(
            *(handles[caller % 2].update("a", ScheduleChanges(updated_at=NOW, document=str(caller))) for caller in range(CALLERS))
        )

        assert sorted(found.revision for found in edited) == list(range(2, CALLERS + 2))
        last = max(edited, key=lambda found: found.revision)
        assert await read(handles[1]) == last

    async def test_parallel_edits_of_one_revision_have_one_winner(self, handles: Handles) -> None:
        """Of many edits that expect the same revision, one is made. (Look at `update`: the check is not part of the write.)"""
        await handles[0].put([schedule()])
        results = await asyncio.gather(
            *(
                handles[caller % 2].update("a", ScheduleChanges(updated_at=NOW, document=str(caller)), expected_revision=1)
                for caller in range(CALLERS)
            ),
            return_exceptions=True,
        )

        winners = [result for result in results if not isinstance(result, BaseException)]
        losers = [result for result in results if isinstance(result, RevisionConflictError)]
        assert (len(winners), len(losers)) == (1, CALLERS - 1), results
        assert await read(handles[1]) == winners[0]

    async def test_parallel_edits_of_different_fields_are_all_kept(self, handles: Handles) -> None:
        """Edits at once of different fields do not undo each other. (Look at `update`: the whole row written back.)"""
        edits: list[dict[str, Any]] = [
            {"document": "new"},
            {"paused": True},
            {"run_count": 7},
            {"last_error": "x"},
            {"coalesced": 8},
        ]
        await handles[0].put([schedule()])
        await asyncio.gather(
            *(handles[number % 2].update("a", ScheduleChanges(updated_at=NOW, **edit)) for number, edit in enumerate(edits))
        )

        found = await read(handles[1])
        assert {name: getattr(found, name) for edit in edits for name in edit} == {
            name: edit[name] for edit in edits for name in edit
        }

    async def test_parallel_puts_of_one_id_create_it_once(self, handles: Handles) -> None:
        """Of many that store a new id at once, one creates it and the others replace it. (Look at the upsert.)"""
        results = await asyncio.gather(
            *(handles[caller % 2].put([schedule(timing=f"t{caller}", run_count=caller)]) for caller in range(CALLERS))
        )

        assert sorted(len(existed) for existed in results) == [0] + [1] * (CALLERS - 1)
        found = await read(handles[1])
        assert found.revision == CALLERS
        assert found.timing == f"t{found.run_count}"

    async def test_parallel_puts_in_opposite_orders(self, handles: Handles) -> None:
        """Bulk writes of the same ids in different orders do not block each other for good. (Look at the order of locks.)"""
        ids = [f"{number:03}" for number in range(SCHEDULES)]
        await asyncio.wait_for(
            asyncio.gather(
                *(
                    handles[caller % 2].put(
                        [schedule(schedule_id, document=str(caller)) for schedule_id in (ids if caller % 4 < 2 else ids[::-1])]
                    )
                    for caller in range(CALLERS)
                )
            ),
            TIMEOUT * 3,
        )

        assert {found.revision for found in (await handles[0].get(ids)).values()} == {CALLERS}

    async def test_a_busy_hour(self, handles: Handles) -> None:
        """Claims, outcomes, renewals and edits at once: nothing fails, nothing is sent twice. (Look at isolation and locks.)"""
        ids = [f"{number:03}" for number in range(60)]
        await handles[0].put([schedule(schedule_id) for schedule_id in ids])
        sent: Counter[str] = Counter()

        async def dispatch(store: ScheduleStore, claimant: str) -> None:
            for _ in range(100):
                claims = await take(store, limit=5, claimant=claimant)
                if not claims:
                    return
                assert await store.renew(claims, until=NOW + 2 * LEASE) == {claim.schedule.id for claim in claims}
                sent.update(claim.schedule.id for claim in claims)
                rows = [run(f"{claim.schedule.id}@1", schedule_id=claim.schedule.id) for claim in claims]
                outcomes = [outcome(claim, runs=(row,)) for claim, row in zip(claims, rows, strict=True)]
                assert await store.settle(outcomes) == frozenset()

        async def edit(store: ScheduleStore, chosen: list[str]) -> None:
            for schedule_id in chosen:
                await store.update(schedule_id, ScheduleChanges(updated_at=NOW, document="edited"))
                await store.next_due(NOW)

        await asyncio.wait_for(
            asyncio.gather(
                *(dispatch(handles[caller % 2], f"c{caller}") for caller in range(6)),
                edit(handles[0], ids[::2]),
                edit(handles[1], ids[1::2]),
            ),
            TIMEOUT * 3,
        )
        await dispatch(handles[0], "last")

        assert sent == dict.fromkeys(ids, 1)
        found = await handles[1].get(ids)
        assert {(one.document, one.revision, one.next_run_at, one.claimant) for one in found.values()} == {
            ("edited", 2, at(3600), None)
        }
        assert len(await recorded(handles[1])) == len(ids)

    # -- cancellation ----------------------------------------------------------------------------------------------------------

    async def test_a_cancelled_put_leaves_the_store_usable(self, store: ScheduleStore) -> None:
        """A `put` that is cancelled wrote each schedule whole or not at all. (Look at the connection: given back in order?)"""
        ids = [f"{number:02}" for number in range(20)]
        for turns in range(25):
            document = f"round {turns}"
            await cancelled(store.put([schedule(schedule_id, document=document, timing=document) for schedule_id in ids]), turns)

            found = await asyncio.wait_for(store.get(ids), TIMEOUT)
            assert all(one.document == one.timing for one in found.values())

        await asyncio.wait_for(store.put([schedule(schedule_id, document="end") for schedule_id in ids]), TIMEOUT)
        assert {one.document for one in (await store.get(ids)).values()} == {"end"}

    async def test_a_cancelled_claim_leaves_the_store_usable(self, store: ScheduleStore) -> None:
        """What a cancelled `claim` took comes free when its lease ends. (Look at the connection: given back in order?)"""
        ids = [f"{number:02}" for number in range(20)]
        await store.put([schedule(schedule_id) for schedule_id in ids])
        for turns in range(25):
            now = NOW + turns * LEASE
            await cancelled(take(store, now=now), turns)
            await asyncio.wait_for(take(store, now=now), TIMEOUT)

            assert await listed(store) == ids
        assert await claimable(store, NOW + 25 * LEASE) == ids

    async def test_a_cancelled_settle_leaves_the_store_usable(self, store: ScheduleStore) -> None:
        """A cancelled `settle` applied an outcome whole, with its rows, or not at all. (Look at the transaction.)"""
        for turns in range(25):
            schedule_id = f"{turns:02}"
            claim = await put_and_take(store, schedule_id)
            row = run(f"{schedule_id}@1", schedule_id=schedule_id)
            await cancelled(store.settle([outcome(claim, runs=(row,))]), turns)

            # What was sent before it was cancelled may still be on its way, and arrive between two looks: then look once more.
            seen = await self._settled_whole(store, schedule_id, row.occurrence_id)
            lost = await store.settle([outcome(claim)])
            if lost and not seen:
                seen = await self._settled_whole(store, schedule_id, row.occurrence_id)
            assert lost == (frozenset({schedule_id}) if seen else frozenset())

    async def _settled_whole(self, store: ScheduleStore, schedule_id: str, occurrence_id: str) -> bool:
        """Return whether the outcome was applied, after checking that all of it was or nothing."""
        found = await asyncio.wait_for(store.get([schedule_id]), TIMEOUT)
        while True:
            rows = await recorded(store, RunQuery(schedule_id=schedule_id))
            before, found = found, await store.get([schedule_id])
            if found == before:
                break
        settled = found[schedule_id].next_run_at == at(3600)
        assert (found[schedule_id].lease_until is None) == settled
        assert rows == ([occurrence_id] if settled else [])
        return settled

    async def test_cancelling_one_call_leaves_the_others_alone(self, store: ScheduleStore) -> None:
        """Calls that run beside a cancelled one go on. (Look at a connection that the calls share.)"""
        await store.put([schedule(f"{number:02}") for number in range(10)])
        calls = [asyncio.ensure_future(store.get([f"{number:02}"])) for number in range(10)]
        writes: list[asyncio.Future[Claim]] = [
            asyncio.ensure_future(take_one(store, f"{number:02}")) for number in range(0, 10, 2)
        ]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        found = await asyncio.wait_for(asyncio.gather(*calls[1::2]), TIMEOUT)
        claims = await asyncio.wait_for(asyncio.gather(*writes), TIMEOUT)
        await asyncio.wait(calls)

        assert [list(one) for one in found] == [[f"{number:02}"] for number in range(1, 10, 2)]
        assert len(claims) == 5


async def cancelled(call: Awaitable[Any], turns: int) -> None:
    """Run `call` for some turns of the event loop, cancel it, and wait until it has ended either way."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=TIMEOUT)
    assert done, f"a cancelled call goes on for more than {TIMEOUT} s"
    if not task.cancelled():
        task.result()
