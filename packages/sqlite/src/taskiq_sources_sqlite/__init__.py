"""The SQLite backend of taskiq-sources: durable schedules in one file that all processes of a machine may share."""

from taskiq_sources_sqlite.source import SQLiteScheduleSource
from taskiq_sources_sqlite.store import SQLiteStore

__all__ = ["SQLiteScheduleSource", "SQLiteStore"]
