"""`StockLoopConformance`: a source under taskiq's own, unmodified scheduler loop, in virtual time.

Where a rule fails, look at :mod:`taskiq_sources.stock` first, then at `claim` and `settle` of the store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import taskiq
from taskiq import TaskiqScheduler

from taskiq_sources import MergedScheduleSource, ScheduleOptions, ScheduleSource, only_unique
from taskiq_sources.clock import ManualClock
from taskiq_sources.models import Run
from taskiq_sources_conformance.base import Conformance
from taskiq_sources_conformance.stage import (
    LATENESS,
    MINUTE,
    NOON,
    SECOND,
    MakeSource,
    Stage,
    a_task,
    assert_on_time,
    fields_of,
    message_of,
)
from taskiq_sources_conformance.stock_ticks import TickRules
from taskiq_sources_conformance.virtual import ForeignSource, RecordingBroker, VirtualTime, outage


class StockLoopConformance(TickRules, Conformance):
    """Every rule of DESIGN "Under the stock loop". Subclass it, set `backend` and give it the fixture `make_source`."""

    @pytest.fixture
    def make_source(self) -> MakeSource:
        """Return a factory ``make(**options)`` whose every call gives a new source on the same data, empty at first."""
        raise NotImplementedError(f"{type(self).__qualname__} has to define the fixture make_source")

    @pytest.fixture
    def skew(self) -> timedelta:
        """How far the local wall clock of the loops is ahead of the store's."""
        return timedelta(0)

    @pytest.fixture
    async def stage(self, make_source: MakeSource, skew: timedelta) -> AsyncIterator[Stage]:
        """An application's source, and virtual time for schedulers on the same data."""
        clock = ManualClock(NOON)
        broker = RecordingBroker(clock)
        async with AsyncExitStack() as stack:
            world = stack.enter_context(VirtualTime(clock, skew).installed())
            stage = Stage(make_source, clock, broker, world, stack)
            stack.push_async_callback(world.kill_all)
            await stage.source.startup()
            yield stage

    # -- several schedulers --------------------------------------------------------------------------------------------------

    async def test_several_loops_send_each_occurrence_once(self, stage: Stage) -> None:
        """Three loops on one store send each cron, interval and one-off occurrence exactly once, within a second."""
        await stage.source.add_schedules(
            [
                a_task("cron", cron="*/2 * * * *"),
                a_task("interval", interval=45),
                a_task("once", time=NOON + timedelta(seconds=100)),
            ]
        )
        for _ in range(3):
            await stage.world.start(stage.scheduler())

        await stage.world.run_for(timedelta(minutes=10))

        minute = NOON.replace(microsecond=0)
        expected = {
            "cron": [minute + k * 2 * MINUTE for k in range(1, 6)],
            "interval": [NOON + k * timedelta(seconds=45) for k in range(14)],
            "once": [NOON + timedelta(seconds=100)],
        }
        for schedule_id, nominal in expected.items():
            assert_on_time(stage.broker.sent_at(schedule_id), nominal)
        assert len({message.task_id for message in stage.broker.messages}) == len(stage.broker.messages)

    async def test_a_second_loop_takes_over_what_a_killed_one_was_sending(self, stage: Stage) -> None:
        """An occurrence whose scheduler died while sending is sent by another after the lease, with the same task_id."""
        await stage.source.add_schedule(a_task("once", time=NOON + timedelta(seconds=5)))
        doomed = stage.another_source()
        entry = (await doomed.get_schedules())[0]
        await stage.world.run_for(timedelta(seconds=6))
        await doomed.pre_send(entry)
        # Sent, but never settled: the window that no store can close.
        await stage.broker.kick(stage.broker.formatter.dumps(message_of(entry)))
        await stage.world.start(stage.scheduler(), update_interval=timedelta(seconds=10))

        await stage.world.run_for(timedelta(seconds=60))

        assert len(stage.broker.messages) == 2
        assert len({message.task_id for message in stage.broker.messages}) == 1
        assert stage.broker.messages[1].sent_at - stage.broker.messages[0].sent_at >= timedelta(seconds=30)

    # -- restarts and downtime -----------------------------------------------------------------------------------------------

    async def test_a_restart_within_the_minute_sends_nothing_again(self, stage: Stage) -> None:
        """A cron occurrence that was sent is not sent again by a scheduler that starts in the same minute."""
        await stage.source.add_schedule(a_task("cron", cron="* * * * *"))
        loop = await stage.world.start(stage.scheduler())
        await stage.world.run_for(timedelta(seconds=65))
        await stage.world.kill(loop)

        await stage.world.start(stage.scheduler())
        await stage.world.run_for(timedelta(seconds=50))

        assert len(stage.broker.messages) == 1

    async def test_an_interval_keeps_its_phase_across_restarts(self, stage: Stage) -> None:
        """However often schedulers restart, an interval is sent at its creation plus whole multiples, and only then."""
        await stage.source.add_schedule(a_task("interval", interval=90))
        for _ in range(8):
            loop = await stage.world.start(stage.scheduler())
            await stage.world.run_for(timedelta(seconds=55))
            await stage.world.kill(loop)
            await stage.world.run_for(timedelta(seconds=2))

        nominal = [run.scheduled_for for run in await _runs(stage.source)]
        assert [(moment - NOON) % timedelta(seconds=90) for moment in nominal] == [timedelta(0)] * len(nominal)
        assert len(stage.broker.messages) == len(set(nominal)) == 6

    @pytest.mark.parametrize(
        ("misfire", "expected"),
        [("fire_once", [("sent", 5)]), ("fire_all", [("sent", 1)] * 5), ("skip", [("missed", 5)])],
    )
    async def test_downtime_is_made_up_by_the_misfire_policy(self, stage: Stage, misfire: Any, expected: Any) -> None:
        """After five hours without a scheduler an hourly cron is made up as its misfire policy says."""
        await stage.source.add_schedule(a_task("hourly", cron="30 * * * *", schedule_options=ScheduleOptions(misfire=misfire)))
        await stage.world.run_for(timedelta(hours=5))

        await stage.world.start(stage.scheduler())
        await stage.world.run_for(timedelta(minutes=2))

        assert [(run.status, run.coalesced) for run in await _runs(stage.source)] == expected

    async def test_an_overdue_one_off_is_sent_at_the_first_refresh(self, stage: Stage) -> None:
        """A one-off that fell due during downtime is sent late, once."""
        await stage.source.add_schedule(a_task("once", time=NOON + MINUTE))
        await stage.world.run_for(timedelta(hours=7))

        await stage.world.start(stage.scheduler())
        await stage.world.run_for(timedelta(minutes=3))

        assert len(stage.broker.messages) == 1
        assert stage.broker.messages[0].sent_at <= NOON + timedelta(hours=7, seconds=2)

    async def test_an_interval_is_never_sent_early(self, stage: Stage) -> None:
        """The loop starts an interval when it first sees it; an occurrence is sent when it is due all the same, not before."""
        starts = NOON + timedelta(seconds=20.7)
        options = ScheduleOptions(start_at=starts)
        await stage.source.add_schedule(a_task("interval", interval=3, schedule_options=options))
        await stage.world.start(stage.scheduler())

        await stage.world.run_for(timedelta(minutes=1))

        lags = [run.recorded_at - run.scheduled_for for run in await _runs(stage.source)]
        assert all(timedelta(0) <= lag <= LATENESS for lag in lags)
        assert min(stage.broker.sent_at("interval")) >= starts

    # -- faults --------------------------------------------------------------------------------------------------------------

    async def test_a_failing_broker_delays_but_loses_nothing(self, stage: Stage) -> None:
        """With a broker that fails three times, the one-off and the cron are sent once each, by the same scheduler process."""
        await stage.source.add_schedules([a_task("cron", cron="1 12 * * *"), a_task("once", time=NOON + timedelta(seconds=90))])
        stage.broker.fail_next = 3
        await stage.world.start(stage.scheduler(lease=timedelta(seconds=10)), update_interval=timedelta(seconds=20))

        await stage.world.run_for(timedelta(minutes=6))

        assert len(stage.broker.refused) == 3
        assert sorted(message.schedule_id for message in stage.broker.messages) == ["cron", "once"]
        ids = {message.schedule_id: message.task_id for message in stage.broker.messages}
        assert all(ids[message.schedule_id] == message.task_id for message in stage.broker.refused)

    async def test_a_store_outage_forgets_nothing(self, stage: Stage) -> None:
        """Through three failing refreshes no schedule disappears, no interval fires again, and other sources go on."""
        await stage.source.add_schedules([a_task("hourly", interval=3600), a_task("once", time=NOON + timedelta(minutes=20))])
        theirs = ForeignSource([taskiq.ScheduledTask(**fields_of("foreign"), cron="* * * * *")])
        ours = stage.another_source()
        loop = await stage.world.start(TaskiqScheduler(stage.broker, [ours, theirs]))
        await stage.world.run_for(timedelta(seconds=90))
        before = {task.schedule_id for _, tasks in loop.scheduled_tasks for task in tasks}

        async with outage(ours.store):
            await stage.world.run_for(timedelta(minutes=4))
            during = {task.schedule_id for _, tasks in loop.scheduled_tasks for task in tasks}
        await stage.world.run_for(timedelta(minutes=20))

        assert {"hourly", "once", "foreign"} <= before & during
        assert len(stage.broker.sent_at("hourly")) == 1
        assert len(stage.broker.sent_at("once")) == 1
        assert len(stage.broker.sent_at("foreign")) >= 24

    @pytest.mark.parametrize("skew", [timedelta(seconds=seconds) for seconds in (-40, -1, 1, 40)])
    async def test_the_store_s_clock_decides(self, stage: Stage) -> None:
        """A scheduler whose local clock is wrong sends each occurrence once, late by the refresh interval at most."""
        await stage.source.add_schedules(
            [
                a_task("cron", cron="* * * * *"),
                a_task("interval", interval=100),
                a_task("once", time=NOON + timedelta(minutes=3)),
            ]
        )
        await stage.world.start(stage.scheduler())

        await stage.world.run_for(timedelta(minutes=10, seconds=30))

        lags = [lag for run in await _runs(stage.source) for lag in [run.recorded_at - run.scheduled_for]]
        assert min(lags) >= -timedelta(seconds=1.5)
        assert max(lags) <= timedelta(seconds=61)
        assert sum(run.coalesced for run in await _runs(stage.source)) == len(set(await _occurrences(stage.source))) == 10 + 7 + 1

    # -- edits ---------------------------------------------------------------------------------------------------------------

    async def test_what_is_deleted_or_paused_just_before_is_not_sent(self, stage: Stage) -> None:
        """A schedule deleted or paused three seconds before it is due is not sent, although the loop still holds the old list."""
        due = NOON + timedelta(seconds=30)
        await stage.source.add_schedules([a_task("deleted", time=due), a_task("paused", time=due), a_task("left", time=due)])
        await stage.world.start(stage.scheduler())
        await stage.world.run_for(timedelta(seconds=27))
        await stage.source.delete_schedule("deleted")
        await stage.source.pause("paused")

        await stage.world.run_for(timedelta(minutes=2))

        assert [message.schedule_id for message in stage.broker.messages] == ["left"]

    async def test_the_stored_arguments_are_sent(self, stage: Stage) -> None:
        """Arguments edited after the loop has read its list are those that are sent."""
        due = NOON + timedelta(seconds=30)
        await stage.source.add_schedule(a_task("edited", time=due, args=["old"]))
        await stage.world.start(stage.scheduler())
        await stage.world.run_for(timedelta(seconds=10))
        await stage.source.add_schedule(a_task("edited", time=due, args=["new"], labels={"colour": "red"}))

        await stage.world.run_for(timedelta(minutes=1))

        assert [message.args for message in stage.broker.messages] == [["new"]]
        assert stage.broker.messages[0].labels == {"colour": "red", "schedule_id": "edited"}

    async def test_time_and_cron_on_one_schedule(self, stage: Stage) -> None:
        """A schedule with a time and a cron keeps its cron after the time has passed."""
        await stage.source.add_schedule(a_task("both", cron="*/5 * * * *", time=NOON + timedelta(seconds=90)))
        await stage.world.start(stage.scheduler())

        await stage.world.run_for(timedelta(minutes=11))

        minute = NOON.replace(microsecond=0)
        assert_on_time(stage.broker.sent_at("both"), [NOON + timedelta(seconds=90), minute + 5 * MINUTE, minute + 10 * MINUTE])

    # -- what the loop's cron parser cannot do -------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("cron", "seconds"),
        [
            ("*/20 * * * * *", [k * 20 for k in range(1, 31)]),
            ("@hourly", []),
            ("*/5 * * * 0-6", [300, 600]),
            ("*/5 * * * mon-sun", [300, 600]),
            ("0/4 * * jan-dec *", [240, 480]),
            ("  3  *  *  *  * ", [180]),
        ],
    )
    async def test_cron_that_the_loop_cannot_evaluate_is_sent_on_time(self, stage: Stage, cron: str, seconds: list[int]) -> None:
        """Seconds, aliases, names, ranges and steps that taskiq's own parser rejects or misses are sent within a second."""
        await stage.source.add_schedule(a_task("odd", cron=cron))
        await stage.world.start(stage.scheduler())

        await stage.world.run_for(timedelta(minutes=10))

        minute = NOON.replace(microsecond=0)
        assert_on_time(stage.broker.sent_at("odd"), [minute + timedelta(seconds=second) for second in seconds])

    @pytest.mark.parametrize(
        "day", [datetime(2030, 3, 30, 12, tzinfo=timezone.utc), datetime(2030, 10, 26, 12, tzinfo=timezone.utc)]
    )
    async def test_a_daily_job_runs_once_when_clocks_change(self, stage: Stage, day: datetime) -> None:
        """02:30 in Berlin is sent once on the night on which it does not exist, and once on the night on which it comes twice."""
        stage.clock.set(day)
        await stage.source.add_schedule(a_task("nightly", cron="30 2 * * *", cron_offset="Europe/Berlin"))
        await stage.world.run_for(timedelta(hours=11))
        for _ in range(2):
            await stage.world.start(stage.scheduler())

        await stage.world.run_for(timedelta(hours=5))

        assert len(stage.broker.messages) == 1

    async def test_jitter_is_kept(self, stage: Stage) -> None:
        """An occurrence with jitter is sent when its jitter is over, not when the loop's own cron says so."""
        await stage.source.add_schedule(
            a_task("jittery", cron="*/10 * * * *", schedule_options=ScheduleOptions(jitter=5 * MINUTE))
        )
        due = [due async for info in stage.source.iter_schedules() if (due := info.state.next_run_at)]
        await stage.world.start(stage.scheduler())

        await stage.world.run_for(timedelta(minutes=16))

        assert_on_time(stage.broker.sent_at("jittery"), due)

    # -- what is sent --------------------------------------------------------------------------------------------------------

    async def test_nothing_is_added_to_the_stored_labels(self, stage: Stage) -> None:
        """Messages carry the schedule's labels and ``schedule_id``; what is stored and handed out never gains a label."""
        labels = {"colour": "red", "schedule_options": '{"misfire": "skip"}'}
        await stage.source.add_schedule(a_task("labelled", interval=10, labels=labels))
        loop = await stage.world.start(stage.scheduler(), update_interval=timedelta(seconds=15))

        await stage.world.run_for(timedelta(seconds=62))

        assert len(stage.broker.messages) == 7
        assert all(message.labels == {"colour": "red", "schedule_id": "labelled"} for message in stage.broker.messages)
        stored = await stage.source.get_schedule("labelled")
        assert stored is not None
        assert stored.task is not None
        assert stored.task.labels == {"colour": "red"}
        assert all("schedule_options" not in task.labels for _, tasks in loop.scheduled_tasks for task in tasks)

    async def test_a_task_id_of_its_own_is_kept(self, stage: Stage) -> None:
        """A schedule's own task_id is the message's; without one, each occurrence has a task_id of its own."""
        await stage.source.add_schedules([a_task("fixed", time=NOON + SECOND, task_id="mine"), a_task("free", interval=10)])
        await stage.world.start(stage.scheduler())

        await stage.world.run_for(timedelta(seconds=35))

        ids = {message.task_id for message in stage.broker.messages}
        assert "mine" in ids
        assert len(ids) == len(stage.broker.messages) == 1 + 4

    async def test_skip_first_run_keeps_its_meaning(self, stage: Stage) -> None:
        """With ``--skip-first-run`` the loop leaves out the current minute and goes on with the next."""
        await stage.source.add_schedule(a_task("cron", cron="* * * * *"))
        await stage.world.run_for(timedelta(seconds=58))

        await stage.world.start(stage.scheduler(), skip_first_run=True)
        await stage.world.run_for(timedelta(minutes=3))

        assert len(stage.broker.messages) >= 2

    async def test_run_now_is_sent_by_the_loop(self, stage: Stage) -> None:
        """A manual run goes out at the next refresh, under the schedule's id, with the task_id that was promised."""
        await stage.source.add_schedule(a_task("monthly", cron="0 0 1 * *"))
        await stage.world.start(stage.scheduler(), update_interval=timedelta(seconds=10))
        task_id = await stage.source.run_now("monthly")

        await stage.world.run_for(timedelta(seconds=15))

        assert [(message.schedule_id, message.task_id) for message in stage.broker.messages] == [("monthly", task_id)]

    async def test_merged_sources_send_through_their_owners(self, stage: Stage) -> None:
        """Behind `MergedScheduleSource` every schedule is claimed and settled by the source that owns it."""
        await stage.source.add_schedules([a_task("ours", interval=20), a_task("once", time=NOON + timedelta(seconds=5))])
        ours = stage.another_source()
        merged = MergedScheduleSource(
            [ForeignSource([taskiq.ScheduledTask(**fields_of("foreign"), cron="* * * * *")]), ours], merge_func=only_unique
        )
        await stage.world.start(TaskiqScheduler(stage.broker, [merged]), update_interval=timedelta(seconds=7))

        await stage.world.run_for(timedelta(seconds=70))
        await stage.world.kill_all()

        assert len(stage.broker.sent_at("ours")) == 4
        assert len(stage.broker.sent_at("once")) == 1
        assert len(stage.broker.sent_at("foreign")) == 2
        assert {run.status for run in await _runs(stage.source)} == {"sent"}


async def _runs(source: ScheduleSource) -> list[Run]:
    return [run async for run in source.runs()]


async def _occurrences(source: ScheduleSource) -> list[str]:
    return [run.occurrence_id for run in await _runs(source)]
