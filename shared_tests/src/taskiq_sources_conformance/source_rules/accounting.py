"""Rules for what is late when a schedule is changed: each occurrence is sent, or missed, or counted by another one."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, TypeAlias

import pytest

from taskiq_sources import ScheduleOptions, ScheduleSource, changing, occurrences
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.source_build import DAY, HOUR, MINUTE, NOON, SECOND, play, rows, scheduled, take_one

_HOURLY: Final = {"cron": "0 * * * *"}

#: What a schedule is, and what it becomes 5 1/2 hours after its first occurrence.
_CHANGES: Final[dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]] = {
    "arguments": (_HOURLY, {"args": ["new"]}, {}),
    "cron": (_HOURLY, {"cron": "20 7 * * *"}, {}),
    "cron with a time": ({**_HOURLY, "time": NOON + DAY}, {"cron": "20 7 * * *"}, {}),
    "pace": ({"interval": HOUR}, {"interval": DAY}, {}),
    "faster": ({"interval": HOUR}, {"interval": 10 * MINUTE}, {}),
    "to a one-off": (_HOURLY, {"cron": None, "time": NOON + DAY}, {}),
    "to an interval": (_HOURLY, {"cron": None, "interval": DAY}, {}),
    "start": (_HOURLY, {}, {"start_at": NOON + 6 * HOUR + 15 * MINUTE}),
    "end": (_HOURLY, {}, {"end_at": NOON + 9 * HOUR}),
    "jitter": (_HOURLY, {}, {"jitter": MINUTE}),
    "limit": (_HOURLY, {}, {"max_runs": 50}),
    "misfire": (_HOURLY, {}, {"misfire_grace": DAY}),
}

#: What has become of the first occurrence when the schedule is changed, and what becomes of late ones.
_HAPPENED: Final = [
    *itertools.product(("nothing", "failed", "died", "given up"), ("fire_once", "fire_all")),
    ("in flight", "fire_all"),
    ("failed, in flight", "fire_once"),
]

_FIRST = NOON + HOUR
_LATE = 6

_Change: TypeAlias = Callable[[ScheduleSource, dict[str, Any], dict[str, Any], ScheduleOptions], Awaitable[None]]


class AccountingRules:
    """Whatever has become of the first, and whatever is changed, no occurrence is forgotten, and none is sent twice."""

    @pytest.fixture
    def impatience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(changing, "_PATIENCE", 0.0)  # with what is in flight, which nothing happens to meanwhile

    @pytest.mark.usefixtures("impatience")
    @pytest.mark.parametrize(("happened", "misfire"), _HAPPENED)
    @pytest.mark.parametrize("change", _CHANGES)
    async def test_what_is_late_is_accounted_for(
        self, source: ScheduleSource, clock: ManualClock, change: str, happened: str, misfire: Any
    ) -> None:
        """Each is sent, or missed, or counted by one that is. (Look at `continuing`, and at `overtaken`.)"""
        await self._change_what_is_late(source, clock, change, happened, misfire, _declare)

    @pytest.mark.usefixtures("impatience")
    @pytest.mark.parametrize(("happened", "misfire"), _HAPPENED)
    @pytest.mark.parametrize("change", ["cron", "pace", "start"])
    async def test_what_is_late_is_accounted_for_by_a_reschedule(
        self, source: ScheduleSource, clock: ManualClock, change: str, happened: str, misfire: Any
    ) -> None:
        """So it is where somebody changes when it runs. (Look at `rescheduled`.)"""
        await self._change_what_is_late(source, clock, change, happened, misfire, _reschedule)

    async def _change_what_is_late(
        self, source: ScheduleSource, clock: ManualClock, change: str, happened: str, misfire: Any, make: _Change
    ) -> None:
        before, after, options = _CHANGES[change]
        await _be_late(source, clock, before, happened.partition(",")[0], ScheduleOptions(misfire=misfire))
        in_flight = [await take_one(source)] if "in flight" in happened else []
        await make(source, before, after, ScheduleOptions(misfire=misfire, **options))
        changed_at = await clock.now()
        for dispatch in in_flight:
            await source.desk.sent(dispatch)

        sent = in_flight + await play(source, clock, changed_at + 2 * DAY)

        final = [row for row in await rows(source) if row.status != "failed"]
        assert sum(row.coalesced for row in final) - sum(row.scheduled_for >= changed_at for row in final) == _LATE
        assert len({dispatch.occurrence_id for dispatch in sent}) == len(sent)
        left = await source.get_schedule("a")
        assert left is None or left.state.run_count == len(sent)

    @pytest.mark.parametrize("delivery", ["at_most_once", "at_least_once"])
    @pytest.mark.parametrize("change", ["pace", "faster", "start", "cron"])
    async def test_what_may_have_been_sent_has_a_row(
        self, source: ScheduleSource, clock: ManualClock, change: str, delivery: Any
    ) -> None:
        """Of a scheduler that died, where the latest takes its place. (Look at `_kept`.)"""
        before, after, options = _CHANGES[change]
        await _be_late(source, clock, before, "died", ScheduleOptions(delivery=delivery))

        await _declare(source, before, after, ScheduleOptions(delivery=delivery, **options))

        assert [row.status for row in await rows(source) if row.scheduled_for == _FIRST] == ["unknown"]

    async def test_a_time_that_is_to_come_outlives_another_cron(self, source: ScheduleSource, clock: ManualClock) -> None:
        """It has not been sent. (Look at `begun`.)"""
        both: dict[str, Any] = {"cron": "0 * * * *", "time": NOON + 2 * HOUR + 30 * MINUTE}
        await source.add_schedule(scheduled(**both))
        await source.add_schedule(scheduled(**{**both, "cron": "0 7 * * *"}))

        sent = await play(source, clock, NOON + 3 * HOUR)

        assert [dispatch.scheduled_for for dispatch in sent] == [both["time"]]

    async def test_a_time_that_was_sent_is_over_where_nothing_was_pending(
        self, source: ScheduleSource, clock: ManualClock
    ) -> None:
        """As where a limit had been reached, and is raised with other triggers. (Look at `begun`.)"""
        both: dict[str, Any] = {"cron": "0 * * * *", "time": NOON + 90 * MINUTE}
        await source.add_schedule(scheduled(**both))
        sent = await play(source, clock, NOON + 90 * MINUTE)
        for cron, limit in (("0 * * * *", 2), ("20 * * * *", 9)):
            labels = {"schedule_options": ScheduleOptions(max_runs=limit)}
            await source.add_schedule(scheduled(**{**both, "cron": cron}, labels=labels))

        sent += await play(source, clock, NOON + 2 * HOUR + 30 * MINUTE)

        assert [dispatch.scheduled_for - NOON for dispatch in sent] == [
            timedelta(minutes=60),
            timedelta(minutes=90),
            timedelta(minutes=140),
        ]


async def _declare(source: ScheduleSource, before: dict[str, Any], after: dict[str, Any], options: ScheduleOptions) -> None:
    await source.add_schedule(scheduled(**{**before, **after, "labels": {"schedule_options": options}}))


async def _reschedule(source: ScheduleSource, _: dict[str, Any], after: dict[str, Any], options: ScheduleOptions) -> None:
    await source.reschedule("a", **after, options=options)


async def _be_late(
    source: ScheduleSource, clock: ManualClock, before: dict[str, Any], happened: str, options: ScheduleOptions
) -> None:
    """Store a schedule, let its first occurrence fail, be given up or die with its scheduler, and others become late after it."""
    clock.set(_FIRST if "interval" in before else _FIRST - SECOND)
    await source.add_schedule(scheduled(**before, labels={"schedule_options": options}))
    clock.set(_FIRST)
    if happened in {"failed", "died", "given up"}:
        dispatch = await take_one(source)
        if happened == "failed":
            await source.desk.settle([occurrences.failed(dispatch, _FIRST, "the broker is away")])
        if happened == "given up":
            await source.desk.settle([occurrences.given_up(dispatch, _FIRST, "the broker is away")])
    clock.set(_FIRST + (_LATE - 1) * HOUR + HOUR / 2)
