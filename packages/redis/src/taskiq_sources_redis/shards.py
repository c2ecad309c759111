"""Where a schedule is among the shards, and how many schedules are sent at once. Knows no contract, and no server."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

#: The keys of a shard, in the order that the scripts take them in.
Keys: TypeAlias = tuple[bytes, ...]

#: What an operation is told of one schedule; the id comes first.
Part: TypeAlias = Sequence[bytes]

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

    def of(self, schedule_id: bytes) -> Keys:
        """Return the keys of the shard that a schedule is in."""
        return self.keys[zlib.crc32(schedule_id) % len(self.keys)]

    def batches(self, parts: Iterable[Part]) -> dict[Keys, list[list[bytes]]]:
        """Sort the parts by shard, and cut what goes to each into batches, small enough in number and in bytes."""
        by_shard: dict[Keys, list[Part]] = {self.keys[0]: list(parts)}
        if len(self.keys) > 1:
            by_shard, every = {}, by_shard[self.keys[0]]
            for part in every:
                by_shard.setdefault(self.of(part[0]), []).append(part)
        return {keys: list(_cut(some)) for keys, some in by_shard.items()}


def _cut(parts: Iterable[Part]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    number = size = 0
    for part in parts:
        length = sum(map(len, part))
        if number and (number == BATCH or size + length > _BATCH_BYTES):
            yield batch
            batch, number, size = [], 0, 0
        batch += part
        number, size = number + 1, size + length
    if batch:
        yield batch
