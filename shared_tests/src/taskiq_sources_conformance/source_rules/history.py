"""Rules for the history of runs: what is told, in which order, and for how long."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any

import pytest

from taskiq_sources import Run, ScheduleSource, ScheduleValidationError
from taskiq_sources.clock import ManualClock
from taskiq_sources.occurrences import failed
from taskiq_sources_conformance.source_build import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    add,
    expected_task_id,
    occurrence,
    play,
    rows,
    scheduled,
    send_due,
    take_one,
)


class SourceHistoryRules:
    """Each occurrence leaves a row that tells what became of it."""

    async def test_a_run_tells_everything(self, open_source: Any, clock: ManualClock) -> None:
        """A row tells occurrence, task, instants, message, attempt and who sent it. (Look at the columns of `runs`.)"""
        source: ScheduleSource = await open_source(claimant="scheduler-1")
        await add(source, interval=3600)
        clock.advance(MINUTE)
        await send_due(source)

        (row,) = await rows(source)
        assert (row.occurrence_id, row.schedule_id, row.task_name) == (occurrence("a", NOW), "a", "app:report")
        assert (row.scheduled_for, row.recorded_at, row.status) == (NOW, NOW + MINUTE, "sent")
        assert (row.task_id, row.attempt, row.coalesced) == (expected_task_id("a", NOW), 1, 1)
        assert (row.claimant, row.error) == ("scheduler-1", None)

    async def test_the_newest_come_first(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Rows come newest first, through any number of pages. (Look at the order and the cursor of `runs`.)"""
        await source.add_schedules([scheduled(f"{number:02}", interval=60) for number in range(60)])
        await play(source, clock, NOW + 19 * MINUTE)

        found = [(row.recorded_at, row.occurrence_id) for row in await rows(source)]
        assert len(found) == 1_200
        assert found == sorted(found, reverse=True)

    async def test_equal_instants_come_in_the_order_of_ids(self, source: ScheduleSource) -> None:
        """Rows recorded at one instant come in the descending order of their ids, each once. (Look at the cursor of `runs`.)"""
        await source.add_schedules([scheduled(f"{number:04}") for number in range(1_100)])
        await send_due(source)

        found = [row.schedule_id for row in await rows(source)]
        assert found == [f"{number:04}" for number in reversed(range(1_100))]

    async def test_history_filters(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Rows are filtered by schedule, status and when they were recorded. (Look at the conditions of `runs`.)"""
        await add(source, "a", interval=3600)
        await add(source, "b", interval=3600)
        await source.desk.settle([failed(await take_one(source, "b"), NOW, "the broker is away")])
        await send_due(source)
        clock.advance(HOUR)
        await source.desk.sent(await take_one(source, "a"))

        assert await _found(source, schedule_id="a") == [("a", HOUR), ("a", 0 * HOUR)]
        assert await _found(source, status="failed") == [("b", 0 * HOUR)]
        assert await _found(source, schedule_id="a", status="failed") == []
        assert await _found(source, since=NOW + HOUR) == [("a", HOUR)]
        assert await _found(source, until=NOW + HOUR) == [("b", 0 * HOUR), ("a", 0 * HOUR)]
        assert await _found(source, since=NOW, until=NOW) == []
        assert await _found(source, schedule_id="nobody") == []

    async def test_the_newest_few(self, source: ScheduleSource, clock: ManualClock) -> None:
        """With `limit` there are no more rows than that, the newest. (Look at `every_run`.)"""
        await add(source, interval=60)
        for _ in range(3):
            await send_due(source)
            clock.advance(MINUTE)

        assert [run.scheduled_for for run in await rows(source, limit=2)] == [NOW + 2 * MINUTE, NOW + MINUTE]
        assert await rows(source, limit=0) == []
        with pytest.raises(ScheduleValidationError, match="limit"):
            await rows(source, limit=-1)

    @pytest.mark.parametrize(
        "filters", [{}, {"status": "sent"}, {"schedule_id": "1"}, {"since": NOW, "until": NOW + HOUR}], ids=str
    )
    async def test_pages_of_history(self, source: ScheduleSource, clock: ManualClock, filters: dict[str, Any]) -> None:
        """With `after`, the last row of one page, comes the next: all rows of one instant too. (Look at `every_run`.)"""
        await source.add_schedules([scheduled(str(number), interval=60) for number in range(5)])
        await play(source, clock, NOW + 2 * MINUTE)  # three batches, of five rows of one instant each

        paged: list[Run] = []
        while page := await rows(source, **filters, after=paged[-1] if paged else None, limit=2):
            assert len(page) <= 2
            paged += page

        assert paged == await rows(source, **filters)
        assert len(paged) == (3 if "schedule_id" in filters else 15)

    async def test_a_page_begins_after_a_row_that_is_gone(self, source: ScheduleSource, clock: ManualClock) -> None:
        """What was pruned since it was shown still says where to go on. (Look at the cursor of `runs`.)"""
        await add(source, interval=60)
        await play(source, clock, NOW + 2 * MINUTE)
        newest, *others = await rows(source)
        utc_plus_2 = timezone(timedelta(hours=2))

        place = replace(newest, occurrence_id=f"{newest.occurrence_id}~", recorded_at=newest.recorded_at.astimezone(utc_plus_2))
        assert await rows(source, after=place) == [newest, *others]
        assert await rows(source, after=newest) == others
        assert await rows(source, after=others[-1]) == []

    @pytest.mark.parametrize("after", ["a@2030-01-01T12:00:00.000Z", NOW, 5], ids=str)
    async def test_a_page_begins_after_a_row(self, source: ScheduleSource, after: Any) -> None:
        """What is no row is refused, with the way to go on. (Look at `row_before`.)"""
        with pytest.raises(ScheduleValidationError, match=r"after .*the last row of the page before"):
            await rows(source, after=after)

    async def test_history_outlives_the_schedule(self, source: ScheduleSource) -> None:
        """Rows stay when their schedule is deleted. (Look at `delete`: a cascade.)"""
        await add(source, interval=60)
        await send_due(source)
        await source.delete_schedule("a")

        assert len(await rows(source, "a")) == 1

    async def test_history_ends_with_its_retention(self, open_source: Any, clock: ManualClock) -> None:
        """Rows older than `run_retention` are dropped while schedules are being sent. (Look at `prune_runs`.)"""
        source: ScheduleSource = await open_source(run_retention=2 * DAY)
        await add(source, interval=86_400)
        for _ in range(6):
            await send_due(source)
            clock.advance(DAY)

        assert [row.scheduled_for for row in await rows(source)] == [NOW + k * DAY for k in (5, 4, 3)]

    async def test_history_has_a_limit(self, open_source: Any, clock: ManualClock) -> None:
        """No more than `max_run_rows` are kept, the newest. (Look at `prune_runs`.)"""
        source: ScheduleSource = await open_source(max_run_rows=3)
        await add(source, interval=3600)
        await play(source, clock, NOW + 9 * HOUR)

        assert [row.scheduled_for for row in await rows(source)] == [NOW + k * HOUR for k in (9, 8, 7)]

    async def test_history_is_cut_now_and_then(self, source: ScheduleSource, clock: ManualClock, monkeypatch: Any) -> None:
        """The history is cut every ten minutes, not with each send. (Look at `prune_now_and_then`.)"""
        cuts, prune = [], source.store.prune_runs

        async def counted(**limits: Any) -> int:
            cuts.append(await clock.now())
            return await prune(**limits)

        monkeypatch.setattr(source.store, "prune_runs", counted)
        await add(source, interval=60)
        await play(source, clock, NOW + 25 * MINUTE)

        assert cuts == [NOW, NOW + 10 * MINUTE, NOW + 20 * MINUTE]

    async def test_history_can_be_left_early(self, source: ScheduleSource) -> None:
        """Reading may stop anywhere, and goes on from the start next time. (Look at cursors that stay open.)"""
        await source.add_schedules([scheduled(str(number)) for number in range(3)])
        await send_due(source)
        async for row in source.runs():
            assert row.schedule_id == "2"
            break

        assert len(await rows(source)) == 3

    @pytest.mark.parametrize("handed_out", [False, True])
    async def test_any_id_that_was_shown_finds_the_history(
        self, source: ScheduleSource, clock: ManualClock, handed_out: bool
    ) -> None:
        """The id of a single occurrence, as dashboards see it, finds its schedule's rows. (Look at `origin_id`.)"""
        await add(source, interval=60)
        await send_due(source)
        clock.advance(5 * MINUTE)
        plain, single = await source.get_schedules()

        assert len(await rows(source, single.schedule_id if handed_out else plain.schedule_id)) == 1


async def _found(source: ScheduleSource, schedule_id: str | None = None, **filters: Any) -> list[tuple[str, Any]]:
    """Return whose rows the filters keep, and how long after `NOW` they were recorded."""
    return [(row.schedule_id, row.recorded_at - NOW) for row in await rows(source, schedule_id, **filters)]
