"""Rules for `get_schedules`, which schedulers and dashboards call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from taskiq_sources import ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources.options import OPTIONS_LABEL
from taskiq_sources.stock import OccurrenceEntry
from taskiq_sources_conformance.source_build import DAY, HOUR, MINUTE, NOW, add, definition, scheduled, snapshot, state, take


class OverviewRules:
    """`get_schedules` shows every active schedule, as copies, and changes nothing."""

    async def test_every_active_schedule_is_shown(self, source: ScheduleSource) -> None:
        """All schedules but paused and quarantined ones are shown, near or far. (Look at the filters of `page`.)"""
        await source.add_schedules(
            [
                scheduled("cron", cron="0 7 * * *"),
                scheduled("far", time=NOW + 9_000 * DAY),
                scheduled("interval", interval=60),
                scheduled("paused", interval=60),
            ]
        )
        await source.pause("paused")

        assert await _shown(source) == {"cron", "far", "interval"}

    async def test_it_has_no_side_effects(self, source: ScheduleSource, clock: ManualClock) -> None:
        """However often it is called, whatever is due or broken, nothing stored changes. (Look at `get_schedules`.)"""
        await add(source, "overdue", interval=60)
        await add(source, "leased")
        await take(source, ids=["leased"])
        row = await add(source, "bad")
        await source.store.put([replace(row, document="garbage")])
        await add(source, "cron", cron="*/5 * * * * *")
        clock.advance(HOUR)
        before = await snapshot(source)
        for _ in range(3):
            await source.get_schedules()

        assert await snapshot(source) == before

    async def test_copies_are_returned(self, source: ScheduleSource) -> None:
        """Whoever changes what was returned changes nothing else: taskiq's loop writes into labels. (Look at caches.)"""
        await add(source, interval=60, labels={"a": {"b": 1}}, args=[[1]], kwargs={"k": [1]})
        changed, *others = await source.get_schedules()
        changed.labels["schedule_id"] = "x"
        changed.labels["a"]["b"] = 2
        changed.args[0].append(2)
        changed.kwargs["k"].append(2)
        changed.task_name = "changed"

        assert others
        for task in [*others, *await source.get_schedules(), await definition(source)]:
            assert (task.task_name, task.labels, task.args, task.kwargs) == ("app:report", {"a": {"b": 1}}, [[1]], {"k": [1]})

    async def test_nothing_is_added_to_labels(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Labels are shown as given, less `schedule_options`: brokers may refuse what they do not know. (Look at `stock`.)"""
        await add(source, interval=60, labels={"queue": "slow", OPTIONS_LABEL: {"misfire": "skip"}})
        clock.advance(MINUTE)
        shown = await source.get_schedules()
        await source.pre_send(shown[0])

        assert [task.labels for task in shown] == [{"queue": "slow"}] * 2

    async def test_what_is_shown_carries_the_definition(self, source: ScheduleSource) -> None:
        """A schedule is shown with taskiq's own fields as they were given. (Look at `_plain_entry`.)"""
        given = scheduled(
            cron="0 7 * * *", cron_offset="Europe/Berlin", args=[1], kwargs={"k": 2}, labels={"l": "x"}, task_id="t"
        )
        await source.add_schedule(given)

        (shown,) = await source.get_schedules()
        fields = {"schedule_id", "task_name", "cron", "cron_offset", "interval", "time", "args", "kwargs", "labels", "task_id"}
        assert shown.model_dump(include=fields) == given.model_dump(include=fields)

    async def test_the_default_time_zone_is_shown(self, open_source: Any) -> None:
        """The zone that a cron without offset is meant in is told to taskiq's loop. (Look at `_plain_entry`.)"""
        source: ScheduleSource = await open_source(default_timezone="Asia/Tokyo")
        await add(source, cron="0 7 * * *")

        assert [task.cron_offset for task in await source.get_schedules()] == ["Asia/Tokyo"]

    @pytest.mark.parametrize("fields", [{"interval": 60}, {"cron": "* * * * *"}, {"time": NOW}], ids=str)
    async def test_an_overdue_occurrence_is_shown_as_a_one_off(
        self, source: ScheduleSource, clock: ManualClock, fields: dict[str, Any]
    ) -> None:
        """What taskiq's loop would miss is shown again as a one-off that is due, under an id of its own. (Look at `stock`.)"""
        await add(source, **fields)
        clock.advance(5 * MINUTE)

        plain, single = await source.get_schedules()
        assert plain.schedule_id == "a"
        assert isinstance(single, OccurrenceEntry)
        assert (single.cron, single.interval, single.time) == (None, None, (await state(source)).next_run_at)
        assert single.schedule_id not in {"a", *(task.schedule_id for task in await source.get_schedules())}

    async def test_look_ahead_limits_what_is_shown(self, open_source: Any, clock: ManualClock) -> None:
        """With `look_ahead`, only what is due within it is shown. (Look at `due_before` in `page`.)"""
        source: ScheduleSource = await open_source(look_ahead=HOUR)
        await source.add_schedules(
            [
                scheduled("overdue", time=NOW - DAY),
                scheduled("soon", time=NOW + 59 * MINUTE),
                scheduled("later", time=NOW + 61 * MINUTE),
                scheduled("cron", cron="0 7 * * *"),
            ]
        )
        assert await _shown(source) == {"overdue", "soon"}
        clock.advance(2 * MINUTE)

        assert await _shown(source) == {"overdue", "soon", "later"}

    async def test_an_empty_source_shows_nothing(self, source: ScheduleSource) -> None:
        """Without schedules the list is empty. (Look at what `page` does without rows.)"""
        assert await source.get_schedules() == []


async def _shown(source: ScheduleSource) -> set[str]:
    """Return whose entries `get_schedules` shows."""
    return {task.origin if isinstance(task, OccurrenceEntry) else task.schedule_id for task in await source.get_schedules()}
