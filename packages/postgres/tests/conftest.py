"""What the tests of this package share: a server, names of their own in it, and proof that nothing is left behind."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from taskiq_sources_conformance.servers import url_or_skip


@pytest.fixture(scope="session")
def url() -> str:
    return url_or_skip("postgres")


@pytest.fixture
def prefix(url: str) -> Iterator[str]:
    """A prefix of this test's own, in the schema public. Its tables are dropped in the end."""
    prefix = f"t{secrets.token_hex(6)}_"
    yield prefix
    asyncio.run(execute(url, f"DROP TABLE IF EXISTS {prefix}schedules, {prefix}runs"))


async def execute(url: str, *statements: str) -> list[Any]:
    """Run statements on a connection of their own, and return the rows of the last one."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[Any] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()
