"""Rules for several processes: what locks, counters and caches of one process would hide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TypeAlias

from taskiq_sources.backends import together
from taskiq_sources.models import Claim, RunQuery, ScheduleChanges, ScheduleQuery
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import LEASE, NOW, at, claimable, outcome, read, recorded, run, schedule, take, take_one
from taskiq_sources_conformance.elsewhere import elsewhere
from taskiq_sources_conformance.rules.durability import live
from taskiq_sources_conformance.rules.push import watching

MakeStore: TypeAlias = Callable[[], ScheduleStore]

SCHEDULES = 120
EDITED = "edited"
PROCESSES = 2


async def work_off(store: ScheduleStore) -> tuple[list[str], int]:
    """Claim and settle, a few at a time, while there is anything to claim, with an edit each time; return what was done."""
    taken: list[str] = []
    edits = 0
    while claims := await take(store, limit=3):
        ids = [claim.schedule.id for claim in claims]
        rows = [run(f"{schedule_id}@1", schedule_id=schedule_id) for schedule_id in ids]
        outcomes = [outcome(claim, runs=(row,)) for claim, row in zip(claims, rows, strict=True)]
        assert await store.settle(outcomes) == frozenset()
        taken += ids
        await store.update(EDITED, ScheduleChanges(updated_at=NOW, document="edited"))
        edits += 1
    return taken, edits


async def take_over(store: ScheduleStore, leases: int) -> Claim:
    """Claim a schedule after so many leases have ended."""
    return await take_one(store, now=NOW + leases * LEASE)


async def store_one(store: ScheduleStore) -> None:
    """Store a schedule."""
    await store.put([schedule()])


class ProcessRules:
    """Processes that share a store are as safe from one another as the handles of one."""

    async def test_claims_and_edits_of_processes_never_overlap(
        self, store: ScheduleStore, make_store_elsewhere: MakeStore
    ) -> None:
        """Processes share out what is due, and no edit or row is lost. (Look at locks that hold in one process only.)"""
        ids = [f"{number:03}" for number in range(SCHEDULES)]
        await store.put([schedule(schedule_id) for schedule_id in ids])
        await store.put([schedule(EDITED, next_run_at=None, scheduled_for=None)])
        async with AsyncExitStack() as stack:
            starting = (stack.enter_async_context(elsewhere(make_store_elsewhere, work_off)) for _ in range(PROCESSES))
            others = await together(starting)
            results = await together(other.result() for other in others)
        results.append(await work_off(store))  # what concurrent claims have stepped over

        assert Counter(schedule_id for taken, _ in results for schedule_id in taken) == dict.fromkeys(ids, 1)
        assert await claimable(store) == []
        assert len(await store.runs(RunQuery(), limit=SCHEDULES + 1)) == SCHEDULES
        assert (await read(store, EDITED)).revision == 1 + sum(edits for _, edits in results)

    async def test_tokens_of_processes_differ(self, store: ScheduleStore, make_store_elsewhere: MakeStore) -> None:
        """Claims of processes that have died are told from one another and from ours. (Look at tokens that are counted.)"""
        await store.put([schedule()])
        lost = []
        for leases in range(PROCESSES):
            async with elsewhere(make_store_elsewhere, take_over, leases) as other:
                lost.append(await other.result())
                await other.kill()
        ours = await take_over(store, PROCESSES)

        assert len({claim.token for claim in [*lost, ours]}) == PROCESSES + 1
        assert ours.schedule.attempt == PROCESSES + 1
        for claim in lost:
            assert await store.renew([claim], until=at(3600)) == frozenset()
            assert await store.settle([outcome(claim)]) == {"a"}
        assert await store.settle([outcome(ours)]) == frozenset()

    async def test_what_a_process_has_written_survives_its_death(
        self, store: ScheduleStore, make_store_elsewhere: MakeStore
    ) -> None:
        """What a method has returned from is there though its process is killed. (Look at what waits for `close`.)"""
        async with elsewhere(make_store_elsewhere, live) as other:
            await other.result()
            await other.kill()

        assert sorted(found.id for found in await store.page(ScheduleQuery(), limit=10)) == [EDITED, "free", "leased", "sent"]
        assert await recorded(store) == ["sent@1"]
        assert await claimable(store) == []

    async def test_changes_of_another_process_wake(self, store: ScheduleStore, make_store_elsewhere: MakeStore) -> None:
        """Watching tells of what another process stores. (Look at an event that only this process can set.)"""
        async with elsewhere(make_store_elsewhere, store_one) as other, watching(store) as watcher:
            count = watcher.count
            await other.result()
            await watcher.value_after(count)

            assert set(await store.get(["a"])) == {"a"}
