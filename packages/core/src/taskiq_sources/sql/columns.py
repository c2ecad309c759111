"""Translates the contract's dataclasses to columns. No SQL, no I/O.

Instants are whole milliseconds since the Unix epoch, on every database: drivers take several times as long for a datetime as for
a number, and a batch has thousands. Everything else is what it is in Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, Protocol

from taskiq_sources.clock import to_ms
from taskiq_sources.models import Claim, Outcome, ScheduleChanges, StoredSchedule
from taskiq_sources.rows import INSTANTS, RUN_COLUMNS, SCHEDULE_COLUMNS, plain

#: What a new schedule begins with, whatever the given one says, is not passed.
_PUT = {name: name for name in SCHEDULE_COLUMNS if name not in {"revision", "timing_revision", "claimant", "lease_until"}}
_OUTCOME = {
    "id": "claim.schedule.id",
    "token": "claim.token",
    "claimed_revision": "claim.schedule.revision",
    **{field.name: field.name for field in fields(Outcome) if field.name not in {"claim", "runs"}},
}
_RUN = {f"run_{name}": name for name in RUN_COLUMNS}
_REMEMBERED = 4096  # instants; a batch has thousands of them, mostly the same ones


class Row(Protocol):
    """A row as drivers return it: read by position."""

    def __getitem__(self, position: int, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


def schedule_columns(schedules: Sequence[StoredSchedule]) -> dict[str, list[Any]]:
    """Return one list for each column that ``put`` writes."""
    return _columns(_PUT, schedules)


def lease_columns(claims: Iterable[Claim]) -> dict[str, list[Any]]:
    """Return the lists that tell which claims are meant."""
    return _columns({"id": "schedule.id", "token": "token"}, claims)


def outcome_columns(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """Return the lists of outcomes, and with ``run_`` before their names those of the history rows in them.

    ``run_holder`` is the schedule whose outcome a history row belongs to.
    """
    return {
        **_columns(_OUTCOME, outcomes),
        "run_holder": [outcome.claim.schedule.id for outcome in outcomes for _ in outcome.runs],
        **_columns(_RUN, [run for outcome in outcomes for run in outcome.runs]),
    }


def changes_values(changed: dict[str, Any]) -> dict[str, Any]:
    """Return the values of an edit, None for fields that are not part of it, and under ``changed`` the names of the others."""
    values = {field.name: changed.get(field.name) for field in fields(ScheduleChanges)}
    return {**instants(values), "changed": list(changed)}


def instants(values: dict[str, Any]) -> dict[str, Any]:
    """Return `values` with datetimes in milliseconds."""
    return dict(zip(values, plain(values.values()), strict=True))


def _columns(attributes: Mapping[str, str], rows: Iterable[object]) -> dict[str, list[Any]]:
    """Return a list for each column, by the attribute that it is taken from."""
    columns = map(list, zip(*map(attrgetter(*attributes.values()), rows), strict=True))
    named = {name: next(columns, []) for name in attributes}
    for name, attribute in attributes.items():
        if attribute in INSTANTS:
            named[name] = list(map(_optional_ms, named[name]))
    return named


@lru_cache(maxsize=_REMEMBERED)
def _optional_ms(moment: datetime | None) -> int | None:
    return None if moment is None else to_ms(moment)
