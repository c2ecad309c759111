"""What a claim means: which occurrence to send, which ones are missed, and where the schedule goes from there.

Pure functions over a `Claim` and its `Definition`; the present moment is passed in, and nothing is written here. The result is
what a store is to ``settle``.

A claim is *planned* before anything is sent. When late occurrences collapse into another one, that decision is settled first
(``release=False``), so that a scheduler that takes over after a crash sends the same occurrence, under the same ``task_id``.
For the same reason a repeated claim (``attempt`` > 1) never picks another occurrence than the stored one.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace
from datetime import datetime, timedelta

from taskiq_sources.clock import MILLISECOND
from taskiq_sources.codec import Definition
from taskiq_sources.definitions import due_at, occurrence_id, timetable_of
from taskiq_sources.errors import error_text
from taskiq_sources.models import Claim, Outcome, Run, RunStatus, in_order, record
from taskiq_sources.tasks import ScheduledTask
from taskiq_sources.triggers import Timetable

#: At most this many late occurrences of one schedule are sent one by one, or told apart when they are counted.
MAX_CATCH_UP = 1_000

#: For ``misfire="skip"`` without a grace of its own: what is later than this is late (the threshold that Quartz uses).
MISFIRE_THRESHOLD = timedelta(seconds=60)

FIRST_RETRY = timedelta(seconds=1)
LAST_RETRY = timedelta(seconds=60)

#: Namespace of the deterministic task ids; chosen once, never to be changed, or a re-send would get another id.
_TASK_ID_NAMESPACE = uuid.UUID("6f1b2f0e-6a0b-5d6c-9e55-2b7c1a5d9f43").bytes

#: The digit that holds the variant of a UUID, by what the digest has there (RFC 9562 section 4.1).
_VARIANTS = {digit: f"{int(digit, 16) & 0x3 | 0x8:x}" for digit in "0123456789abcdef"}


@record
class Dispatch:
    """One occurrence, claimed and ready to be sent.

    Attributes:
        claim: The claim it is sent under.
        definition: The schedule's definition.
        scheduled_for: Nominal time of the occurrence.
        coalesced: How many occurrences it stands for.
        occurrence_id: Its identity.
        task_id: The message's ``task_id``: the schedule's own, or one derived from the occurrence.
    """

    claim: Claim
    definition: Definition
    scheduled_for: datetime
    coalesced: int
    occurrence_id: str
    task_id: str

    @property
    def schedule_id(self) -> str:
        """The id that the message carries: for a manual run, that of the schedule that was told to run."""
        return self.definition.manual_of or self.claim.schedule.id

    @property
    def instant(self) -> str:
        """The nominal time as text: ISO 8601, UTC, to the millisecond."""
        return f"{self.occurrence_id[-24:-1]}+00:00"

    @property
    def is_retried(self) -> bool:
        """Whether a failed send is tried again."""
        return self.definition.options.delivery == "at_least_once"

    def run(self, status: RunStatus, now: datetime, error: str | None = None) -> Run:
        """Return the history row that says what became of it."""
        schedule = self.claim.schedule
        return _run(
            self.occurrence_id,
            self.schedule_id,
            self.definition.task_name,
            self.scheduled_for,
            status,
            now,  # recorded_at
            None if status == "missed" else self.task_id,
            schedule.attempt,
            self.coalesced,
            schedule.claimant,
            error,
        )

    @property
    def task(self) -> ScheduledTask:
        """What to send, with `task_id` and `schedule_id` as the message carries them. Shares arguments with the definition."""
        return replace(self.definition, schedule_id=self.schedule_id, task_id=self.task_id).task


_run, _new_dispatch = in_order(Run), in_order(Dispatch)


@record
class Plan:
    """What to do about a claim.

    Attributes:
        settle_first: What to settle before anything is sent, if anything.
        dispatch: What to send then; None if nothing is to be sent.
    """

    settle_first: Outcome | None = None
    dispatch: Dispatch | None = None


def plan(claim: Claim, definition: Definition, now: datetime) -> Plan:
    """Decide what a claim means at `now`, by the schedule's misfire policy, grace and delivery."""
    schedule = claim.schedule
    pending = schedule.scheduled_for
    if pending is None:  # no release writes this; without a nominal time nothing can be identified
        return Plan(settle_first=quarantined(claim, "it has a due time but no scheduled_for"))
    if schedule.attempt > 1 or definition.is_one_off:
        return _plan_as_it_stands(claim, definition, pending, now)
    timetable = timetable_of(definition, schedule.anchor)
    if definition.options.misfire == "fire_once":
        return _plan_collapsed(claim, definition, timetable, pending, now)
    return _plan_each(claim, definition, timetable, pending, now)


