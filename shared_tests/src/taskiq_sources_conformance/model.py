"""What a store has to do, as plain dictionaries, written from the contract's text and from nothing else.

It shares no code with any store, so that a mistake in production is not repeated here. It knows one caller at a time and no I/O:
who calls it, and compares, is :mod:`taskiq_sources_conformance.state_machine`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, TypeAlias

Fields: TypeAlias = dict[str, Any]

DEFINITION = ("task_name", "document", "timing", "owner", "updated_at")
PROGRESS = ("scheduled_for", "next_run_at", "anchor", "coalesced", "attempt", "run_count", "last_error")
SETTLED = ("scheduled_for", "next_run_at", "coalesced", "attempt", "run_count", "last_error", "quarantined")
WHEN = ("timing", "scheduled_for", "next_run_at")


class Model:
    """Schedules, the tokens of their claims, and history.

    Attributes:
        schedules: Fields of `StoredSchedule`, by id.
        tokens: The current token of each claimed schedule, by id.
        history: Fields of `Run`, by occurrence id.
    """

    def __init__(self) -> None:
        self.schedules: dict[str, Fields] = {}
        self.tokens: dict[str, str] = {}
        self.history: dict[str, Fields] = {}

    def put(self, given: Iterable[Fields], *, replace: bool) -> set[str]:
        """Store schedules; return the ids that existed."""
        existed = set()
        for new in given:
            old = self.schedules.get(new["id"])
            if old is None:
                self.schedules[new["id"]] = {**new, "revision": 1, "timing_revision": 1, "claimant": None, "lease_until": None}
                continue
            existed.add(new["id"])
            if not replace:
                continue
            moved = old["timing"] != new["timing"]
            old.update({name: new[name] for name in DEFINITION})
            old["quarantined"] = False
            old["revision"] += 1
            if moved:
                old.update({name: new[name] for name in PROGRESS})
                old["timing_revision"] = old["revision"]
        return existed

    def update(self, schedule_id: str, changes: Fields, expected_revision: int | None) -> str | Fields:
        """Edit a schedule; return it, or the name of the error."""
        found = self.schedules.get(schedule_id)
        if found is None:
            return "ScheduleNotFoundError"
        if expected_revision not in (None, found["revision"]):
            return "RevisionConflictError"
        found.update(changes)
        found["revision"] += 1
        if any(name in changes for name in WHEN):
            found["timing_revision"] = found["revision"]
        return dict(found)

    def delete(self, ids: Collection[str]) -> set[str]:
        """Delete schedules; return the ids that existed."""
        existed = set(ids) & set(self.schedules)
        for schedule_id in existed:
            self._forget(schedule_id)
        return existed

    def _forget(self, schedule_id: str) -> None:
        del self.schedules[schedule_id]
        self.tokens.pop(schedule_id, None)

    def eligible(self, now: datetime, *, ids: Collection[str] | None, early: timedelta) -> list[str]:
        """Return the ids that may be claimed, in the order of claims."""
        due = []
        for schedule_id, found in self.schedules.items():
            if found["paused"] or found["quarantined"]:
                continue
            if found["next_run_at"] is None or found["next_run_at"] > now + early:
                continue
            if found["lease_until"] is not None and found["lease_until"] > now:
                continue
            if ids is None or schedule_id in ids:
                due.append((found["next_run_at"], schedule_id))
        return [schedule_id for _, schedule_id in sorted(due)]

    def claim(self, schedule_id: str, token: str, claimant: str, until: datetime) -> Fields:
        """Write down a claim that the store under test has made; return the schedule as it is then."""
        found = self.schedules[schedule_id]
        found.update(claimant=claimant, lease_until=until, attempt=found["attempt"] + 1)
        self.tokens[schedule_id] = token
        return dict(found)

    def renew(self, claims: Iterable[tuple[str, str]], until: datetime) -> set[str]:
        """Lengthen the leases of (id, token) pairs; return the ids that are still theirs."""
        ours = {schedule_id for schedule_id, token in claims if schedule_id in self.tokens and self.tokens[schedule_id] == token}
        for schedule_id in ours:
            self.schedules[schedule_id]["lease_until"] = until
        return ours

    def settle(self, schedule_id: str, token: str, claimed_revision: int, outcome: Fields) -> bool:
        """Apply an outcome; return whether its claim fared as it was meant to."""
        if self.tokens.get(schedule_id) != token:
            return False
        for row in outcome["runs"]:
            self.history[row["occurrence_id"]] = row
        found = self.schedules[schedule_id]
        edited = found["timing_revision"] > claimed_revision
        if outcome["finished"] and not edited:
            self._forget(schedule_id)
            return True
        if not edited:
            found.update({name: outcome[name] for name in SETTLED})
        if outcome["release"] or edited:
            found.update(claimant=None, lease_until=None)
            del self.tokens[schedule_id]
        return bool(outcome["release"]) or not edited

    def next_due(self, now: datetime) -> datetime | None:
        """Return when something can be claimed, if nothing is written until then."""
        instants = []
        for found in self.schedules.values():
            if found["paused"] or found["quarantined"] or found["next_run_at"] is None:
                continue
            leased = found["lease_until"] is not None and found["lease_until"] > now
            instants.append(max(found["next_run_at"], found["lease_until"]) if leased else found["next_run_at"])
        return min(instants, default=None)

    def newest_history(self) -> list[Fields]:
        """Return all history rows, newest first."""
        return sorted(self.history.values(), key=lambda row: (row["recorded_at"], row["occurrence_id"]), reverse=True)

    def prune(self, before: datetime, keep: int) -> int:
        """Delete old history; return how many rows."""
        kept = [row for row in self.newest_history() if row["recorded_at"] >= before][:keep]
        pruned = len(self.history) - len(kept)
        self.history = {row["occurrence_id"]: row for row in kept}
        return pruned
