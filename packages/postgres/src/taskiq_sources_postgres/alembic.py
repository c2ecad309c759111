"""The tables as SQLAlchemy metadata, for those who make their tables with Alembic: ``taskiq-sources-postgres[alembic]``.

::

    # env.py
    target_metadata = [app.metadata, taskiq_sources_postgres.alembic.metadata()]

Whoever lets the source make its tables needs this too, if only so that ``--autogenerate`` does not want to drop them.

What the tables are is written down once, in ``sql/schema.sql``, and read from there. Nothing asks a database.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Column, Index, MetaData, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.schema import SchemaItem

from taskiq_sources_postgres.schema import ddl

# The forms of what is in that file.
_TABLE = re.compile(r'CREATE TABLE "\w+"\."(?P<name>\w+)" \((?P<body>[^;]*?)\n\)(?: WITH \(fillfactor = (?P<fillfactor>\d+)\))?;')
_COLUMN = re.compile(r'(?P<name>\w+) +(?P<type>\w+)(?: COLLATE "(?P<collation>\w+)")?(?P<required> NOT NULL)?,')
_PRIMARY_KEY = re.compile(r'CONSTRAINT "(?P<name>\w+)" PRIMARY KEY \((?P<column>\w+)\)')
_INDEX = re.compile(r'CREATE INDEX "(?P<name>\w+)" ON "\w+"\."(?P<table>\w+)" \((?P<keys>.*?)\)(?:\s+WHERE (?P<where>.*))?;')
_KEY = re.compile(r"\w+(?:\(.*?\))?")
_COMMENT = re.compile(r'COMMENT ON TABLE "\w+"\."(?P<table>\w+)" IS \'(?P<comment>.*)\';')

_TYPES: Final = {"text": Text, "bigint": BigInteger, "boolean": Boolean}

#: SQLAlchemy before 2.1 cannot say how much room the pages of a table should have; see the README.
_KNOWS_FILLFACTOR: Final = "with" in (dict(PGDialect.construct_arguments or ()).get(Table) or {})


def metadata(schema: str = "public", prefix: str = "taskiq_") -> MetaData:
    """Return the tables of a `PostgresScheduleSource` with these arguments.

    Args:
        schema: As for the source. In any other than ``public``, Alembic's context needs ``include_schemas=True``, and the
            schema has to exist.
        prefix: As for the source.

    Raises:
        ScheduleValidationError: One of them is not a plain identifier.
    """
    script = ddl(schema, prefix)
    # Alembic takes the schema that is searched by default for one without a name.
    tables = MetaData(schema=None if schema == "public" else schema)
    comments = {found["table"]: found["comment"] for found in _COMMENT.finditer(script)}
    for found in _TABLE.finditer(script):
        name, fillfactor = found["name"], found["fillfactor"]
        room: dict[str, Any] = {"postgresql_with": {"fillfactor": int(fillfactor)}} if fillfactor and _KNOWS_FILLFACTOR else {}
        Table(name, tables, *_columns(found["body"]), *_indexes(script, name), comment=comments.get(name), **room)
    return tables


def _columns(body: str) -> Iterator[SchemaItem]:
    for found in _COLUMN.finditer(body):
        kind = Text(collation=found["collation"]) if found["collation"] else _TYPES[found["type"]]()
        yield Column(found["name"], kind, nullable=not found["required"])
    for found in _PRIMARY_KEY.finditer(body):
        yield PrimaryKeyConstraint(found["column"], name=found["name"])


def _indexes(script: str, table: str) -> Iterator[Index]:
    for found in _INDEX.finditer(script):
        if found["table"] == table:
            keys = [text(key) if "(" in key else key for key in _KEY.findall(found["keys"])]
            yield Index(found["name"], *keys, postgresql_where=found["where"] and text(found["where"]))
