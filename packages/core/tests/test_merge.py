"""Merge functions and the source that applies one."""

from __future__ import annotations

import gc
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import taskiq

from taskiq_sources import (
    InMemoryScheduleSource,
    ManualClock,
    MergedScheduleSource,
    ScheduledTask,
    ScheduleNotFoundError,
    ScheduleValidationError,
    only_new,
    only_unique,
    preserve_all,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Source(taskiq.ScheduleSource):
    """Keeps a list and writes down what it is asked."""

    def __init__(self, *ids: str) -> None:
        self.schedules = [_schedule(schedule_id) for schedule_id in ids]
        self.calls: list[tuple[str, str]] = []
        self.broken = False

    async def get_schedules(self) -> list[taskiq.ScheduledTask]:
        if self.broken:
            raise ConnectionError("gone")
        return list(self.schedules)

    async def startup(self) -> None:
        if self.broken:
            raise ConnectionError("gone")
        self.calls.append(("startup", ""))

    async def shutdown(self) -> None:
        self.calls.append(("shutdown", ""))
        if self.broken:
            raise ConnectionError("gone")

    async def delete_schedule(self, schedule_id: str) -> None:
        self.calls.append(("delete", schedule_id))

    def pre_send(self, task: taskiq.ScheduledTask) -> None:
        self.calls.append(("pre_send", task.schedule_id))

    def post_send(self, task: taskiq.ScheduledTask) -> None:
        self.calls.append(("post_send", task.schedule_id))


def _schedule(schedule_id: str, **fields: Any) -> taskiq.ScheduledTask:
    return taskiq.ScheduledTask(task_name="t", labels={}, args=[], kwargs={}, schedule_id=schedule_id, interval=5, **fields)


def _ids(schedules: list[taskiq.ScheduledTask]) -> list[str]:
    return [schedule.schedule_id for schedule in schedules]


def test_preserve_all_keeps_both() -> None:
    """Old ones first, then the new ones, doubles included."""
    assert _ids(preserve_all([_schedule("a")], [_schedule("a"), _schedule("b")])) == ["a", "a", "b"]


def test_only_unique_compares_whole_schedules() -> None:
    """Equal schedules are left out; the same id with another definition is not equal."""
    old = [_schedule("a")]

    merged = only_unique(old, [_schedule("a"), _schedule("a", task_id="x"), _schedule("b"), _schedule("b")])

    assert _ids(merged) == ["a", "a", "b"]
    assert _ids(old) == ["a"], "the lists passed in stay as they are"


def test_only_unique_is_linear() -> None:
    """Ten times the schedules take about ten times the work, counted in comparisons."""

    class Counting(taskiq.ScheduledTask):
        def __eq__(self, other: object) -> bool:
            counted.append(1)
            return super().__eq__(other)

        __hash__ = None  # type: ignore[assignment]

    def comparisons(number: int) -> int:
        counted.clear()
        made = [Counting(task_name="t", labels={}, args=[], kwargs={}, schedule_id=str(i), interval=5) for i in range(number)]
        only_unique(made, [item.model_copy() for item in made])
        return len(counted)

    counted: list[int] = []
    assert comparisons(2000) <= 10 * comparisons(200)


def test_only_new_keeps_the_last() -> None:
    """What was found before is dropped."""
    assert _ids(only_new([_schedule("a")], [_schedule("b")])) == ["b"]


async def test_sends_that_fail_are_forgotten_with_their_schedules() -> None:
    """Of those nobody is told, so what is kept for them goes when the loop has the next list; what is sent after that is not."""
    merged = MergedScheduleSource([source := Source(*map(str, range(50)))])
    [slow, *_] = await merged.get_schedules()
    await merged.pre_send(slow)
    for _ in range(20):
        source.schedules = [_schedule(str(number)) for number in range(50)]
        for schedule in await merged.get_schedules():
            await merged.pre_send(schedule)
    del schedule
    gc.collect()

    assert len(merged._sending) <= 51
    await merged.post_send(slow)
    assert source.calls[-1] == ("post_send", "0")


async def test_any_function_merges() -> None:
    """A function that filters and one that changes schedules both work."""

    def only_even(old: list[taskiq.ScheduledTask], new: list[taskiq.ScheduledTask]) -> list[taskiq.ScheduledTask]:
        even = [schedule for schedule in [*old, *new] if int(schedule.schedule_id) % 2 == 0]
        return [schedule.model_copy(update={"task_name": "changed"}) for schedule in even]

    merged = await MergedScheduleSource([Source("1", "2"), Source("3", "4")], only_even).get_schedules()

    assert [(schedule.schedule_id, schedule.task_name) for schedule in merged] == [("2", "changed"), ("4", "changed")]


async def test_hooks_reach_the_owner_even_of_a_copy() -> None:
    """``pre_send`` and ``post_send`` go to the source that the schedule came from, also if the merge function copied it."""
    first, second = Source("a"), Source("b")
    merged = MergedScheduleSource([first, second], lambda old, new: [item.model_copy() for item in [*old, *new]])

    for schedule in await merged.get_schedules():
        await merged.pre_send(schedule)
        await merged.post_send(schedule)

    assert first.calls == [("pre_send", "a"), ("post_send", "a")]
    assert second.calls == [("pre_send", "b"), ("post_send", "b")]


@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.parametrize("copied", [False, True])
async def test_what_has_another_id_after_each_send_is_sent_each_time(copied: bool, looked_at: bool) -> None:
    """What is handed out for one occurrence is, however the function merges, and whoever else has looked since."""
    clock = ManualClock(datetime(2030, 1, 1, tzinfo=timezone.utc))
    source = InMemoryScheduleSource(clock=clock)
    await source.startup()
    await source.add_schedule(ScheduledTask(task_name="t", labels={}, args=[], kwargs={}, cron="*/2 * * * * *", schedule_id="a"))
    merged = MergedScheduleSource(
        [Source(), source], lambda old, new: [*old, *([item.model_copy() for item in new] if copied else new)]
    )
    [entry] = await merged.get_schedules()
    for _ in range(3):
        clock.advance(timedelta(seconds=2))
        await merged.pre_send(entry)
        await merged.post_send(entry)
        if looked_at:
            await merged.get_schedules()

    assert [run.status async for run in source.runs("a")] == ["sent"] * 3


async def test_hooks_reach_the_owner_of_the_very_object() -> None:
    """Two sources with the same id are told apart by the object that was handed out."""
    first, second = Source("a"), Source("a")
    merged = MergedScheduleSource([first, second])
    _, theirs = await merged.get_schedules()

    await merged.pre_send(theirs)
    theirs.schedule_id = "changed by the source while it sends"
    await merged.get_schedules()
    await merged.post_send(theirs)

    assert first.calls == []
    assert [name for name, _ in second.calls] == ["pre_send", "post_send"]


async def test_a_schedule_of_nobody_is_refused() -> None:
    """Hooks for a schedule that no source has handed out raise."""
    merged = MergedScheduleSource([Source("a")])
    await merged.get_schedules()

    with pytest.raises(ScheduleNotFoundError):
        await merged.pre_send(_schedule("stranger"))
    with pytest.raises(ScheduleNotFoundError):
        await merged.post_send(_schedule("stranger"))


async def test_a_failing_source_does_not_silence_the_others() -> None:
    """While one source fails, the others are read, and its last list is served so that the loop forgets nothing."""
    failing, other = Source("a"), Source("b")
    merged = MergedScheduleSource([failing, other])
    await merged.get_schedules()
    failing.broken = True
    other.schedules.append(_schedule("c"))

    assert _ids(await merged.get_schedules()) == ["a", "b", "c"]


async def test_the_last_list_is_not_served_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ``stale_for`` a source that still fails has no schedules."""
    moment = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    failing = Source("a")
    merged = MergedScheduleSource([failing, Source("b")], stale_for=timedelta(minutes=1))
    await merged.get_schedules()
    failing.broken = True
    moment[0] = 61.0

    assert _ids(await merged.get_schedules()) == ["b"]


async def test_deleting_asks_the_owner() -> None:
    """A schedule is deleted from the source that it came from; an unknown one from all."""
    first, second = Source("a"), Source("b")
    merged = MergedScheduleSource([first, second])
    await merged.get_schedules()

    await merged.delete_schedule("b")
    await merged.delete_schedule("unknown")

    assert first.calls == [("delete", "unknown")]
    assert second.calls == [("delete", "b"), ("delete", "unknown")]


async def test_adding_to_sources_that_cannot_is_refused() -> None:
    """taskiq's own error is raised when no source supports adding."""
    with pytest.raises(NotImplementedError):
        await MergedScheduleSource([Source("a")]).add_schedule(_schedule("b"))


async def test_a_failed_startup_stops_what_was_started() -> None:
    """Sources that were started are shut down when a later one cannot start."""
    first, second = Source(), Source()
    second.broken = True

    with pytest.raises(ConnectionError):
        await MergedScheduleSource([first, second]).startup()

    assert first.calls == [("startup", ""), ("shutdown", "")]


async def test_shutdown_reaches_every_source() -> None:
    """One source that cannot be shut down does not keep the others open; its error is raised in the end."""
    first, second = Source(), Source()
    second.broken = True

    with pytest.raises(ConnectionError):
        await MergedScheduleSource([first, second]).shutdown()

    assert first.calls == [("shutdown", "")]


def test_merging_nothing_is_refused() -> None:
    """There has to be a source."""
    with pytest.raises(ScheduleValidationError):
        MergedScheduleSource([])
