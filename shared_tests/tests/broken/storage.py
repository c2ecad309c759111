"""Stores with one defect each in what they keep and list."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from intact import IntactStore, conformance_classes, defects_of

from taskiq_sources.models import (
    UNSET,
    Claim,
    Run,
    RunQuery,
    ScheduleChanges,
    ScheduleQuery,
    StoredSchedule,
)

# -- definitions ---------------------------------------------------------------------------------------------------------------


class ReplaceUnpauses(IntactStore):
    """An application's start undoes what a person did."""

    caught_by = ("test_replace_keeps_paused",)

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        existing = await super().put(schedules, replace=replace)
        for schedule in schedules:
            if replace and schedule.id in existing:
                self.edit(schedule.id, paused=schedule.paused)
        return existing


class EqualTimingLosesOccurrence(IntactStore):
    """An application's start moves every schedule to its next occurrence."""

    caught_by = ("test_equal_timing_keeps_the_pending_occurrence", "test_a_mixed_put")

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        existing = await super().put(schedules, replace=replace)
        for schedule in schedules:
            if replace and schedule.id in existing:
                self.edit(schedule.id, scheduled_for=schedule.scheduled_for, next_run_at=schedule.next_run_at)
        return existing


class KeepReplaces(IntactStore):
    """Replaces what was to be kept."""

    caught_by = ("test_keep_changes_nothing",)

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        return await super().put(schedules)


class ExpectedRevisionIgnored(IntactStore):
    """The last writer wins."""

    caught_by = ("test_another_revision_is_refused", "test_parallel_edits_of_one_revision_have_one_winner")

    async def update(self, id: str, changes: ScheduleChanges, **arguments: Any) -> StoredSchedule:  # noqa: A002
        return await super().update(id, changes)


class LostUpdate(IntactStore):
    """Reads the row, lets others run, and writes the whole row back."""

    caught_by = (
        "test_parallel_edits_are_all_counted",
        "test_parallel_edits_of_different_fields_are_all_kept",
        "test_a_call_amid_a_call",
    )
    caught_by_machine = False

    async def update(self, id: str, changes: ScheduleChanges, **arguments: Any) -> StoredSchedule:  # noqa: A002
        read = self._data.schedules.get(id)
        await self.others_run()
        if read is not None:
            self._data.schedules[id] = read
        return await super().update(id, changes, **arguments)


class UpdateSkipsNone(IntactStore):
    """Takes None for "leave it as it is"."""

    caught_by = ("test_update_writes_the_given_field_only",)

    async def update(self, id: str, changes: ScheduleChanges, **arguments: Any) -> StoredSchedule:  # noqa: A002
        nones = {field.name: UNSET for field in fields(changes) if getattr(changes, field.name) is None}
        return await super().update(id, replace(changes, **nones), **arguments)


class DeleteTellsWhatItHasRead(IntactStore):
    """Two that delete a schedule are both told that it existed."""

    caught_by = ("test_a_call_amid_a_call",)
    caught_by_machine = False

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        found = self._data.schedules.keys() & set(ids)
        await self.others_run()
        await super().delete(ids)
        return frozenset(found)


class DeleteDropsHistory(IntactStore):
    """History goes with its schedule."""

    caught_by = ("test_history_stays",)

    async def delete(self, ids: Collection[str]) -> frozenset[str]:
        self._data.runs = {key: row for key, row in self._data.runs.items() if row.schedule_id not in ids}
        return await super().delete(ids)


# -- lists ---------------------------------------------------------------------------------------------------------------------


class PageOrderedAsUtf16(IntactStore):
    """Orders ids as JavaScript does."""

    caught_by = ("test_page_is_ordered_by_code_points",)

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        def key(text: str) -> bytes:
            return text.encode("utf-16-be")

        found = sorted(await super().page(query, limit=10**6), key=lambda schedule: key(schedule.id))
        return [schedule for schedule in found if after is None or key(schedule.id) > key(after)][:limit]


