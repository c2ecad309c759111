"""Rules for sends that fail, and for schedulers that die while sending."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from taskiq_sources import ScheduleOptions, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources.occurrences import Dispatch, failed, released
from taskiq_sources_conformance.source_build import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    add,
    expected_task_id,
    ids,
    nominal,
    rows,
    send_due,
    state,
    take,
    take_one,
)

LEASE = timedelta(seconds=30)
AT_MOST_ONCE = ScheduleOptions(delivery="at_most_once")


class RetryRules:
    """An occurrence is sent until the broker has it, always as the same message; at most once if the schedule says so."""

    # -- failures ------------------------------------------------------------------------------------------------------------

    async def test_a_failed_send_stays_pending(self, source: ScheduleSource, clock: ManualClock) -> None:
        """After a failure the occurrence keeps its nominal time and waits, with its error and attempts. (Look at `settle`.)"""
        await add(source, interval=3600)
        dispatch = await take_one(source)
        clock.advance(7 * SECOND)
        await _fail(source, dispatch, "the broker is away")

        found = await state(source)
        assert (found.scheduled_for, found.attempt, found.run_count, found.claimant) == (NOW, 1, 0, None)
        assert found.last_error == "ConnectionError: the broker is away"
        assert found.next_run_at is not None
        assert timedelta(seconds=0.5) <= found.next_run_at - (NOW + 7 * SECOND) <= SECOND
        (row,) = await rows(source)
        assert (row.status, row.attempt, row.task_id, row.error) == ("failed", 1, dispatch.task_id, found.last_error)

    async def test_a_retry_is_not_sent_early(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A failed send is not tried again before its back-off is over. (Look at `next_run_at` in `settle`.)"""
        await add(source, interval=3600)
        await _fail(source, await take_one(source))
        due = (await state(source)).next_run_at or NOW
        clock.set(due - timedelta(milliseconds=1))
        assert await take(source) == []
        clock.set(due)

        assert nominal(await take(source)) == [NOW]

    async def test_back_off_grows_to_a_minute(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Each failure waits up to twice as long, a minute at most, never less than half. (Look at `attempt` in `settle`.)"""
        await add(source, time=NOW)
        delays = []
        for attempt in range(1, 11):
            dispatch = await take_one(source)
            assert dispatch.claim.schedule.attempt == attempt
            await _fail(source, dispatch)
            due = (await state(source)).next_run_at or NOW
            delays.append((due - await clock.now()).total_seconds())
            clock.set(due)

        full = [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
        assert all(most / 2 <= delay <= most for delay, most in zip(delays, full, strict=True)), delays

    async def test_a_retry_is_the_same_message(self, source: ScheduleSource, clock: ManualClock) -> None:
        """All attempts send one occurrence under one task id, also when others have fallen due. (Look at `attempt`.)"""
        await add(source, interval=10)
        first = await take_one(source)
        await _fail(source, first)
        clock.advance(5 * MINUTE)
        second = await take_one(source)

        assert (second.scheduled_for, second.task_id) == (first.scheduled_for, first.task_id) == (NOW, expected_task_id("a", NOW))

    async def test_a_success_ends_the_retries(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Once sent, error and attempts are cleared, one row tells the end, and the phase is kept. (Look at `settle`.)"""
        await add(source, interval=3600)
        await _fail(source, await take_one(source))
        clock.advance(MINUTE)
        await source.desk.sent(await take_one(source))

        found = await state(source)
        assert (found.scheduled_for, found.attempt, found.last_error, found.run_count) == (NOW + HOUR, 0, None, 1)
        assert [(row.status, row.attempt, row.error) for row in await rows(source)] == [("sent", 2, None)]

    async def test_what_fell_due_meanwhile_collapses_after_the_retry(self, source: ScheduleSource, clock: ManualClock) -> None:
        """After a long failure the retried occurrence is sent, then the others as one. (Look at `coalesced`.)"""
        await add(source, interval=60)
        await _fail(source, await take_one(source))
        clock.advance(10 * MINUTE)

        assert [(one.scheduled_for, one.coalesced) for one in await send_due(source)] == [(NOW, 1), (NOW + 10 * MINUTE, 10)]

    async def test_a_failure_of_collapsed_occurrences(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A collapsed send that fails is tried again as it was, count included. (Look at `coalesced` in `settle`.)"""
        await add(source, interval=60)
        clock.advance(3 * MINUTE)
        await _fail(source, await take_one(source))
        clock.advance(2 * MINUTE)

        assert [(one.scheduled_for, one.coalesced) for one in await send_due(source)] == [
            (NOW + 3 * MINUTE, 4),
            (NOW + 5 * MINUTE, 2),
        ]

    async def test_an_error_of_any_text(self, source: ScheduleSource) -> None:
        """Whatever a broker says is stored, without credentials: NUL, lone surrogates, megabytes. (Look at `last_error`.)"""
        await add(source, interval=3600)
        said = "\x00 \ud800 amqp://guest:secret@broker:5672/ ä 😀 " + "x" * 1_000_000
        await _fail(source, await take_one(source), said)

        error = (await state(source)).last_error or ""
        assert "secret" not in error
        assert "\x00" not in error
        assert error.encode()
        assert "broker:5672/ ä 😀 xxx" in error
        assert len(error) < 10_000
        assert [row.error for row in await rows(source)] == [error]

    async def test_a_claim_given_back_is_taken_by_others_at_once(self, source: ScheduleSource, open_source: Any) -> None:
        """A scheduler that stops gives back what it has not sent, as if it had not been claimed. (Look at `settle`.)"""
        await add(source, interval=3600)
        first = await take_one(source)
        await source.desk.settle([released(first)])
        second = await take_one(await open_source())

        assert (second.task_id, second.claim.schedule.attempt) == (first.task_id, 1)
        assert await rows(source) == []

    async def test_what_was_collapsed_and_given_back_is_counted_on(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A collapsed claim that is given back collapses further, and counts all. (Look at `coalesced` in `settle`.)"""
        await add(source, interval=60)
        clock.advance(3 * MINUTE)
        await source.desk.settle([released(await take_one(source))])
        clock.advance(2 * MINUTE)

        assert [(one.scheduled_for, one.coalesced) for one in await send_due(source)] == [(NOW + 5 * MINUTE, 6)]

    # -- crashes -------------------------------------------------------------------------------------------------------------

    async def test_nobody_sends_what_is_leased(self, source: ScheduleSource, clock: ManualClock, open_source: Any) -> None:
        """While a lease lasts, no handle is given the occurrence. (Look at rule 3 of eligibility in `claim`.)"""
        other: ScheduleSource = await open_source()
        await add(source, interval=3600)
        await take_one(source)
        clock.advance(LEASE - timedelta(milliseconds=1))

        assert await take(other) == []
        assert await take(source) == []

    async def test_what_a_dead_scheduler_held_is_sent_by_another(
        self, source: ScheduleSource, clock: ManualClock, open_source: Any
    ) -> None:
        """When a lease ends, another handle sends the same occurrence under the same task id. (Look at `claim`.)"""
        await add(source, interval=3600, args=[1])
        first = await take_one(source)
        clock.advance(LEASE)
        second = await take_one(await open_source())

        assert (second.scheduled_for, second.task_id, second.task.args) == (NOW, first.task_id, [1])
        assert second.claim.schedule.attempt == 2

    @pytest.mark.parametrize("misfire", ["fire_once", "fire_all"])
    async def test_a_re_send_is_the_same_however_late(
        self, source: ScheduleSource, clock: ManualClock, open_source: Any, misfire: Any
    ) -> None:
        """A collapsed send that crashed is repeated as it was, whatever fell due since. (Look at `release=False`.)"""
        await add(source, interval=60, schedule_options=ScheduleOptions(misfire=misfire))
        clock.advance(5 * MINUTE)
        first = await take_one(source)
        clock.advance(HOUR)
        second = await take_one(await open_source())

        assert (second.scheduled_for, second.task_id, second.coalesced) == (first.scheduled_for, first.task_id, first.coalesced)

    async def test_a_late_result_of_a_lost_lease_is_dropped(
        self, source: ScheduleSource, clock: ManualClock, open_source: Any
    ) -> None:
        """A scheduler that comes back after another took over changes nothing. (Look at the fencing token in `settle`.)"""
        other: ScheduleSource = await open_source()
        await add(source, interval=3600)
        slow = await take_one(source)
        clock.advance(LEASE)
        await other.desk.sent(await take_one(other))
        before = await state(source)
        await _fail(source, slow)
        await source.desk.sent(slow)

        assert await state(source) == before
        assert [(row.status, row.attempt) for row in await rows(source)] == [("sent", 2)]

    async def test_a_late_result_without_a_rival_counts(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A lease that ended but that nobody took over can still be settled. (Look at `settle`: it checks the token only.)"""
        await add(source, interval=3600)
        dispatch = await take_one(source)
        clock.advance(LEASE + MINUTE)
        await source.desk.sent(dispatch)

        assert (await state(source)).scheduled_for == NOW + HOUR
        assert await take(source) == []

    async def test_the_lease_is_the_sources(self, open_source: Any, clock: ManualClock) -> None:
        """A source's `lease` is how long its claims hold others off. (Look at what the constructor passes on.)"""
        source: ScheduleSource = await open_source(lease=timedelta(minutes=5))
        other: ScheduleSource = await open_source()
        await add(source, interval=3600)
        await take_one(source)
        clock.advance(5 * MINUTE - SECOND)
        assert await take(other) == []
        clock.advance(SECOND)

        assert len(await take(other)) == 1

    # -- at most once --------------------------------------------------------------------------------------------------------

    async def test_at_most_once_is_not_sent_again_after_a_crash(self, source: ScheduleSource, clock: ManualClock) -> None:
        """What may have been sent is recorded as unknown, and the schedule goes on. (Look at `attempt` in `claim`.)"""
        await add(source, interval=3600, schedule_options=AT_MOST_ONCE)
        lost = await take_one(source)
        clock.advance(MINUTE)
        assert await send_due(source) == []

        assert [(row.status, row.task_id, row.attempt) for row in await rows(source)] == [("unknown", lost.task_id, 2)]
        assert (await state(source)).scheduled_for == NOW + HOUR

    async def test_at_most_once_is_not_sent_again_after_a_failure(self, source: ScheduleSource) -> None:
        """A failed send is not retried, and the schedule goes on. (Look at `failed`.)"""
        await add(source, interval=3600, schedule_options=AT_MOST_ONCE)
        await _fail(source, await take_one(source))

        assert [row.status for row in await rows(source)] == ["failed"]
        found = await state(source)
        assert (found.scheduled_for, found.attempt, found.run_count) == (NOW + HOUR, 0, 0)

    async def test_at_most_once_of_a_one_off(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A one-off whose scheduler died is gone, and its run says that nobody knows. (Look at `finished`.)"""
        await add(source, schedule_options=AT_MOST_ONCE)
        await take_one(source)
        clock.advance(MINUTE)

        assert await send_due(source) == []
        assert await ids(source) == []
        assert [row.status for row in await rows(source, "a")] == ["unknown"]

    async def test_at_most_once_survives_pause_and_resume(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Neither pausing and resuming nor declaring again makes an attempt forgotten. (Look at `attempt` in `update`.)"""
        await add(source, schedule_options=AT_MOST_ONCE)
        await take_one(source)
        clock.advance(MINUTE)
        await source.pause("a")
        await source.resume("a", catch_up=True)
        await add(source, schedule_options=AT_MOST_ONCE)

        assert await send_due(source) == []
        assert [row.status for row in await rows(source)] == ["unknown"]

    async def test_at_most_once_is_sent(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Without a crash nothing is different, late collapsed occurrences included. (Look at `attempt` after `settle`.)"""
        await add(source, interval=60, schedule_options=AT_MOST_ONCE)
        sent = await send_due(source)
        clock.advance(3 * MINUTE)
        sent += await send_due(source)

        assert nominal(sent) == [NOW, NOW + 3 * MINUTE]
        assert [row.coalesced for row in await rows(source)] == [3, 1]

    async def test_at_most_once_given_back_is_sent(self, source: ScheduleSource) -> None:
        """A claim that was given back unused was no attempt. (Look at `attempt` in `settle`.)"""
        await add(source, schedule_options=AT_MOST_ONCE)
        await source.desk.settle([released(await take_one(source))])

        assert nominal(await send_due(source)) == [NOW]


async def _fail(source: ScheduleSource, dispatch: Dispatch, text: str = "the broker is away") -> None:
    """Settle a send as failed, as a scheduler does."""
    await source.desk.settle([failed(dispatch, await source.clock.now(), ConnectionError(text))])