def sent(dispatch: Dispatch, now: datetime) -> Outcome:
    """Return the outcome of a send that the broker took."""
    run_count = dispatch.claim.schedule.run_count + 1
    return _moved_on(dispatch.claim, dispatch.definition, dispatch.scheduled_for, dispatch.run("sent", now), run_count=run_count)


def failed(dispatch: Dispatch, now: datetime, error: BaseException | str) -> Outcome:
    """Return the outcome of a send that the broker did not take: a retry later, or none if delivery is at most once."""
    claim, text, failures = dispatch.claim, error_text(error), failures_with(dispatch)
    run = dispatch.run("failed", now, text)
    if not dispatch.is_retried:
        return _moved_on(claim, dispatch.definition, dispatch.scheduled_for, run)
    return Outcome(
        claim=claim,
        scheduled_for=dispatch.scheduled_for,
        next_run_at=now + retry_delay(dispatch.occurrence_id, failures),
        coalesced=dispatch.coalesced,
        attempt=failures,
        run_count=claim.schedule.run_count,
        last_error=text,
        runs=(run,),
    )


def failures_with(dispatch: Dispatch) -> int:
    """Return how many sends of an occurrence have failed when this one does: claims by schedulers that died are none of them.

    What was claimed between two failures cannot be told from them any more, and counts.
    """
    schedule = dispatch.claim.schedule
    return 1 if schedule.last_error is None else schedule.attempt


def given_up(dispatch: Dispatch, now: datetime, error: BaseException | str) -> Outcome:
    """Return the outcome of the last failed send that is put up with: the schedule is quarantined, the attempt recorded."""
    return replace(failed(dispatch, now, error), quarantined=True)


def cancelled(dispatch: Dispatch, now: datetime) -> Outcome:
    """Return the outcome of an occurrence that the application's own ``pre_send`` cancelled: missed, and moved on."""
    run = dispatch.run("missed", now, "the application cancelled it in pre_send")
    return _moved_on(dispatch.claim, dispatch.definition, dispatch.scheduled_for, run)


def overtaken(claim: Claim, definition: Definition, now: datetime, *, up_to_pending: bool = False) -> Outcome:
    """Return the outcome of what is due when its schedule is to be given other triggers: missed, and on to what is next.

    With `up_to_pending`, of what is pending alone.
    """
    schedule = claim.schedule
    pending = schedule.scheduled_for or now
    timetable = timetable_of(definition, schedule.anchor)
    latest, count = (pending, 1) if up_to_pending else due_until(definition, timetable, pending, now)

    def row(claim: Claim, moment: datetime, coalesced: int) -> Run:
        reason = "the schedule was given other triggers before it was sent"
        return _dispatch(claim, definition, moment, coalesced).run(_unsent(claim), now, reason)

    if schedule.attempt > 1 and count > 1:  # what was tried has a row of its own
        untried = replace(claim, schedule=replace(schedule, attempt=1))
        runs: tuple[Run, ...] = (row(claim, pending, schedule.coalesced), row(untried, latest, count - 1))
    else:
        runs = (row(claim, latest, schedule.coalesced + count - 1),)
    following = timetable.next_after(latest)
    due = None if following is None else due_at(definition, timetable, following)
    return Outcome(claim=claim, scheduled_for=following, next_run_at=due, run_count=schedule.run_count, runs=runs)


def released(dispatch: Dispatch) -> Outcome:
    """Return the outcome of a claim that is given back unused: others may take it at once."""
    return replace(given_back(dispatch.claim), scheduled_for=dispatch.scheduled_for, coalesced=dispatch.coalesced)


def unsent(claim: Claim) -> Dispatch:
    """Return what to hold of a claim of which nothing is to be sent."""
    schedule = claim.schedule
    nothing = Definition(schedule_id=schedule.id, task_name=schedule.task_name, labels={}, args=[], kwargs={})
    return _dispatch(claim, nothing, schedule.scheduled_for or schedule.anchor, schedule.coalesced)


