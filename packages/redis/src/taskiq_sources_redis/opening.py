"""What is checked when a store is opened: the server, how it is set up, and the layout of the data."""

from __future__ import annotations

import logging
import re

from taskiq_sources.errors import BackendVersionError, ScheduleValidationError, SchemaVersionError, SourceConnectionError
from taskiq_sources_redis.server import Server
from taskiq_sources_redis.shards import Shards

logger = logging.getLogger("taskiq_sources")

_SCHEMA_VERSION = 1
_OLDEST_SERVER = (6, 2)
_NO_AOF = (
    "Redis at %s keeps no append-only file: when it restarts, schedules written since its last snapshot are gone, and what "
    "was sent since then is sent again. Set 'appendonly yes'."
)
_EVICTS = "Redis at %s may evict schedules when its memory is full (maxmemory-policy %s). Set 'maxmemory-policy noeviction'."


async def prepare(server: Server, shards: Shards, prefix: str) -> None:
    """Note the layout of the data if there is none yet, and check everything; warn of settings that break promises.

    Raises:
        SchemaVersionError: A newer release made the layout.
        ScheduleValidationError: The data is divided otherwise.
        SourceConnectionError: The server is a replica or too old, cannot be reached, or refuses.
    """
    *noted, told = await server.run("open", shards.keys[0], _SCHEMA_VERSION, len(shards.keys))
    version, number = map(int, noted)
    if version > _SCHEMA_VERSION:
        problem = f"schema version {version} under prefix {prefix!r}; this release knows {_SCHEMA_VERSION}: upgrade it"
        raise SchemaVersionError(f"Redis at {server.where}: {problem}")
    if number != len(shards.keys):
        problem = f"the schedules of prefix {prefix!r} are spread over {number}: use that, or another prefix"
        raise ScheduleValidationError("shards", len(shards.keys), problem)
    info = dict(line.split(":", 1) for line in told.decode(errors="replace").splitlines() if ":" in line)
    found = info.get("redis_version", "6.2")
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < _OLDEST_SERVER:
        raise BackendVersionError(f"Redis at {server.where} is version {found}; 6.2 or later is needed")
    if info.get("role") == "slave":
        raise SourceConnectionError(f"Redis at {server.where} is a read-only replica; connect to the master")
    if info.get("aof_enabled") == "0":
        logger.warning(_NO_AOF, server.where)
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        logger.warning(_EVICTS, server.where, info["maxmemory_policy"])
