"""What a claim means at an instant: which occurrence is sent, what is missed, where the schedule goes."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from taskiq_sources import ScheduledTask, ScheduleOptions, definitions, occurrences
from taskiq_sources.definitions import Defaults
from taskiq_sources.models import Claim
from taskiq_sources.occurrences import Plan
from taskiq_sources.triggers import Timetable

START = datetime(2030, 1, 1, 10, 0, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def _claimed(attempt: int = 1, coalesced: int = 1, last_error: str | None = None, **fields: Any) -> tuple[Claim, Any]:
    """Return a claim on the first occurrence of a schedule made at `START`, and its definition."""
    options = {name: fields.pop(name) for name in list(fields) if name in ScheduleOptions.model_fields}
    task = ScheduledTask(
        task_name="job", labels={}, args=[], kwargs={}, schedule_id="s", schedule_options=ScheduleOptions(**options), **fields
    )
    definition = definitions.define(task, Defaults())
    state = {"attempt": attempt, "coalesced": coalesced, "last_error": last_error, "claimant": "scheduler"}
    row = replace(definitions.store_form(definition, START, Defaults()), **state)
    return Claim(schedule=row, token="t", claimed_at=START, lease_until=START + MINUTE), definition


def _plan(now: datetime, **fields: Any) -> Plan:
    claim, definition = _claimed(**fields)
    return occurrences.plan(claim, definition, now)


def test_an_occurrence_on_time_is_sent_as_it_stands() -> None:
    """What is due now needs no settling before it is sent."""
    plan = _plan(START, interval=60)

    assert plan.settle_first is None
    assert plan.dispatch is not None
    assert (plan.dispatch.scheduled_for, plan.dispatch.coalesced) == (START, 1)
    assert plan.dispatch.occurrence_id == "s@2030-01-01T10:00:00.000Z"


def test_what_is_sent_of_many_is_found_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a backlog costs what one costs: the others are not listed for it."""
    newest, looked_for = Timetable.newest, []

    def noted(timetable: Timetable, first: datetime, last: datetime, limit: int) -> list[datetime]:
        looked_for.append(limit)
        return newest(timetable, first, last, limit)

    monkeypatch.setattr(Timetable, "newest", noted)
    plan = _plan(START + 900 * MINUTE, cron="* * * * *", misfire="fire_all")

    assert plan.dispatch is not None
    assert plan.dispatch.scheduled_for == START
    assert sum(looked_for) <= 2


def test_an_occurrence_claimed_early_is_that_occurrence() -> None:
    """Claimed before its time, the pending occurrence is sent, and no later one."""
    plan = _plan(START + 30 * MINUTE - timedelta(seconds=1), cron="30 * * * *")

    assert plan.settle_first is None
    assert plan.dispatch is not None
    assert plan.dispatch.scheduled_for == START + 30 * MINUTE


def test_fire_once_settles_the_collapse_before_it_sends_the_latest() -> None:
    """Five late occurrences become one send of the latest, and the store is told first, keeping the lease."""
    plan = _plan(START + 4 * HOUR + MINUTE, interval=3600)

    assert plan.dispatch is not None
    assert (plan.dispatch.scheduled_for, plan.dispatch.coalesced) == (START + 4 * HOUR, 5)
    first = plan.settle_first
    assert first is not None
    assert (first.release, first.scheduled_for, first.coalesced, first.attempt) == (False, START + 4 * HOUR, 5, 1)
    assert first.runs == ()


def test_a_collapse_is_counted_to_its_limit_only() -> None:
    """Years of missed seconds are collapsed without being walked through; the count says "at least"."""
    plan = _plan(START + timedelta(days=3650), cron="* * * * * *")

    assert plan.dispatch is not None
    assert plan.dispatch.scheduled_for == START + timedelta(days=3650)
    assert plan.dispatch.coalesced == occurrences.MAX_CATCH_UP


@pytest.mark.parametrize("misfire", ["fire_once", "fire_all", "skip"])
def test_a_repeated_claim_never_picks_another_occurrence(misfire: str) -> None:
    """After a crash the pending occurrence is sent again, whatever became due since: its task_id must not change."""
    grace = timedelta(days=1) if misfire == "skip" else None
    plan = _plan(START + 4 * HOUR, interval=3600, attempt=2, coalesced=3, misfire=misfire, misfire_grace=grace)

    assert plan.settle_first is None
    assert plan.dispatch is not None
    assert (plan.dispatch.scheduled_for, plan.dispatch.coalesced) == (START, 3)


