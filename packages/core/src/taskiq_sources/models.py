"""The data that passes between the modules: typed, not to be changed, without behaviour and without I/O.

Every datetime in here is aware, in UTC and in whole milliseconds. What applications write (`ScheduledTask`,
`ScheduleOptions`) is in :mod:`taskiq_sources.tasks` and :mod:`taskiq_sources.options`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Final, Literal, TypeAlias, TypeVar

from typing_extensions import dataclass_transform

T = TypeVar("T")

#: What became of an occurrence. ``sent``: the broker took it. ``failed``: the broker did not take it (it is tried again unless
#: the schedule says otherwise). ``missed``: not sent, by the misfire policy. ``unknown``: its scheduler died while sending, and
#: it is not sent again, because delivery is ``at_most_once`` or because it is later than its grace; nobody knows whether it went
#: out.
RunStatus: TypeAlias = Literal["sent", "failed", "missed", "unknown"]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Make a dataclass with slots, constructed by keyword, whose instances are not to be changed.

    Type checkers see to both. At run time neither is enforced: several are made for each occurrence, and to construct a frozen
    one of 20 fields takes three times as long, because each field goes through ``object.__setattr__``.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


def in_order(cls: type[T]) -> Callable[..., T]:
    """Return a record's class to be called with its fields in order, which for CPython is half the work of naming them.

    For what is made for each occurrence; everywhere else names are safer.
    """
    return cls


@record
class StoredSchedule:
    """A schedule as a store keeps it.

    The store understands the columns; `document` and `timing` are opaque text to it.

    Attributes:
        id: The schedule's id: 1 to 255 characters.
        task_name: Name of the taskiq task, for filters.
        document: The whole definition as one JSON document. Opaque to the store.
        timing: Fingerprint of everything that decides *when* the schedule runs. Two definitions with an equal `timing` run at
            the same instants. Opaque to the store.
        owner: Who declared the schedule, so that a declaring side can tell its own schedules from others'; None if nobody did.
        scheduled_for: Nominal time of the pending occurrence; None when there is none.
        next_run_at: From when on the pending occurrence may be claimed: `scheduled_for`, moved by jitter or by the back-off
            of a failed send. None when nothing is pending.
        anchor: Where cron and interval begin; the interval's occurrences are at ``anchor + k·interval``.
        coalesced: How many occurrences the pending one stands for.
        attempt: How many times the pending occurrence has been claimed; when it has failed, since its first failure.
        run_count: How many occurrences have been sent.
        paused: Whether the schedule is kept from being claimed by a person.
        quarantined: Whether it is kept from being claimed because it cannot be sent.
        last_error: The last failure of the pending occurrence, or the reason of the quarantine.
        revision: 1 when stored first; bumped by each edit (``put``, ``update``), not by claims and settles.
        timing_revision: The revision at which `timing` or the pending occurrence was edited last.
        created_at: When the id was stored first.
        updated_at: When the schedule was edited last.
        claimant: Who holds the lease; None when nobody has claimed it since it was settled last.
        lease_until: When the lease ends. An ended lease does not hold others back.
    """

    id: str
    task_name: str
    document: str
    timing: str
    scheduled_for: datetime | None
    next_run_at: datetime | None
    anchor: datetime
    created_at: datetime
    updated_at: datetime
    owner: str | None = None
    coalesced: int = 1
    attempt: int = 0
    run_count: int = 0
    paused: bool = False
    quarantined: bool = False
    last_error: str | None = None
    revision: int = 1
    timing_revision: int = 1
    claimant: str | None = None
    lease_until: datetime | None = None


@record
class Claim:
    """The right to send one occurrence, until the lease ends.

    Attributes:
        schedule: The schedule as it was when it was claimed; its `attempt` already counts this claim.
        token: Fencing token: fresh for every claim, never used again for this id, not even after a delete and a new ``put``.
        claimed_at: The `now` of the claim.
        lease_until: When the lease ends.
    """

    schedule: StoredSchedule
    token: str
    claimed_at: datetime
    lease_until: datetime


@record
class Run:
    """The history row of an occurrence: what became of it. A later attempt at the same occurrence overwrites the row.

    Attributes:
        occurrence_id: Identity of the occurrence, and of this row.
        schedule_id: The schedule it belongs to (which may be gone by now).
        task_name: Name of the taskiq task.
        scheduled_for: Nominal time.
        status: What became of it, see `RunStatus`.
        recorded_at: When this was written down, by the store's clock. History is ordered, filtered and pruned by it.
        task_id: The ``task_id`` of the message; None if there was no message.
        attempt: How many times the occurrence had been claimed by then, this time included.
        coalesced: How many occurrences this row stands for.
        claimant: Which scheduler did it.
        error: What went wrong, if something did.
    """

    occurrence_id: str
    schedule_id: str
    task_name: str
    scheduled_for: datetime
    status: RunStatus
    recorded_at: datetime
    task_id: str | None = None
    attempt: int = 1
    coalesced: int = 1
    claimant: str | None = None
    error: str | None = None


@record
class Outcome:
    """What ``settle`` is to record of a claim, and where the schedule goes from there.

    Attributes:
        claim: The claim that is settled.
        scheduled_for: Nominal time of the occurrence pending from now on; None for none.
        next_run_at: From when on that may be claimed; None for never.
        coalesced: How many occurrences that one stands for.
        attempt: How often that one has been claimed.
        run_count: How many occurrences have been sent, this one included.
        last_error: The failure to keep on the schedule; None clears it.
        quarantined: Whether to set the schedule aside.
        finished: Whether to delete the schedule: nothing is left to be sent. The fields above do not matter then.
        release: Whether the lease ends with this. False moves the claim on to another occurrence before it is sent.
        runs: History rows to write in the same atomic step.
    """

    claim: Claim
    scheduled_for: datetime | None = None
    next_run_at: datetime | None = None
    coalesced: int = 1
    attempt: int = 0
    run_count: int = 0
    last_error: str | None = None
    quarantined: bool = False
    finished: bool = False
    release: bool = True
    runs: tuple[Run, ...] = ()


class Unset(Enum):
    """Type of `UNSET`: "leave this field as it is", where None is a value of its own."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@record
