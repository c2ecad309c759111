"""Rules for calls that come between the steps of another call: each schedule looks as if they had come one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeAlias

import pytest

from taskiq_sources.errors import SourceClosedError, SourceConnectionError, TaskiqSourcesError
from taskiq_sources.memory import MemoryData, MemoryStore
from taskiq_sources.models import Claim, Run, RunQuery, ScheduleChanges, ScheduleQuery, StoredSchedule
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import LEASE, NOW, TIMEOUT, at, outcome, run, schedule, take

#: So long a call between two steps of another is waited for. It may have to wait for that one itself, so it cannot be told.
_A_MOMENT = 0.02

#: A call takes fewer steps, or it does not end.
_MOST_STEPS = 60

#: Whether schedules are claimed when a call begins, and how long the leases last.
_HELD = ("free", "ended", "running")

#: Who makes a call, and who makes others meanwhile.
_FIRST, _OTHERS = "first", "others"


@dataclass
class World:
    """A store, and which claims those who call it hold.

    Attributes:
        store: The handle of the first caller.
        other: That of the second.
        held: The claims of the beginning.
        taken: Those made since, by whom.
    """

    store: ScheduleStore
    other: ScheduleStore
    held: list[Claim] = field(default_factory=list)
    taken: dict[str, list[Claim]] = field(default_factory=dict)

    async def begin(self, held: str) -> None:
        """Store two schedules that are due: free, or claimed with a lease that has just ended, or with one that runs."""
        self.held, self.taken = [], {}
        await self.store.put([schedule("a"), schedule("b", next_run_at=at(ms=-500))])
        if held != "free":
            self.held = await take(self.store, now=NOW if held == "running" else NOW - LEASE, claimant="before", early=LEASE)

    async def end(self) -> Any:
        """Settle whatever was claimed, and what can be claimed after that, and return how that went and what is left."""
        await _claim()(self.store, self, "last")
        lost = [
            sorted(await self.store.settle([outcome(claim, runs=(run(f"{claim.schedule.id}@{by}", claimant=by),))]))
            for by, claims in sorted(self.taken.items())
            for claim in sorted(claims, key=lambda claim: claim.schedule.id)
        ]
        left = await self.store.get("abc")
        rows = await self.store.runs(RunQuery(), limit=100)
        return lost, left, sorted(rows, key=lambda row: row.occurrence_id)

    async def clear(self) -> None:
        """Leave nothing."""
        await self.store.delete("abc")
        await self.store.prune_runs(before=at(10**6), keep=0)


Call: TypeAlias = Callable[[ScheduleStore, World, str], Awaitable[Any]]


def _claim(**arguments: Any) -> Call:
    async def claim(store: ScheduleStore, world: World, by: str) -> Any:
        claims = await take(store, claimant=by, **arguments)
        world.taken.setdefault(by, []).extend(claims)
        return [claim.schedule for claim in claims]

    return claim


def _settle(ids: str, **fields: Any) -> Call:
    async def settle(store: ScheduleStore, world: World, by: str) -> Any:
        rows = {name: (run(f"{name}@1", schedule_id=name, claimant=by),) for name in ids}
        held = [claim for claim in world.held if claim.schedule.id in rows]
        return await store.settle([outcome(claim, runs=rows[claim.schedule.id], **fields) for claim in held])

    return settle


async def _settle_taken(store: ScheduleStore, world: World, by: str) -> Any:
    return await store.settle([outcome(claim) for claim in world.taken.get(by, [])])


def _renew(ids: str) -> Call:
    return lambda store, world, _: store.renew([claim for claim in world.held if claim.schedule.id in ids], until=at(99))


def _put(*names: str, replace: bool = True, **fields: Any) -> Call:
    return lambda store, _world, _by: store.put([schedule(name, **fields) for name in names], replace=replace)


def _update(expected_revision: int | None = None, **changes: Any) -> Call:
    edit = ScheduleChanges(updated_at=NOW, **changes)
    return lambda store, _world, _by: store.update("a", edit, expected_revision=expected_revision)


def _delete(ids: str) -> Call:
    return lambda store, _world, _by: store.delete(list(ids))


def _get(ids: str) -> Call:
    return lambda store, _world, _by: store.get(list(ids))


def _runs(schedule_id: str | None = None) -> Call:
    return lambda store, _world, _by: store.runs(RunQuery(schedule_id=schedule_id), limit=10)


#: What touches `a`, and `b` beside it.
CALLS: Final[dict[str, Call]] = {
    "claim": _claim(),
    "claim one": _claim(limit=1),
    "claim by ids": _claim(ids=["a", "b"]),
    "renew": _renew("ab"),
    "settle": _settle("ab"),
    "settle finished": _settle("ab", finished=True),
    "put": _put("a", "b", document="put"),
    "put moved": _put("a", "b", timing="moved", scheduled_for=at(-2), next_run_at=at(-2)),
    "put new": _put("c"),
    "put if absent": _put("a", "c", replace=False),
    "update": _update(document="edited"),
    "update expecting": _update(1, document="edited"),
    "update when": _update(next_run_at=at(-3)),
    "pause": _update(paused=True),
    "delete": _delete("a"),  # which of several existed when others delete them too, not every server can say
    "get": _get("ab"),
    "page": lambda store, _world, _by: store.page(ScheduleQuery(), limit=10),
    "runs": _runs(),
    "next_due": lambda store, _world, _by: store.next_due(NOW),
}

#: Moves claims on.
_GOING_ON: Final = _settle("ab", release=False)

#: What a claim may do that leaves out `a`, because others are writing to it.
LEAVING_OUT: Final[dict[str, list[Call]]] = {
    "claim": [_claim(ids=["b"])],
    "claim one": [_claim(ids=["b"], limit=1), _claim(ids=[])],
}

#: What others do to `a` alone, or `c`, in a call or two: a call for several schedules need not be one step for all of them.
MEANWHILE: Final[dict[str, Sequence[Call]]] = {
    "claimed": [_claim(ids=["a"])],
    "claimed and settled": [_claim(ids=["a"]), _settle_taken],
    "renewed": [_renew("a")],
    "settled": [_settle("a")],
    "finished": [_settle("a", finished=True)],
    "put": [_put("a", document="theirs")],
    "put moved": [_put("a", timing="theirs", scheduled_for=at(-4), next_run_at=at(-4))],
    "edited": [_update(document="theirs")],
    "put off": [_update(next_run_at=at(50))],
    "paused": [_update(paused=True)],
    "deleted": [_delete("a")],
    "made anew": [_delete("a"), _put("a", document="anew")],
    "added": [_put("c", document="theirs")],
    "added and deleted": [_put("c", document="theirs"), _delete("c")],
    "read": [_get("a"), _runs("a")],
    "read backwards": [_runs("a"), _get("a")],
}


async def _seen(call: Call, store: ScheduleStore, world: World, by: str) -> Any:
    """Return what a call returned, or which error it raised."""
    try:
        return await asyncio.wait_for(call(store, world, by), TIMEOUT)
    except TaskiqSourcesError as error:
        return type(error)


def _brief(seen: Any) -> str:
    """Return `seen` in which of schedules there is only what differs from how they began."""
    if isinstance(seen, StoredSchedule):
        usual = schedule(seen.id)
        told = [f"{name}={value}" for name, value in asdict(seen).items() if value != getattr(usual, name)]
        return f"{seen.id}({', '.join(told)})"
    if isinstance(seen, Run):
        return f"{seen.occurrence_id} by {seen.claimant}"
    if isinstance(seen, dict):
        return f"[{', '.join(_brief(seen[key]) for key in sorted(seen))}]"
    if isinstance(seen, (list, tuple, set, frozenset)):
        return f"[{', '.join(sorted(map(_brief, seen)) if isinstance(seen, (set, frozenset)) else map(_brief, seen))}]"
    return str(seen)


async def _one_after_the_other(call: Call, others: Sequence[Call], place: int, held: str) -> tuple[Any, Any, Any]:
    """Return what is seen when a call comes after so many of the others', on the reference."""
    store, other = (MemoryStore(data) for data in [MemoryData()] * 2)
    await store.open()
    await other.open()
    world, result, results = World(store, other), None, []
    await world.begin(held)
    for turn in range(len(others) + 1):
        if turn == place:
            result = await _seen(call, store, world, _FIRST)
        if turn < len(others):
            results.append(await _seen(others[turn], other, world, _OTHERS))
    return result, results, await world.end()


