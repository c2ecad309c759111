"""Rules for starting, stopping and using a source."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taskiq_sources import ScheduleSource, SourceClosedError
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.source_build import NOW, add, ids, nominal, rows, scheduled, send_due, state, take

#: Everything that an application may call.
CALLS: dict[str, Callable[[ScheduleSource], Awaitable[object]]] = {
    "get_schedules": lambda source: source.get_schedules(),
    "add_schedule": lambda source: source.add_schedule(scheduled()),
    "add_schedules": lambda source: source.add_schedules([]),
    "delete_schedule": lambda source: source.delete_schedule("a"),
    "delete_schedules": lambda source: source.delete_schedules([]),
    "get_schedule": lambda source: source.get_schedule("a"),
    "iter_schedules": ids,
    "runs": rows,
    "pause": lambda source: source.pause("a"),
    "resume": lambda source: source.resume("a"),
    "reschedule": lambda source: source.reschedule("a", interval=60),
    "run_now": lambda source: source.run_now("a"),
    "pre_send": lambda source: source.pre_send(scheduled()),
    "post_send": lambda source: source.post_send(scheduled()),
}


class LifeRules:
    """A source opens itself when it is used, may be started and stopped at any time, and says when it was stopped."""

    async def test_a_source_opens_itself(self, make_source: Any, clock: ManualClock) -> None:
        """An application need not call `startup`. (Look at `_open`.)"""
        source: ScheduleSource = make_source(clock=clock)
        await add(source)
        assert await ids(source) == ["a"]
        await source.shutdown()

    async def test_first_use_by_many_tasks_at_once(self, make_source: Any, clock: ManualClock) -> None:
        """A source that is first used by many tasks at once opens once. (Look at `_open` and at `open` of the store.)"""
        source: ScheduleSource = make_source(clock=clock)
        await asyncio.gather(*(source.add_schedule(scheduled(f"{number:02}")) for number in range(20)))
        assert len(await ids(source)) == 20
        await source.shutdown()

    # Connections of a loop that has ended cannot be closed: they are left to the collector, which may complain.
    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    def test_event_loops_may_use_it_one_after_the_other(self, make_source: Any, clock: ManualClock) -> None:
        """As in views that call `asyncio.run`, and tests with a loop each; nobody shuts it down. (Look at `_open`, at locks.)"""
        source: ScheduleSource = make_source(clock=clock)

        async def use(number: int) -> None:
            await asyncio.gather(*(source.add_schedule(scheduled(f"{number}-{other}")) for other in range(3)))

        async def left() -> int:
            count = len(await source.delete_schedules(await ids(source)))
            await source.shutdown()
            return count

        for number in range(3):
            asyncio.run(use(number))

        assert asyncio.run(left()) == 9
        asyncio.run(source.startup())
        asyncio.run(source.shutdown())
        gc.collect()

    async def test_a_source_that_was_shut_down_may_be_used_by_another_event_loop(self, source: ScheduleSource) -> None:
        """A loop that still runs holds nothing of it then. (Look at what `close` of the store leaves.)"""
        await add(source)
        await source.shutdown()

        async def use() -> None:
            await source.startup()
            assert await ids(source) == ["a"]
            await source.shutdown()

        await asyncio.to_thread(lambda: asyncio.run(use()))
        await source.startup()
        assert await ids(source) == ["a"]

    async def test_startup_is_idempotent(self, source: ScheduleSource) -> None:
        """Starting twice changes nothing and deletes nothing: schedulers and dashboards both do it. (Look at `open`.)"""
        before = await add(source)
        await asyncio.gather(source.startup(), source.startup())

        assert await state(source) == before

    async def test_starting_another_handle_deletes_nothing(self, source: ScheduleSource, open_source: Any) -> None:
        """A new process leaves what it finds: schedules, pauses, leases and runs. (Look at `open`.)"""
        await add(source, "a", interval=60)
        await add(source, "b", time=NOW)
        await source.pause("a")
        await take(source, ids=["b"])
        before = [await state(source, schedule_id) for schedule_id in ("a", "b")]
        other: ScheduleSource = await open_source()

        assert [await state(other, schedule_id) for schedule_id in ("a", "b")] == before

    @pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
    async def test_a_source_that_was_shut_down_says_so(self, source: ScheduleSource, call: Any) -> None:
        """After `shutdown` every call raises SourceClosedError, which says what to do. (Look at `_open`.)"""
        await source.shutdown()

        with pytest.raises(SourceClosedError, match="startup"):
            await call(source)

    async def test_shutdown_is_idempotent(self, make_source: Any, clock: ManualClock) -> None:
        """Shutting down twice, or what never started, is no error. (Look at `close`.)"""
        source: ScheduleSource = make_source(clock=clock)
        await source.shutdown()
        await source.startup()
        await source.shutdown()
        await source.shutdown()

    async def test_a_source_can_be_started_again(self, source: ScheduleSource, open_source: Any) -> None:
        """After `shutdown` and `startup` a source works as before. (Look at state that `open` does not make anew.)"""
        await open_source()  # keeps data alive that live in one process only
        await add(source)
        await source.shutdown()
        await source.startup()

        assert nominal(await send_due(source)) == [NOW]

    async def test_stopping_one_leaves_the_others(self, source: ScheduleSource, open_source: Any) -> None:
        """Another handle's `shutdown` closes only that handle. (Look at `close`: shared connections.)"""
        other: ScheduleSource = await open_source()
        await other.shutdown()

        assert (await add(source)).id == "a"

    async def test_the_stores_clock_decides(self, make_source: Any) -> None:
        """Without a clock of its own a source lives by its store's. (Look at `now`.)"""
        source: ScheduleSource = make_source()
        await source.startup()
        before = await source.store.now()
        found = await add(source, interval=60)
        after = await source.store.now()

        assert (before - found.created_at).total_seconds() <= 1
        assert (found.created_at - after).total_seconds() <= 1
        assert await source.desk.take(limit=1) != []
        await source.shutdown()

    async def test_many_tasks_use_one_source(self, source: ScheduleSource) -> None:
        """One source serves many tasks of its event loop at once. (Look at state shared between calls.)"""
        await asyncio.gather(*(add(source, f"{number:02}", interval=60) for number in range(40)))
        taken = await asyncio.gather(*(take(source, limit=3) for _ in range(20)))
        taken.append(await take(source, limit=40))  # what concurrent claims have stepped over
        sent = [dispatch for some in taken for dispatch in some]
        await asyncio.gather(*(source.desk.sent(dispatch) for dispatch in sent))

        assert sorted(dispatch.schedule_id for dispatch in sent) == [f"{number:02}" for number in range(40)]
        assert len(await rows(source)) == 40

    async def test_a_repr_without_secrets(self, source: ScheduleSource) -> None:
        """A source shows its class and what it is connected to, and no password. (Look at `__repr__` of source and store.)"""
        assert type(source).__name__ in repr(source)
        assert ":secret@" not in repr(source)
