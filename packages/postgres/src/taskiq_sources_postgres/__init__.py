"""The PostgreSQL backend of taskiq-sources: durable schedules in two tables of a database that all processes share."""

from taskiq_sources_postgres.schema import ddl
from taskiq_sources_postgres.source import PostgresScheduleSource
from taskiq_sources_postgres.store import PgBouncerStore, PostgresStore

__all__ = ["PgBouncerStore", "PostgresScheduleSource", "PostgresStore", "ddl"]