async def _state(store: ScheduleStore) -> dict[str, Any]:
    """Return for each schedule what there is of it, and of its history."""
    rows = sorted(await store.runs(RunQuery(), limit=100), key=lambda row: row.occurrence_id)
    found = await store.get("abc")
    return {name: (found.get(name), [row for row in rows if row.schedule_id == name]) for name in "abc"}


async def _left_by(call: Call | None) -> dict[str, Any]:
    """Return what there is after a call on schedules that are held."""
    store = MemoryStore(MemoryData())
    await store.open()
    world = World(store, store)
    await world.begin("ended")
    if call is not None:
        await _seen(call, store, world, _FIRST)
    return await _state(store)


async def _close(_store: ScheduleStore, world: World, _by: str) -> None:
    await world.store.close()


def _cancelling(calling: Sequence[asyncio.Task[Any]]) -> Call:
    async def cancel(_store: ScheduleStore, _world: World, _by: str) -> None:
        calling[0].cancel()

    return cancel


class _Amid:
    """Has others make their calls before the step of that number."""

    def __init__(self, world: World, calls: Sequence[Call], step: int) -> None:
        self._world = world
        self._calls = calls
        self._steps_left = step
        self._making: asyncio.Task[list[Any]] | None = None
        #: Whether the others had not come to their end when the call went on.
        self.goes_on = False

    @property
    def has_begun(self) -> bool:
        """Whether there was such a step."""
        return self._making is not None

    async def before_a_step(self) -> None:
        self._steps_left -= 1
        if self._steps_left == 0:
            self._making = asyncio.ensure_future(self._make())
            await asyncio.wait({self._making}, timeout=_A_MOMENT)
            self.goes_on = not self._making.done()

    async def _make(self) -> list[Any]:
        return [await _seen(call, self._world.other, self._world, _OTHERS) for call in self._calls]

    async def results(self) -> list[Any] | None:
        """Return what the others saw; None if there was no such step."""
        return None if self._making is None else await self._making


