"""Rules for the identity of an occurrence: its id, its ``task_id``, and what is derived from them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from taskiq_sources import ScheduleOptions, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.source_build import (
    HOUR,
    MINUTE,
    NOON,
    NOW,
    SECOND,
    add,
    expected_task_id,
    nominal,
    play,
    rows,
    send_due,
    state,
    take,
    take_one,
)


class IdentityRules:
    """An occurrence is known by schedule and nominal time, everywhere and for ever."""

    async def test_the_occurrence_id(self, source: ScheduleSource, clock: ManualClock) -> None:
        """An occurrence's id is the schedule's, "@" and the nominal time in UTC, to the millisecond. (Look at `runs`.)"""
        await add(source, "ä:1", interval=3600, time=NOON + HOUR)
        sent = await play(source, clock, NOON + HOUR)

        expected = ["ä:1@2035-06-15T12:00:00.123Z", "ä:1@2035-06-15T13:00:00.000Z"]
        assert [dispatch.occurrence_id for dispatch in sent] == expected
        assert [row.occurrence_id for row in await rows(source)] == expected[::-1]

    async def test_each_occurrence_has_a_task_id_of_its_own(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A message's ``task_id`` is derived from its occurrence and differs between them. (Look at `task_id` in `runs`.)"""
        await add(source, "a", interval=60)
        await add(source, "b", interval=60)
        sent = await play(source, clock, NOW + 3 * MINUTE)

        assert len({dispatch.task_id for dispatch in sent}) == len(sent) == 8
        for dispatch in sent:
            assert dispatch.task_id == dispatch.task.task_id == expected_task_id(dispatch.schedule_id, dispatch.scheduled_for)
        assert {row.task_id for row in await rows(source)} == {dispatch.task_id for dispatch in sent}

    async def test_every_scheduler_derives_the_same(self, source: ScheduleSource, clock: ManualClock, open_source: Any) -> None:
        """Another handle that takes an occurrence over sends the same ids. (Look at randomness at start-up.)"""
        await add(source, interval=60)
        first = await take_one(source)
        clock.advance(31 * SECOND)
        second = await take_one(await open_source())

        assert (second.occurrence_id, second.task_id) == (first.occurrence_id, first.task_id)

    async def test_a_task_id_that_the_user_chose_is_kept(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A schedule's own ``task_id`` is used for all its messages. (Look at the document: `task_id`.)"""
        await add(source, interval=60, task_id="mine")
        sent = await play(source, clock, NOW + 2 * MINUTE)

        assert [dispatch.task_id for dispatch in sent] == ["mine"] * 3
        assert [row.task_id for row in await rows(source)] == ["mine"] * 3

    async def test_what_is_sent_belongs_to_the_sender(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Whoever writes into what is sent, as schedulers do into labels, changes nothing stored. (Look at caches.)"""
        await add(source, interval=60, labels={"l": {"x": 1}}, args=[[1]])
        dispatch = await take_one(source)
        task = dispatch.task
        task.labels["schedule_id"] = "a"
        task.labels["l"]["x"] = 2
        task.args[0].append(2)
        await source.desk.sent(dispatch)
        clock.advance(MINUTE)

        (following,) = await take(source)
        assert (following.task.labels, following.task.args) == ({"l": {"x": 1}}, [[1]])

    # -- jitter --------------------------------------------------------------------------------------------------------------

    async def test_jitter_delays_the_send_not_the_nominal_time(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Jitter moves when an occurrence may be claimed, never its identity. (Look at `next_run_at` and `scheduled_for`.)"""
        jitter = timedelta(seconds=45)
        await add(source, interval=60, schedule_options=ScheduleOptions(jitter=jitter))
        delays = []
        for number in range(10):
            found = await state(source)
            assert found.scheduled_for == NOW + number * MINUTE
            assert found.next_run_at is not None
            delays.append(found.next_run_at - found.scheduled_for)
            clock.set(found.next_run_at - timedelta(milliseconds=1))
            assert await take(source) == []
            clock.set(found.next_run_at)
            await source.desk.sent(await take_one(source))

        assert all(timedelta(0) <= delay < jitter for delay in delays)
        assert len(set(delays)) > 5

    async def test_jitter_is_the_same_every_time(self, source: ScheduleSource, clock: ManualClock) -> None:
        """An occurrence's delay is the same whoever computes it, and whenever. (Look at randomness.)"""
        options = ScheduleOptions(jitter=timedelta(minutes=30))
        first = await add(source, cron="0 * * * *", schedule_options=options)
        await source.delete_schedule("a")
        clock.advance(17 * MINUTE)
        second = await add(source, cron="0 * * * *", schedule_options=options)

        assert first.next_run_at == second.next_run_at != NOON + HOUR

    async def test_jitter_spreads_schedules(self, source: ScheduleSource) -> None:
        """Schedules of one instant are spread over the jitter. (Look at what the delay is drawn from.)"""
        options = ScheduleOptions(jitter=timedelta(minutes=10))
        due = {(await add(source, str(number), cron="0 * * * *", schedule_options=options)).next_run_at for number in range(20)}

        assert len(due) > 15

    async def test_what_its_jitter_still_holds_back_is_not_late(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Late occurrences collapse into the latest that is due, jitter considered. (Look at `_latest_due`.)"""
        fields: dict[str, Any] = {"interval": 3600, "schedule_options": ScheduleOptions(jitter=timedelta(minutes=50))}
        await add(source, **fields)
        delayed = {dispatch.scheduled_for: dispatch.claim.claimed_at for dispatch in await play(source, clock, NOW + 5 * HOUR)}
        await source.delete_schedule("a")
        clock.set(NOW)
        await add(source, **fields)  # with the same phase, so with the same delays
        clock.set(delayed[NOW + 3 * HOUR] - timedelta(milliseconds=1))

        assert [(one.scheduled_for, one.coalesced) for one in await send_due(source)] == [(NOW + 2 * HOUR, 3)]

    async def test_jitter_never_reaches_the_next_occurrence(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Jitter longer than the period is cut to it: all occurrences are sent, in order. (Look at `jittered`.)"""
        await add(source, interval=1, schedule_options=ScheduleOptions(jitter=timedelta(hours=1)))

        assert nominal(await play(source, clock, NOW + 20 * SECOND))[:20] == [NOW + k * SECOND for k in range(20)]
