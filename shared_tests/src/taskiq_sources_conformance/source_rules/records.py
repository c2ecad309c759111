"""Rules for records that this release did not write: garbled ones, and those of newer releases."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from taskiq_sources import ScheduleOptions, ScheduleSource, StoredSchedule
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.source_build import (
    HOUR,
    MINUTE,
    NOW,
    add,
    definition,
    ids,
    info,
    rows,
    scheduled,
    send_due,
    state,
    take,
)

_GOOD = {"v": 1, "task_name": "app:report", "labels": {}, "args": [], "kwargs": {}, "cron": "0 * * * *"}

#: Documents that nobody can send.
GARBAGE: dict[str, str] = {
    "empty": "",
    "no-json": "garbage",
    "cut-off": json.dumps(_GOOD)[:-5],
    "number": "1",
    "null": "null",
    "list": "[]",
    "deep": "[" * 100_000,
    "no-task": '{"v": 1}',
    "no-trigger": json.dumps({**_GOOD, "cron": None}),
    "bad-cron": json.dumps({**_GOOD, "cron": "0 25 * * *"}),
    "cron-number": json.dumps({**_GOOD, "cron": 5}),
    "unknown-zone": json.dumps({**_GOOD, "cron_offset": "Mars/Phobos"}),
    "zone-number": json.dumps({**_GOOD, "cron_offset": 2}),
    "default-zone": json.dumps({**_GOOD, "timezone": {}}),
    "interval": json.dumps({**_GOOD, "interval": 0}),
    "interval-text": json.dumps({**_GOOD, "interval": "often"}),
    "time": json.dumps({**_GOOD, "time": "yesterday"}),
    "args": json.dumps({**_GOOD, "args": 5}),
    "labels": json.dumps({**_GOOD, "labels": []}),
    "options": json.dumps({**_GOOD, "options": {"misfire": "later"}}),
    "options-list": json.dumps({**_GOOD, "options": [1]}),
    "task-name": json.dumps({**_GOOD, "task_name": None}),
    "pickle": "gASVHwAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu",
}


class RecordRules:
    """One bad record hurts nobody, and what a newer release wrote is not lost."""

    @pytest.fixture
    def local_zone(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """A machine that is not in UTC."""
        if not hasattr(time, "tzset"):
            pytest.skip("this platform cannot change its time zone")
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "Asia/Tokyo")
            time.tzset()
            yield
        time.tzset()

    @pytest.mark.parametrize("document", GARBAGE.values(), ids=list(GARBAGE))
    async def test_a_garbled_record_hurts_nobody(self, source: ScheduleSource, document: str) -> None:
        """Beside any garbage the others are sent; it is set aside with its error, still to be seen. (Look at `settle`.)"""
        await _put(source, "bad", document)
        await source.add_schedules([scheduled("after", time=NOW), scheduled("before", time=NOW - HOUR)])
        assert (await info(source, "bad")).task is None
        assert len(await source.get_schedules()) >= 2

        assert sorted(dispatch.schedule_id for dispatch in await send_due(source)) == ["after", "before"]
        found = await info(source, "bad")
        assert found.state.quarantined
        assert found.task is None
        assert found.error
        assert "schedule 'bad': the stored record cannot be read: " in (found.state.last_error or "")
        assert "pydantic" not in (found.state.last_error or "")
        assert await ids(source) == await ids(source, quarantined=True) == ["bad"]
        assert await take(source) == []

    async def test_it_is_set_aside_only_when_it_is_due(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A garbled record is left alone until it is due: a newer release may be able to read it. (Look at `claim`.)"""
        await _put(source, "bad", "garbage", due=NOW + HOUR)
        clock.advance(HOUR - MINUTE)
        await send_due(source)
        assert await ids(source, quarantined=True) == []
        clock.advance(MINUTE)
        await send_due(source)

        assert await ids(source, quarantined=True) == ["bad"]

    async def test_quarantine_frees_the_lease(self, source: ScheduleSource) -> None:
        """A record that was set aside is held by nobody, keeps its occurrence and leaves no run. (Look at `settle`.)"""
        await _put(source, "bad", "garbage")
        await take(source)

        found = await state(source, "bad")
        assert (found.claimant, found.lease_until, found.scheduled_for) == (None, None, NOW)
        assert await rows(source) == []

    async def test_a_garbled_record_can_be_deleted(self, source: ScheduleSource) -> None:
        """A garbled record can be deleted, before and after it was set aside. (Look at `delete`.)"""
        await _put(source, "a", "garbage")
        await source.delete_schedule("a")
        await _put(source, "b", "garbage")
        await take(source)
        await source.delete_schedule("b")

        assert await ids(source) == []

    async def test_a_garbled_record_can_be_replaced(self, source: ScheduleSource) -> None:
        """Writing a garbled record again repairs it. (Look at `quarantined` and `last_error` in `put`.)"""
        await _put(source, "a", "garbage")
        await take(source)
        await add(source, time=NOW)

        assert (await state(source)).quarantined is False
        assert [dispatch.schedule_id for dispatch in await send_due(source)] == ["a"]

    async def test_a_garbled_record_can_be_paused(self, source: ScheduleSource) -> None:
        """Pausing needs nobody to read the record. (Look at `ScheduleSource.pause`.)"""
        await _put(source, "a", "garbage")

        assert (await source.pause("a")).state.paused
        assert await take(source) == []

    # -- newer releases ------------------------------------------------------------------------------------------------------

    async def test_a_time_without_zone_is_utc(self, source: ScheduleSource, local_zone: None) -> None:
        """A document that somebody else wrote means the same on every machine. (Look at `codec`.)"""
        await _put(source, "a", json.dumps({**_GOOD, "cron": None, "time": "2040-01-01T00:00:00"}))

        assert (await definition(source)).time == datetime(2040, 1, 1, tzinfo=timezone.utc)

    async def test_what_a_newer_release_wrote_is_read(self, source: ScheduleSource) -> None:
        """Fields and options that this release does not know do not keep a schedule from being sent. (Look at `codec`.)"""
        await _newer(source)

        (sent,) = await send_due(source)
        assert sent.task.args == [1]

    @pytest.mark.parametrize("edit", ["pause", "resume", "reschedule", "options"])
    async def test_what_a_newer_release_wrote_survives_edits(self, source: ScheduleSource, edit: str) -> None:
        """Unknown fields and options are still there after an edit. (Look at `redefine`.)"""
        await _newer(source)
        if edit == "pause":
            await source.pause("a")
        elif edit == "resume":
            await source.pause("a")
            await source.resume("a")
        elif edit == "reschedule":
            await source.reschedule("a", cron="0 7 * * *")
        else:
            await source.reschedule("a", interval=60, options=ScheduleOptions(max_runs=3))

        document = json.loads((await state(source)).document)
        assert document["colour"] == {"of": ["the", "bikeshed"]}
        assert document["options"]["overlap"] == "buffer_one"
        assert document["options"]["misfire"] == "skip"

    async def test_a_manual_run_carries_what_a_newer_release_wrote(self, source: ScheduleSource) -> None:
        """Unknown fields go along with a manual run. (Look at `edits.manual_run`.)"""
        await _newer(source)
        await source.run_now("a")
        (manual,) = [schedule_id for schedule_id in await ids(source) if schedule_id != "a"]

        assert json.loads((await state(source, manual)).document)["colour"] == {"of": ["the", "bikeshed"]}
        assert (await definition(source, manual)).args == [1]


async def _put(source: ScheduleSource, schedule_id: str, document: str, *, due: Any = NOW) -> StoredSchedule:
    """Write a document behind the back of the source."""
    good = await add(source, schedule_id, time=due)
    await source.store.put([replace(good, document=document)])
    return good


async def _newer(source: ScheduleSource) -> None:
    """Store a schedule as a newer release might have written it."""
    good = await add(source, interval=60, args=[1], schedule_options={"misfire": "skip"})
    document = json.loads(good.document)
    document["colour"] = {"of": ["the", "bikeshed"]}
    document["options"]["overlap"] = "buffer_one"
    await source.store.put([replace(good, document=json.dumps(document))])
