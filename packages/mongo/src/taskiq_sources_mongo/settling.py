"""``settle``, for some outcomes at a time: in a transaction where the server has them, and by the outbox where it has not.

A transaction whose process dies stays open on the server for a minute, and holds off whoever wants to write to the same
documents. So all transactions of a store are made in sessions that it keeps, and claims say in which (``settles_in``): who finds
that the lease of one has ended has the server undo what those sessions have begun.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from pymongo.errors import BulkWriteError

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.models import Outcome
from taskiq_sources_mongo import outbox
from taskiq_sources_mongo.database import Calls, Database, Transaction
from taskiq_sources_mongo.documents import columns, row, rows_of, settled, unedited

logger = logging.getLogger("taskiq_sources")


class _Unexpected(Exception):
    """Outcomes were lost: a transaction that has not looked for them has to begin anew."""


async def settle(database: Database, outcomes: Sequence[Outcome]) -> set[str]:
    """Record outcomes, and return the ids of the claims that did not survive it although they should have.

    Raises:
        SourceConnectionError: The server cannot be reached, refuses us or has gone away.
    """
    if not database.session_ids:
        return await _by_outbox(database, outcomes)
    # A repeated claim is of an occurrence that has failed, nearly always, and is in the history.
    careful = any(run.attempt > 1 for outcome in outcomes for run in outcome.runs)
    try:
        return await database.transaction(partial(_at_once, outcomes, careful))
    except (_Unexpected, BulkWriteError):  # of the latter: rows were known
        return await database.transaction(partial(_at_once, outcomes, True))


async def _at_once(outcomes: Sequence[Outcome], careful: bool, transaction: Transaction) -> set[str]:
    """Settle in a transaction.

    Args:
        outcomes: The outcomes.
        careful: Whether to look first for the claims that still hold, and for rows that are there.
        transaction: The transaction.

    Raises:
        _Unexpected: It should have been careful.
        BulkWriteError: The same.
    """
    lost: set[str] = set()
    if careful:
        held = await transaction.ids("held", **_columns(outcomes))
        lost = {outcome.claim.schedule.id for outcome in outcomes} - held
        outcomes = [outcome for outcome in outcomes if outcome.claim.schedule.id in held]
    finished = [outcome for outcome in outcomes if outcome.finished]
    going = [outcome for outcome in outcomes if not outcome.finished]
    done = 0
    if finished:
        claims = [outcome.claim for outcome in finished]
        done = (await transaction.run("settle_finished", **columns(claims), unedited=unedited(claims))).deleted_count
    if done < len(finished):
        going = list(outcomes)  # those that were edited stay, some have an outbox left, and those that are gone are not found
    if going:
        done += (await transaction.run("settle", **_settled(going), batch=None, rows=[])).matched_count
    if done < len(outcomes):
        raise _Unexpected
    rows = rows_of(outcomes)
    if rows and careful:
        await transaction.run("known", ids=list(rows))
    if rows:
        await transaction.call(transaction.runs.insert_many, list(rows.values()), ordered=False)
    return lost | await _ended(transaction, outcomes)


async def _by_outbox(database: Database, outcomes: Sequence[Outcome]) -> set[str]:
    """Settle with statements that are atomic for each schedule, and move the history afterwards."""
    batch = uuid4().hex
    rows = [[row(run) for run in outcome.runs] for outcome in outcomes]
    applied = ids = {outcome.claim.schedule.id for outcome in outcomes}
    done = await database.run("settle", **_settled(outcomes), batch=batch, rows=rows)
    if done.matched_count < len(ids):
        applied = await database.ids("outbox_settled", ids=list(ids), batch=batch)
    ended = await _ended(database, outcomes)
    try:
        await outbox.insert(database, [outcome for outcome in outcomes if outcome.claim.schedule.id in applied], batch)
        await outbox.clear(database, [batch], ids)
    except SourceConnectionError:
        logger.debug("%s: settled; whoever comes next moves the history.", database.where, exc_info=True)
    return (ids - applied) | ended


async def _ended(calls: Calls, outcomes: Sequence[Outcome]) -> set[str]:
    """Return which claims were to go on, and have been ended by an edit."""
    going = [outcome.claim for outcome in outcomes if not (outcome.release or outcome.finished)]
    if not going:
        return set()
    return {claim.schedule.id for claim in going} - await calls.ids("held", **columns(going))


def _columns(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    return columns([outcome.claim for outcome in outcomes])


def _settled(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    return {**_columns(outcomes), "settled": [settled(outcome) for outcome in outcomes]}
