"""A change stream that is flooded: most of it is not read, and nothing of it is missed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskiq_sources_conformance.build import TIMEOUT, schedule
from taskiq_sources_conformance.rules.push import watching
from taskiq_sources_mongo.database import Database
from taskiq_sources_mongo.store import MongoStore

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["mongo", "mongo_motor"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_flood_is_left_and_what_comes_meanwhile_is_told(
    store: MongoStore, other: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a flood the stream is taken up anew, behind all that has come by then: of that the watcher is told at once."""
    streams, go_on = [], asyncio.Event()
    left = asyncio.Event()
    run = Database.run

    async def noted(database: Database, name: str, **values: Any) -> Any:
        if name == "changes":
            streams.append(database)
            if len(streams) > 1:
                left.set()
                await go_on.wait()
        return await run(database, name, **values)

    monkeypatch.setattr(Database, "run", noted)
    async with watching(store) as watcher:
        await other.put([schedule(f"flood-{number}") for number in range(1_000)])
        await asyncio.wait_for(left.wait(), TIMEOUT)
        for _ in range(10):  # what was told of the flood is counted
            await asyncio.sleep(0)
        count = watcher.count
        await other.put([schedule("unseen")])
        go_on.set()
        await watcher.value_after(count)

        count = watcher.count
        await other.put([schedule("later")])
        await watcher.value_after(count)


async def test_a_few_changes_are_all_read(store: MongoStore, other: MongoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream is all it takes for changes that are no flood."""
    streams = []
    run = Database.run

    async def noted(database: Database, name: str, **values: Any) -> Any:
        streams.extend([name] if name == "changes" else [])
        return await run(database, name, **values)

    monkeypatch.setattr(Database, "run", noted)
    async with watching(store) as watcher:
        for number in range(20):
            count = watcher.count
            await other.put([schedule(f"one-{number}")])
            await watcher.value_after(count)

    assert streams == ["changes"]
