"""A store in a file, and the same with one defect each between processes: a module that another process can import."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import pickle  # noqa: TID251 - a file of the test's own
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, wraps
from pathlib import Path
from typing import Any

from intact import IntactStore

from taskiq_sources.memory import MemoryData
from taskiq_sources.models import Claim

KEPT = ("schedules", "tokens", "runs")


class FileStore(IntactStore):
    """Reads the file before each call and writes it after, under a lock."""

    caught_by_machine = False

    def __init__(self, path: Path) -> None:
        super().__init__(self.data_of(path))
        self.path = path

    def data_of(self, path: Path) -> MemoryData:
        return MemoryData()

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    async def open(self) -> None:
        await super().open()
        self.load()

    def load(self) -> None:
        if self.path.exists():
            for name, value in pickle.loads(self.path.read_bytes()).items():
                setattr(self._data, name, value)

    def save(self) -> None:
        written = self.path.with_name(f"{id(self)}.new")
        written.write_bytes(pickle.dumps({name: getattr(self._data, name) for name in KEPT}))
        written.replace(self.path)

    async def watch(self) -> AsyncIterator[None]:
        seen = None
        while self._open:
            now = self.path.stat().st_ino if self.path.exists() else 0
            if now != seen:
                seen = now
                yield
            await asyncio.sleep(0.01)


def in_the_file(method: Any) -> Any:
    """Return a method that works on what is in the file."""

    @wraps(method)
    async def work(self: FileStore, *args: Any, **options: Any) -> Any:
        with self.locked():
            self.load()
            result = await method(self, *args, **options)
            self.save()
        return result

    return work


for name in ("put", "get", "page", "delete", "update", "claim", "renew", "settle", "next_due", "runs", "prune_runs"):
    setattr(FileStore, name, in_the_file(getattr(IntactStore, name)))


class LockInOneProcess(FileStore):
    """Handles of one process take turns, and those of others come between them."""

    caught_by = ("test_claims_and_edits_of_processes_never_overlap",)
    _lock = threading.Lock()

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._lock:
            yield


class CountedTokens(FileStore):
    """Tokens that were never used before, in this process."""

    caught_by = ("test_tokens_of_processes_differ",)
    _counter = itertools.count()

    async def claim(self, *args: Any, **options: Any) -> list[Claim]:
        with self.locked():
            self.load()
            claims: list[Claim] = []
            for claim in await IntactStore.claim(self, *args, **options):
                claims.append(replace(claim, token=str(next(self._counter))))
                self._data.tokens[claim.schedule.id] = claims[-1].token
            self.save()
        return claims


@cache
def data_of_this_process(path: Path) -> MemoryData:
    return MemoryData()


class WritesWhenClosed(FileStore):
    """Fast, since one process sees all that it has written anyway."""

    caught_by = ("test_what_a_process_has_written_survives_its_death",)

    def data_of(self, path: Path) -> MemoryData:
        return data_of_this_process(path)

    def load(self) -> None:
        if not self._data.schedules:
            super().load()

    def save(self) -> None:
        pass

    async def close(self) -> None:
        await super().close()
        super().save()


class TellsOneProcess(FileStore):
    """Wakes whoever watches in the same process."""

    caught_by = ("test_changes_of_another_process_wake",)

    def data_of(self, path: Path) -> MemoryData:
        return data_of_this_process(path)

    watch = IntactStore.watch
