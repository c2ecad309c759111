"""Rules for writing in bulk, and for looking schedules up."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from taskiq_sources import ScheduleInfo, ScheduleSource, ScheduleValidationError
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.source_build import HOUR, MINUTE, NOW, add, ids, info, scheduled, send_due, state, take

MANY = 5_000


class ListingRules:
    """Any number of schedules can be written, listed in the order of their ids, filtered and deleted."""

    async def test_many_schedules(self, source: ScheduleSource) -> None:
        """Thousands are written, listed once each in order, and deleted in single calls. (Look at limits of statements.)"""
        wanted = [f"{number:05}" for number in range(MANY)]
        tasks = (scheduled(schedule_id, time=NOW + HOUR, args=[schedule_id]) for schedule_id in reversed(wanted))
        assert await source.add_schedules(tasks) == frozenset()

        assert await ids(source) == wanted
        assert len(await source.get_schedules()) == MANY
        assert await source.delete_schedules(wanted[1:]) == set(wanted[1:])
        assert await ids(source) == wanted[:1]

    async def test_adding_nothing(self, source: ScheduleSource) -> None:
        """Adding or deleting nothing does nothing. (Look at statements with an empty list of values.)"""
        assert await source.add_schedules([]) == frozenset()
        assert await source.delete_schedules([]) == frozenset()

    async def test_large_documents_in_bulk(self, source: ScheduleSource) -> None:
        """A dozen schedules of almost 1 MiB each go in with one call. (Look at limits of packets and statements.)"""
        await source.add_schedules([scheduled(str(number), args=["x" * 1_000_000]) for number in range(12)])

        assert len(await ids(source)) == 12
        assert {len(dispatch.task.args[0]) for dispatch in await take(source)} == {1_000_000}

    async def test_the_order_is_that_of_code_points(self, source: ScheduleSource) -> None:
        """Schedules are listed by the code points of their ids, on every backend. (Look at collation.)"""
        telling = ["B", "a", "A", "ä", "Z", "é", "10", "9", "_", "-", " ", "~", "\ue000", "😀", "東", "a b", "a-b"]
        await source.add_schedules([scheduled(schedule_id) for schedule_id in telling])

        assert await ids(source) == sorted(telling)

    async def test_listing_filters(self, source: ScheduleSource) -> None:
        """Each filter keeps what it says, and filters add up. (Look at the conditions of `page`.)"""
        await source.add_schedules(
            [
                scheduled("bad", time=NOW - HOUR),
                scheduled("late", time=NOW + HOUR),
                scheduled("owned", owner="billing"),
                scheduled("paused"),
                scheduled("task", task_name="app:other"),
            ]
        )
        await source.pause("paused")
        row = await state(source, "bad")
        await source.store.delete(["bad"])
        await source.store.put([replace(row, document="garbage")])
        await source.desk.take(limit=1)

        assert await ids(source) == ["bad", "late", "owned", "paused", "task"]
        assert await ids(source, task_name="app:other") == ["task"]
        assert await ids(source, paused=True) == ["paused"]
        assert await ids(source, paused=False) == ["bad", "late", "owned", "task"]
        assert await ids(source, quarantined=True) == ["bad"]
        assert await ids(source, quarantined=False) == ["late", "owned", "paused", "task"]
        assert await ids(source, owner="billing") == ["owned"]
        assert await ids(source, owner="nobody") == []
        assert await ids(source, due_before=NOW + MINUTE, quarantined=False) == ["owned", "paused", "task"]
        assert await ids(source, due_before=NOW, quarantined=False) == []
        assert await ids(source, due_before=NOW + MINUTE, paused=False, task_name="app:report") == ["bad", "owned"]

    async def test_instants_have_to_be_aware(self, source: ScheduleSource) -> None:
        """A naive instant in a filter is refused: nobody knows what it means. (Look at `reading`.)"""
        naive = datetime(2030, 1, 1)  # noqa: DTZ001 - the case in question
        with pytest.raises(ScheduleValidationError, match="due_before '2030-01-01T00:00:00'"):
            await ids(source, due_before=naive)
        with pytest.raises(ScheduleValidationError, match="since"):
            _ = [row async for row in source.runs(since=naive)]

    async def test_listing_reads_as_it_goes(self, source: ScheduleSource) -> None:
        """A listing can be left early, and does not hold others up while it is read. (Look at cursors that stay open.)"""
        await source.add_schedules([scheduled(f"{number:05}") for number in range(1_200)])
        seen = []
        async for found in source.iter_schedules():
            seen.append(found.state.id)
            if len(seen) % 100 == 0:
                await source.delete_schedules(seen[-100:])
            if len(seen) == 700:
                break

        assert seen == [f"{number:05}" for number in range(700)]
        assert await ids(source) == [f"{number:05}" for number in range(700, 1_200)]

    async def test_pages_of_a_listing(self, source: ScheduleSource) -> None:
        """With `after` and `limit`, each page begins where the last one ended, with any filter. (Look at `iter_schedules`.)"""
        wanted = [f"{number:04}" for number in range(1_201)]
        await source.add_schedules([scheduled(one, time=NOW + HOUR, owner="me" if int(one) % 2 else None) for one in wanted])
        pages: list[list[str]] = [[]]
        while not pages[1:] or pages[-1]:
            pages.append(await ids(source, owner="me", after=pages[-1][-1] if pages[-1] else None, limit=250))

        assert [len(page) for page in pages] == [0, 250, 250, 100, 0]
        assert [one for page in pages for one in page] == wanted[1::2]
        assert await ids(source, after="~", limit=5) == []
        assert await ids(source, limit=0) == []
        assert len(await ids(source, limit=1_100)) == 1_100

    @pytest.mark.parametrize(
        "arguments", [{"limit": -1}, {"limit": 2.5}, {"limit": True}, {"after": "\0"}, {"after": ""}], ids=str
    )
    async def test_pages_that_make_no_sense(self, source: ScheduleSource, arguments: dict[str, Any]) -> None:
        """They are refused by name, before the store is asked. (Look at `iter_schedules`.)"""
        with pytest.raises(ScheduleValidationError, match=next(iter(arguments))):
            await ids(source, **arguments)

    async def test_listing_tells_the_whole_state(self, source: ScheduleSource) -> None:
        """A listing yields what `get_schedule` returns. (Look at the columns that `page` reads.)"""
        for number in range(3):
            await add(source, str(number), interval=60 + number, args=[number])
        await source.pause("0")

        listed = [found async for found in source.iter_schedules()]
        assert listed == [await info(source, str(number)) for number in range(3)]
        assert all(isinstance(found, ScheduleInfo) for found in listed)

    async def test_get_schedule_tells_how_far_it_has_come(self, source: ScheduleSource, clock: ManualClock) -> None:
        """`get_schedule` shows the pending occurrence, the counters and who holds it. (Look at `get`.)"""
        await add(source, interval=60)
        await send_due(source)
        clock.advance(MINUTE)
        await take(source)

        found = await state(source)
        assert (found.scheduled_for, found.run_count, found.attempt) == (NOW + MINUTE, 1, 1)
        assert found.claimant is not None
        assert found.lease_until == NOW + MINUTE + timedelta(seconds=30)

    async def test_an_id_that_does_not_exist(self, source: ScheduleSource) -> None:
        """`get_schedule` of an unknown id is None. (Look at `get`.)"""
        assert await source.get_schedule("nobody") is None

    async def test_delete_tells_what_existed(self, source: ScheduleSource) -> None:
        """`delete_schedules` returns the ids that existed, and can be repeated. (Look at what `delete` returns.)"""
        await source.add_schedules([scheduled("a"), scheduled("b"), scheduled("c")])

        assert await source.delete_schedules(["a", "b", "nobody"]) == {"a", "b"}
        assert await source.delete_schedules(["a", "b", "nobody"]) == frozenset()
        assert await ids(source) == ["c"]

    async def test_ids_that_were_handed_out_are_understood(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A dashboard may use any id that `get_schedules` shows, a single occurrence's too. (Look at `origin_id`.)"""
        await add(source, "my:id@home", interval=60)
        clock.advance(MINUTE)
        shown = [task.schedule_id for task in await source.get_schedules()]
        (single,) = [schedule_id for schedule_id in shown if schedule_id != "my:id@home"]

        assert (await info(source, single)).state.id == "my:id@home"
        assert (await source.pause(single)).state.paused
        assert await ids(source, paused=True) == ["my:id@home"]
        await source.delete_schedule(single)
        assert await ids(source) == []

    async def test_every_handle_sees_what_another_did(self, source: ScheduleSource, open_source: Any) -> None:
        """Additions, edits and deletions are seen through other handles at once. (Look at caches in the handle.)"""
        other: ScheduleSource = await open_source()
        await add(source, interval=60)
        assert await ids(other) == ["a"]
        await other.pause("a")
        assert (await state(source)).paused
        await source.delete_schedule("a")

        assert await ids(other) == []
