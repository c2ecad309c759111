"""Loads the SQL of this package, and numbers its named parameters as PostgreSQL wants it. Knows its form, not its meaning."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from taskiq_sources_postgres.names import Names

_BLOCK = re.compile(r"^-- name: (\S+)\n-- .*\n(?:-- .*\n)*", re.MULTILINE)  # a name, and its purpose in one line or more
_PARAMETER = re.compile(r"(?<!:):([a-z_]+)\b")  # and not ::text
_CONDITIONS = "/* conditions */"


class Statements:
    """The blocks of ``sql/queries.sql``, with the identifiers of `names` in them."""

    def __init__(self, names: Names) -> None:
        _, *parts = _BLOCK.split(names.fill(read_sql("sql/queries.sql")))
        self._blocks = {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}
        self._numbered: dict[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]] = {}

    def bind(self, name: str, values: Mapping[str, Any], conditions: Collection[str] = ()) -> tuple[str, list[Any]]:
        """Return a statement and its arguments.

        Args:
            name: The block.
            values: What its parameters stand for; more than it has is fine.
            conditions: Which of the blocks ``<name>.<condition>`` to put in the place that is left for them.
        """
        key = name, tuple(conditions)
        if key not in self._numbered:
            self._numbered[key] = self._number(name, conditions)
        sql, parameters = self._numbered[key]
        return sql, [values[parameter] for parameter in parameters]

    def _number(self, name: str, conditions: Collection[str]) -> tuple[str, tuple[str, ...]]:
        added = "\n".join(self._blocks[f"{name}.{condition}"] for condition in conditions)
        sql = self._blocks[name].replace(_CONDITIONS, added).replace("{columns}", self._blocks["columns"])
        parameters = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
        return _PARAMETER.sub(lambda found: f"${parameters.index(found[1]) + 1}", sql), parameters


@cache
def read_sql(path: str) -> str:
    """Return the text of a file of this package."""
    return files(__package__).joinpath(path).read_text(encoding="utf-8")


@cache
def migrations() -> tuple[str, ...]:
    """Return the scripts of ``migrations``; the one at index n leads from schema version n to n + 1."""
    names = sorted(entry.name for entry in files(__package__).joinpath("migrations").iterdir() if entry.name.endswith(".sql"))
    return tuple(read_sql(f"migrations/{name}") for name in names)
