"""What is asked of the server: filters and update pipelines, as data. No I/O.

An update that needs values of the document it changes is a pipeline. In those a text that begins with a dollar is a field, so
that everything that comes from outside is wrapped by :func:`literal`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TypeAlias

from pymongo import UpdateOne

from taskiq_sources.backends import WHEN, changed_fields
from taskiq_sources.models import Claim, Outcome, Run, RunQuery, ScheduleChanges, ScheduleQuery, StoredSchedule
from taskiq_sources_mongo.documents import FREE, Document, new_schedule, row, settled, token_of

Pipeline: TypeAlias = list[Document]

#: What may ever be claimed: the condition of the index ``due``, which can be used where this is asked for.
PENDING: Document = {"paused": False, "quarantined": False, "next_run_at": {"$type": "date"}}

#: The order of claims, and of history from the newest.
OLDEST_DUE = [("next_run_at", 1), ("_id", 1)]
NEWEST = [("recorded_at", -1), ("_id", -1)]
OLDEST = [("recorded_at", 1), ("_id", 1)]

_DEFINITION = ("task_name", "document", "timing", "owner", "updated_at")
_PROGRESS = ("scheduled_for", "next_run_at", "anchor", "coalesced", "attempt", "run_count", "last_error")
_NEXT_REVISION: Document = {"$add": ["$revision", 1]}

#: Changes that can make nothing due: claims and renewals, schedules that are about to go, history that was moved.
NEWS: Pipeline = [
    {
        "$match": {
            "updateDescription.updatedFields.lease_until": {"$not": {"$type": "date"}},
            "updateDescription.updatedFields.finished": {"$ne": True},
            "updateDescription.updatedFields.outbox": {"$ne": []},
        },
    },
    {"$project": {"_id": 1}},
]


def literal(value: object) -> Document:
    """Return the expression that is `value`, whatever it looks like."""
    return {"$literal": value}


# -- definitions -----------------------------------------------------------------------------------------------------------------


def alive(ids: Collection[str]) -> Document:
    """Find schedules that exist."""
    return {"_id": {"$in": list(ids)}, "finished": False}


def upsert(schedule: StoredSchedule, *, replace: bool) -> UpdateOne:
    """Store a schedule whose id may exist."""
    change = _insert_or_replace(schedule) if replace else _insert_only(schedule)
    return UpdateOne({"_id": schedule.id, "finished": False}, change, upsert=True, hint="_id_")


def _insert_or_replace(schedule: StoredSchedule) -> Pipeline:
    replaced = {**{name: f"$new.{name}" for name in _DEFINITION}, "quarantined": False, "revision": _NEXT_REVISION}
    progress = {**{name: f"$new.{name}" for name in _PROGRESS}, "timing_revision": _NEXT_REVISION}
    moved = {"$cond": [{"$eq": ["$timing", "$new.timing"]}, {}, progress]}
    is_new = {"$eq": [{"$type": "$revision"}, "missing"]}
    return [
        {"$set": {"new": literal(new_schedule(schedule))}},
        {"$replaceWith": {"$cond": [is_new, "$new", {"$mergeObjects": ["$$ROOT", replaced, moved]}]}},
        {"$unset": "new"},
    ]


def _insert_only(schedule: StoredSchedule) -> Document:
    # What the condition names is set by that.
    return {"$setOnInsert": {name: value for name, value in new_schedule(schedule).items() if name not in {"_id", "finished"}}}


def edit(changes: ScheduleChanges) -> Pipeline:
    """Write what is set, and count the edit."""
    changed = {name: literal(value) for name, value in changed_fields(changes).items()}
    moved = {"timing_revision": _NEXT_REVISION} if WHEN & changed.keys() else {}
    return [{"$set": {**changed, "revision": _NEXT_REVISION, **moved}}]


def matching(query: ScheduleQuery, after: str | None) -> Document:
    """Find the schedules of a page."""
    conditions: Document = {"finished": False}
    for name in ("task_name", "owner", "paused", "quarantined"):
        if getattr(query, name) is not None:
            conditions[name] = getattr(query, name)
    if after is not None:
        conditions["_id"] = {"$gt": after}
    if query.due_before is None:
        return conditions
    due = {"next_run_at": {"$type": "date", "$lt": query.due_before}}
    if query.paused is not None or query.quarantined is not None:
        return {**conditions, **due}
    # An index has only those that may be claimed, and one each has the others: together they are all.
    return {**conditions, "$or": [{**PENDING, **due}, {"paused": True, **due}, {"quarantined": True, **due}]}


# -- dispatch --------------------------------------------------------------------------------------------------------------------


def eligible(now: datetime, horizon: datetime, ids: Collection[str] | None = None) -> Document:
    """Find what may be claimed: the numbered list of the contract."""
    conditions = {
        "paused": False,
        "quarantined": False,
        "next_run_at": {"$type": "date", "$lte": horizon},
        "lease_until": {"$not": {"$gt": now}},
    }
    return conditions if ids is None else {"_id": {"$in": list(ids)}, **conditions}


def take(token: str, claimant: str, lease_until: datetime, session_id: object) -> Document:
    """Give a schedule to a claimant, who will settle in a transaction of this session."""
    taken = {"token": token, "claimant": claimant, "lease_until": lease_until, "settles_in": session_id}
    return {"$set": taken, "$inc": {"attempt": 1}}


#: Undo a claim that nobody has seen.
GIVE_BACK: Pipeline = [{"$set": {**FREE, "attempt": {"$max": [{"$subtract": ["$attempt", 1]}, 0]}}}]


def held(claims: Collection[Claim]) -> Document:
    """Find the schedules of claims whose token is the current one."""
    by_token: defaultdict[str, list[str]] = defaultdict(list)
    for claim in claims:
        by_token[token_of(claim)].append(claim.schedule.id)
    holders = [{"token": token, "_id": {"$in": ids}} for token, ids in by_token.items()]
    return {"_id": {"$in": [claim.schedule.id for claim in claims]}, "$or": holders}


def free_to_go(claims: Collection[Claim]) -> Document:
    """Find those of them of which *when* has not been edited since, and which have no history in their outbox."""
    alike: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for claim in claims:
        alike[token_of(claim), claim.schedule.revision].append(claim.schedule.id)
    holders = [
        {"token": token, "timing_revision": {"$lte": revision}, "_id": {"$in": ids}} for (token, revision), ids in alike.items()
    ]
    empty = {"outbox.batch": {"$exists": False}}
    return {"_id": {"$in": [claim.schedule.id for claim in claims]}, "$or": holders, **empty}


def move_on(outcomes: Sequence[Outcome], batch: str | None = None) -> Pipeline:
    """Move schedules on, each with what the outcomes say of it; with a batch, put the history rows into its outbox.

    The outcome is found by the position of the id in a list: the server makes a table of a list that is constant.
    """
    told: list[Document] = [
        {"revision": outcome.claim.schedule.revision, "settled": settled(outcome), "outbox": [row(run) for run in outcome.runs]}
        for outcome in outcomes
    ]
    position = {"$indexOfArray": [literal([outcome.claim.schedule.id for outcome in outcomes]), "$_id"]}
    edited = {"$gt": ["$timing_revision", "$$outcome.revision"]}
    changes: list[object] = ["$$ROOT", {"$cond": [edited, literal(FREE), "$$outcome.settled"]}]
    if batch is None:
        for one in told:
            del one["outbox"]
    else:
        seq = {"$max": [{"$add": [{"$ifNull": ["$seq", 0]}, 1]}, {"$toLong": "$$NOW"}]}
        entry = {"batch": batch, "seq": seq, "rows": "$$outcome.outbox"}
        changes.append({"seq": seq, "outbox": {"$concatArrays": [{"$ifNull": ["$outbox", []]}, [entry]]}})
    outcome = {"$arrayElemAt": [literal(told), position]}
    return [{"$replaceWith": {"$let": {"vars": {"outcome": outcome}, "in": {"$mergeObjects": changes}}}}]


# -- history ---------------------------------------------------------------------------------------------------------------------


def recorded(query: RunQuery, after: Run | None) -> Document:
    """Find history rows."""
    conditions: Document = {name: value for name in ("schedule_id", "status") if (value := getattr(query, name)) is not None}
    bounds = {"$gte": query.since, "$lt": query.until}
    if query.since is not None or query.until is not None:
        conditions["recorded_at"] = {name: value for name, value in bounds.items() if value is not None}
    if after is None:
        return conditions
    return {"$and": [conditions, older(after.recorded_at, after.occurrence_id)]}


def older(recorded_at: datetime, occurrence_id: str, *, or_equal: bool = False) -> Document:
    """Find history rows that come after a place in the order."""
    same = {"recorded_at": recorded_at, "_id": {"$lte" if or_equal else "$lt": occurrence_id}}
    return {"$or": [{"recorded_at": {"$lt": recorded_at}}, same]}
