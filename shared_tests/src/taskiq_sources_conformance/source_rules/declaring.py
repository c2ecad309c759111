"""Rules for one-offs that are due and declared: they may be sent at any moment, and are over then."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from taskiq_sources import ScheduleExistsError, ScheduleOptions, ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources.definitions import Defaults, define, store_form
from taskiq_sources.models import ScheduleChanges
from taskiq_sources.occurrences import failed
from taskiq_sources_conformance.source_build import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    add,
    ids,
    nominal,
    play,
    scheduled,
    send_due,
    state,
    take,
    take_one,
)

DEFAULTS = Defaults()


async def _die_amid_a_declaration(source: ScheduleSource, monkeypatch: Any, *, sending: bool = False) -> None:
    """Store a one-off that is due, by a process that ends when it has written it; just sent by another, if so."""
    put = source.store.put

    async def dies(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        if sending:
            assert nominal(await send_due(source)) == [NOW]
        await put(*args, **options)
        raise asyncio.CancelledError

    monkeypatch.setattr(source.store, "put", dies)
    with pytest.raises(asyncio.CancelledError):
        await source.add_schedule(scheduled(time=NOW))


class DeclaringRules:
    """What is due once is sent once, however often, and by however many, it is declared; and nobody loses an id by it."""

    @pytest.mark.parametrize("time", [NOW, NOW - DAY, NOW + HOUR], ids=["now", "past", "later"])
    async def test_a_one_off_that_was_sent_is_not_sent_again(
        self, source: ScheduleSource, clock: ManualClock, time: datetime
    ) -> None:
        """It is declared still, but it is over. (Look at `_done_before` in `add_schedules`.)"""
        await add(source, time=time)
        clock.set(NOW + HOUR)
        assert nominal(await send_due(source)) == [time]

        assert await source.add_schedules([scheduled(time=time), scheduled("b", time=NOW)]) == set()

        assert await ids(source) == ["b"]
        assert [dispatch.schedule_id for dispatch in await send_due(source)] == ["b"]

    async def test_a_one_off_that_was_sent_may_be_given_another_time(self, source: ScheduleSource, clock: ManualClock) -> None:
        """That is another occurrence; the first of them in the history does not hide it. (Look at the occurrence's id.)"""
        await add(source, time=NOW)
        await send_due(source)
        clock.set(NOW + MINUTE)

        await source.add_schedule(scheduled(time=NOW + SECOND))

        assert nominal(await send_due(source)) == [NOW + SECOND]

    async def test_an_id_may_be_used_ever_again(self, source: ScheduleSource, clock: ManualClock, monkeypatch: Any) -> None:
        """Of its history no more is read than from about the new time on. (Look at `since` in `_done_before`.)"""
        read: list[Any] = []
        runs = source.store.runs

        async def noted(*args: Any, **options: Any) -> Any:
            read.extend(found := await runs(*args, **options))
            return found

        for number in range(10):
            clock.set(NOW + number * HOUR)
            await add(source, time=NOW + number * HOUR)
            await send_due(source)
        monkeypatch.setattr(source.store, "runs", noted)
        clock.set(NOW + 10 * HOUR)
        await source.add_schedule(scheduled(time=NOW + 10 * HOUR))

        assert read == []
        assert nominal(await send_due(source)) == [NOW + 10 * HOUR]

    async def test_a_one_off_that_was_sent_early_is_not_sent_again(self, source: ScheduleSource, clock: ManualClock) -> None:
        """As taskiq's loop may, before its time by the store's clock. (Look at what is looked up in the history.)"""
        await add(source, time=NOW + SECOND)
        [dispatch] = await source.desk.take(limit=1, early=SECOND)
        await source.desk.sent(dispatch)

        await source.add_schedule(scheduled(time=NOW + SECOND))

        clock.set(NOW + MINUTE)
        assert await send_due(source) == []

    async def test_a_time_that_was_done_with_does_not_displace_another(self, source: ScheduleSource) -> None:
        """What was given another time meanwhile keeps it, though the old one is declared. (Look at what is stored.)"""
        await add(source, time=NOW - HOUR)
        await send_due(source)
        await source.add_schedule(scheduled(time=NOW + HOUR))

        assert await source.add_schedules([scheduled(time=NOW - HOUR)]) == {"a"}
        with pytest.raises(ScheduleExistsError):
            await source.add_schedules([scheduled(time=NOW - HOUR)], on_conflict="error")

        assert (await state(source)).scheduled_for == NOW + HOUR

    @pytest.mark.parametrize("status", ["failed", "unknown"])
    async def test_what_is_sent_at_most_once_is_not_sent_again(
        self, source: ScheduleSource, clock: ManualClock, status: str
    ) -> None:
        """Whether it arrived or not: that is not known, and the schedule is gone. (Look at the statuses that count.)"""
        options = ScheduleOptions(delivery="at_most_once")
        await add(source, time=NOW, schedule_options=options)
        dispatch = await take_one(source)
        if status == "failed":
            await source.desk.settle([failed(dispatch, NOW, "no broker")])
        else:
            clock.advance(HOUR)
            assert await send_due(source) == []
        assert await ids(source) == []

        await source.add_schedule(scheduled(time=NOW, schedule_options=options))

        assert await ids(source) == []

    @pytest.mark.parametrize("args", [[], [1]], ids=["as-it-was", "changed"])
    @pytest.mark.parametrize("moment", ["before-it-is-written", "when-it-is-written"])
    async def test_what_is_sent_while_it_is_declared_is_over(
        self, source: ScheduleSource, clock: ManualClock, monkeypatch: Any, moment: str, args: list[Any]
    ) -> None:
        """Whenever that is, and whatever other schedulers do meanwhile. (Look at what is written before the last look.)"""
        await add(source, time=NOW)
        put = source.store.put
        sent: list[Any] = []

        async def sent_meanwhile(*args: Any, **options: Any) -> Any:
            if moment == "before-it-is-written":
                sent.extend(await send_due(source))
            existing = await put(*args, **options)
            sent.extend(await send_due(source))
            return existing

        monkeypatch.setattr(source.store, "put", sent_meanwhile)
        await source.add_schedule(scheduled(time=NOW, args=args))
        clock.advance(HOUR)
        sent += await send_due(source)

        assert nominal(sent) == [NOW]

    async def test_what_was_sent_and_stored_anew_before_it_is_let_go_is_over(
        self, source: ScheduleSource, open_source: Any, clock: ManualClock, monkeypatch: Any
    ) -> None:
        """A slow replica finds what a third one holds back, after it was sent. (Look at the history under the claim.)"""
        second, third, claim = await open_source(), await open_source(), source.store.claim

        async def overtaken(*args: Any, **options: Any) -> Any:
            monkeypatch.undo()
            await second.add_schedule(scheduled(time=NOW))  # which lets it go
            await _die_amid_a_declaration(third, monkeypatch, sending=True)
            return await claim(*args, **options)

        monkeypatch.setattr(source.store, "claim", overtaken)
        await source.add_schedule(scheduled(time=NOW))
        clock.advance(HOUR)

        assert await send_due(source) == []

    async def test_what_takes_the_id_while_it_is_declared_stays(self, source: ScheduleSource, monkeypatch: Any) -> None:
        """As of a task that schedules itself again under its own id. (Look at what is deleted after the last look.)"""
        await add(source, time=NOW + HOUR)
        later = await state(source)  # the form that a declaration stores
        await add(source, time=NOW)
        put, runs, looks = source.store.put, source.store.runs, 0

        async def sent_before(*args: Any, **options: Any) -> Any:
            await send_due(source)
            return await put(*args, **options)

        async def taken_after(*args: Any, **options: Any) -> Any:
            nonlocal looks
            looks += 1
            found = await runs(*args, **options)
            if looks == 2:  # the last one
                monkeypatch.undo()
                edit = ScheduleChanges(updated_at=NOW, document=later.document, timing=later.timing)
                await source.store.update("a", replace(edit, scheduled_for=NOW + HOUR, next_run_at=NOW + HOUR))
            return found

        monkeypatch.setattr(source.store, "put", sent_before)
        monkeypatch.setattr(source.store, "runs", taken_after)
        await source.add_schedule(scheduled(time=NOW))

        assert (await state(source)).scheduled_for == NOW + HOUR

    async def test_a_process_that_dies_while_it_declares_a_one_off_delays_it(
        self, source: ScheduleSource, clock: ManualClock, monkeypatch: Any
    ) -> None:
        """It is sent within a minute or so though nobody comes back to it. (Look at what is written first.)"""
        await _die_amid_a_declaration(source, monkeypatch)
        assert await send_due(source) == []

        clock.advance(MINUTE)

        assert nominal(await send_due(source)) == [NOW]

    async def test_who_declares_a_one_off_again_lets_it_go(self, source: ScheduleSource, monkeypatch: Any) -> None:
        """What a process that died has held back is sent at once when it is declared again. (Look at `_is_held_back`.)"""
        await _die_amid_a_declaration(source, monkeypatch)
        await source.add_schedule(scheduled(time=NOW))

        assert nominal(await send_due(source)) == [NOW]

    async def test_who_declares_a_one_off_again_that_was_sent_takes_it_out(
        self, source: ScheduleSource, clock: ManualClock, monkeypatch: Any
    ) -> None:
        """Sent while it was declared by a process that died, it is not sent again. (Look at `_is_held_back`.)"""
        await add(source, time=NOW)
        await _die_amid_a_declaration(source, monkeypatch, sending=True)
        await source.add_schedule(scheduled(time=NOW))
        clock.advance(HOUR)

        assert await send_due(source) == []
        assert await ids(source) == []

    @pytest.mark.parametrize("later", [5 * SECOND, HOUR], ids=["soon", "later"])
    async def test_an_id_whose_one_off_is_sent_while_it_gets_another_time(
        self, source: ScheduleSource, clock: ManualClock, monkeypatch: Any, later: timedelta
    ) -> None:
        """As a task that schedules itself again: the next one is stored. (Look at what has gone since it was seen.)"""
        await add(source, time=NOW)
        put = source.store.put

        async def sent_then(*args: Any, **options: Any) -> Any:
            monkeypatch.undo()
            existing = await put(*args, **options)
            assert nominal(await send_due(source)) == [NOW]
            return existing

        monkeypatch.setattr(source.store, "put", sent_then)
        await source.add_schedule(scheduled(time=NOW + later))

        clock.set(NOW + later)
        assert nominal(await send_due(source)) == [NOW + later]

    @pytest.mark.parametrize("fields", [{"time": NOW + 20 * SECOND}, {"cron": "0 3 1 1 *"}], ids=["one-off", "cron"])
    async def test_who_takes_an_id_that_is_given_up_keeps_it(
        self, source: ScheduleSource, clock: ManualClock, monkeypatch: Any, fields: dict[str, Any]
    ) -> None:
        """What somebody has stored there in the meantime is neither claimed for good nor moved. (Look at `_let_go`.)"""
        options = ScheduleOptions(delivery="at_most_once")
        claim = source.store.claim

        async def taken_before(*args: Any, **arguments: Any) -> Any:
            monkeypatch.undo()
            await source.delete_schedule("a")
            await source.store.put([store_form(define(scheduled(**fields, schedule_options=options), DEFAULTS), NOW, DEFAULTS)])
            return await claim(*args, **arguments)

        monkeypatch.setattr(source.store, "claim", taken_before)
        await source.add_schedule(scheduled(time=NOW))

        found = await state(source)
        assert (found.attempt, found.lease_until, found.next_run_at) == (0, None, found.scheduled_for)
        assert await take(source) == []
        due = found.next_run_at or NOW
        assert nominal(await play(source, clock, due)) == [due]

    async def test_a_declaration_that_stalls_for_minutes(
        self, source: ScheduleSource, clock: ManualClock, monkeypatch: Any
    ) -> None:
        """What others send meanwhile is not let go again. (Look at the claim in `_let_go`.)"""
        claim = source.store.claim

        async def sent_meanwhile(*args: Any, **options: Any) -> Any:
            monkeypatch.undo()
            clock.advance(2 * MINUTE)
            sending.append(await take_one(source))
            return await claim(*args, **options)

        sending: list[Any] = []
        monkeypatch.setattr(source.store, "claim", sent_meanwhile)
        await source.add_schedule(scheduled(time=NOW))
        await source.desk.sent(sending[0])

        assert await take(source) == []
        assert await ids(source) == []

    async def test_a_one_off_that_was_sent_is_taken_out_though_it_was_paused(
        self, source: ScheduleSource, clock: ManualClock, monkeypatch: Any
    ) -> None:
        """Paused just when it is found to be done, it does not stay to be resumed. (Look at what cannot be claimed.)"""
        await add(source, time=NOW)
        put = source.store.put

        async def sent_and_paused(*args: Any, **options: Any) -> Any:
            monkeypatch.undo()
            await send_due(source)
            existing = await put(*args, **options)
            await source.pause("a")
            return existing

        monkeypatch.setattr(source.store, "put", sent_and_paused)
        await source.add_schedule(scheduled(time=NOW))

        assert await ids(source) == []

    async def test_who_edits_a_one_off_while_it_is_declared_delays_nothing(
        self, source: ScheduleSource, monkeypatch: Any
    ) -> None:
        """What is neither another time nor a deletion leaves it due. (Look at what cannot be claimed.)"""
        claim = source.store.claim

        async def paused_before(*args: Any, **options: Any) -> Any:
            monkeypatch.undo()
            await source.pause("a")
            return await claim(*args, **options)

        monkeypatch.setattr(source.store, "claim", paused_before)
        await source.add_schedule(scheduled(time=NOW))
        assert (await state(source)).paused
        await source.resume("a")

        assert nominal(await send_due(source)) == [NOW]

    async def test_a_one_off_that_failed_is_stored_again(self, source: ScheduleSource) -> None:
        """Only what was sent or given up for good is over. (Look at the statuses that count.)"""
        await add(source, time=NOW)
        claim = await take_one(source)
        await source.desk.settle([failed(claim, NOW, "no broker")])
        await source.delete_schedule("a")

        await source.add_schedule(scheduled(time=NOW))

        assert nominal(await send_due(source)) == [NOW]
