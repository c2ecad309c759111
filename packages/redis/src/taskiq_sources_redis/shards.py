"""Where a schedule is among the shards, and how one operation is run on many of them. Knows no contract."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from taskiq_sources_redis.server import Server

T = TypeVar("T")

#: The keys of a shard, in the order that the scripts take them in.
Keys: TypeAlias = tuple[bytes, ...]

#: Of one schedule: its id, and the arguments that belong to it.
Part: TypeAlias = tuple[str, Sequence[Any]]

BATCH = 500  # schedules in one call: a few milliseconds, in which Redis answers nobody else
_BATCH_BYTES = 4 * 1024 * 1024

_NAMES = ("state", "documents", "leases", "due", "leased", "parked", "index", "runs", "runs-index", "meta")


class Shards:
    """The parts that the schedules of a prefix are divided into, each with one hash tag and so in one slot of a Cluster.

    Args:
        prefix: Any text.
        number: How many parts.
    """

    def __init__(self, prefix: str, number: int) -> None:
        # The tag ends at the first brace, and with a number, so that no two prefixes share one.
        tag = re.sub("[%{}]", lambda match: f"%{ord(match[0]):02X}", prefix)
        self.keys: list[Keys] = [tuple(f"{{{tag}:{shard}}}:{name}".encode() for name in _NAMES) for shard in range(number)]
        #: Where changes are told.
        self.channel = f"{{{tag}:0}}:changes".encode()

    def of(self, schedule_id: str) -> Keys:
        """Return the keys of the shard that a schedule is in."""
        return self.keys[zlib.crc32(schedule_id.encode()) % len(self.keys)]

    async def run(self, server: Server, script: str, *arguments: Any) -> list[Any]:
        """Run a script in every shard, and return the answers."""
        return await together([server.run(script, keys, *arguments) for keys in self.keys])

    async def run_batches(self, server: Server, script: str, parts: Iterable[Part], *fixed: Any) -> list[Any]:
        """Run a script over many schedules, in batches, all shards at once; return the answers.

        Args:
            server: Where.
            script: What.
            parts: The schedules, and their arguments.
            fixed: The arguments that come before those.
        """
        by_shard: dict[Keys, list[Sequence[Any]]] = {}
        for schedule_id, arguments in parts:
            by_shard.setdefault(self.of(schedule_id), []).append(arguments)

        async def run(keys: Keys, every: list[Sequence[Any]]) -> list[Any]:
            return [await server.run(script, keys, *fixed, *batch) for batch in _cut(every)]

        answers = await together([run(keys, every) for keys, every in by_shard.items()])
        return [answer for of_shard in answers for answer in of_shard]


async def together(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all of `calls` at once; raise the first error when all have ended, so that nothing goes on behind one's back."""
    if len(calls) == 1:
        return [await calls[0]]
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise errors[0]
    return [result for result in results if not isinstance(result, BaseException)]


def _cut(every: list[Sequence[Any]]) -> Iterator[list[Any]]:
    """Cut into batches that are small enough, in number and in bytes; the arguments of one schedule stay together."""
    batch: list[Any] = []
    number = size = 0
    for arguments in every:
        length = sum(len(part) for part in arguments if isinstance(part, bytes))
        if number and (number == BATCH or size + length > _BATCH_BYTES):
            yield batch
            batch, number, size = [], 0, 0
        batch += arguments
        number, size = number + 1, size + length
    if batch:
        yield batch
