"""The tables as SQLAlchemy metadata, for those who make their tables with Alembic: ``taskiq-sources-postgres[alembic]``.

::

    # env.py
    target_metadata = [app.metadata, taskiq_sources_postgres.alembic.metadata()]

Whoever lets the source make its tables needs this too, if only so that ``--autogenerate`` does not want to drop them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Index, MetaData, PrimaryKeyConstraint, Table, Text, func, text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.types import TypeEngine

from taskiq_sources_postgres.names import Names
from taskiq_sources_postgres.schema import MIGRATIONS

#: Room for claims in every page. Without it, as SQLAlchemy before 2.1 would have it, they are dearer; see the README.
_ROOMY: dict[str, Any] = (
    {"postgresql_with": {"fillfactor": 50}} if "with" in (dict(PGDialect.construct_arguments or ()).get(Table) or {}) else {}
)


def metadata(schema: str = "public", prefix: str = "taskiq_") -> MetaData:
    """Return the tables of a `PostgresScheduleSource` with these arguments.

    Args:
        schema: As for the source. In any other than ``public``, Alembic's context needs ``include_schemas=True``, and the
            schema has to exist.
        prefix: As for the source.

    Raises:
        ScheduleValidationError: One of them is not a plain identifier.
    """
    Names(schema, prefix)
    # Alembic takes the schema that is searched by default for one without a name.
    tables = MetaData(schema=None if schema == "public" else schema)
    _schedules(tables, prefix)
    _runs(tables, prefix)
    return tables


def _schedules(tables: MetaData, prefix: str) -> None:
    name = f"{prefix}schedules"
    table = Table(
        name,
        tables,
        _required("id", _key()),
        _required("task_name", _key()),
        _required("document", Text()),
        _required("timing", Text()),
        Column("owner", _key()),
        Column("scheduled_for", BigInteger()),
        Column("next_run_at", BigInteger()),
        _required("anchor", BigInteger()),
        *(_required(counter, BigInteger()) for counter in ("coalesced", "attempt", "run_count")),
        *(_required(flag, Boolean()) for flag in ("paused", "quarantined")),
        Column("last_error", Text()),
        *(_required(counter, BigInteger()) for counter in ("revision", "timing_revision")),
        *(_required(instant, BigInteger()) for instant in ("created_at", "updated_at")),
        Column("claimant", Text()),
        Column("lease_until", BigInteger()),
        Column("token", Text()),
        PrimaryKeyConstraint("id", name=f"{name}_pkey"),
        comment=f"taskiq-sources schema {len(MIGRATIONS)}",
        **_ROOMY,
    )
    columns = table.c
    due = text("NOT paused AND NOT quarantined AND next_run_at IS NOT NULL")
    Index(f"{name}_due", columns.next_run_at, columns.id, postgresql_where=due)
    Index(f"{name}_held", columns.next_run_at, postgresql_where=text("paused OR quarantined"))
    Index(f"{name}_paused", columns.id, postgresql_where=text("paused"))
    Index(f"{name}_quarantined", columns.id, postgresql_where=text("quarantined"))
    Index(f"{name}_of_owner", func.left(columns.owner, text("200")), columns.id, postgresql_where=text("owner IS NOT NULL"))
    Index(f"{name}_of_task", func.left(columns.task_name, text("200")), columns.id)


def _runs(tables: MetaData, prefix: str) -> None:
    name = f"{prefix}runs"
    table = Table(
        name,
        tables,
        *(_required(key, _key()) for key in ("occurrence_id", "schedule_id")),
        _required("task_name", Text()),
        _required("scheduled_for", BigInteger()),
        _required("status", _key()),
        _required("recorded_at", BigInteger()),
        Column("task_id", Text()),
        *(_required(counter, BigInteger()) for counter in ("attempt", "coalesced")),
        Column("claimant", Text()),
        Column("error", Text()),
        PrimaryKeyConstraint("occurrence_id", name=f"{name}_pkey"),
    )
    columns = table.c
    Index(f"{name}_recorded", columns.recorded_at)
    Index(f"{name}_of_schedule", columns.schedule_id, columns.recorded_at)
    Index(f"{name}_of_status", columns.status, columns.recorded_at)


def _required(name: str, kind: TypeEngine[Any]) -> Column[Any]:
    return Column(name, kind, nullable=False)


def _key() -> Text:
    return Text(collation="C")
