"""Rules for `watch`, for stores that declare the capability 'push'."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import pytest

from taskiq_sources.models import ScheduleChanges
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import NOW, TIMEOUT, at, outcome, put_and_take, schedule

Handles: TypeAlias = tuple[ScheduleStore, ScheduleStore]


class Watcher:
    """Counts the values of `watch` in a task of its own, and lets a rule wait for the next one."""

    def __init__(self, store: ScheduleStore) -> None:
        self.count = 0
        self._changed = asyncio.Condition()
        self._task = asyncio.ensure_future(self._follow(store))

    async def _follow(self, store: ScheduleStore) -> None:
        async for _ in store.watch():
            async with self._changed:
                self.count += 1
                self._changed.notify_all()

    async def value_after(self, count: int) -> None:
        """Wait until there are more than `count` values."""

        async def wait() -> None:
            async with self._changed:
                await self._changed.wait_for(lambda: self.count > count)

        waiting = asyncio.ensure_future(wait())
        await asyncio.wait({waiting, self._task}, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done() and not waiting.done():
            waiting.cancel()
            self._task.result()
            pytest.fail("watch() ended although the store is open")
        if not waiting.done():
            waiting.cancel()
            pytest.fail(f"watch() yielded nothing for {TIMEOUT} s after {count} values")

    async def end(self) -> None:
        """Wait until `watch` has ended by itself."""
        done, _ = await asyncio.wait({self._task}, timeout=TIMEOUT)
        assert done, f"watch() goes on {TIMEOUT} s after close()"
        self._task.result()

    async def stop(self) -> None:
        """Stop watching."""
        self._task.cancel()
        await asyncio.wait({self._task})


@asynccontextmanager
async def watching(store: ScheduleStore) -> AsyncIterator[Watcher]:
    """Watch `store`, from the first value on."""
    if not store.capabilities.push:
        pytest.skip(f"{type(store).__name__} does not declare the capability 'push'")
    watcher = Watcher(store)
    try:
        await watcher.value_after(0)
        yield watcher
    finally:
        await watcher.stop()


async def _put_new(store: ScheduleStore) -> None:
    await store.put([schedule("b")])


async def _put_again(store: ScheduleStore) -> None:
    await store.put([schedule(timing="moved", next_run_at=at(-9))])


async def _update(store: ScheduleStore) -> None:
    await store.update("a", ScheduleChanges(updated_at=NOW, next_run_at=at(-9)))


async def _delete(store: ScheduleStore) -> None:
    await store.delete(["a"])


async def _settle(store: ScheduleStore) -> None:
    claim = await put_and_take(store, "c")
    await store.settle([outcome(claim, scheduled_for=at(1), next_run_at=at(1))])


class PushRules:
    """`watch` wakes a dispatcher when what is due may have changed."""

    async def test_the_first_value_comes_at_once(self, store: ScheduleStore) -> None:
        """Watching an idle store yields once the subscription holds. (Look at `watch`: it waits for a change first.)"""
        async with watching(store) as watcher:
            assert watcher.count >= 1

    @pytest.mark.parametrize(
        "change", [_put_new, _put_again, _update, _delete, _settle], ids=lambda change: change.__name__.lstrip("_")
    )
    async def test_changes_of_another_handle_wake(
        self, handles: Handles, change: Callable[[ScheduleStore], Awaitable[None]]
    ) -> None:
        """Each kind of change through another handle is told. (Look at who publishes, and when: after the commit.)"""
        store, writer = handles
        await store.put([schedule(next_run_at=at(60))])
        async with watching(store) as watcher:
            count = watcher.count
            await change(writer)
            await watcher.value_after(count)

            assert watcher.count > count

    async def test_changes_of_the_same_handle_wake(self, store: ScheduleStore) -> None:
        """A store hears of its own changes too. (Look at a filter on the sender.)"""
        async with watching(store) as watcher:
            count = watcher.count
            await store.put([schedule()])
            await watcher.value_after(count)

            assert watcher.count > count

    async def test_every_change_of_a_series_wakes(self, handles: Handles) -> None:
        """Watching goes on after the first change. (Look at a subscription that is used up, or a lost wake-up.)"""
        store, writer = handles
        async with watching(store) as watcher:
            for number in range(10):
                count = watcher.count
                await writer.put([schedule(str(number))])
                await watcher.value_after(count)

    async def test_two_watchers_are_both_woken(self, handles: Handles) -> None:
        """Each watcher is told of each change. (Look at one event that the first watcher takes away.)"""
        store, writer = handles
        async with watching(store) as first, watching(store) as second:
            counts = first.count, second.count
            await writer.put([schedule()])
            await first.value_after(counts[0])
            await second.value_after(counts[1])

            assert (first.count > counts[0], second.count > counts[1]) == (True, True)

    async def test_a_watcher_may_leave(self, handles: Handles) -> None:
        """A cancelled watcher leaves the store usable and the others watching. (Look at the clean-up in `watch`.)"""
        store, writer = handles
        async with watching(store) as stays:
            async with watching(store):
                pass
            count = stays.count
            await writer.put([schedule()])
            await stays.value_after(count)

            assert set(await store.get(["a"])) == {"a"}

    async def test_watch_ends_when_the_store_is_closed(self, store: ScheduleStore) -> None:
        """`close` ends a waiting `watch` without an error. (Look at `close`: it leaves the subscriber waiting.)"""
        async with watching(store) as watcher:
            await store.close()
            await watcher.end()

    async def test_watch_works_again_after_open(self, store: ScheduleStore) -> None:
        """A store that was closed and opened can be watched anew. (Look at a closed flag that `open` does not reset.)"""
        async with watching(store):
            pass
        await store.close()
        await store.open()
        async with watching(store) as watcher:
            count = watcher.count
            await store.put([schedule()])
            await watcher.value_after(count)

            assert watcher.count > count