def given_back(claim: Claim) -> Outcome:
    """Return the outcome after which all is as it was before the claim."""
    schedule = claim.schedule
    return Outcome(
        claim=claim,
        scheduled_for=schedule.scheduled_for,
        next_run_at=schedule.next_run_at,
        coalesced=schedule.coalesced,
        attempt=schedule.attempt - 1,
        run_count=schedule.run_count,
        last_error=schedule.last_error,
    )


def quarantined(claim: Claim, error: BaseException | str) -> Outcome:
    """Return the outcome of a claim whose schedule cannot be sent: it is set aside with its error until somebody looks.

    Nothing was sent under the claim, so it does not count as an attempt: once repaired, the occurrence is sent as if never
    claimed.
    """
    schedule = claim.schedule
    return Outcome(
        claim=claim,
        scheduled_for=schedule.scheduled_for,
        next_run_at=schedule.next_run_at,
        coalesced=schedule.coalesced,
        attempt=schedule.attempt - 1,
        run_count=schedule.run_count,
        last_error=error_text(error),
        quarantined=True,
    )


def latest_due(definition: Definition, timetable: Timetable, pending: datetime, now: datetime) -> datetime:
    """Return the latest occurrence that is due, jitter considered; the pending one if it was claimed early."""
    following = timetable.next_after(pending)
    if following is None or following > now:
        return pending
    newest = timetable.newest(pending, now, 2)
    if newest and due_at(definition, timetable, newest[-1]) <= now:
        return max(newest[-1], pending)
    return max(newest[0], pending) if newest else pending


def due_until(definition: Definition, timetable: Timetable, pending: datetime, now: datetime) -> tuple[datetime, int]:
    """Return the latest occurrence that is due, and how many there are from the pending one to it."""
    latest = latest_due(definition, timetable, pending, now)
    return latest, 1 + more(timetable, pending, latest)


def more(timetable: Timetable, pending: datetime, latest: datetime) -> int:
    """Return how many occurrences there are behind the pending one, which may be of an earlier definition, up to the latest."""
    return timetable.count(pending + MILLISECOND, latest, MAX_CATCH_UP - 1) if latest > pending else 0


