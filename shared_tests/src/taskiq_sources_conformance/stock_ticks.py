"""Rules about what taskiq's own loop tries at each of its ticks; a part of :mod:`taskiq_sources_conformance.stock`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from taskiq import TaskiqScheduler

from taskiq_sources_conformance.stage import MINUTE, NOON, Stage, a_task, assert_on_time


class TickRules:
    """What is tried, and when."""

    async def test_each_minute_is_sent_when_it_begins(self, stage: Stage) -> None:
        """A loop that starts amid a minute tries then, and would not try again for a minute. (Look at `_loop_hits`.)"""
        await stage.world.run_for(timedelta(seconds=37))
        await stage.source.add_schedule(a_task("cron", cron="* * * * *"))
        await stage.world.start(stage.scheduler())

        await stage.world.run_for(timedelta(minutes=6))

        minute = NOON.replace(microsecond=0, second=0)
        assert_on_time(stage.broker.sent_at("cron"), [minute + k * MINUTE for k in range(1, 7)])

    async def test_what_is_paused_is_not_tried_each_second(self, stage: Stage) -> None:
        """An entry whose schedule nobody may send rests until the list is read anew. (Look at `_look_again`.)"""
        await stage.source.add_schedule(a_task("late", interval=3600))
        ours, claims = stage.another_source(), 0
        claim = ours.store.claim

        async def counted(*args: Any, **options: Any) -> Any:
            nonlocal claims
            claims += 1
            return await claim(*args, **options)

        ours.store.claim = counted  # type: ignore[method-assign]
        await stage.world.start(TaskiqScheduler(stage.broker, [ours]), update_interval=timedelta(minutes=10))
        await stage.source.pause("late")

        await stage.world.run_for(timedelta(minutes=5))

        assert claims <= 3
