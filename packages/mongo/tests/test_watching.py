"""A change stream that is flooded: most of it is not read, and nothing of it is missed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.synchronous.change_stream import ChangeStream

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources_conformance.build import TIMEOUT, outcome, schedule, take
from taskiq_sources_conformance.rules.push import watching
from taskiq_sources_mongo import database
from taskiq_sources_mongo.database import Database
from taskiq_sources_mongo.store import MongoStore

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["mongo", "mongo_motor"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Streams:
    """Counts the change streams that are begun, and holds up all but the first until `go_on` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.flooded = asyncio.Event()
        self.go_on = asyncio.Event()
        self.error: Exception | None = None
        original = Database.run

        async def run(session: Database, name: str, **values: Any) -> Any:
            if name == "changes":
                self.count += 1
                if self.count > 1:
                    self.flooded.set()
                    await self.go_on.wait()
                    if self.error is not None:
                        raise self.error
            return await original(session, name, **values)

        monkeypatch.setattr(Database, "run", run)

    async def flood(self, store: MongoStore) -> None:
        """Have more changes come than are worth to be read, and wait until nobody reads them."""
        await store.put([schedule(f"flood-{number}") for number in range(1_000)])
        await asyncio.wait_for(self.flooded.wait(), TIMEOUT)
        for _ in range(10):  # what was told by then is counted
            await asyncio.sleep(0)


@pytest.fixture
def streams(store: MongoStore, other: MongoStore, monkeypatch: pytest.MonkeyPatch) -> Streams:
    """The change streams of both stores."""
    return Streams(monkeypatch)


async def test_a_flood_is_left_and_what_comes_meanwhile_is_told(store: MongoStore, other: MongoStore, streams: Streams) -> None:
    """After a flood the stream is taken up anew, behind all that has come by then: of that the watcher is told at once."""
    async with watching(store) as watcher:
        await streams.flood(other)
        count = watcher.count
        await other.put([schedule("unseen")])
        streams.go_on.set()
        await watcher.value_after(count)

        count = watcher.count
        await other.put([schedule("later")])
        await watcher.value_after(count)


@pytest.mark.parametrize("settles_end", [True, False])
async def test_after_a_flood_settles_of_the_same_process_end_first(
    store: MongoStore, other: MongoStore, streams: Streams, monkeypatch: pytest.MonkeyPatch, settles_end: bool
) -> None:
    """They are another flood, and whoever settles looks for more by itself. Who settles for ever is told within a second."""
    asked = asyncio.Queue[None]()
    now = 0.0

    def clock() -> float:
        asked.put_nowait(None)
        return now

    monkeypatch.setattr(database, "_FLOOD_PAUSE", 0.0001)
    monkeypatch.setattr(store._session, "_clock", clock)
    async with watching(store) as watcher:
        await other.put([schedule()])
        await store.settle([outcome(claim) for claim in await take(store)])
        streams.go_on.set()
        await other.put([schedule(f"flood-{number}") for number in range(1_000)])
        for _ in range(200):  # of these, 50 are of the flood
            await asyncio.wait_for(asked.get(), TIMEOUT)
            assert streams.count == 1
        count = watcher.count
        now = 0.5 if settles_end else 1.0
        if not settles_end:
            store._session._settled_at = now
        await watcher.value_after(count)
        assert streams.count == 2


async def test_a_server_that_is_gone_after_a_flood_is_told(store: MongoStore, other: MongoStore, streams: Streams) -> None:
    """Who watches would wait for ever if the stream cannot be taken up again."""
    async with watching(store) as watcher:
        streams.error = SourceConnectionError("the server is gone")
        await streams.flood(other)
        streams.go_on.set()
        with pytest.raises(SourceConnectionError, match="the server is gone"):
            await watcher.end()


@pytest.mark.parametrize(("stream", "backend"), [(AsyncChangeStream, "mongo"), (ChangeStream, "mongo_motor")])
async def test_a_bug_of_the_driver_is_told(store: MongoStore, stream: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who watches would wait for ever if it came to nobody's ears."""

    def broken(_: object) -> None:
        raise RuntimeError("a bug")

    async with watching(store) as watcher:
        monkeypatch.setattr(stream, "try_next", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            await watcher.end()


async def test_a_watch_ends_with_its_store_after_a_flood(store: MongoStore, other: MongoStore, streams: Streams) -> None:
    """Closing amid the way to the next stream ends it without an error, as at any other time."""
    async with watching(store) as watcher:
        await streams.flood(other)
        await store.close()
        streams.go_on.set()
        await watcher.end()


async def test_changes_that_come_slowly_are_all_read(
    store: MongoStore, other: MongoStore, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are, it takes one stream."""
    monkeypatch.setattr(database, "_FLOOD", 3)
    monkeypatch.setattr(database, "_FLOOD_PAUSE", 0.0001)  # no server can store two in that time
    async with watching(store) as watcher:
        for number in range(20):
            count = watcher.count
            await other.put([schedule(f"one-{number}")])
            await watcher.value_after(count)

    assert streams.count == 1
