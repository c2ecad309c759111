"""Rules for what other handles, and later ones, see."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from taskiq_sources.models import RunQuery, ScheduleChanges, ScheduleQuery
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import (
    NOW,
    at,
    claimable,
    outcome,
    put_and_take,
    read,
    recorded,
    rich_schedule,
    run,
    schedule,
)


async def live(store: ScheduleStore) -> None:
    """Store one of everything: a free, an edited and a leased schedule, and a history row."""
    await store.put([rich_schedule("free", next_run_at=at(600)), schedule("edited")])
    await store.update("edited", ScheduleChanges(updated_at=NOW, paused=True, last_error="boom"))
    claim = await put_and_take(store, "sent")
    await store.settle([outcome(claim, runs=(run("sent@1", schedule_id="sent"),))])
    await put_and_take(store, "leased")


class DurabilityRules:
    """What a method has returned from is there for everybody and stays."""

    async def test_another_handle_sees_everything(self, store: ScheduleStore, other: ScheduleStore) -> None:
        """A second handle reads what the first wrote. (Look at caches, and at transactions that are not committed.)"""
        await live(store)

        assert await other.page(ScheduleQuery(), limit=10) == await store.page(ScheduleQuery(), limit=10)
        assert len(await other.page(ScheduleQuery(), limit=10)) == 4
        assert await recorded(other) == ["sent@1"]
        assert await other.next_due(NOW) == await store.next_due(NOW)

    async def test_another_handle_sees_every_change(self, store: ScheduleStore, other: ScheduleStore) -> None:
        """Each write is seen by a handle that has read before. (Look at caches, and at a read snapshot that stays open.)"""
        await store.put([schedule()])
        assert await read(other) == schedule()
        await store.update("a", ScheduleChanges(updated_at=NOW, document="edited"))
        assert (await read(other)).document == "edited"
        await store.delete(["a"])
        assert await other.get(["a"]) == {}

    async def test_a_claim_of_another_handle_holds(self, store: ScheduleStore, other: ScheduleStore) -> None:
        """Leases hold between handles, and any handle may renew and settle a claim. (Look at tokens kept in the object.)"""
        claim = await put_and_take(store)

        assert await claimable(other) == []
        assert await other.renew([claim], until=at(60)) == {"a"}
        assert await other.settle([outcome(claim)]) == frozenset()
        assert await store.settle([outcome(claim)]) == {"a"}

    async def test_what_was_written_survives_every_handle(
        self, store: ScheduleStore, make_store: Callable[[], ScheduleStore]
    ) -> None:
        """With all handles closed, the data is there for the next one. (Look at the declaration, at commits, at `close`.)"""
        if not store.capabilities.durable:
            pytest.skip(f"{type(store).__name__} does not declare the capability 'durable'")
        await live(store)
        before = await store.page(ScheduleQuery(), limit=10), await store.runs(RunQuery(), limit=10)
        await store.close()
        handle = make_store()
        await handle.open()
        after = await handle.page(ScheduleQuery(), limit=10), await handle.runs(RunQuery(), limit=10)
        await handle.close()

        assert after == before
        assert len(after[0]) == 4

    async def test_leases_survive_every_handle(self, store: ScheduleStore, make_store: Callable[[], ScheduleStore]) -> None:
        """A lease outlives the process that took it: nobody sends twice after a restart. (Look at `open`: leases cleared.)"""
        if not store.capabilities.durable:
            pytest.skip(f"{type(store).__name__} does not declare the capability 'durable'")
        claim = await put_and_take(store)
        await store.close()
        handle = make_store()
        await handle.open()

        assert await claimable(handle) == []
        assert await handle.settle([outcome(claim)]) == frozenset()
        await handle.close()
