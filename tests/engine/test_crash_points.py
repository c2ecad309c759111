"""A scheduler that dies after each single step; what the next one finds and does."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest
from engine_harness import BACKENDS, DIED, Sent, Stage, backlog, task

from taskiq_sources.clock import system_now
from taskiq_sources.models import Run

pytestmark = pytest.mark.anyio

LEASE = 1.5


async def die_and_take_over(stage: Stage, dies: str, *, ack: float = 0.0, **options: object) -> tuple[list[Sent], Run]:
    """Let one scheduler die at a step, start another, and return what was sent of a one-off and its history row."""
    await stage.add([task("one", time=system_now() - timedelta(seconds=5), options=options or None)])
    first = stage.start(dies=dies, lease=LEASE, ack=ack)
    assert await first.ended() == DIED, stage.report()
    first.killed = True

    second = stage.start(lease=LEASE)
    await stage.until_finished()

    assert await second.stopped() == 0, stage.report()
    [run] = await stage.runs()
    return stage.log.sent, run


@pytest.mark.parametrize("backend", BACKENDS)
async def test_after_the_claim(stage: Stage, backend: str) -> None:
    """Claimed, not sent: the next one waits for the end of the lease and sends it, as the second attempt."""
    sent, run = await die_and_take_over(stage, "after claim")

    assert [message.by for message in sent] == ["S2"]
    assert (run.status, run.attempt, run.claimant, run.task_id) == ("sent", 2, "S2", sent[0].task_id)


async def test_before_the_send(stage: Stage) -> None:
    """About to send, the broker has nothing: the next one sends it, as the second attempt."""
    sent, run = await die_and_take_over(stage, "before kick")

    assert [message.by for message in sent] == ["S2"]
    assert (run.status, run.attempt) == ("sent", 2)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_after_the_send(stage: Stage, backend: str) -> None:
    """The broker has it and the store cannot know: it is sent again, as the same message, and recorded once.

    This is the window that no store can close; a consumer that remembers task ids drops the second message.
    """
    sent, run = await die_and_take_over(stage, "after kick")

    assert [message.by for message in sent] == ["S1", "S2"]
    assert sent[0].task_id == sent[1].task_id == run.task_id
    assert (run.status, run.attempt, run.claimant) == ("sent", 2, "S2")


@pytest.mark.parametrize("backend", BACKENDS)
async def test_after_the_record(stage: Stage, backend: str) -> None:
    """The store has recorded it, although nobody read the reply: nothing is left to do for the next one."""
    sent, run = await die_and_take_over(stage, "settled, reply unread")

    assert [message.by for message in sent] == ["S1"]
    assert (run.status, run.attempt, run.claimant) == ("sent", 1, "S1")


async def test_during_a_renewal(stage: Stage) -> None:
    """Dead while a slow send was running: the next one waits for the end of the renewed lease, then sends the same message."""
    sent, run = await die_and_take_over(stage, "during renew", ack=60.0)

    assert [message.by for message in sent] == ["S1", "S2"]
    assert sent[0].task_id == sent[1].task_id
    [died] = stage.log.of("died")
    assert sent[1].at >= died["at"] + LEASE - 0.1  # the renewal came a moment before the death
    assert run.attempt == 2


async def test_at_most_once_is_not_sent_after_a_crash(stage: Stage) -> None:
    """With ``at_most_once``, whoever died may have sent it: the next one records that as unknown, and sends nothing."""
    sent, run = await die_and_take_over(stage, "after claim", delivery="at_most_once")

    assert sent == []
    assert run.status == "unknown"


async def test_at_most_once_is_not_sent_again(stage: Stage) -> None:
    """With ``at_most_once``, a crash between the broker's acknowledgement and the record repeats nothing."""
    sent, run = await die_and_take_over(stage, "after kick", delivery="at_most_once")

    assert [message.by for message in sent] == ["S1"]
    assert run.status == "unknown"


async def test_during_the_drain(stage: Stage) -> None:
    """Dead while it was stopping, before the store had the results: what was sent is sent again, what was queued is sent first.

    All under the same task ids; nothing is lost.
    """
    await stage.add(backlog(60))
    first = await stage.start(dies="during drain", lease=LEASE, ack=0.5, scheduler={"max_concurrent_sends": 10}).ready()
    await stage.until_sent(10)
    first.signal(signal.SIGTERM)
    assert await first.ended() == DIED, stage.report()
    first.killed = True
    before = {message.task_id for message in stage.log.sent}

    second = stage.start(lease=LEASE)
    await stage.until_finished()

    assert await second.stopped() == 0
    settled = {task_id for by, task_id in stage.log.settled() if by == "S1"}
    again = {message.task_id for message in stage.log.sent if message.by == "S2"}
    assert before - settled <= again, "what was not on record is sent again"
    assert not settled & again, "what was on record is not"
    assert len(before | again) == 60
    runs = await stage.runs()
    assert {run.attempt for run in runs if run.task_id in settled} <= {1}
    assert {run.attempt for run in runs if run.task_id in before - settled} == {2}


async def test_a_bug_in_the_way_of_a_record_loses_nothing(stage: Stage) -> None:
    """Should settling raise what no store may raise, it is tried again, and nothing is sent twice."""
    await stage.add([task("one", time=system_now())])
    only = stage.start(fails_once="settle", lease=LEASE)
    await stage.until_finished()

    assert await only.stopped() == 0
    assert len({message.task_id for message in stage.log.sent}) == 1
    assert [message.by for message in stage.log.sent] == ["S1"]
    [run] = await stage.runs()
    assert (run.status, run.attempt) == ("sent", 1)
    assert "A dispatcher fell over" not in only.text
