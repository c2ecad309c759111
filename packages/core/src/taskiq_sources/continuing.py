"""What stays of a stored schedule when it is given another definition: nothing that is due is lost in silence, or sent twice.

Where only options change, it goes on: what is pending, the phase, what has failed. With other triggers it begins anew, but for
how often it has run, and for an interval, which goes on from its last occurrence at the new pace. Pure; no store is called.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Literal

from taskiq_sources import definitions
from taskiq_sources.clock import MILLISECOND
from taskiq_sources.codec import Definition
from taskiq_sources.models import UNSET, ScheduleChanges, StoredSchedule
from taskiq_sources.occurrences import due_until, more
from taskiq_sources.triggers import Timetable

#: Who holds a schedule that is being changed: no scheduler, and so nothing is being sent.
CHANGING: Final = "taskiq-sources, changing it"

_EARLY: Final = timedelta(seconds=2)  # longer before it is due nothing is sent


def continued(
    row: StoredSchedule, definition: Definition, stored: StoredSchedule, former: Definition | None, now: datetime
) -> ScheduleChanges:
    """Return what makes a stored schedule what is declared, without a loss. Task and owner are not changed.

    Args:
        row: The schedule as if it were new.
        definition: What it says.
        stored: The schedule as it is stored. If it has a lease, somebody may be sending it.
        former: What that says; None if it cannot be read.
        now: The present.
    """
    runs_alike = row.timing == stored.timing == former_timing(stored, former)
    goes_on = runs_alike if former is None else _triggers(former) == _triggers(definition)
    is_up_to_date = runs_alike and stored.scheduled_for is not None and not _is_used_up(definition, stored.run_count)
    is_sending = is_being_sent(stored, now)
    # Its outcome ends the schedule, or has it go on, as the former says: the document alone is enough if both say the same.
    may_stay = is_up_to_date or (goes_on and is_sending)
    if may_stay and not (is_sending and former is not None and _goes_on_otherwise(row, definition, stored, former, now)):
        # What is being sent would be sent again if anything was said of what is pending, and if its sender has died, it would be
        # lost. The rest is made good when it is declared again: the former definition tells by what that was found.
        return ScheduleChanges(updated_at=now, document=row.document, quarantined=False)
    if goes_on:
        return _edit(_gone_on(row, definition, stored, former or definition, now), definition, stored, now)
    if former is not None and _has_another_pace(former, definition):
        return _edit(_at_another_pace(row, definition, stored, former, now), definition, stored, now)
    return begun(row, definition, stored, former, now)


def former_timing(stored: StoredSchedule, former: Definition | None) -> str:
    """Return the timing of what a stored schedule says, `former`; as it is stored, if that cannot be read."""
    return stored.timing if former is None else definitions.timing_of(former)


def begun(
    row: StoredSchedule, definition: Definition, stored: StoredSchedule, former: Definition | None, now: datetime
) -> ScheduleChanges:
    """Return what makes a stored schedule begin as `row` does, but for how often it has run and what it has done already."""
    pending = stored.scheduled_for
    if former is None or row.scheduled_for is None:
        return _edit(row, definition, stored, now)
    if not definition.is_one_off:
        row = _not_repeated(row, definition, stored, former, now)
    if pending is not None:
        row = replace(row, coalesced=row.coalesced + _overtaken_by(row, stored, former, now))
    return _edit(row, definition, stored, now)


def _not_repeated(
    row: StoredSchedule, definition: Definition, stored: StoredSchedule, former: Definition, now: datetime
) -> StoredSchedule:
    """Return the row of other triggers from the first occurrence on that was not sent by the former ones."""
    pending = stored.scheduled_for
    timetable, before = definitions.timetable_of(definition, row.anchor), definitions.timetable_of(former, stored.anchor)
    following: datetime | None = row.scheduled_for
    if definition.time is not None and row.scheduled_for == definition.time == former.time != pending and definition.time <= now:
        following = timetable.next_after(max(definition.time, now - MILLISECOND))  # it was sent
    if pending is not None and definition.interval is None:
        not_before = pending + MILLISECOND if is_being_sent(stored, now) else pending
        following = _not_done(following, timetable, before, not_before, now + _EARLY)
    return row if following == row.scheduled_for else _placed(row, definition, timetable, following)


def _overtaken_by(row: StoredSchedule, stored: StoredSchedule, former: Definition, now: datetime) -> int:
    """Return for how many that are late the first of other triggers stands besides itself: those that cannot be missed by a row.

    That takes a claim, which nobody gets while somebody else holds it, or of what is quarantined. Of what is paused none is.
    """
    if stored.scheduled_for is not None and stored.scheduled_for > now:
        return 0 if is_being_sent(stored, now) else stored.coalesced - 1
    latest, count = _late(stored, former, now)
    if latest == row.scheduled_for:
        count -= 1
    elif former.is_one_off or not (is_in_flight(stored, now) or stored.quarantined):
        return 0
    has_a_row = is_being_sent(stored, now) or (latest == row.scheduled_for != stored.scheduled_for and _has_a_row(stored))
    return max(0, count - 1 + (0 if has_a_row else stored.coalesced))


def is_in_flight(stored: StoredSchedule, now: datetime) -> bool:
    """Whether somebody holds it, and may be sending it."""
    return is_held(stored, now) and stored.claimant != CHANGING


def is_held(stored: StoredSchedule, now: datetime) -> bool:
    """Whether somebody holds it."""
    return stored.lease_until is not None and stored.lease_until > now


def is_being_sent(stored: StoredSchedule, now: datetime) -> bool:
    """Whether it is what is pending that is in flight: an edit that comes after the claim begins to count attempts anew."""
    return is_in_flight(stored, now) and stored.attempt > 0


def _is_last(stored: StoredSchedule, definition: Definition) -> bool:
    """Whether what is being sent is the last occurrence by this definition."""
    if _is_used_up(definition, stored.run_count + 1):
        return True
    pending = stored.scheduled_for
    return pending is not None and definitions.timetable_of(definition, stored.anchor).next_after(pending) is None


def _goes_on_otherwise(
    row: StoredSchedule, definition: Definition, stored: StoredSchedule, former: Definition, now: datetime
) -> bool:
    """Whether what is behind what is being sent is something else by this definition than by the former."""
    if _is_last(stored, former) != _is_last(stored, definition):
        return True
    behind = _when_sent(stored, former)
    if behind.scheduled_for is None or behind.scheduled_for > now:
        return False
    timetable = definitions.timetable_of(definition, _phase(row, definition, stored))
    return _counts_otherwise(timetable, behind.scheduled_for, *_late(behind, former, now))


def _edit(row: StoredSchedule, definition: Definition, stored: StoredSchedule, now: datetime) -> ScheduleChanges:
    # What is in flight is taken to be sent: the settle of it leaves this edit alone, and so the count.
    run_count = stored.run_count + is_being_sent(stored, now)
    if _is_used_up(definition, run_count):
        row = replace(row, scheduled_for=None, next_run_at=None, coalesced=1, attempt=0, last_error=None)
    return ScheduleChanges(
        updated_at=now,
        document=row.document,
        timing=row.timing,
        scheduled_for=row.scheduled_for,
        next_run_at=row.next_run_at,
        anchor=row.anchor,
        coalesced=row.coalesced,
        attempt=row.attempt,
        run_count=run_count,
        quarantined=False,
        last_error=row.last_error,
    )


def _is_used_up(definition: Definition, run_count: int) -> bool:
    limit = definition.options.max_runs
    return limit is not None and run_count >= limit


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


def _gone_on(
    row: StoredSchedule, definition: Definition, stored: StoredSchedule, former: Definition, now: datetime
) -> StoredSchedule:
    """Return the row with what is late, or with the first occurrence from now on that has not been sent, in its old phase."""
    row = replace(row, anchor=_phase(row, definition, stored))
    timetable, before = definitions.timetable_of(definition, row.anchor), definitions.timetable_of(former, stored.anchor)
    if stored.scheduled_for is not None and is_being_sent(stored, now):
        in_flight, stored = stored.scheduled_for, _when_sent(stored, former)
        if stored.scheduled_for is None:
            return _placed(row, definition, timetable, timetable.next_after(max(in_flight, now - MILLISECOND)))
    pending = stored.scheduled_for
    if pending is not None and pending <= now:
        return _kept(row, definition, timetable, stored, former, now)
    # What is due at this very instant may have been the last one, where nothing is pending.
    following = timetable.next_after(now if pending is None else now - MILLISECOND)
    if pending is not None:
        following = _not_done(following, timetable, before, pending, pending)
        if following == pending and stored.attempt:
            return replace(_with_state(row, stored), scheduled_for=pending, next_run_at=stored.next_run_at)
        row = replace(row, coalesced=stored.coalesced)
    return _placed(row, definition, timetable, following)


def _phase(row: StoredSchedule, definition: Definition, stored: StoredSchedule) -> datetime:
    """Return the anchor of a definition with the same triggers."""
    return stored.anchor if definition.interval is not None else min(stored.anchor, row.anchor)


def _when_sent(stored: StoredSchedule, former: Definition) -> StoredSchedule:
    """Return a schedule as it is when what is in flight has been sent, but for how often it has run."""
    timetable = definitions.timetable_of(former, stored.anchor)
    following = None if stored.scheduled_for is None else timetable.next_after(stored.scheduled_for)
    return replace(_placed(stored, former, timetable, following), coalesced=1, attempt=0, last_error=None, lease_until=None)


def _at_another_pace(
    row: StoredSchedule, definition: Definition, stored: StoredSchedule, former: Definition, now: datetime
) -> StoredSchedule:
    """Return the row of an interval whose next occurrence is the new interval after the last, or the late one that is pending."""
    pending, old, new = stored.scheduled_for, definitions.interval_of(former), definitions.interval_of(definition)
    if pending is None or old is None or new is None:
        return row
    is_sending = is_being_sent(stored, now)
    left = _when_sent(stored, former) if is_sending else stored
    if left.scheduled_for is not None and left.scheduled_for <= now:
        # No step of the new pace lies before now: nobody has waited for those.
        last, _ = _late(left, former, now)
        row = replace(row, anchor=max(last + new, now + MILLISECOND))
        return _kept(row, definition, definitions.timetable_of(definition, row.anchor), left, former, now)
    row = replace(row, coalesced=left.coalesced)
    if is_sending:
        following = max(pending + new, now)
    elif pending <= stored.anchor and not stored.run_count:  # the first
        return row
    else:
        following = max(pending - old + new, now)
    row = replace(row, anchor=following)
    timetable = definitions.timetable_of(definition, following)
    return _placed(row, definition, timetable, timetable.next_after(following - MILLISECOND))


def _kept(
    row: StoredSchedule,
    definition: Definition,
    timetable: Timetable,
    stored: StoredSchedule,
    former: Definition,
    now: datetime,
) -> StoredSchedule:
    """Return the row with what is late pending. Where the new definition would not find all of it, the latest stands for all."""
    pending = stored.scheduled_for or now
    latest, count = _late(stored, former, now)
    if _counts_otherwise(timetable, pending, latest, count):
        others = 0 if _has_a_row(stored) else stored.coalesced
        return replace(_placed(row, definition, timetable, latest), coalesced=others + count - 1)
    due = definitions.due_at(definition, timetable, pending) if not stored.attempt else stored.next_run_at
    return replace(_with_state(row, stored), scheduled_for=pending, next_run_at=due)


def _counts_otherwise(timetable: Timetable, pending: datetime, latest: datetime, count: int) -> bool:
    """Whether there is another number than `count` from what is pending to the latest."""
    return more(timetable, pending, latest) != count - 1


def _late(stored: StoredSchedule, former: Definition, now: datetime) -> tuple[datetime, int]:
    """Return the latest occurrence that is due, by what was in force, and for how many it stands."""
    return due_until(former, definitions.timetable_of(former, stored.anchor), stored.scheduled_for or now, now)


def _not_done(
    following: datetime | None, timetable: Timetable, before: Timetable, pending: datetime, until: datetime
) -> datetime | None:
    """Return the first from `following` on that was not sent: what the former timetable has before what is pending was."""
    while following is not None and following < pending and following <= until and _has(before, following):
        following = timetable.next_after(following)
    return following


def _has(timetable: Timetable, moment: datetime) -> bool:
    return timetable.next_after(moment - MILLISECOND) == moment


def _placed(row: StoredSchedule, definition: Definition, timetable: Timetable, following: datetime | None) -> StoredSchedule:
    due = None if following is None else definitions.due_at(definition, timetable, following)
    return replace(row, scheduled_for=following, next_run_at=due)


def _with_state(row: StoredSchedule, stored: StoredSchedule) -> StoredSchedule:
    return replace(row, coalesced=stored.coalesced, attempt=stored.attempt, last_error=stored.last_error)


def _has_a_row(stored: StoredSchedule) -> bool:
    """Whether what is pending and due gets a row of its own where the latest takes its place: it may have been sent."""
    return stored.attempt > 0 and not (stored.paused or stored.quarantined)


def dropped(
    stored: StoredSchedule, former: Definition, changes: ScheduleChanges, now: datetime
) -> Literal["all", "tried"] | None:
    """Return what changes take away of what is due and has not been sent: all, or what was tried while the latest stays.

    A one-off is not missed when it gets another time.
    """
    kept = (UNSET, stored.scheduled_for)
    if former.is_one_off or stored.scheduled_for is None or stored.scheduled_for > now or changes.scheduled_for in kept:
        return None
    if changes.scheduled_for != _late(stored, former, now)[0]:
        return "all"
    return "tried" if _has_a_row(stored) else None
