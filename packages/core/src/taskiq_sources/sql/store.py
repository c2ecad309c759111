"""`SQLStore`: the contract's methods in terms of operations that a backend writes in SQL."""

# ruff: noqa: D102 - the methods of a store are documented once, in the contract

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, Protocol, TypeVar

from taskiq_sources import backends
from taskiq_sources.backends import SessionStore, changed_fields, check_revision, fresh_token
from taskiq_sources.clock import from_ms, to_ms
from taskiq_sources.interpreter import collector_waits
from taskiq_sources.models import Claim, Outcome, Run, RunQuery, ScheduleChanges, ScheduleQuery, StoredSchedule
from taskiq_sources.rows import new_claim, run_from_row, schedule_from_row
from taskiq_sources.sql import columns
from taskiq_sources.sql.columns import Row


class Session(backends.Session, Protocol):
    """A database while a store is open."""

    async def open(self) -> None:
        """Connect."""


SessionT = TypeVar("SessionT", bound=Session)


class SQLStore(SessionStore[SessionT]):
    """A store on a SQL database.

    The operations that `_run` is asked for, and the rows that it returns:

    ===============  ============================================================================================================
    put              one: the ids that were created
    get, page        schedules: ``{columns}``
    delete           one: the ids that existed
    update           none if there is no such schedule, else one: the revision found, and ``{columns}`` of the result
    claim            the claimed schedules in order: ``{columns}``, and a token each: the given one, or made of it
    claim_ids        the same, among ``ids``
    renew            the ids whose lease is still ours, a row each
    settle           one: the ids that were lost
    next_due         one: an instant, or None
    runs             history: ``{run_columns}``
    newest_surplus   none, or one: ``recorded_at`` and ``occurrence_id`` of the newest history row that is one too many
    prune            one: how many history rows were deleted
    ===============  ============================================================================================================
    """

    #: History rows deleted in one transaction: some hundredths of a second in which others wait for it.
    _prune_batch: ClassVar[int]

    @abstractmethod
    async def _run(
        self,
        operation: str,
        values: dict[str, Any],
        conditions: Sequence[str] = (),
        *,
        repeatable: bool = False,
    ) -> Sequence[Row]:
        """Do one operation in a transaction of its own and return its rows.

        Args:
            operation: One of those above.
            values: What its parameters stand for. Instants are milliseconds; a list is a column of a table, or the ids meant.
            conditions: Which optional conditions of the statement hold.
            repeatable: Whether it only reads, so that it may be done again if the connection breaks.
        """

    async def _prepare(self, session: SessionT) -> None:
        await session.open()

    # -- definitions ---------------------------------------------------------------------------------------------------------

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        [row] = await self._run("put", {**columns.schedule_columns(schedules), "replace": replace})
        return frozenset(schedule.id for schedule in schedules).difference(row[0])

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        found = map(schedule_from_row, await self._run("get", {"ids": list(ids)}, repeatable=True))
        return {schedule.id: schedule for schedule in found}

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        values = {"after": after, "task_name": query.task_name, "owner": query.owner, "due_before": query.due_before}
        conditions = [name for name, value in values.items() if value is not None]
        for name, wanted in (("paused", query.paused), ("quarantined", query.quarantined)):
            if wanted is not None:
                conditions.append(name if wanted else f"not_{name}")
        found = await self._run("page", {**columns.instants(values), "limit": limit}, conditions, repeatable=True)
        return [schedule_from_row(row) for row in found]

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        [row] = await self._run("delete", {"ids": list(ids)})
        return frozenset(row[0])

    async def update(
        self,
        id: str,  # noqa: A002 - the field's own word
        changes: ScheduleChanges,
        *,
        expected_revision: int | None = None,
    ) -> StoredSchedule:
        values = {**columns.changes_values(changed_fields(changes)), "id": id, "expected_revision": expected_revision}
        found = await self._run("update", values)
        revision, *edited = found[0] if found else [None]
        check_revision(id, revision, expected_revision)
        return schedule_from_row(edited)

    # -- dispatch ------------------------------------------------------------------------------------------------------------

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
        until, token = now + lease, fresh_token()
        values = {"now": now, "horizon": now + early, "claimant": claimant, "lease_until": until, "token": token, "limit": limit}
        if ids is None:
            taken = await self._run("claim", columns.instants(values))
        else:
            taken = await self._run("claim_ids", {**columns.instants(values), "ids": list(ids)})
        with collector_waits():
            return [new_claim(schedule_from_row(row), row[-1], now, until) for row in taken]

    async def renew(self, claims: Collection[Claim], *, until: datetime) -> frozenset[str]:
        held = await self._run("renew", {**columns.lease_columns(claims), "until": to_ms(until)})
        return frozenset(row[0] for row in held)

    async def settle(self, outcomes: Sequence[Outcome]) -> frozenset[str]:
        values = columns.outcome_columns(outcomes)
        [row] = await self._run("settle", values)
        return frozenset(row[0])

    async def next_due(self, now: datetime) -> datetime | None:
        [row] = await self._run("next_due", {"now": to_ms(now)}, repeatable=True)
        return None if row[0] is None else from_ms(row[0])

    # -- history -------------------------------------------------------------------------------------------------------------

    async def runs(self, query: RunQuery, *, after: Run | None = None, limit: int) -> list[Run]:
        until = query.until
        if after is not None and until is not None:
            # Of two upper bounds only one can be looked up in an index, and the lower one says it all.
            until, after = (None, after) if after.recorded_at < until else (until, None)
        status = "usual_status" if query.status == "sent" else "status"
        values: dict[str, Any] = {"schedule_id": query.schedule_id, status: query.status, "since": query.since, "until": until}
        conditions = [name for name, value in values.items() if value is not None]
        if after is not None:
            conditions.append("after")
            values |= {"after_recorded_at": after.recorded_at, "after_occurrence_id": after.occurrence_id}
        found = await self._run("runs", {**columns.instants(values), "limit": limit}, conditions, repeatable=True)
        return [run_from_row(row) for row in found]

    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        # The oldest rows go, either up to an instant or up to the newest that is one too many: whichever leaves less.
        surplus = await self._run("newest_surplus", {"keep": keep}, repeatable=True)
        values: dict[str, Any] = {"before": to_ms(before), "limit": self._prune_batch}
        condition = "before"
        if surplus and surplus[0][0] >= values["before"]:
            values["recorded_at"], values["occurrence_id"] = surplus[0]
            condition = "surplus"
        total, pruned = 0, self._prune_batch
        while pruned == self._prune_batch:
            [row] = await self._run("prune", values, [condition])
            pruned = row[0]
            total += pruned
        return total
