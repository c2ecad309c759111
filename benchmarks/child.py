"""A scheduler that runs until its standard input ends, and then tells what it has sent: part of the benchmarks."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from common import NullBroker

from taskiq_sources import DurableScheduler, source_from_url


async def main(settings: dict[str, object]) -> None:
    broker = NullBroker(float(str(settings["takes"])))
    options, at_once = settings["options"], settings["at_once"]
    assert isinstance(options, dict)
    assert isinstance(at_once, int)
    scheduler = DurableScheduler(broker, [source_from_url(str(settings["url"]), **options)], max_concurrent_sends=at_once)
    async with scheduler:
        print("ready", flush=True)
        stopped = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        settled_at = await _watch(scheduler, stopped) if settings["watched"] else None
        await stopped
    print(json.dumps({"sent": len(broker.sent), "times": broker.sent, "settled_at": settled_at}))


async def _watch(scheduler: DurableScheduler, stopped: asyncio.Future[str]) -> float:
    """Return when the scheduler had nothing in hand any more, as far as is seen every 10 ms; wait until it is to stop."""
    held, settled_at = 0, 0.0
    while not stopped.done():
        await asyncio.sleep(0.01)
        before, held = held, scheduler.health().sources[0].held
        if before and not held:
            settled_at = time.perf_counter()
    return settled_at


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
