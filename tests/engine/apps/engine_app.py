"""The application under test: an ordinary taskiq application whose broker writes down what it is given.

``taskiq scheduler engine_app:scheduler`` runs it. The harness says in ``ENGINE_CONFIG`` where its store is, how it is set up and
at which step it has to die. Whatever happens is appended to a log that all processes share, one write a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

from taskiq import AsyncBroker, BrokerMessage

from taskiq_sources import DurableScheduler, source_from_url

CONFIG: dict[str, Any] = json.loads(os.environ["ENGINE_CONFIG"])
DIRECTORY = Path(CONFIG["directory"])
DIED = 86  # exit code of a process that was told to die at some step

#: Raised from the broker while this file exists.
BROKER_DOWN = DIRECTORY / "broker-down"


def write(what: str, **fields: Any) -> None:
    """Append a line to the log that all processes share."""
    line = json.dumps({"what": what, "by": CONFIG["name"], "at": time.monotonic(), **fields})
    descriptor = os.open(DIRECTORY / "log.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def die_if(step: str) -> None:
    """End this process on the spot, as a SIGKILL would, if this is the step at which it has to."""
    if CONFIG.get("dies") == step:
        write("died", step=step)
        os._exit(DIED)


class RecordingBroker(AsyncBroker):
    """Takes a message at once, and acknowledges it ``ack`` seconds later."""

    async def kick(self, message: BrokerMessage) -> None:
        """Write the message down."""
        if BROKER_DOWN.exists():
            write("refused", task_id=message.task_id)
            raise ConnectionError("the broker is down")
        die_if("before kick")
        labels = message.labels
        write("sent", task_id=message.task_id, schedule_id=labels.get("schedule_id"), scheduled_for=labels.get("scheduled_for"))
        await asyncio.sleep(CONFIG.get("ack", 0))
        die_if("after kick")

    async def listen(self) -> AsyncGenerator[bytes, None]:
        """Yield nothing: tasks are not executed here."""
        await asyncio.Event().wait()
        yield b""


class ToldScheduler(DurableScheduler):
    """Writes down when it is ready and when it begins to stop."""

    draining = False

    async def startup(self) -> None:
        """Start, and say so."""
        await super().startup()
        write("ready", pid=os.getpid())

    async def shutdown(self) -> None:
        """Say so, and stop."""
        self.draining = True
        write("stopping")
        await super().shutdown()
        write("stopped")


def seconds(options: dict[str, Any]) -> dict[str, Any]:
    """Return keyword arguments from JSON: floating-point numbers are seconds."""
    return {name: timedelta(seconds=value) if isinstance(value, float) else value for name, value in options.items()}


broker = RecordingBroker()
source = source_from_url(CONFIG["url"], claimant=CONFIG["name"], **seconds(CONFIG["source"]))
scheduler = ToldScheduler(broker, [source], **seconds(CONFIG["scheduler"]))

_claim, _settle, _renew = source.store.claim, source.store.settle, source.store.renew


async def claim(*args: Any, **kwargs: Any) -> Any:
    """Claim, and die before anybody learns of it, if told so."""
    claims = await _claim(*args, **kwargs)
    if claims:
        die_if("after claim")
    return claims


async def settle(outcomes: Any) -> Any:
    """Settle, and write down which sends are on record from now on: no store can know of the others."""
    if CONFIG.pop("fails_once", None) == "settle":
        raise RuntimeError("a bug in the store")
    if scheduler.draining:
        die_if("during drain")
    ids = [outcome.claim.schedule.id for outcome in outcomes]
    if len(set(ids)) < len(ids):
        write("twice in one settle", schedule_ids=ids)
        os._exit(DIED)  # the contract forbids it: no store has to make sense of it
    lost = await _settle(outcomes)
    done = [run.task_id for outcome in outcomes if outcome.claim.schedule.id not in lost for run in outcome.runs]
    if done:
        die_if("settled, reply unread")
        write("settled", task_ids=done)
    return lost


async def renew(*args: Any, **kwargs: Any) -> Any:
    """Renew, and die before anybody learns of it, if told so."""
    ours = await _renew(*args, **kwargs)
    die_if("during renew")
    write("renewed", schedule_ids=sorted(ours))
    return ours


source.store.claim, source.store.settle, source.store.renew = claim, settle, renew  # type: ignore[method-assign]


@broker.task(task_name="job")
async def job(*_: Any) -> None:
    """Never executed: the broker only writes down."""


__all__ = ["broker", "scheduler", "source"]
