"""Rules for input that is refused: when it is written, by name, and whole."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import taskiq

from taskiq_sources import ScheduledTask, ScheduleOptions, ScheduleSource, ScheduleValidationError
from taskiq_sources.options import OPTIONS_LABEL
from taskiq_sources_conformance.source_build import DAY, HOUR, NOW, App, add, definition, ids, scheduled, state

#: What `schedule` is given, and the field and value that its refusal has to name.
TRIGGERS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "cron-hour-25": ({"cron": "0 25 * * *"}, "cron", "0 25 * * *"),
    "cron-minute-60": ({"cron": "60 * * * *"}, "cron", "60 * * * *"),
    "cron-of-3-fields": ({"cron": "* * *"}, "cron", "* * *"),
    "cron-of-7-fields": ({"cron": "* * * * * * *"}, "cron", "* * * * * * *"),
    "cron-empty": ({"cron": ""}, "cron", ""),
    "cron-words": ({"cron": "every day"}, "cron", "every day"),
    "cron-alias": ({"cron": "@sometimes"}, "cron", "@sometimes"),
    "cron-february-30": ({"cron": "0 0 30 2 *"}, "cron", "0 0 30 2 *"),
    "cron-step-0": ({"cron": "*/0 * * * *"}, "cron", "*/0 * * * *"),
    "cron-backwards": ({"cron": "0 0 * * 5-1#9"}, "cron", "0 0 * * 5-1#9"),
    "cron-number": ({"cron": 5}, "cron", 5),
    "zone-unknown": ({"cron": "0 7 * * *", "cron_offset": "Mars/Phobos"}, "cron_offset", "Mars/Phobos"),
    "zone-empty": ({"cron": "0 7 * * *", "cron_offset": ""}, "cron_offset", ""),
    "zone-path": ({"cron": "0 7 * * *", "cron_offset": "../../etc/passwd"}, "cron_offset", "../../etc/passwd"),
    "zone-without-cron": ({"interval": 60, "cron_offset": "Mars/Phobos"}, "cron_offset", "Mars/Phobos"),
    "offset-of-a-day": ({"cron": "0 7 * * *", "cron_offset": DAY}, "cron_offset", DAY),
    "offset-of-a-fraction": (
        {"cron": "0 7 * * *", "cron_offset": timedelta(milliseconds=1)},
        "cron_offset",
        timedelta(milliseconds=1),
    ),
    "offset-number": ({"cron": "0 7 * * *", "cron_offset": 2}, "cron_offset", 2),
    "interval-0": ({"interval": 0}, "interval", 0),
    "interval-negative": ({"interval": -60}, "interval", -60),
    "interval-timedelta-0": ({"interval": timedelta(0)}, "interval", timedelta(0)),
    "interval-fraction": ({"interval": timedelta(milliseconds=1500)}, "interval", timedelta(milliseconds=1500)),
    "interval-endless": ({"interval": 10**20}, "interval", 10**20),
    "time-too-late": (
        {"time": datetime.max.replace(tzinfo=timezone(-HOUR))},
        "time",
        datetime.max.replace(tzinfo=timezone(-HOUR)),
    ),
    "time-number": ({"time": [1]}, "time", [1]),
    "no-trigger": ({}, "triggers", None),
    "id-empty": ({"interval": 60, "schedule_id": ""}, "schedule_id", ""),
}

#: What `add_schedule` is given beside an interval, and the field and value that its refusal has to name.
DEFINITIONS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "id-empty": ({"schedule_id": ""}, "schedule_id", ""),
    "id-of-256": ({"schedule_id": "x" * 256}, "schedule_id", "x" * 256),
    "id-nul": ({"schedule_id": "a\x00b"}, "schedule_id", "a\x00b"),
    "id-surrogate": ({"schedule_id": "a\ud800"}, "schedule_id", "a\ud800"),
    "id-reserved": (
        {"schedule_id": "a@2030-01-01T00:00:00.000Z~1"},
        "schedule_id",
        "a@2030-01-01T00:00:00.000Z~1",
    ),
    "task-empty": ({"task_name": ""}, "task_name", ""),
    "task-of-513": ({"task_name": "x" * 513}, "task_name", "x" * 513),
    "task-nul": ({"task_name": "\x00"}, "task_name", "\x00"),
    "task-surrogate": ({"task_name": "\udfff"}, "task_name", "\udfff"),
    "task-id-empty": ({"task_id": ""}, "task_id", ""),
    "task-id-nul": ({"task_id": "a\x00"}, "task_id", "a\x00"),
    "task-id-surrogate": ({"task_id": "\ud800"}, "task_id", "\ud800"),
    "owner-nul": ({"owner": "a\x00"}, "owner", "a\x00"),
    "owner-surrogate": ({"owner": "\ud800"}, "owner", "\ud800"),
    "owner-of-256": ({"owner": "x" * 256}, "owner", "x" * 256),
    "zone": ({"cron": "0 7 * * *", "cron_offset": "Mars/Phobos"}, "cron_offset", "Mars/Phobos"),
    "window-without-a-step": (
        {"time": NOW, "interval": None, "schedule_options": ScheduleOptions(end_at=NOW - HOUR)},
        "time",
        NOW,
    ),
    "label-unknown-option": ({"labels": {OPTIONS_LABEL: {"misfires": "skip"}}}, "misfires", "skip"),
    "label-value": ({"labels": {OPTIONS_LABEL: '{"max_runs": 0}'}}, "max_runs", 0),
    "label-nonsense": ({"labels": {OPTIONS_LABEL: "later"}}, OPTIONS_LABEL, "later"),
}

OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "misfire": ({"misfire": "later"}, "misfire"),
    "grace": ({"misfire_grace": -HOUR}, "misfire_grace"),
    "naive-start": ({"start_at": datetime(2030, 1, 1)}, "start_at"),  # noqa: DTZ001 - the case in question
    "naive-end": ({"end_at": datetime(2030, 1, 1)}, "end_at"),  # noqa: DTZ001
    "window": ({"start_at": NOW, "end_at": NOW - HOUR}, "end_at"),
    "max_runs": ({"max_runs": 0}, "max_runs"),
    "jitter": ({"jitter": -HOUR}, "jitter"),
    "dst": ({"dst": "thrice"}, "dst"),
    "delivery": ({"delivery": "exactly_once"}, "delivery"),
    "unknown": ({"max_run": 1}, "max_run"),
    "start-before-time": ({"start_at": datetime.min.replace(tzinfo=timezone(HOUR))}, "start_at"),
    "end-after-time": ({"end_at": datetime.max.replace(tzinfo=timezone(-HOUR))}, "end_at"),
}

ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "lease": ({"lease": timedelta(0)}, "lease"),
    "lease-of-nothing": ({"lease": timedelta(microseconds=1)}, "lease"),
    "lease-endless": ({"lease": timedelta.max}, "lease"),
    "serializer": ({"serializer": "json"}, "serializer"),
    "clock": ({"clock": 5}, "clock"),
    "claimant": ({"claimant": 5}, "claimant"),
    "look_ahead": ({"look_ahead": -HOUR}, "look_ahead"),
    "stale_for": ({"stale_for": timedelta(0)}, "stale_for"),
    "run_retention": ({"run_retention": timedelta(0)}, "run_retention"),
    "max_run_rows": ({"max_run_rows": -1}, "max_run_rows"),
    "default_timezone": ({"default_timezone": "Mars/Phobos"}, "default_timezone"),
}


class ValidationRules:
    """What could never run, or could not be stored everywhere, is refused when it is written, and nothing is written then."""

    @pytest.mark.parametrize(("fields", "field", "value"), TRIGGERS.values(), ids=list(TRIGGERS))
    async def test_schedule_refuses(
        self, source: ScheduleSource, app: App, fields: dict[str, Any], field: str, value: Any
    ) -> None:
        """`schedule` names the schedule, the field and the value that it refuses. (Look at `definitions`.)"""
        with pytest.raises(ScheduleValidationError) as caught:
            await source.schedule(app.report, **{"schedule_id": "nightly", **fields})

        assert (caught.value.field, caught.value.value) == (field, value)
        assert caught.value.schedule_id == fields.get("schedule_id", "nightly")
        assert str(caught.value).startswith(f"schedule {caught.value.schedule_id!r}: {field} ")
        assert await ids(source) == []

    @pytest.mark.parametrize(("fields", "field", "value"), DEFINITIONS.values(), ids=list(DEFINITIONS))
    async def test_add_schedule_refuses(self, source: ScheduleSource, fields: dict[str, Any], field: str, value: Any) -> None:
        """`add_schedule` names the schedule, the field and the value that it refuses. (Look at `definitions.define`.)"""
        wanted = {"schedule_id": "nightly", "task_name": "app:report", "labels": {}, "args": [], "kwargs": {}, "interval": 60}
        task = ScheduledTask(**{**wanted, **fields})
        with pytest.raises(ScheduleValidationError) as caught:
            await source.add_schedule(task)

        assert (caught.value.field, caught.value.value) == (field, value)
        assert caught.value.schedule_id == task.schedule_id
        assert await ids(source) == []

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("interval", 0),
            ("interval", timedelta(milliseconds=10)),
            ("cron", "61 * * * *"),
            ("cron_offset", "Mars/Phobos"),
            ("triggers", None),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("model", [taskiq.ScheduledTask, ScheduledTask], ids=["taskiq", "ours"])
    async def test_a_definition_that_was_changed_after_its_construction(
        self, source: ScheduleSource, model: type[taskiq.ScheduledTask], field: str, value: Any
    ) -> None:
        """A model that was changed behind its own validation is checked all the same. (Look at `definitions.define`.)"""
        fields: dict[str, Any] = {"task_name": "app:report", "labels": {}, "args": [], "kwargs": {}, "cron": "0 * * * *"}
        task = model(schedule_id="nightly", **fields)
        setattr(task, "cron" if field == "triggers" else field, value)
        with pytest.raises(ScheduleValidationError, match="'nightly'") as caught:
            await source.add_schedule(task)

        assert (caught.value.field, caught.value.value) == (field, value)
        assert await ids(source) == []

    async def test_one_bad_of_a_hundred(self, source: ScheduleSource) -> None:
        """Of a bulk with one bad schedule, nothing is written. (Look at `add_schedules`: all are validated first.)"""
        good = [scheduled(str(number), interval=60) for number in range(99)]
        with pytest.raises(ScheduleValidationError, match="'nightly'"):
            await source.add_schedules([*good, scheduled("nightly", cron="0 25 * * *")])

        assert await ids(source) == []

    async def test_an_id_twice_in_one_call(self, source: ScheduleSource) -> None:
        """One id twice in a bulk is refused: which of them should win? (Look at `add_schedules`.)"""
        with pytest.raises(ScheduleValidationError, match="used twice"):
            await source.add_schedules([scheduled("a", args=[1]), scheduled("b"), scheduled("a", args=[2])])

        assert await ids(source) == []

    async def test_a_refused_replacement_leaves_the_old_schedule(self, source: ScheduleSource) -> None:
        """What is refused changes nothing of the schedule it was to replace. (Look at `add_schedules`.)"""
        before = await add(source, interval=60, args=[1])
        with pytest.raises(ScheduleValidationError):
            await source.add_schedule(scheduled(interval=60, args=[object()]))

        assert await state(source) == before
        assert (await definition(source)).args == [1]

    async def test_a_refused_reschedule_changes_nothing(self, source: ScheduleSource) -> None:
        """A trigger that is refused leaves the schedule with the one it had. (Look at `edits.rescheduled`.)"""
        before = await add(source, interval=60)
        for triggers in ({"cron": "0 25 * * *"}, {"interval": 0}, {"cron": "0 7 * * *", "cron_offset": "Mars/Phobos"}, {}):
            with pytest.raises(ScheduleValidationError, match=r"^schedule 'a': "):
                await source.reschedule("a", **triggers)

        assert await state(source) == before

    async def test_an_unknown_conflict_policy(self, source: ScheduleSource) -> None:
        """A misspelt `on_conflict` is refused, not taken for another. (Look at `add_schedules`.)"""
        policy: Any = "Replace"
        with pytest.raises(ScheduleValidationError, match="on_conflict 'Replace'"):
            await source.add_schedules([scheduled()], on_conflict=policy)

        assert await ids(source) == []

    @pytest.mark.parametrize(("values", "field"), OPTIONS.values(), ids=list(OPTIONS))
    def test_options_refuse(self, values: dict[str, Any], field: str) -> None:
        """Options name the field that they refuse. (Look at `options`.)"""
        with pytest.raises(ScheduleValidationError) as caught:
            ScheduleOptions(**values)

        assert caught.value.field == field

    @pytest.mark.parametrize(
        ("triggers", "options"),
        [
            ({"time": NOW}, ScheduleOptions(start_at=NOW + HOUR)),
            ({"time": NOW + DAY}, ScheduleOptions(end_at=NOW + HOUR)),
            ({"cron": "0 0 29 2 *"}, ScheduleOptions(end_at=NOW + DAY)),
            ({"time": NOW}, ScheduleOptions(end_at=NOW - HOUR)),
        ],
        ids=["time-before", "time-after", "cron-after", "time-after-what-is-over"],
    )
    async def test_a_window_without_an_occurrence(
        self, source: ScheduleSource, triggers: dict[str, Any], options: ScheduleOptions
    ) -> None:
        """A schedule that would never run is refused. (Look at `definitions.store_form`.)"""
        with pytest.raises(ScheduleValidationError, match="never runs") as caught:
            await source.add_schedule(scheduled("nightly", schedule_options=options, **triggers))

        assert {caught.value.field: caught.value.value} == triggers
        assert await ids(source) == []

    @pytest.mark.parametrize(("options", "field"), ARGUMENTS.values(), ids=list(ARGUMENTS))
    def test_a_source_refuses(self, make_source: Any, options: dict[str, Any], field: str) -> None:
        """A source names the argument that it refuses. (Look at what your constructor passes on.)"""
        with pytest.raises(ScheduleValidationError) as caught:
            make_source(**options)

        assert caught.value.field == field

    async def test_one_instead_of_several_is_refused(self, source: ScheduleSource) -> None:
        """The letters of an id are no ids, and the fields of a schedule no schedules. (Look at `Collection[str]`.)"""
        await add(source, "d")
        one: Any = scheduled("daily")

        with pytest.raises(ScheduleValidationError, match="list of ids, or delete_schedule"):
            await source.delete_schedules("daily")
        with pytest.raises(ScheduleValidationError, match="list of schedules, or add_schedule"):
            await source.add_schedules(one)
        assert await ids(source) == ["d"]

    @pytest.mark.parametrize("schedule_id", ["", "a\x00b", "a\ud800", "x" * 10_000])
    async def test_an_impossible_id_is_simply_not_there(self, source: ScheduleSource, schedule_id: str) -> None:
        """Looking for an id that cannot exist finds nothing, without an error. (Look at what reaches the store.)"""
        await add(source)

        assert await source.get_schedule(schedule_id) is None
        assert await source.delete_schedules([schedule_id, "a"]) == {"a"}
        assert [row async for row in source.runs(schedule_id)] == []
