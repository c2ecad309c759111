"""Rules for `open` and `close`."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from taskiq_sources.errors import SchemaVersionError, SourceConnectionError
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import TIMEOUT, listed, read, schedule

if TYPE_CHECKING:
    from taskiq_sources_conformance.store import Unreachable

OPENERS = 8


class LifecycleRules:
    """A store can be opened and closed at any time, by anybody, as often as one likes."""

    if TYPE_CHECKING:

        async def make_schema_newer(self, store: ScheduleStore) -> None: ...
        async def drop_connections(self, store: ScheduleStore) -> None: ...

    async def test_open_is_idempotent(self, store: ScheduleStore) -> None:
        """Opening an open store changes nothing. (Look at `open`: it connects again, or creates the schema anew.)"""
        await store.put([schedule()])
        await store.open()

        assert await listed(store) == ["a"]

    async def test_open_by_two_tasks_at_once(self, make_store: Callable[[], ScheduleStore]) -> None:
        """Two tasks may open one handle at the same moment. (Look at `open`: a check and an await without a lock.)"""
        handle = make_store()
        await asyncio.gather(handle.open(), handle.open())
        await handle.put([schedule()])

        assert await listed(handle) == ["a"]
        await handle.close()

    async def test_close_is_idempotent(self, make_store: Callable[[], ScheduleStore]) -> None:
        """Closing twice, or what was never opened, is no error. (Look at `close`: it uses what it has already let go.)"""
        handle = make_store()
        await handle.close()
        await handle.open()
        await handle.close()
        await handle.close()

    async def test_open_again_after_close(self, store: ScheduleStore) -> None:
        """A closed store can be opened and used again. (Look at `close`: state that `open` does not make anew.)"""
        await store.close()
        await store.open()
        await store.put([schedule()])

        assert await listed(store) == ["a"]

    async def test_open_never_deletes(
        self, store: ScheduleStore, other: ScheduleStore, make_store: Callable[[], ScheduleStore]
    ) -> None:
        """Opening another handle leaves every schedule as it is. (Look at the statements that create the schema.)"""
        await store.put([schedule("a"), schedule("b", paused=True)])
        before = await store.get(["a", "b"])
        third = make_store()
        await third.open()

        assert await third.get(["a", "b"]) == before
        await third.close()

    async def test_closing_one_handle_leaves_the_others_open(self, store: ScheduleStore, other: ScheduleStore) -> None:
        """Each handle closes only what it opened itself. (Look at `close`: shared connections or data that it takes along.)"""
        await store.put([schedule()])
        await other.close()

        assert (await read(store)).id == "a"

    async def test_many_open_empty_data_at_once(self, other: ScheduleStore, make_store: Callable[[], ScheduleStore]) -> None:
        """Many processes may create the schema at the same moment. (Look at `open`: creation without a lock or IF NOT EXISTS.)"""
        handles = [make_store() for _ in range(OPENERS)]
        await asyncio.gather(*(handle.open() for handle in handles))
        await asyncio.gather(*(handle.put([schedule(str(number))]) for number, handle in enumerate(handles)))

        assert await listed(other) == [str(number) for number in range(OPENERS)]
        await asyncio.gather(*(handle.close() for handle in handles))

    def test_many_threads_open_empty_data_at_once(self, make_store: Callable[[], ScheduleStore]) -> None:
        """Handles with event loops of their own do not meet on first use. (Look at `open`, and at state of module or class.)"""
        handles = [make_store() for _ in range(OPENERS)]
        if not handles[0].capabilities.shared:
            pytest.skip(f"{type(handles[0]).__name__} does not declare the capability 'shared'")
        start = threading.Barrier(OPENERS)
        errors: list[BaseException] = []

        async def use(handle: ScheduleStore, number: int) -> None:
            await handle.open()
            await handle.put([schedule(str(number))])
            await handle.close()

        def run(handle: ScheduleStore, number: int) -> None:
            try:
                start.wait(TIMEOUT)
                asyncio.run(use(handle, number))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(handle, number)) for number, handle in enumerate(handles)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT * 3)

        async def look() -> list[str]:
            handle = make_store()
            await handle.open()
            ids = await listed(handle)
            await handle.close()
            return ids

        assert errors == []
        assert asyncio.run(look()) == [str(number) for number in range(OPENERS)]

    async def test_a_newer_schema_is_refused(self, store: ScheduleStore, make_store: Callable[[], ScheduleStore]) -> None:
        """A schema of a newer release is refused with SchemaVersionError and left alone. (Look at `open`: the version check.)"""
        await self.make_schema_newer(store)
        handle = make_store()

        with pytest.raises(SchemaVersionError):
            await handle.open()
        await handle.close()

    async def test_an_unreachable_server_is_named_without_credentials(self, unreachable: Unreachable | None) -> None:
        """An unreachable server raises SourceConnectionError naming host and database, no password. (Look at `open`.)"""
        if unreachable is None:
            pytest.skip("the fixture unreachable is not defined for this backend")

        with pytest.raises(SourceConnectionError) as caught:
            await unreachable.store.open()

        shown = f"{caught.value} {caught.value!r} {unreachable.store!r}"
        assert [word for word in unreachable.mentions if word not in str(caught.value)] == []
        assert unreachable.secret not in shown
        await unreachable.store.close()

    async def test_reconnects_by_itself(self, store: ScheduleStore) -> None:
        """After a broken connection, at most one call fails, with SourceConnectionError. (Look at how connections are kept.)"""
        await store.put([schedule()])
        await self.drop_connections(store)
        with contextlib.suppress(SourceConnectionError):  # allowed once: the call that finds the connection broken
            await store.get(["a"])

        assert (await read(store)).id == "a"