def retry_delay(occurrence: str, attempt: int) -> timedelta:
    """Return how long to wait after the `attempt`-th failure: 1, 2, 4 … 60 s, less up to a half.

    The random part is derived from the occurrence and the attempt ("equal jitter", M. Brooker, Exponential Backoff And Jitter,
    2015), so that schedules that failed together are not retried together, and that a test can foretell it.
    """
    full: timedelta = min(FIRST_RETRY * 2 ** min(attempt - 1, 10), LAST_RETRY)
    digest = hashlib.blake2b(f"{occurrence}#{attempt}".encode(), digest_size=8).digest()
    random_part: int = int.from_bytes(digest, "big") % (full // 2 // MILLISECOND)
    return full - random_part * MILLISECOND


def task_id_of(occurrence: str) -> str:
    """Return the ``task_id`` of an occurrence: the same for every re-send, different for every occurrence."""
    # As uuid.uuid5 does it, without making the object: this is done for every send.
    text = hashlib.sha1(_TASK_ID_NAMESPACE + occurrence.encode(), usedforsecurity=False).hexdigest()
    variant = _VARIANTS[text[16]]
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{variant}{text[17:20]}-{text[20:32]}"


# -- planning ----------------------------------------------------------------------------------------------------------------


def _plan_as_it_stands(claim: Claim, definition: Definition, pending: datetime, now: datetime) -> Plan:
    """The pending occurrence or nothing: for a repeated claim, and where there is no other occurrence."""
    dispatch = _dispatch(claim, definition, pending, claim.schedule.coalesced)
    if claim.schedule.attempt > 1 and not dispatch.is_retried:
        run = dispatch.run("unknown", now, "the scheduler that claimed it did not come back; it may or may not have been sent")
        return Plan(settle_first=_moved_on(claim, definition, pending, run))
    if _is_too_late(claim, definition, pending, now):
        run = dispatch.run(_unsent(claim), now, claim.schedule.last_error)
        return Plan(settle_first=_moved_on(claim, definition, pending, run))
    return Plan(dispatch=dispatch)


def _unsent(claim: Claim) -> RunStatus:
    """Return what becomes of an occurrence that is not sent under this claim."""
    # Without an error the last claim was lost in a crash, perhaps after the broker had the message.
    crashed = claim.schedule.attempt > 1 and claim.schedule.last_error is None
    return "unknown" if crashed else "missed"


def _plan_collapsed(claim: Claim, definition: Definition, timetable: Timetable, pending: datetime, now: datetime) -> Plan:
    """``fire_once``: of all that is due, send the latest."""
    latest, count = due_until(definition, timetable, pending, now)
    count += claim.schedule.coalesced - 1
    if _is_too_late(claim, definition, latest, now):
        run = _dispatch(claim, definition, latest, count).run("missed", now)
        return Plan(settle_first=_moved_on(claim, definition, latest, run))
    return _send(claim, definition, timetable, pending, latest, coalesced=count)


def _plan_each(claim: Claim, definition: Definition, timetable: Timetable, pending: datetime, now: datetime) -> Plan:
    """``fire_all`` and ``skip``: send the oldest that is not too late; what is before it is missed."""
    latest = latest_due(definition, timetable, pending, now)
    if not _is_too_late(claim, definition, pending, now) and timetable.at_most(pending, latest) <= MAX_CATCH_UP:
        return Plan(dispatch=_dispatch(claim, definition, pending, claim.schedule.coalesced))
    candidates = timetable.newest(pending, latest, MAX_CATCH_UP)
    timely = [moment for moment in candidates if not _is_too_late(claim, definition, moment, now)]
    if timely and timely[0] == pending:
        return Plan(dispatch=_dispatch(claim, definition, pending, claim.schedule.coalesced))
    last_missed = max([pending, *timetable.newest(pending, timely[0] - MILLISECOND, 1)]) if timely else latest
    count = claim.schedule.coalesced + more(timetable, pending, last_missed)
    run = _dispatch(claim, definition, last_missed, count).run("missed", now)
    if not timely:
        return Plan(settle_first=_moved_on(claim, definition, last_missed, run))
    return _send(claim, definition, timetable, pending, timely[0], coalesced=1, runs=(run,))


def _send(
    claim: Claim,
    definition: Definition,
    timetable: Timetable,
    pending: datetime,
    chosen: datetime,
    *,
    coalesced: int,
    runs: tuple[Run, ...] = (),
) -> Plan:
    """Send `chosen`; if that is not what the store has as pending, let it be written down first."""
    dispatch = _dispatch(claim, definition, chosen, coalesced)
    if chosen == pending:
        return Plan(dispatch=dispatch)
    schedule = claim.schedule
    moved = Outcome(
        claim=claim,
        scheduled_for=chosen,
        next_run_at=due_at(definition, timetable, chosen),
        coalesced=coalesced,
        attempt=schedule.attempt,
        run_count=schedule.run_count,
        release=False,
        runs=runs,
    )
    return Plan(settle_first=moved, dispatch=dispatch)


def _is_too_late(claim: Claim, definition: Definition, scheduled_for: datetime, now: datetime) -> bool:
    grace = definition.options.misfire_grace
    if grace is None and definition.options.misfire == "skip":
        grace = MISFIRE_THRESHOLD
    if grace is None:
        return False
    return now - due_at(definition, timetable_of(definition, claim.schedule.anchor), scheduled_for) > grace


def _moved_on(
    claim: Claim,
    definition: Definition,
    done: datetime,
    run: Run,
    *,
    run_count: int | None = None,
) -> Outcome:
    """Return the outcome after which the first occurrence behind `done` is pending, or the schedule is finished."""
    count = claim.schedule.run_count if run_count is None else run_count
    limit = definition.options.max_runs
    if definition.is_one_off or (limit is not None and count >= limit):
        return Outcome(claim=claim, finished=True, run_count=count, runs=(run,))
    timetable = timetable_of(definition, claim.schedule.anchor)
    following = timetable.next_after(done)
    if following is None:
        return Outcome(claim=claim, finished=True, run_count=count, runs=(run,))
    return Outcome(
        claim=claim,
        scheduled_for=following,
        next_run_at=due_at(definition, timetable, following),
        run_count=count,
        runs=(run,),
    )


def _dispatch(claim: Claim, definition: Definition, scheduled_for: datetime, coalesced: int) -> Dispatch:
    occurrence = occurrence_id(claim.schedule.id, scheduled_for)
    task_id = definition.task_id or task_id_of(occurrence)
    return _new_dispatch(claim, definition, scheduled_for, coalesced, occurrence, task_id)
