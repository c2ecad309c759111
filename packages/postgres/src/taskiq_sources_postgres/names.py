"""The validated identifiers: the only text of users that becomes part of an SQL statement, and the only place where it does."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from taskiq_sources.errors import ScheduleValidationError

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_MAX_SCHEMA = 63  # PostgreSQL cuts longer names
_MAX_PREFIX = 40  # leaves room for the longest name of an index


@dataclass(frozen=True)
class Names:
    """Where the tables are.

    Args:
        schema: The schema.
        prefix: How the names of tables and indexes begin.

    Raises:
        ScheduleValidationError: One of them is not a plain identifier.
    """

    schema: str = "public"
    prefix: str = "taskiq_"

    def __post_init__(self) -> None:
        for field, value, longest in (("schema", self.schema, _MAX_SCHEMA), ("prefix", self.prefix, _MAX_PREFIX)):
            if not _PLAIN.fullmatch(str(value)) or len(str(value)) > longest:
                problem = f"use 1 to {longest} lower-case letters, digits and underscores, beginning with no digit"
                raise ScheduleValidationError(field, value, problem)

    def fill(self, sql: str) -> str:
        """Return `sql` with the identifiers in place of ``{schema}`` and ``{prefix}``, which it has between double quotes."""
        return sql.replace("{schema}", self.schema).replace("{prefix}", self.prefix)

    @property
    def channel(self) -> str:
        """The channel of NOTIFY: a digest, because PostgreSQL takes no more than 63 bytes."""
        return "taskiq_sources_" + _digest(f"{self.schema}.{self.prefix}").hex()

    @property
    def lock_key(self) -> int:
        """The advisory lock over changes of the tables; one for the whole schema, which may have to be created too."""
        return int.from_bytes(_digest(self.schema)[:8], "big", signed=True)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"taskiq-sources").digest()