class ScheduleChanges:
    """An edit of one schedule: the fields that are not `UNSET` are written.

    The fields are those of `StoredSchedule`. An edit of any of `timing`, `scheduled_for` or `next_run_at` is an edit of *when*
    and moves ``timing_revision``.
    """

    updated_at: datetime
    document: str | Unset = UNSET
    timing: str | Unset = UNSET
    scheduled_for: datetime | None | Unset = UNSET
    next_run_at: datetime | None | Unset = UNSET
    anchor: datetime | Unset = UNSET
    coalesced: int | Unset = UNSET
    attempt: int | Unset = UNSET
    run_count: int | Unset = UNSET
    paused: bool | Unset = UNSET
    quarantined: bool | Unset = UNSET
    last_error: str | None | Unset = UNSET


@record
class ScheduleQuery:
    """Which schedules to list; None means "any". All conditions must hold.

    Attributes:
        task_name: Exactly this task.
        paused: Paused ones only, or the others only.
        quarantined: Quarantined ones only, or the others only.
        owner: Declared by exactly this owner.
        due_before: Pending, with ``next_run_at`` earlier than this instant.
    """

    task_name: str | None = None
    paused: bool | None = None
    quarantined: bool | None = None
    owner: str | None = None
    due_before: datetime | None = None


@record
class RunQuery:
    """Which history rows to list; None means "any". All conditions must hold.

    Attributes:
        schedule_id: Of exactly this schedule.
        status: With exactly this status.
        since: Recorded at this instant or later.
        until: Recorded before this instant.
    """

    schedule_id: str | None = None
    status: RunStatus | None = None
    since: datetime | None = None
    until: datetime | None = None


@record
class Capabilities:
    """What a backend can do beyond the required contract. Declared on the class; the conformance suite checks the claim.

    Attributes:
        shared: Several processes may use one store at the same time.
        durable: What was written is there after the process ended.
        push: ``watch()`` tells of changes made by other handles.
    """

    shared: bool = field(default=True)
    durable: bool = field(default=True)
    push: bool = field(default=False)
