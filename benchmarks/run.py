"""Benchmarks of stores and of the engine, the same code for every backend: ``nox -s bench -- --backend sqlite``.

Compare ratios within one run, not seconds between machines. Nothing here is a test. The parts, see `stores`, `engine`, `peers`:

- claim: claim of 100 due among 100, 100,000 and (``--million``) 1,000,000. add. cycle: claim and settle in batches.
- burst, stream: the engine's rate against bare ``kiq``. pick-up, lag: how soon things are sent.
- idle: CPU and memory with 100,000 (``--million``: 1,000,000) schedules that are not due. pair: two schedulers against one.
- peers: the burst through taskiq's own loop and the schedule sources of others (once, not for each backend).
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import engine
import peers
import stores
from common import BACKENDS

from taskiq_sources_conformance.servers import ServerUnavailable


def parts_of(backend: str, directory: Path, *, million: bool) -> dict[str, list[Callable[[], Awaitable[str]]]]:
    """Return the benchmarks by name."""
    sizes = [100, 100_000, *([1_000_000] if million else [])]
    parts: dict[str, list[Callable[[], Awaitable[str]]]] = {
        "claim": [lambda: stores.claim(backend, directory, sizes)],
        "add": [lambda: stores.add(backend, directory)],
        "cycle": [lambda finished=finished: stores.cycle(backend, directory, finished=finished) for finished in (False, True)],
        "burst": [lambda: engine.burst(backend, directory)],
        "stream": [lambda: engine.stream(backend, directory)],
        "pick-up": [lambda: engine.pick_up(backend, directory)],
        "lag": [lambda: engine.lag(backend, directory)],
        "idle": [lambda: engine.idle(backend, directory, sizes[-1])],
        "pair": [lambda: engine.pair(backend, directory)],
    }
    if backend == "memory":  # it has one process
        parts = {name: parts[name] for name in ("add", "cycle", "burst", "stream")}
    return parts


async def measure(backend: str, only: set[str], *, million: bool) -> None:
    """Print the figures of one backend."""
    with tempfile.TemporaryDirectory() as directory:
        for name, benchmarks in parts_of(backend, Path(directory), million=million).items():
            for benchmark in benchmarks if not only or name in only else ():
                try:
                    print(f"{backend}: {await benchmark()}", flush=True)
                except (ServerUnavailable, ModuleNotFoundError) as reason:
                    print(f"{backend}: {name} not run ({reason})", flush=True)


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=sorted(BACKENDS), help="only this one; may be repeated")
    parser.add_argument("--only", action="append", default=[], help="only this part; may be repeated")
    parser.add_argument("--million", action="store_true", help="with 1,000,000 schedules too (minutes)")
    arguments = parser.parse_args()
    only = set(arguments.only)
    for backend in arguments.backend or ["sqlite", "redis", "postgres", "mongo"]:
        asyncio.run(measure(backend, only, million=arguments.million))
    if "peers" in only or not (only or arguments.backend):
        peers.main()


if __name__ == "__main__":
    main()
