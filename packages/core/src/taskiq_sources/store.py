"""The store contract: all that a backend author has to read, with :mod:`taskiq_sources.models`, which says what the data means.

A store keeps schedules and hands out their due occurrences, each to one claimant at a time. It knows nothing of taskiq, of cron
or of what is inside a document. It owns atomicity, indexes and fencing. The conformance suite (``taskiq-sources-conformance``)
tests what is below, but for cost and for processes that are killed, which it cannot know of every backend;
:mod:`taskiq_sources.memory` is the contract as code, but for cost.

**Clean data.** Every datetime passed in or returned is aware, in UTC and in whole milliseconds. Ids are 1 to 255 characters of
any Unicode text that has a UTF-8 form and no NUL; documents are text of up to about 1 MiB. Callers validate; stores do not.

**Time is a parameter.** No method looks at a clock, except `ScheduleStore.now`, which asks the server for its own.

**Eligible.** An occurrence may be claimed when *all* of these hold:

1. its schedule is not ``paused`` and not ``quarantined``;
2. ``next_run_at`` is not None and ``next_run_at <= now + early``;
3. the schedule was never claimed since it was settled last, or ``lease_until <= now``.

**Cost.** With n schedules stored, ``claim``, ``settle``, ``renew``, ``next_due`` and one page of ``page`` or ``runs`` take time
in proportion to what they return and to what is due or in flight, times at most log n.

**Errors.** What the driver raises because the server cannot be reached, refuses the login or has gone away is turned into a
`SourceConnectionError` that names host and database and no credential; a store reconnects by itself on the next call. After an
error from a writing method, each schedule is either as before or as asked for: never in between. What is called while the store
is not open raises a `SourceClosedError`.

**Concurrency.** One store object may be used by many asyncio tasks of one event loop at once, and by one loop after another: see
`ScheduleStore.open`. Any number of store objects, in any number of processes, may use the same data if ``capabilities.shared``.
What is called at once happens to each schedule one after the other, in some order. Only a claim that is not told ids may leave
out what others are writing at that moment, and return so many fewer; the next one finds it. A claim that comes too late for the
oldest, however often, goes on to what is left. Cancelling a call leaves the store usable, and what was asked for done or not
done. No call may block the event loop: leases are renewed in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime, timedelta
from typing import ClassVar

from taskiq_sources.models import (
    Capabilities,
    Claim,
    Outcome,
    Run,
    RunQuery,
    ScheduleChanges,
    ScheduleQuery,
    StoredSchedule,
)


class ScheduleStore(ABC):
    """Keeps schedules and hands out their due occurrences. See the module's text for the rules that hold throughout."""

    #: What this backend can do; checked by the conformance suite.
    capabilities: ClassVar[Capabilities]

    @abstractmethod
    async def open(self) -> None:
        """Connect, and create or migrate the schema.

        Idempotent, and safe when many processes do it at the same moment. Never deletes a schedule. May be called again after
        `close`, and, without one, in an event loop that follows one that has ended: what belonged to that loop is to be dropped
        then (:class:`taskiq_sources.backends.SessionStore` does it).

        Raises:
            SourceConnectionError: The server cannot be reached or refuses us; nothing is left open.
            SchemaVersionError: The schema was made by a newer release; nothing was changed.
        """

    @abstractmethod
    async def close(self) -> None:
        """Disconnect. Closes only what `open` opened: an injected pool or client stays open. Idempotent."""

    @abstractmethod
    async def now(self) -> datetime:
        """Return the server's clock (this machine's, where there is no server), cut to whole milliseconds."""

    # -- definitions ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        """Store schedules. Atomic for each schedule, durable when the call returns.

        An id that does not exist is stored as given, with ``revision`` and ``timing_revision`` 1 and without a lease. Of an id
        that exists:

        - with ``replace=False`` nothing changes;
        - otherwise ``task_name``, ``document``, ``timing``, ``owner`` and ``updated_at`` are taken from the new one, the
          quarantine is lifted, ``revision`` grows by one, and ``created_at``, ``paused`` and the lease stay;
        - if the two ``timing`` texts are equal, the pending occurrence and how far the schedule has come stay too
          (``scheduled_for``, ``next_run_at``, ``anchor``, ``coalesced``, ``attempt``, ``run_count``, ``last_error``), so that an
          application that declares its schedules at every start neither loses an overdue occurrence nor restarts an interval;
        - if they differ, those are taken from the new one and ``timing_revision`` becomes the new ``revision``.

        Args:
            schedules: The schedules; ids are distinct within one call. May be empty.
            replace: Whether an existing id is overwritten or left alone.

        Returns:
            The ids that already existed.
        """

    @abstractmethod
    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        """Return the schedules of these ids; an id that does not exist is absent from the result."""

    @abstractmethod
    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        """Return the first `limit` matching schedules with an id greater than `after`, in the order of ids.

        Ids are ordered by Unicode code points (which is the order of their UTF-8 bytes), on every backend. Pages never repeat an
        id and never leave out a schedule that existed, matching, all the while.
        """

    @abstractmethod
    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        """Delete schedules, leased or not; their history stays. Idempotent.

        Returns:
            The ids that existed. Of several, one that others delete at the same moment may be told to both.
        """

    @abstractmethod
    async def update(
        self,
        id: str,  # noqa: A002 - the field's own word
        changes: ScheduleChanges,
        *,
        expected_revision: int | None = None,
    ) -> StoredSchedule:
        """Edit one schedule atomically: write the fields of `changes` that are set and bump ``revision``.

        If ``timing``, ``scheduled_for`` or ``next_run_at`` is set, ``timing_revision`` becomes the new ``revision``. The lease
        stays.

        Args:
            id: The schedule.
            changes: What to write.
            expected_revision: Refuse the edit if the schedule is at another revision; None takes any.

        Returns:
            The schedule after the edit.

        Raises:
            ScheduleNotFoundError: There is no such schedule.
            RevisionConflictError: It is at another revision than expected; nothing was changed.
        """

    # -- dispatch ------------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def claim(
        self,
        now: datetime,
        *,
        claimant: str,
        lease: timedelta,
        limit: int,
        ids: Collection[str] | None = None,
        early: timedelta = timedelta(0),
    ) -> list[Claim]:
        """Take up to `limit` eligible occurrences for sending, and no occurrence that anybody else holds.

        Atomically, for each: a fresh token, ``claimant``, ``lease_until = now + lease`` and ``attempt + 1`` are written. Nothing
        else changes, ``revision`` included. Two claims, however concurrent, never return the same occurrence while the first
        one's lease lasts.

        Args:
            now: The instant to judge by.
            claimant: Who claims, for people to read.
            lease: How long the claim holds others off.
            limit: How many to take at most, at least 1.
            ids: Consider only these schedules.
            early: Accept occurrences up to this long before they are due. Does not shorten anybody's lease.

        Returns:
            The claims, oldest ``next_run_at`` first, equal ones by id.
        """

    @abstractmethod
    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        """Let the leases of `claims` last until `until`, where their token is still the current one.

        A lease that ended but that nobody took over can be renewed; one that was settled, taken over or deleted cannot.

        Returns:
            The schedule ids whose lease is still ours.
        """

    @abstractmethod
    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        """Record what became of claims. Atomic for each outcome, its history rows included.

        An outcome applies only if its claim's token is the current one of the schedule, whether or not the lease has ended;
        otherwise it is *lost* and changes nothing. When it applies:

        - the history rows are written; a row with a known ``occurrence_id`` replaces the old one;
        - if the schedule's *when* was edited after the claim (``timing_revision`` is greater than the claimed ``revision``), the
          edit is kept whole and only the lease ends;
        - otherwise, if ``finished``, the schedule is deleted;
        - otherwise ``scheduled_for``, ``next_run_at``, ``coalesced``, ``attempt``, ``run_count``, ``last_error`` and
          ``quarantined`` are written;
        - the lease ends (``claimant`` and ``lease_until`` become None, the token dies), unless ``release`` is False: then it
          goes on as it was, except that a claim whose schedule's *when* was edited is always ended.

        ``revision`` and ``updated_at`` do not change.

        Args:
            outcomes: At most one for each schedule. May be empty.

        Returns:
            The schedule ids whose claim did not survive the call although it should have: outcomes that were lost, and those
            with ``release=False`` whose lease was ended by an edit.
        """

    @abstractmethod
    async def next_due(self, now: datetime) -> datetime | None:
        """Return the earliest instant at which `claim` could return something, if nothing is written until then.

        That is the least, over all schedules that are neither paused nor quarantined, of ``next_run_at`` and, where a lease runs
        beyond `now`, of the later of ``next_run_at`` and ``lease_until``. It may lie in the past: then something is due.

        Returns:
            The instant, or None if nothing is pending.
        """

    # -- history -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def runs(self, query: RunQuery, *, after: Run | None = None, limit: int) -> list[Run]:
        """Return the first `limit` matching history rows that come after the row `after`.

        Newest first: by ``recorded_at``, equal ones by ``occurrence_id``, both descending. `after` need not exist any more.
        """

    @abstractmethod
    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        """Delete history rows recorded earlier than `before`, and the oldest of the rest while more than `keep` remain.

        Returns:
            How many were deleted.
        """

    # -- push (optional) -----------------------------------------------------------------------------------------------------

    def watch(self) -> AsyncIterator[None]:
        """Yield whenever schedules may have changed through any handle; required if ``capabilities.push``.

        The first value is yielded as soon as the subscription holds, so that nothing is missed between subscribing and waiting.
        Changes may be merged into one value, and values without a change are allowed; a change that is never followed by a value
        is not, unless it makes nothing due earlier than `next_due` has said. Ends when the store is closed.

        Raises:
            SourceConnectionError: The subscription was lost; call `watch` again. Changes may have been missed.
        """
        raise NotImplementedError(f"{type(self).__name__} declares no push; poll next_due() instead")
