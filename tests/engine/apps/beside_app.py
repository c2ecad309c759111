"""An application with a durable source beside taskiq's own label source and a source of somebody else's."""

from __future__ import annotations

import engine_app
import taskiq
from taskiq.schedule_sources import LabelScheduleSource

from taskiq_sources import DurableScheduler

broker = engine_app.broker


@broker.task(task_name="each minute", schedule=[{"cron": "* * * * *", "schedule_id": "label cron"}])
async def each_minute() -> None:
    """Scheduled by a label."""


@broker.task(task_name="each second", schedule=[{"interval": 1, "schedule_id": "label interval"}])
async def each_second() -> None:
    """Scheduled by a label."""


class CountedSource(taskiq.ScheduleSource):
    """Somebody else's source: has nothing, and writes down when it is asked."""

    async def get_schedules(self) -> list[taskiq.ScheduledTask]:
        """Return nothing."""
        engine_app.write("listed")
        return []


class Beside(engine_app.ToldScheduler):
    """All three."""


scheduler: DurableScheduler = Beside(
    broker,
    [engine_app.source, LabelScheduleSource(broker), CountedSource()],
    **engine_app.seconds(engine_app.CONFIG["scheduler"]),
)
# What is written down while draining asks this one.
engine_app.scheduler = scheduler  # type: ignore[assignment]
