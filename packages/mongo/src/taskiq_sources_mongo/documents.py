"""Translates between the contract's dataclasses and documents. No I/O.

A schedule is one document under its id. Besides the fields of `StoredSchedule` it has ``version`` (each write but a renewal adds
one to it, and no two documents begin with the same), ``token`` (of the current claim), ``settles_in`` (the sessions of its
outcome, see :mod:`taskiq_sources_mongo.settling`), ``finished`` (it is gone for everybody, and waits for its history to be
moved), ``seq`` and ``outbox`` (see :mod:`taskiq_sources_mongo.outbox`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from operator import attrgetter, itemgetter
from secrets import randbits
from typing import Any, TypeAlias

from taskiq_sources.models import Claim, Outcome, Run, StoredSchedule, in_order
from taskiq_sources.rows import new_claim

Document: TypeAlias = dict[str, Any]

# Several of each are read and written for an occurrence: all fields at once, in the order of the dataclass, take half the time.
_SCHEDULE = tuple(field.name for field in fields(StoredSchedule))
_RUN = tuple(field.name for field in fields(Run))
_SCHEDULE_KEYS = ("_id", *_SCHEDULE[1:])
_RUN_KEYS = ("_id", *_RUN[1:])
_schedule_values, _run_values = attrgetter(*_SCHEDULE), attrgetter(*_RUN)
_schedule_of, _run_of = itemgetter(*_SCHEDULE_KEYS), itemgetter(*_RUN_KEYS)
_stored_schedule, _run = in_order(StoredSchedule), in_order(Run)
_PROGRESS = ("scheduled_for", "next_run_at", "coalesced", "attempt", "run_count", "last_error", "quarantined")

#: Of a version to begin with: there is room in 64 for all the writes to come.
_VERSION_BITS = 62

#: Nobody holds the schedule.
FREE: Document = {"token": None, "claimant": None, "lease_until": None}

#: The schedule is deleted, but for its history: without an instant, nothing finds it due.
FINISHED: Document = {**FREE, "finished": True, "next_run_at": None}

_NEW: Document = {**FREE, "revision": 1, "timing_revision": 1, "finished": False}


def new_schedule(schedule: StoredSchedule) -> Document:
    """Return the document of a schedule that is stored for the first time."""
    return {**dict(zip(_SCHEDULE_KEYS, _schedule_values(schedule), strict=True)), **_NEW, "version": randbits(_VERSION_BITS)}


def schedule_from(document: Mapping[str, Any]) -> StoredSchedule:
    """Return the schedule of a document."""
    return _stored_schedule(*_schedule_of(document))


def claim_from(document: Mapping[str, Any], *, now: datetime) -> Claim:
    """Return the claim of a document that was claimed at `now`."""
    # The token of all that are claimed at once, and for the history of this one the number of its settles.
    token = f"{document['token']}.{document.get('seq', 0) + 1}"
    return new_claim(schedule_from(document), token, now, document["lease_until"])


def token_of(claim: Claim) -> str:
    """Return the ``token`` that a document has while it is claimed so."""
    return claim.token.partition(".")[0]


def seq_of(claim: Claim) -> int:
    """Return a ``seq`` above all that the schedule has had before the claim, and not above any that it has after it."""
    return int(claim.token.partition(".")[2])


def columns(claims: Collection[Claim]) -> dict[str, list[Any]]:
    """Return ``ids``, ``holders`` (token and id in one, as of a schedule that is claimed so) and ``revisions`` of claims."""
    return {
        "ids": [claim.schedule.id for claim in claims],
        "holders": [token_of(claim) + claim.schedule.id for claim in claims],
        "revisions": [claim.schedule.revision for claim in claims],
    }


def unedited(claims: Collection[Claim]) -> list[Document]:
    """Return conditions of which one is fulfilled by a schedule that is claimed so, and of which *when* was not edited since."""
    alike: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for claim in claims:
        alike[token_of(claim), claim.schedule.revision].append(claim.schedule.id)
    return [{"token": token, "timing_revision": {"$lte": at}, "_id": {"$in": ids}} for (token, at), ids in alike.items()]


def settled(outcome: Outcome) -> Document:
    """Return what an outcome writes into its schedule, unless *when* was edited."""
    if outcome.finished:
        return FINISHED
    return {**{name: getattr(outcome, name) for name in _PROGRESS}, **(FREE if outcome.release else {})}


def row(run: Run) -> Document:
    """Return the document of a history row."""
    return dict(zip(_RUN_KEYS, _run_values(run), strict=True))


def rows_of(outcomes: Sequence[Outcome]) -> dict[str, Document]:
    """Return the history rows of outcomes, which are the newest versions of these rows, by their ids."""
    return {
        run.occurrence_id: {**row(run), "version": {"seq": seq_of(outcome.claim), "n": number}}
        for outcome in outcomes
        for number, run in enumerate(outcome.runs)
    }


def run_from(document: Mapping[str, Any]) -> Run:
    """Return the history row of a document."""
    return _run(*_run_of(document))