def test_fire_all_sends_the_oldest_first() -> None:
    """With ``fire_all`` each late occurrence is sent, oldest first."""
    claim, definition = _claimed(interval=3600, misfire="fire_all")
    now = START + 2 * HOUR
    sent = []
    while True:
        plan = occurrences.plan(claim, definition, now)
        assert plan.settle_first is None
        assert plan.dispatch is not None
        sent.append(plan.dispatch.scheduled_for)
        outcome = occurrences.sent(plan.dispatch, now)
        assert outcome.next_run_at is not None
        if outcome.next_run_at > now:
            break
        claim = replace(claim, schedule=replace(claim.schedule, scheduled_for=outcome.scheduled_for, attempt=1))

    assert sent == [START, START + HOUR, START + 2 * HOUR]


def test_fire_all_leaves_out_what_is_beyond_its_limit() -> None:
    """Of more than a thousand late occurrences the oldest are missed, in one history row that counts them."""
    plan = _plan(START + timedelta(seconds=2999), interval=1, misfire="fire_all")

    assert plan.dispatch is not None
    assert plan.dispatch.scheduled_for == START + timedelta(seconds=2000)
    assert plan.settle_first is not None
    assert [(run.status, run.coalesced) for run in plan.settle_first.runs] == [("missed", occurrences.MAX_CATCH_UP)]


def test_skip_sends_what_is_barely_late() -> None:
    """``skip`` does not leave out what is within the threshold: a scheduler is always a little late."""
    plan = _plan(START + timedelta(seconds=60), interval=3600, misfire="skip")

    assert plan.settle_first is None
    assert plan.dispatch is not None


def test_skip_records_late_occurrences_as_missed() -> None:
    """``skip`` sends nothing that is late, records how many that were, and goes on with the next."""
    plan = _plan(START + 4 * HOUR + 30 * MINUTE, interval=3600, misfire="skip")

    assert plan.dispatch is None
    assert plan.settle_first is not None
    assert (plan.settle_first.release, plan.settle_first.next_run_at) == (True, START + 5 * HOUR)
    assert [(run.status, run.coalesced, run.task_id) for run in plan.settle_first.runs] == [("missed", 5, None)]


@pytest.mark.parametrize(("late", "status"), [(9, None), (10, None), (11, "missed")])
def test_grace_is_the_lateness_that_is_still_acceptable(late: int, status: str | None) -> None:
    """An occurrence exactly as late as its grace is sent; a later one is missed."""
    plan = _plan(START + late * MINUTE, time=START, misfire_grace=10 * MINUTE)

    if status is None:
        assert plan.dispatch is not None
    else:
        assert plan.dispatch is None
        assert plan.settle_first is not None
        assert plan.settle_first.finished
        assert [run.status for run in plan.settle_first.runs] == [status]


def test_grace_ends_retries_too() -> None:
    """A send that keeps failing is given up when it is later than its grace, with the error in the history."""
    claim, definition = _claimed(time=START, misfire_grace=10 * MINUTE, attempt=7)
    claim = replace(claim, schedule=replace(claim.schedule, last_error="ConnectionError: no broker"))

    plan = occurrences.plan(claim, definition, START + 11 * MINUTE)

    assert plan.dispatch is None
    assert plan.settle_first is not None
    assert [(run.status, run.error) for run in plan.settle_first.runs] == [("missed", "ConnectionError: no broker")]


def test_what_was_lost_in_a_crash_and_is_too_late_now_is_unknown() -> None:
    """After a crash nobody knows whether the broker had the message: the history does not call it missed."""
    claim, definition = _claimed(time=START, misfire_grace=10 * MINUTE, attempt=2)

    plan = occurrences.plan(claim, definition, START + 11 * MINUTE)

    assert plan.settle_first is not None
    assert [(run.status, run.task_id is None) for run in plan.settle_first.runs] == [("unknown", False)]


def test_jitter_does_not_count_as_lateness() -> None:
    """Grace is measured from when the occurrence was due, its jitter included."""
    claim, definition = _claimed(interval=3600, jitter=30 * MINUTE, misfire_grace=MINUTE)
    assert claim.schedule.next_run_at is not None
    assert claim.schedule.next_run_at > START + 2 * MINUTE, "the case is of no use with so little jitter"

    plan = occurrences.plan(claim, definition, claim.schedule.next_run_at)

    assert plan.dispatch is not None


def test_at_most_once_is_never_sent_again() -> None:
    """A second claim of an ``at_most_once`` occurrence records that its fate is unknown, and moves on."""
    plan = _plan(START + MINUTE, interval=3600, attempt=2, delivery="at_most_once")

    assert plan.dispatch is None
    assert plan.settle_first is not None
    assert [run.status for run in plan.settle_first.runs] == ["unknown"]
    assert plan.settle_first.scheduled_for == START + HOUR


