"""A scheduler that runs until its standard input ends, and then tells what it has sent: part of the benchmarks."""

from __future__ import annotations

import asyncio
import json
import sys

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
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(json.dumps({"sent": len(broker.sent), "times": broker.sent}))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
