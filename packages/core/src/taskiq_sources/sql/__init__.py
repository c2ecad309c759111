"""What stores on SQL databases share: statements in files, rows of the contract's dataclasses, and the contract on top of both.

A backend brings its SQL (``sql/queries.sql``, ``migrations/``), a connection, and `SQLStore._run`. Nothing in here knows a
dialect or a driver.
"""

from taskiq_sources.sql.statements import Migration, Statements, load_migrations, read_sql, split_script
from taskiq_sources.sql.store import SQLStore

__all__ = ["Migration", "SQLStore", "Statements", "load_migrations", "read_sql", "split_script"]