def test_at_most_once_does_not_retry_a_failed_send() -> None:
    """A failed ``at_most_once`` send is recorded, and the schedule moves on."""
    plan = _plan(START, interval=3600, delivery="at_most_once")
    assert plan.dispatch is not None

    outcome = occurrences.failed(plan.dispatch, START, ConnectionError("no broker"))

    assert outcome.scheduled_for == START + HOUR
    assert [(run.status, run.error) for run in outcome.runs] == [("failed", "ConnectionError: no broker")]


def test_a_failed_send_keeps_its_nominal_time() -> None:
    """A failure moves the due time by the back-off and nothing else; the error shows no credentials."""
    plan = _plan(START, interval=60, attempt=3, last_error="it failed before")
    assert plan.dispatch is not None

    outcome = occurrences.failed(plan.dispatch, START, ConnectionError("cannot reach redis://user:secret@host:6379/0"))

    assert outcome.scheduled_for == START
    assert outcome.attempt == 3
    assert outcome.next_run_at == START + occurrences.retry_delay("s@2030-01-01T10:00:00.000Z", 3)
    assert outcome.last_error == "ConnectionError: cannot reach redis://***@host:6379/0"


def test_claims_of_schedulers_that_died_are_no_failures() -> None:
    """The first send that fails is the first, however often it was claimed."""
    plan = _plan(START, interval=60, attempt=3)
    assert plan.dispatch is not None

    outcome = occurrences.failed(plan.dispatch, START, ConnectionError("no broker"))

    assert outcome.attempt == 1
    assert [run.attempt for run in outcome.runs] == [3]
    assert outcome.next_run_at == START + occurrences.retry_delay("s@2030-01-01T10:00:00.000Z", 1)


def test_back_off_doubles_to_a_minute_and_is_spread() -> None:
    """The pause after a failure is between a half and the whole of 1, 2, 4 … 60 s, and differs between schedules."""
    for attempt, full in ((1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1000, 60)):
        delays = {occurrences.retry_delay(f"s{index}", attempt).total_seconds() for index in range(200)}
        assert full / 2 < min(delays) <= max(delays) <= full
        assert len(delays) > 100


def test_a_released_claim_does_not_count_as_an_attempt() -> None:
    """A claim given back unused leaves the schedule as it was."""
    claim, definition = _claimed(interval=60, attempt=1)
    plan = occurrences.plan(claim, definition, START)
    assert plan.dispatch is not None

    outcome = occurrences.released(plan.dispatch)

    assert (outcome.attempt, outcome.next_run_at, outcome.runs) == (0, claim.schedule.next_run_at, ())


def test_max_runs_finishes_the_schedule() -> None:
    """The send that reaches ``max_runs`` finishes the schedule; missed occurrences do not count."""
    claim, definition = _claimed(interval=60, max_runs=3)
    for run_count, finished in ((0, False), (1, False), (2, True)):
        counted = replace(claim, schedule=replace(claim.schedule, run_count=run_count))
        plan = occurrences.plan(counted, definition, START)
        assert plan.dispatch is not None
        assert occurrences.sent(plan.dispatch, START).finished is finished


def test_the_last_occurrence_before_end_at_finishes_the_schedule() -> None:
    """``end_at`` is inclusive; what is sent at it is the last."""
    claim, definition = _claimed(interval=60, end_at=START + MINUTE)
    at_the_end = replace(claim, schedule=replace(claim.schedule, scheduled_for=START + MINUTE))

    first, last = (occurrences.plan(each, definition, START + MINUTE).dispatch for each in (claim, at_the_end))

    assert first is not None
    assert last is not None
    assert occurrences.sent(last, START + MINUTE).finished


def test_task_ids_are_those_of_the_occurrence() -> None:
    """The task_id is the same for every send of an occurrence, in every release, and another for every other one."""
    assert occurrences.task_id_of("s@2030-01-01T10:00:00.000Z") == "1439765a-abe1-511b-9942-7fd6b025d1cc"
    namespace = uuid.UUID("6f1b2f0e-6a0b-5d6c-9e55-2b7c1a5d9f43")
    for name in ("", "s", "Ünïcødé@2030-01-01T10:00:00.000Z", *map(str, range(200))):
        assert occurrences.task_id_of(name) == str(uuid.uuid5(namespace, name))
    assert occurrences.task_id_of("s@2030-01-01T10:00:01.000Z") != occurrences.task_id_of("s@2030-01-01T10:00:00.000Z")


def test_a_row_without_a_nominal_time_is_quarantined() -> None:
    """A due row without ``scheduled_for`` cannot be identified: it is set aside, not sent."""
    claim, definition = _claimed(interval=60)
    broken = replace(claim, schedule=replace(claim.schedule, scheduled_for=None))

    plan = occurrences.plan(broken, definition, START)

    assert plan.dispatch is None
    assert plan.settle_first is not None
    assert plan.settle_first.quarantined