class InterleavingRules:
    """A call that another handle makes amid a call comes before it, or after it: nothing in between can be told."""

    each_step: Callable[[ScheduleStore, Callable[[], Awaitable[None]]], AbstractContextManager[None]]  # the suite's

    @pytest.mark.parametrize("meanwhile", MEANWHILE)
    @pytest.mark.parametrize("call", CALLS)
    async def test_a_call_amid_a_call(self, store: ScheduleStore, other: ScheduleStore, call: str, meanwhile: str) -> None:
        """What a call has found may be different when it writes. (Look at what each statement takes for granted.)"""
        await self._meet(World(store, other), CALLS[call], LEAVING_OUT.get(call, []), MEANWHILE[meanwhile])

    @pytest.mark.parametrize("meanwhile", MEANWHILE)
    async def test_a_call_amid_a_settle_that_goes_on(self, store: ScheduleStore, other: ScheduleStore, meanwhile: str) -> None:
        """Whether a claim goes on is told as of when it was settled. (Look at a second look at the lease.)"""
        await self._meet(World(store, other), _GOING_ON, [], MEANWHILE[meanwhile])

    async def test_a_claim_that_others_come_before(self, store: ScheduleStore, other: ScheduleStore) -> None:
        """Who comes too late for the oldest, again and again, finds others. (Look at `claim`: many that look at one place.)"""
        await store.put([schedule(f"{number:02}") for number in range(_MOST_STEPS)])

        taking: list[asyncio.Task[list[Claim]]] = []

        async def take_the_oldest() -> None:
            taking.append(asyncio.ensure_future(take(other, limit=1)))
            await asyncio.wait(taking, timeout=_A_MOMENT)

        with self.each_step(store, take_the_oldest):
            claims = await take(store, limit=1)
        theirs = [claim for some in await asyncio.gather(*taking) for claim in some]

        assert len(claims) == 1
        assert theirs
        assert claims[0].schedule.id not in {claim.schedule.id for claim in theirs}

    @pytest.mark.parametrize("call", [*CALLS, "settle that goes on"])
    @pytest.mark.parametrize("how", ["closed", "cancelled"])
    async def test_a_call_that_is_broken_off(
        self, make_store: Callable[[], ScheduleStore], other: ScheduleStore, call: str, how: str
    ) -> None:
        """Of each schedule, a call is done, history included, or not, if the store is closed amid it, or the call cancelled.

        In the first case it raises none but our errors, in the second the store is usable. (Look at what goes on without it.)
        """
        wanted = CALLS.get(call, _GOING_ON)
        before, after = await _left_by(None), await _left_by(wanted)
        for step in range(1, _MOST_STEPS):
            world = World(make_store(), other)
            await world.store.open()
            await world.begin("ended")
            calling: list[asyncio.Task[Any]] = []
            amid = _Amid(world, [_close if how == "closed" else _cancelling(calling)], step)
            with self.each_step(world.store, amid.before_a_step):
                calling.append(asyncio.ensure_future(_seen(wanted, world.store, world, _FIRST)))
                [result] = await asyncio.gather(*calling, return_exceptions=True)
            done = await amid.results()
            left = await _state(other if how == "closed" else world.store)
            await world.store.close()
            await World(other, other).clear()
            if done is None:
                break
            assert done == [None]
            errors = (SourceClosedError, SourceConnectionError) if how == "closed" else (asyncio.CancelledError,)
            kind = result if isinstance(result, type) else type(result)
            assert not issubclass(kind, BaseException) or issubclass(kind, errors), f"raised {result!r}"
            for name in "abc":
                assert left[name] in (before[name], after[name]), f"{name!r}, after {how} before step {step}"
        assert 1 < step < _MOST_STEPS - 1

    async def _meet(self, world: World, call: Call, leaving_out: Sequence[Call], others: Sequence[Call]) -> None:
        """Have others make their calls before each step of a call; those that leave `a` out may come in its place."""
        for held in _HELD:
            places = range(len(others) + 1)
            expected = [await _one_after_the_other(call, others, place, held) for place in places]
            besides = [await _one_after_the_other(each, others, place, held) for each in leaving_out for place in places]
            for step in range(1, _MOST_STEPS):
                amid = _Amid(world, others, step)
                found = await self._seen_amid(world, call, amid, held)
                if not amid.has_begun:
                    break
                possible = [*expected, *(besides if step > 1 or amid.goes_on else [])]
                if found not in possible:
                    where = f"others call before step {step}, claims: {held}; seen:"
                    pytest.fail(f"{where}\n  {_brief(found)}\nis none of\n  " + "\n  ".join(map(_brief, possible)))
            assert step < _MOST_STEPS - 1, "a call does not end"
            assert step > 1 or held == "free", "each_step() tells of no step"

    async def _seen_amid(self, world: World, call: Call, amid: _Amid, held: str) -> tuple[Any, Any, Any]:
        """Return what is seen when others call amid a call."""
        await world.begin(held)
        try:
            with self.each_step(world.store, amid.before_a_step):
                result = await _seen(call, world.store, world, _FIRST)
        finally:
            results = await amid.results()
        found = result, results, await world.end()
        await world.clear()
        return found