class PageIgnoresOwner(IntactStore):
    """Leaves one filter out."""

    caught_by = ("test_filters", "test_filters_see_edits")
    caught_by_machine = False

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        return await super().page(replace(query, owner=None), after=after, limit=limit)


class PageSkips(IntactStore):
    """Reads a page, then filters it: a page of others looks like the end."""

    caught_by = ("test_the_limit_counts_matching_schedules", "test_filters")
    caught_by_machine = False

    async def page(self, query: ScheduleQuery, *, after: str | None = None, limit: int) -> list[StoredSchedule]:
        matching = {schedule.id for schedule in await super().page(query, limit=10**6)}
        return [found for found in await super().page(ScheduleQuery(), after=after, limit=limit) if found.id in matching]


class HistoryOldestFirst(IntactStore):
    """Returns history in the order it was written."""

    caught_by = ("test_newest_first",)

    async def runs(self, query: RunQuery, *, after: Run | None = None, limit: int) -> list[Run]:
        return (await super().runs(query, after=after, limit=limit))[::-1]


class PruneKeepsOneMore(IntactStore):
    """Counts from zero."""

    caught_by = ("test_prune",)

    async def prune_runs(self, *, before: datetime, keep: int) -> int:
        return await super().prune_runs(before=before, keep=keep + 1)


# -- time ----------------------------------------------------------------------------------------------------------------------


class NextDueForgetsLeases(IntactStore):
    """Nobody wakes to take over from a dead scheduler."""

    caught_by = ("test_a_lease_counts_with_its_end", "test_claim_agrees")

    async def next_due(self, now: datetime) -> datetime | None:
        return min(
            (
                found.next_run_at
                for found in self._data.schedules.values()
                if found.next_run_at and found.claimant is None and not found.paused and not found.quarantined
            ),
            default=None,
        )


class NaiveDatetimes(IntactStore):
    """Returns UTC without saying so."""

    caught_by = ("test_every_returned_datetime_is_clean",)
    caught_by_machine = False  # it reads pages, which are clean

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        found = await super().get(ids)
        return {key: replace(one, created_at=one.created_at.replace(tzinfo=None)) for key, one in found.items()}


class WholeSeconds(IntactStore):
    """Stores Unix time as an integer."""

    caught_by = ("test_a_millisecond_decides_the_order", "test_eligible_2_due_at_this_very_millisecond")

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        return await super().put([_cut(schedule) for schedule in schedules], replace=replace)


def _cut(schedule: StoredSchedule) -> StoredSchedule:
    return replace(schedule, next_run_at=schedule.next_run_at and schedule.next_run_at.replace(microsecond=0))


class LooksAtTheClock(IntactStore):
    """Leases end by the server's clock."""

    caught_by = ("test_time_is_what_the_caller_says",)
    caught_by_machine = False  # it lives in one year only, in which this store's clock happens to be right

    async def claim(self, now: datetime, **arguments: Any) -> list[Claim]:
        return await super().claim(max(now, await self.now()), **arguments)


# -- payloads ------------------------------------------------------------------------------------------------------------------


class DocumentsAreParsed(IntactStore):
    """Keeps documents in a JSON column."""

    caught_by = ("test_documents_come_back_exactly",)
    caught_by_machine = False

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        return await super().put([_parsed(schedule) for schedule in schedules], replace=replace)


def _parsed(schedule: StoredSchedule) -> StoredSchedule:
    try:
        return replace(schedule, document=json.dumps(json.loads(schedule.document)))
    except ValueError:
        return schedule


class IdsAreTrimmed(IntactStore):
    """Compares ids as a CHAR column does."""

    caught_by = ("test_similar_ids_are_different",)
    caught_by_machine = False

    async def put(self, schedules: Sequence[StoredSchedule], *, replace: bool = True) -> frozenset[str]:
        return await super().put([_trimmed(schedule) for schedule in schedules], replace=replace)


def _trimmed(schedule: StoredSchedule) -> StoredSchedule:
    return replace(schedule, id=schedule.id.rstrip() or schedule.id)


DEFECTS = defects_of(__name__)
globals().update(conformance_classes(__name__, DEFECTS.values()))
