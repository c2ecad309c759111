"""Where a schedule is among the shards, and how many schedules are sent at once. Knows no contract, and no server."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, TypeAlias

from taskiq_sources.backends import portions
from taskiq_sources_redis.records import Part, join

#: The keys of a shard, in the order that the scripts take them in.
Keys: TypeAlias = tuple[bytes, ...]

#: A shard, and in one text what an operation is told of schedules in it; nothing for all of them.
Place: TypeAlias = tuple[Keys, bytes]

BATCH: Final = 500  # schedules in one call: a few milliseconds, in which Redis answers nobody else
_BATCH_BYTES = 4 * 1024 * 1024
_NAMES = ("state", "documents", "due", "leased", "parked", "ids", "index", "runs", "run-times", "runs-index", "meta")


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

    def places(self, parts: Iterable[Part] | None = None, *, told: bytes = b"") -> list[Place]:
        """Sort the parts by shard, and cut what goes to each into batches that are small enough; of None, tell `told` to all."""
        if parts is None:
            return [(keys, told) for keys in self.keys]
        by_shard: defaultdict[Keys, list[bytes]] = defaultdict(list)
        for part in parts:
            by_shard[self.keys[zlib.crc32(part[0]) % len(self.keys)]].append(join(part))
        return [(keys, join(batch)) for keys, some in by_shard.items() for batch in portions(some, _fitting(some))]


def _fitting(parts: Iterable[bytes]) -> int:
    """Return how many of the parts go into one call, even if all were as long as the longest."""
    return max(1, min(BATCH, _BATCH_BYTES // max(map(len, parts))))
