"""SQL in files: named blocks with optional conditions and named parameters, and numbered migrations.

This module knows their form, not their meaning.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from taskiq_sources.rows import RUN_COLUMNS, SCHEDULE_COLUMNS

_BLOCK = re.compile(r"^-- name: (\S+)\n-- .*\n(?:-- .*\n)*", re.MULTILINE)  # a name, and its purpose in one line or more
_PARAMETER = re.compile(r"(?<!:):([a-z_]+)\b")  # and not ::text
_CONDITIONS = re.compile(r"/\* conditions(?: of (\w+))? \*/")
_CLAIMED = {"attempt": "attempt + 1", "claimant": ":claimant", "lease_until": ":lease_until"}
_INCLUDED: Final = {
    "{columns}": ", ".join(SCHEDULE_COLUMNS),
    "{claimed_columns}": ", ".join(_CLAIMED.get(column, column) for column in SCHEDULE_COLUMNS),
    "{run_columns}": ", ".join(RUN_COLUMNS),
}


class Statements:
    """Named SQL statements.

    Each is a block that begins with a line ``-- name: <name>`` and a line ``-- <purpose>``. In a block, ``:name`` is a parameter,
    ``{columns}`` and ``{run_columns}`` are the columns of `StoredSchedule` and `Run` in the order that rows are read in,
    ``{claimed_columns}`` those of a schedule as the claim that is being made leaves it, and ``/* conditions */`` is the place for
    those of the blocks ``<name>.<condition>`` that a call asks for; ``/* conditions of <other> */`` is for those of another name.

    Args:
        text: The blocks. What stands before the first one is a comment.
        marker: How the driver writes parameters: ``$`` for numbers after it, ``?`` for one after the other.

    Raises:
        ValueError: A name occurs twice, or a block does not say what it is for.
    """

    def __init__(self, text: str, *, marker: str) -> None:
        _, *parts = _BLOCK.split(text)
        names = parts[::2]
        wrong = {name for name in names if names.count(name) > 1} | set(re.findall(r"^-- name: (.*)", text, re.M)).difference(
            names
        )
        if wrong:
            raise ValueError(f"SQL blocks are named twice, or without a line of purpose: {', '.join(sorted(wrong))}")
        self._blocks = {name: body.strip() for name, body in zip(names, parts[1::2], strict=True)}
        self._marker = marker
        self._numbered: dict[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def bind(self, name: str, values: Mapping[str, Any], conditions: Collection[str] = ()) -> tuple[str, list[Any]]:
        """Return a statement and its arguments.

        Args:
            name: The block.
            values: What its parameters stand for; more than it has is fine.
            conditions: Which of the blocks ``<name>.<condition>`` to put in the place that is left for them.
        """
        key = name, tuple(conditions)
        if key not in self._numbered:
            self._numbered[key] = self._number(self._joined(name, conditions))
        sql, parameters = self._numbered[key]
        return sql, [values[parameter] for parameter in parameters]

    def _joined(self, name: str, conditions: Collection[str]) -> str:
        def blocks(place: re.Match[str]) -> str:
            return "\n".join(self._blocks[f"{place[1] or name}.{condition}"] for condition in conditions)

        return _CONDITIONS.sub(blocks, self._blocks[name])

    def _number(self, sql: str) -> tuple[str, tuple[str, ...]]:
        for placeholder, columns in _INCLUDED.items():
            sql = sql.replace(placeholder, columns)
        found = _PARAMETER.findall(sql)
        if self._marker == "?":
            return _PARAMETER.sub("?", sql), tuple(found)
        parameters = tuple(dict.fromkeys(found))
        return _PARAMETER.sub(lambda match: f"{self._marker}{parameters.index(match[1]) + 1}", sql), parameters


class Migration(NamedTuple):
    """One step from a schema version to the next: the name of its file, and the script in it."""

    name: str
    script: str


@cache
def load_migrations(package: str) -> tuple[Migration, ...]:
    """Return the migrations shipped in the folder ``migrations`` of `package`; the one at index n leads to version n + 1.

    Raises:
        ValueError: Their files are not numbered 0001, 0002, …
    """
    names = sorted(entry.name for entry in files(package).joinpath("migrations").iterdir() if entry.name.endswith(".sql"))
    if [name.partition("_")[0] for name in names] != [f"{number:04}" for number in range(1, len(names) + 1)]:
        raise ValueError(f"migrations are not numbered 0001, 0002, …: {', '.join(names)}")
    return tuple(Migration(name, read_sql(package, f"migrations/{name}")) for name in names)


@cache
def read_sql(package: str, path: str) -> str:
    """Return the text of a file that is shipped with `package`."""
    return files(package).joinpath(path).read_text(encoding="utf-8")


def split_script(script: str) -> Iterator[str]:
    """Yield the statements of `script`, for drivers that take one at a time. Each ends at the end of a line.

    SQLite's tokenizer says where: it knows quotes, comments and triggers.

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
