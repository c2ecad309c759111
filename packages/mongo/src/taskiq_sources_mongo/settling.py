"""``settle``, for some outcomes at a time: in a transaction where the server has them, and by the outbox where it has not.

A transaction whose process dies stays open on the server for a minute, and holds off whoever wants to write to the same
documents. So all transactions of a store are made in one session, and claims say in which (``settles_in``): who finds that the
lease of one has ended has the server undo what that session has begun.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from uuid import uuid4

from pymongo.errors import BulkWriteError

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.models import Claim, Outcome
from taskiq_sources_mongo import statements
from taskiq_sources_mongo.database import DUPLICATE_KEY, Calls, Database, Transaction
from taskiq_sources_mongo.documents import rows_of
from taskiq_sources_mongo.outbox import Outbox

logger = logging.getLogger("taskiq_sources")


class _Unexpected(Exception):
    """Outcomes were lost, or rows were known: a transaction that has not looked for them has to begin anew."""


async def settle(database: Database, outcomes: Sequence[Outcome]) -> set[str]:
    """Record outcomes, and return the ids of the claims that did not survive it although they should have.

    Raises:
        SourceConnectionError: The server cannot be reached, refuses us or has gone away.
    """
    if database.session_id is None:
        return await _by_outbox(database, outcomes)
    # A repeated claim is of an occurrence that has failed, nearly always, and is in the history.
    careful = any(run.attempt > 1 for outcome in outcomes for run in outcome.runs)
    try:
        return await database.transaction(partial(_at_once, outcomes, careful))
    except _Unexpected:
        return await database.transaction(partial(_at_once, outcomes, True))


async def _at_once(outcomes: Sequence[Outcome], careful: bool, transaction: Transaction) -> set[str]:
    """Settle in a transaction.

    Args:
        outcomes: The outcomes.
        careful: Whether to look first for the claims that still hold, and for rows that are there.
        transaction: The transaction.

    Raises:
        _Unexpected: It should have been careful.
    """
    schedules, runs = transaction.schedules, transaction.runs
    lost: set[str] = set()
    if careful:
        held = await transaction.ids(statements.held(_claims(outcomes)))
        lost = {outcome.claim.schedule.id for outcome in outcomes} - held
        outcomes = [outcome for outcome in outcomes if outcome.claim.schedule.id in held]
    finished = [outcome for outcome in outcomes if outcome.finished]
    going = [outcome for outcome in outcomes if not outcome.finished]
    done = 0
    if finished:
        to_go = statements.free_to_go(_claims(finished))
        done = (await transaction.write(schedules.delete_many, to_go, hint="_id_")).deleted_count
    if done < len(finished):
        going = list(outcomes)  # those that were edited stay, some have an outbox left, and those that are gone are not found
    if going:
        held_ones, change = statements.held(_claims(going)), statements.move_on(going)
        done += (await transaction.write(schedules.update_many, held_ones, change, hint="_id_")).matched_count
    if done < len(outcomes):
        raise _Unexpected
    rows = rows_of(outcomes)
    if rows and careful:
        await transaction.write(runs.delete_many, {"_id": {"$in": list(rows)}}, hint="_id_")
    if rows:
        try:
            await transaction.write(runs.insert_many, list(rows.values()), ordered=False)
        except BulkWriteError as error:
            if any(problem["code"] == DUPLICATE_KEY for problem in error.details["writeErrors"]):
                raise _Unexpected from None
            raise
    return lost | await _ended(transaction, outcomes)


async def _by_outbox(database: Database, outcomes: Sequence[Outcome]) -> set[str]:
    """Settle with statements that are atomic for each schedule, and move the history afterwards."""
    outbox, batch = Outbox(database), uuid4().hex
    ids = {outcome.claim.schedule.id for outcome in outcomes}
    held, change = statements.held(_claims(outcomes)), statements.move_on(outcomes, batch)
    done = await database.write(database.schedules.update_many, held, change, hint="_id_")
    applied = ids
    if done.matched_count < len(ids):  # the outbox tells, as it does if the answer was lost and the statement repeated
        applied = await database.ids({"_id": {"$in": list(ids)}, "outbox.batch": batch})
    ended = await _ended(database, outcomes)
    try:
        await outbox.insert([outcome for outcome in outcomes if outcome.claim.schedule.id in applied], batch)
        await outbox.clear([batch], finished=any(outcome.finished for outcome in outcomes))
    except SourceConnectionError:
        logger.debug("%s: settled; whoever comes next moves the history.", database.where, exc_info=True)
    return (ids - applied) | ended


async def _ended(calls: Calls, outcomes: Sequence[Outcome]) -> set[str]:
    """Return which claims were to go on, and have been ended by an edit."""
    going = [outcome.claim for outcome in outcomes if not (outcome.release or outcome.finished)]
    if not going:
        return set()
    return {claim.schedule.id for claim in going} - await calls.ids(statements.held(going))


def _claims(outcomes: Sequence[Outcome]) -> list[Claim]:
    return [outcome.claim for outcome in outcomes]
