"""Rules for `pause` and `resume`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from taskiq_sources import ScheduleDecodeError, ScheduleNotFoundError, ScheduleOptions, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources.models import ScheduleChanges
from taskiq_sources.occurrences import failed
from taskiq_sources_conformance.source_build import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    NOW,
    SECOND,
    App,
    add,
    ids,
    nominal,
    play,
    rows,
    send_due,
    state,
    take,
    take_one,
)


class PausingRules:
    """A paused schedule rests until it is resumed, and then goes on in its phase."""

    async def test_a_paused_schedule_is_not_sent(self, source: ScheduleSource, clock: ManualClock) -> None:
        """While paused, nothing is claimed, however overdue. (Look at rule 1 of eligibility in `claim`.)"""
        await add(source, "a", interval=60)
        await add(source, "b", interval=60)
        info = await source.pause("a")
        clock.advance(DAY)

        assert info.state.paused
        assert [dispatch.schedule_id for dispatch in await send_due(source)] == ["b"]

    @pytest.mark.parametrize(
        ("fields", "following"),
        [({"interval": 60}, NOW + HOUR + MINUTE), ({"cron": "*/10 * * * *"}, NOON + HOUR + 10 * MINUTE)],
        ids=["interval", "cron"],
    )
    async def test_resume_leaves_the_pause_out(
        self, source: ScheduleSource, clock: ManualClock, fields: dict[str, Any], following: Any
    ) -> None:
        """A resumed schedule goes on with its first occurrence after now, in phase. (Look at `update`.)"""
        await add(source, **fields)
        await source.pause("a")
        clock.advance(HOUR + SECOND)
        info = await source.resume("a")

        assert (info.state.paused, info.state.scheduled_for, info.state.next_run_at) == (False, following, following)
        assert await take(source) == []
        assert nominal(await play(source, clock, following)) == [following]
        assert [row.coalesced for row in await rows(source)] == [1]

    async def test_resume_keeps_what_its_jitter_delays(self, source: ScheduleSource, clock: ManualClock) -> None:
        """What is not due yet was not in the pause, though its nominal time has passed. (Look at `due_at` in `resumed`.)"""
        stored = await add(source, cron="0 13 * * *", schedule_options=ScheduleOptions(jitter=HOUR))
        assert stored.next_run_at is not None and stored.next_run_at > NOON + HOUR + 2 * SECOND, "another id would be later"
        clock.set(NOON + HOUR + SECOND)
        await source.pause("a")
        info = await source.resume("a")

        assert (info.state.scheduled_for, info.state.next_run_at) == (NOON + HOUR, stored.next_run_at)
        assert nominal(await play(source, clock, NOON + 2 * HOUR)) == [NOON + HOUR]

    async def test_a_window_that_closed_during_the_pause_leaves_nothing_to_send(
        self, source: ScheduleSource, clock: ManualClock
    ) -> None:
        """Resumed after its ``end_at``, a schedule has nothing pending any more. (Look at `edits.resumed`.)"""
        await add(source, cron="0 * * * *", schedule_options=ScheduleOptions(end_at=NOW + 3 * HOUR))
        await source.pause("a")
        clock.advance(DAY)
        info = await source.resume("a")

        assert (info.state.paused, info.state.next_run_at) == (False, None)
        assert await take(source) == []

    async def test_what_is_being_sent_when_it_is_resumed_counts(self, source: ScheduleSource, clock: ManualClock) -> None:
        """It is one of the runs that it has. (Look at what `edits.resumed` says of what is pending.)"""
        await add(source, interval=60, schedule_options=ScheduleOptions(max_runs=1))
        clock.advance(SECOND)
        dispatch = await take_one(source)
        await source.pause("a")
        await source.resume("a")
        await source.desk.sent(dispatch)
        clock.advance(5 * MINUTE)

        assert await take(source) == []
        assert len(await rows(source)) == 1

    async def test_resume_at_the_instant_of_an_occurrence(self, source: ScheduleSource, clock: ManualClock) -> None:
        """An occurrence right at the resumption is not part of the pause. (Look at `edits.resumed`.)"""
        await add(source, interval=60)
        await source.pause("a")
        clock.advance(5 * MINUTE)
        await source.resume("a")

        assert nominal(await send_due(source)) == [NOW + 5 * MINUTE]

    async def test_resume_before_anything_was_missed(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A pause during which nothing was due changes nothing of when. (Look at `update`.)"""
        before = await add(source, cron="0 7 * * *")
        await source.pause("a")
        clock.advance(HOUR)
        after = (await source.resume("a")).state

        assert (after.scheduled_for, after.next_run_at, after.anchor) == (before.scheduled_for, before.next_run_at, before.anchor)

    @pytest.mark.parametrize(("misfire", "expected"), [("fire_once", [5]), ("fire_all", [0, 1, 2, 3, 4, 5]), ("skip", [5])])
    async def test_resume_with_catch_up(
        self, source: ScheduleSource, clock: ManualClock, misfire: Any, expected: list[int]
    ) -> None:
        """With `catch_up`, the occurrences of the pause are late ones like any other. (Look at `update`.)"""
        await add(source, interval=600, schedule_options=ScheduleOptions(misfire=misfire))
        await source.pause("a")
        clock.advance(50 * MINUTE + SECOND)
        await source.resume("a", catch_up=True)

        assert nominal(await send_due(source)) == [NOW + k * 10 * MINUTE for k in expected]

    async def test_a_one_off_is_due_after_the_pause(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A one-off whose time passed during the pause is sent at resumption. (Look at `edits.resumed`.)"""
        await add(source, time=NOW + MINUTE)
        await source.pause("a")
        clock.advance(HOUR)
        await source.resume("a")

        assert nominal(await send_due(source)) == [NOW + MINUTE]

    async def test_pausing_twice(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Pausing what is paused, and resuming what is not, changes nothing of when. (Look at `update`.)"""
        await add(source, interval=3600)
        await source.pause("a")
        await source.pause("a")
        await source.resume("a")
        await source.resume("a")
        clock.advance(MINUTE)

        assert nominal(await send_due(source)) == [NOW]

    async def test_resume_of_what_is_not_paused_drops_nothing(self, source: ScheduleSource, clock: ManualClock) -> None:
        """An overdue occurrence of a schedule that is not paused is not a pause's. (Look at `edits.resumed`.)"""
        await add(source, interval=3600)
        clock.advance(2 * HOUR + MINUTE)
        await source.resume("a")

        assert nominal(await send_due(source)) == [NOW + 2 * HOUR]

    async def test_a_retry_survives_a_pause(self, source: ScheduleSource, clock: ManualClock) -> None:
        """A failed send that is resumed with `catch_up` is tried again as the same message. (Look at `attempt`.)"""
        await add(source, interval=60)
        first = await take_one(source)
        await source.desk.settle([failed(first, NOW, "the broker is away")])
        await source.pause("a")
        clock.advance(10 * MINUTE)
        await source.resume("a", catch_up=True)

        assert next(iter(await send_due(source))).task_id == first.task_id

    async def test_a_retry_of_before_the_pause_is_left_out(self, source: ScheduleSource, clock: ManualClock) -> None:
        """Without `catch_up`, a failed send is left behind with its attempts and its error. (Look at `update`.)"""
        await add(source, interval=60)
        clock.advance(3 * MINUTE)
        await source.desk.settle([failed(await take_one(source), NOW, "the broker is away")])
        await source.pause("a")
        clock.advance(10 * MINUTE + SECOND)
        found = (await source.resume("a")).state

        assert found.scheduled_for == found.next_run_at == NOW + 14 * MINUTE
        assert (found.attempt, found.coalesced, found.last_error) == (0, 1, None)

    async def test_unknown_ids(self, source: ScheduleSource) -> None:
        """Pausing or resuming what does not exist raises ScheduleNotFoundError with the id. (Look at `update`.)"""
        for edit in (source.pause, source.resume):
            with pytest.raises(ScheduleNotFoundError, match="'nobody'") as caught:
                await edit("nobody")
            assert caught.value.schedule_id == "nobody"

    # -- quarantine ----------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("triggers", [{"time": NOW}, {"interval": 60}, {"time": NOW + HOUR}], ids=str)
    async def test_stored_paused(self, source: ScheduleSource, app: App, clock: ManualClock, triggers: dict[str, Any]) -> None:
        """What is stored paused is never sent before it is resumed, due or not. (Look at `paused` in `declare`.)"""
        handle = await source.schedule(app.report, **triggers, schedule_id="a", paused=True)
        clock.advance(HOUR)
        assert (await state(source)).paused
        assert await take(source) == []
        await handle.resume(catch_up=True)

        assert len(await send_due(source)) == 1

    async def test_what_exists_is_not_paused_by_being_stored_again(self, source: ScheduleSource, app: App) -> None:
        """Nor is it resumed: who has paused it has to do that. (Look at `paused` in `put`.)"""
        for was, given in ((False, True), (True, False)):
            await source.schedule(app.report, interval=60, schedule_id=f"{was}", paused=was)
            await source.schedule(app.report, interval=60, args=[1], schedule_id=f"{was}", paused=given)

            assert (await state(source, f"{was}")).paused == was

    async def test_resume_of_what_still_cannot_be_read(self, source: ScheduleSource) -> None:
        """A record that is still garbled stays quarantined, and the error says why. (Look at `ScheduleSource.resume`.)"""
        await source.store.put([replace(await add(source), document="garbage")])
        await take(source)
        with pytest.raises(ScheduleDecodeError, match="'a'"):
            await source.resume("a")

        assert (await state(source)).quarantined

    @pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
    @pytest.mark.parametrize("repair", ["put", "resume"])
    async def test_a_repaired_schedule_is_sent(
        self, source: ScheduleSource, clock: ManualClock, delivery: Any, repair: str
    ) -> None:
        """Written again or resumed, a quarantined schedule sends the occurrence that it was set aside with. (Look at `put`.)"""
        options = ScheduleOptions(delivery=delivery)
        good = await add(source, interval=3600, schedule_options=options)
        await source.store.put([replace(good, document="garbage")])
        await take(source)
        assert await ids(source, quarantined=True) == ["a"]
        clock.advance(MINUTE)
        if repair == "put":
            await add(source, interval=3600, schedule_options=options)
        else:
            await source.store.update("a", ScheduleChanges(updated_at=NOW, document=good.document))
            await source.resume("a")

        assert await ids(source, quarantined=True) == []
        assert nominal(await send_due(source)) == [NOW]
        assert [row.status for row in await rows(source)] == ["sent"]
        assert (await state(source)).last_error is None
