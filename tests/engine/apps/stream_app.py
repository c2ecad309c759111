"""A FastStream application whose messages are scheduled: taskiq-faststream's own scheduler class with the engine beneath."""

from __future__ import annotations

import engine_app
from faststream import FastStream
from faststream.redis import RedisBroker
from taskiq_faststream import AppWrapper, StreamScheduler

from taskiq_sources import DurableMixin

CHANNEL = engine_app.CONFIG["channel"]
stream = RedisBroker(engine_app.CONFIG["redis"])
app = FastStream(stream)
broker = AppWrapper(app)
broker.task(task_name="greet", message="hello", channel=CHANNEL, schedule=[])


@stream.subscriber(CHANNEL)
async def receive(message: str) -> None:
    """Write down what FastStream delivered."""
    engine_app.write("received", message=message)


class Streams(DurableMixin, StreamScheduler):
    """Sends as taskiq-faststream does: all labels become arguments of ``publish``."""

    draining = False

    async def startup(self) -> None:
        """Start, and say so."""
        await super().startup()
        engine_app.write("ready")


scheduler = Streams(broker, [engine_app.source])
engine_app.scheduler = scheduler  # type: ignore[assignment]
