"""What stays of a stored schedule when it is given another definition: nothing that is due is lost in silence, or sent twice.

Where only options change, it goes on: what is pending, the phase, what has failed. With other triggers it begins anew, but for
how often it has run, and for an interval, which goes on from its last occurrence at the new pace. Pure, but `record_as_missed`.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from taskiq_sources import definitions, occurrences
from taskiq_sources.backends import changed_fields
from taskiq_sources.clock import MILLISECOND
from taskiq_sources.codec import Definition
from taskiq_sources.models import ScheduleChanges, StoredSchedule
from taskiq_sources.store import ScheduleStore

logger = logging.getLogger("taskiq_sources")

_EARLY: Final = timedelta(seconds=2)  # longer before it is due nothing is claimed
_LEASE: Final = timedelta(seconds=5)  # for as long as it takes to record what is missed, and many times longer


def continued(
    row: StoredSchedule, definition: Definition, stored: StoredSchedule, former: Definition | None, now: datetime
) -> ScheduleChanges:
    """Return what makes a stored schedule what is declared, without a loss. Task and owner are not changed.

    Args:
        row: The schedule as if it were new.
        definition: What it says.
        stored: The schedule as it is stored.
        former: What that says; None if it cannot be read.
        now: The present.
    """
    if stored.timing == row.timing or (former is not None and _has_same_triggers(former, definition)):
        is_pending_alike = stored.timing == row.timing and stored.scheduled_for is not None
        if (is_pending_alike or _is_due(stored, now)) and not _is_used_up(definition, stored):
            # Somebody may be sending it: to say anything of what is pending would let it be sent again.
            return ScheduleChanges(updated_at=now, document=row.document, quarantined=False)
        return begun(_gone_on(row, definition, stored, former or definition, now), definition, stored, now)
    if former is not None and _has_another_pace(former, definition):
        return begun(_at_another_pace(row, definition, stored, former, now), definition, stored, now)
    return begun(row, definition, stored, now)


def begun(row: StoredSchedule, definition: Definition, stored: StoredSchedule, now: datetime) -> ScheduleChanges:
    """Return what makes a stored schedule begin as `row` does, but for how often it has run."""
    pending = (None, None) if _is_used_up(definition, stored) else (row.scheduled_for, row.next_run_at)
    return ScheduleChanges(
        updated_at=now,
        document=row.document,
        timing=row.timing,
        scheduled_for=pending[0],
        next_run_at=pending[1],
        anchor=row.anchor,
        coalesced=row.coalesced,
        attempt=row.attempt,
        run_count=stored.run_count,
        quarantined=False,
        last_error=row.last_error,
    )


def with_changes(stored: StoredSchedule, changes: ScheduleChanges) -> StoredSchedule:
    """Return a schedule as it is with these changes."""
    return replace(stored, **changed_fields(changes))


async def record_as_missed(
    stored: StoredSchedule, former: Definition | None, changes: ScheduleChanges, store: ScheduleStore, now: datetime
) -> None:
    """Record what is due and has not been sent, if `changes` take it away. Should the process die then, the former goes on.

    A one-off is not missed when it gets another time; nor is what an occurrence that is due at once takes the place of.
    """
    if former is None or former.is_one_off or stored.scheduled_for is None or stored.scheduled_for > now:
        return
    following = changes.scheduled_for
    if not isinstance(following, datetime | None) or (following is not None and following <= now):
        return
    claims = await store.claim(now, claimant="changing", lease=_LEASE, limit=1, ids=[stored.id])
    for claim in claims:  # none while it is paused, or somebody is sending it
        if claim.schedule.timing != stored.timing:  # it is another one by now
            await store.settle([occurrences.given_back(claim)])
            continue
        outcome = occurrences.overtaken(claim, former, now)
        await store.settle([outcome])
        run = outcome.runs[0]
        late = f"{run.coalesced} occurrence(s) up to {run.scheduled_for.isoformat()}"
        logger.warning("Schedule %r has other triggers now: %s not sent, and recorded as %s.", stored.id, late, run.status)


def _has_same_triggers(one: Definition, other: Definition) -> bool:
    return _triggers(one) == _triggers(other)


def _triggers(definition: Definition) -> tuple[object, ...]:
    zone = None if definition.cron is None else definition.zone
    begins = None if definition.interval is None else definition.options.start_at  # an interval is counted from there
    return definition.cron, zone, definitions.interval_of(definition), begins, definition.time


def _has_another_pace(one: Definition, other: Definition) -> bool:
    """Whether both are intervals and nothing else, begun alike."""
    both = one, other
    return all(each.interval is not None and each.cron is None and each.time is None for each in both) and (
        one.options.start_at == other.options.start_at
    )


def _is_due(stored: StoredSchedule, now: datetime) -> bool:
    pending, lease_until = stored.scheduled_for, stored.lease_until
    return pending is not None and (pending <= now + _EARLY or (lease_until is not None and lease_until > now))


def _is_used_up(definition: Definition, stored: StoredSchedule) -> bool:
    limit = definition.options.max_runs
    return limit is not None and stored.run_count >= limit


def _gone_on(
    row: StoredSchedule, definition: Definition, stored: StoredSchedule, former: Definition, now: datetime
) -> StoredSchedule:
    """Return the row of the first occurrence from now on that has not been sent, in the phase that it had."""
    anchor = stored.anchor if definition.interval is not None else min(stored.anchor, row.anchor)
    timetable, before = definitions.timetable_of(definition, anchor), definitions.timetable_of(former, stored.anchor)
    following = timetable.next_after(now - MILLISECOND)
    if stored.scheduled_for is not None:
        # What the former definition has before that is done, or it would be what is pending.
        while (
            following is not None and following < stored.scheduled_for and before.next_after(following - MILLISECOND) == following
        ):
            following = timetable.next_after(following)
    due = None if following is None else definitions.due_at(definition, timetable, following)
    return replace(row, anchor=anchor, scheduled_for=following, next_run_at=due)


def _at_another_pace(
    row: StoredSchedule, definition: Definition, stored: StoredSchedule, former: Definition, now: datetime
) -> StoredSchedule:
    """Return the row of an interval whose next occurrence is the new interval after the last, or the late one that is pending."""
    pending, old, new = stored.scheduled_for, definitions.interval_of(former), definitions.interval_of(definition)
    if pending is None or old is None or new is None:
        return row
    if stored.lease_until is not None and stored.lease_until > now:  # it is being sent
        following = max(pending + new, now)
    elif pending <= now:
        following = pending
    elif pending <= stored.anchor:  # the first
        return row
    else:
        following = max(pending - old + new, now)
    timetable = definitions.timetable_of(definition, following)
    if timetable.next_after(following - MILLISECOND) != following:  # its window is closed by then
        return replace(row, scheduled_for=None, next_run_at=None)
    row = replace(
        row, anchor=following, scheduled_for=following, next_run_at=definitions.due_at(definition, timetable, following)
    )
    if following != pending or not stored.attempt:
        return row
    return replace(
        row,
        next_run_at=stored.next_run_at,
        coalesced=stored.coalesced,
        attempt=stored.attempt,
        last_error=stored.last_error,
    )
