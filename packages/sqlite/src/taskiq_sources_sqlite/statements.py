"""Loads the SQL of this package: named blocks of ``sql/queries.sql`` and the numbered scripts of ``migrations``.

SQL is written in .sql files only. This module knows their form, not their meaning.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\S+)\n", re.MULTILINE)
_CONDITIONS = "/* conditions */"


class Statements:
    """Named SQL statements.

    Args:
        text: The blocks, each headed by a line ``-- name: <name>``. What stands before the first one is a comment.

    Raises:
        ValueError: A name occurs twice.
    """

    def __init__(self, text: str) -> None:
        _, *parts = _NAME.split(text)
        names, bodies = parts[::2], parts[1::2]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"SQL blocks are named twice: {', '.join(twice)}")
        self._statements = {name: body.strip() for name, body in zip(names, bodies, strict=True)}

    def __getitem__(self, name: str) -> str:
        return self._statements[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._statements)

    def where(self, name: str, conditions: Collection[str], *, unindexed: Collection[str] = ()) -> str:
        """Return the statement `name` with its blocks ``<name>.<condition>`` in the place left for them.

        Args:
            name: The statement.
            conditions: Conditions that the query planner may look up in an index.
            unindexed: Conditions that it may only check. Without statistics it knows no better than we do which index to use.
        """
        blocks = [self[f"{name}.{condition}"] for condition in conditions]
        blocks += [self[f"{name}.{condition}"].replace("AND ", "AND +", 1) for condition in unindexed]
        return self[name].replace(_CONDITIONS, "\n".join(blocks))


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from a schema version to the next.

    Attributes:
        version: The version that it leads to, counted from 1.
        name: The name of its file.
        statements: Its SQL statements, in order.
    """

    version: int
    name: str
    statements: tuple[str, ...]


def load_statements(package: str, path: str) -> Statements:
    """Return the statements of one file that is shipped with `package`."""
    return Statements(files(package).joinpath(path).read_text(encoding="utf-8"))


def load_migrations(package: str, folder: str) -> tuple[Migration, ...]:
    """Return the migrations shipped in `folder` of `package`, oldest first.

    Files are named ``<number>_<what>.sql``; the numbers have to be 1, 2, 3, …

    Raises:
        ValueError: A number is missing or occurs twice.
    """
    names = sorted(entry.name for entry in files(package).joinpath(folder).iterdir() if entry.name.endswith(".sql"))
    found = tuple(
        Migration(
            version=int(name.partition("_")[0]),
            name=name,
            statements=tuple(split_script(files(package).joinpath(folder).joinpath(name).read_text(encoding="utf-8"))),
        )
        for name in names
    )
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are not numbered 1, 2, 3, …: {', '.join(names)}")
    return found


def split_script(script: str) -> Iterator[str]:
    """Yield the statements of `script`; each ends at the end of a line.

    ``Connection.executescript`` would do, but it commits the transaction it is called in.

    Raises:
        ValueError: The last statement does not end.
    """
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement.strip()
            statement = ""
    if any(line and not line.startswith("--") for line in map(str.strip, statement.splitlines())):
        raise ValueError(f"the last SQL statement has no semicolon: {statement.strip()!r}")
