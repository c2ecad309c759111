"""`StoreStateMachine`: any sequence of calls, compared with the model after each of them.

Hypothesis invents the sequences and cuts a failing one down to the shortest that still fails; the program that it prints can be
read as a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from taskiq_sources.errors import RevisionConflictError, ScheduleNotFoundError
from taskiq_sources.models import Claim, Outcome, Run, RunQuery, ScheduleChanges, ScheduleQuery
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import CREATED, MS, NOW, schedule
from taskiq_sources_conformance.model import Fields, Model

T = TypeVar("T")

#: Few ids, so that calls meet each other; two of them tell code points from UTF-16.
IDS = ["a", "b", "c", "\uffff", "😀"]
CLAIMANTS = ["scheduler-1", "scheduler-2"]
#: Far after any instant that the machine uses.
END_OF_TIME = NOW + timedelta(days=36500)

#: Half seconds around the machine's present: few values, so that boundaries are met exactly; mostly due, so that there is a life.
#: No lambda here or below: at each draw, old releases of Hypothesis look up the source of every lambda that it meets.
offsets = st.sampled_from([timedelta(milliseconds=500 * halves) for halves in (-3, -2, -1, -1, 0, 0, 1, 2, 4, 9)])
maybe_offsets = st.one_of(offsets, offsets, offsets, st.none())
some_ids = st.lists(st.sampled_from(IDS), unique=True, max_size=3)
counts = st.integers(0, 3)
#: Which claims, counted from the newest: current ones more often than not, and every stale one now and then.
positions = st.lists(st.one_of(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=4)


def _has_claims(machine: StoreStateMachine) -> bool:
    return bool(machine.claims)


class StoreStateMachine(RuleBasedStateMachine):
    """Every method of a store, in any order, by two schedulers, in virtual time.

    Subclass it to add rules of your own, and set ``StoreConformance.state_machine``.

    Args:
        loop: The event loop that the handles were opened in.
        handles: Open handles on the same data; calls are spread over them.
    """

    #: Bounded so that a backend takes seconds, not minutes; the same examples each time unless pytest is given --hypothesis-seed.
    default_settings: ClassVar[settings] = settings(
        max_examples=50,
        stateful_step_count=40,
        deadline=None,
        database=None,
        derandomize=True,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, handles: Sequence[ScheduleStore]) -> None:
        super().__init__()
        self._loop = loop
        self._handles = handles
        self._calls = 0
        self.model = Model()
        self.now = NOW
        self.claims: list[Claim] = []  # every claim ever made, most of them stale
        self.tokens: set[tuple[str, str]] = set()

    @property
    def store(self) -> ScheduleStore:
        """The handle whose turn it is."""
        self._calls += 1
        return self._handles[self._calls % len(self._handles)]

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Await `call` in the machine's event loop."""
        return self._loop.run_until_complete(call)

    @initialize()
    def empty(self) -> None:
        """Each example starts on empty data, which the contract's own methods can provide on any backend."""
        while page := self.run(self.store.page(ScheduleQuery(), limit=1000)):
            self.run(self.store.delete([found.id for found in page]))
        self.run(self.store.prune_runs(before=END_OF_TIME, keep=0))
        for age, schedule_id in enumerate(IDS[:4]):  # so that every example has a life to disturb
            due = timedelta(milliseconds=-500 * age)
            self.put(ids=[schedule_id], timing="t1", due=due, paused=False, count=0, owner=None, replace=True)

    # -- definitions -----------------------------------------------------------------------------------------------------------

    @rule(
        ids=st.lists(st.sampled_from(IDS), unique=True, min_size=1),
        timing=st.sampled_from(["t1", "t2"]),
        due=maybe_offsets,
        paused=st.sampled_from([False, False, False, True]),
        count=counts,
        owner=st.sampled_from([None, "x"]),
        replace=st.sampled_from([True, True, False]),
    )
    def put(
        self, ids: list[str], timing: str, due: timedelta | None, paused: bool, count: int, owner: str | None, replace: bool
    ) -> None:
        """Store schedules, new ones and known ones."""
        pending = None if due is None else self.now + due
        given = [
            schedule(
                schedule_id,
                timing=timing,
                scheduled_for=pending,
                next_run_at=pending,
                anchor=self.now,
                created_at=self.now,
                updated_at=self.now,
                paused=paused,
                owner=owner,
                coalesced=count,
                attempt=count,
                run_count=count,
                document=f"put {self._calls}",
            )
            for schedule_id in ids
        ]
        expected = self.model.put([asdict(one) for one in given], replace=replace)
        assert self.run(self.store.put(given, replace=replace)) == expected

    @rule(
        schedule_id=st.sampled_from(IDS),
        fields=st.fixed_dictionaries(
            {},
            optional={
                "document": st.sampled_from(["d1", "d2"]),
                "timing": st.sampled_from(["t1", "t2", "t3"]),
                "scheduled_for": maybe_offsets,
                "next_run_at": maybe_offsets,
                "anchor": offsets,
                "coalesced": counts,
                "attempt": counts,
                "run_count": counts,
                "paused": st.booleans(),
                "quarantined": st.booleans(),
                "last_error": st.none() | st.just("edited"),
            },
        ),
        expected_revision=st.none() | st.integers(1, 6),
    )
    def update(self, schedule_id: str, fields: Fields, expected_revision: int | None) -> None:
        """Edit a schedule that may exist, at a revision that may be right."""
        changes: Fields = {name: self.now + value if isinstance(value, timedelta) else value for name, value in fields.items()}
        changes["updated_at"] = self.now
        expected = self.model.update(schedule_id, changes, expected_revision)
        found: str | Fields
        try:
            found = asdict(
                self.run(self.store.update(schedule_id, ScheduleChanges(**changes), expected_revision=expected_revision))
            )
        except (ScheduleNotFoundError, RevisionConflictError) as error:
            found = type(error).__name__
        assert found == expected

    @rule(ids=st.lists(st.sampled_from(IDS), unique=True, max_size=2))
    def delete(self, ids: list[str]) -> None:
        """Delete schedules that may exist."""
        assert self.run(self.store.delete(ids)) == self.model.delete(ids)

    # -- dispatch --------------------------------------------------------------------------------------------------------------

    @rule(
        claimant=st.sampled_from(CLAIMANTS),
        lease=st.integers(1, 3),
        limit=st.sampled_from([1, 2, 9, 9]),
        ids=st.one_of(st.none(), st.none(), some_ids, st.just([])),
        early=st.sampled_from([0, 0, 1500, 4000]),
    )
    def claim(self, claimant: str, lease: int, limit: int, ids: list[str] | None, early: int) -> None:
        """Claim what is eligible."""
        margin = timedelta(milliseconds=early)
        until = self.now + timedelta(seconds=lease)
        expected = self.model.eligible(self.now, ids=ids, early=margin)[:limit]
        claims = self.run(
            self.store.claim(self.now, claimant=claimant, lease=timedelta(seconds=lease), limit=limit, ids=ids, early=margin)
        )
        assert [claim.schedule.id for claim in claims] == expected
        for claim in claims:
            key = (claim.schedule.id, claim.token)
            assert key not in self.tokens, "a token was used again"
            self.tokens.add(key)
            assert asdict(claim.schedule) == self.model.claim(*key, claimant, until)
            assert (claim.claimed_at, claim.lease_until) == (self.now, until)
        self.claims += claims

    @precondition(_has_claims)
    @rule(chosen=positions, until=st.integers(-2, 12))
    def renew(self, chosen: list[int], until: int) -> None:
        """Renew claims, current and stale ones together."""
        end = self.now + timedelta(milliseconds=500 * until)
        claims = [self._remembered(position) for position in chosen]
        expected = self.model.renew([(claim.schedule.id, claim.token) for claim in claims], end)
        assert self.run(self.store.renew(claims, until=end)) == expected

    @precondition(_has_claims)
    @rule(
        chosen=positions,
        due=maybe_offsets,
        count=counts,
        error=st.none() | st.just("failed"),
        quarantined=st.sampled_from([False, False, False, True]),
        kind=st.sampled_from(["release", "release", "keep", "finish"]),
        rows=st.sampled_from([0, 1, 1, 2]),
    )
    def settle(
        self, chosen: list[int], due: timedelta | None, count: int, error: str | None, quarantined: bool, kind: str, rows: int
    ) -> None:
        """Settle claims, current and stale ones together."""
        pending = None if due is None else self.now + due
        by_id = {claim.schedule.id: claim for claim in map(self._remembered, chosen)}
        outcomes = [
            Outcome(
                claim=claim,
                scheduled_for=pending,
                next_run_at=pending,
                coalesced=count,
                attempt=count,
                run_count=count,
                last_error=error,
                quarantined=quarantined,
                finished=kind == "finish",
                release=kind != "keep",
                runs=tuple(self._row(claim, number, error) for number in range(rows)),
            )
            for claim in by_id.values()
        ]
        expected = {
            one.claim.schedule.id
            for one in outcomes
            if not self.model.settle(one.claim.schedule.id, one.claim.token, one.claim.schedule.revision, asdict(one))
        }
        assert self.run(self.store.settle(outcomes)) == expected

    def _remembered(self, position: int) -> Claim:
        # Counted from the newest, so that small numbers, to which Hypothesis shrinks, are claims that are likely to be current.
        return self.claims[-1 - position % len(self.claims)]

    def _row(self, claim: Claim, number: int, error: str | None) -> Run:
        return Run(
            occurrence_id=f"{claim.schedule.id}@{number}",
            schedule_id=claim.schedule.id,
            task_name=claim.schedule.task_name,
            scheduled_for=CREATED,
            status="sent" if error is None else "failed",
            recorded_at=self.now,
            attempt=claim.schedule.attempt,
            claimant=claim.schedule.claimant,
            error=error,
        )

    # -- time ------------------------------------------------------------------------------------------------------------------

    @rule(halves=st.sampled_from([1, 1, 2, 2, 3, 4, 6, 8]))
    def advance(self, halves: int) -> None:
        """Let time pass."""
        self.now += timedelta(milliseconds=500 * halves)

    @rule()
    def claim_at_the_next_instant(self) -> None:
        """Jump to the instant that `next_due` names and claim; a millisecond earlier there is nothing to claim."""
        due = self.run(self.store.next_due(self.now))
        assert due == self.model.next_due(self.now)
        if due is not None and due > self.now:
            assert self.run(self.store.claim(due - MS, claimant="early", lease=timedelta(seconds=1), limit=1)) == []
            self.now = due
        self.claim(claimant=CLAIMANTS[0], lease=2, limit=2, ids=None, early=0)

    @rule(due=offsets)
    def dispatch(self, due: timedelta) -> None:
        """Do what a scheduler does all day: claim, send, settle."""
        self.claim(claimant=CLAIMANTS[1], lease=3, limit=2, ids=None, early=0)
        if self.claims:
            self.settle(chosen=[0, 1], due=due, count=1, error=None, quarantined=False, kind="release", rows=1)

    @rule(
        fields=st.sampled_from([{"document": "d3"}, {"paused": True}, {"timing": "t3"}, {"next_run_at": timedelta(seconds=1)}]),
        due=offsets,
        kind=st.sampled_from(["release", "keep", "finish"]),
        timing=st.sampled_from([None, "t1", "t2"]),
    )
    def edit_during_the_send(self, fields: Fields, due: timedelta, kind: str, timing: str | None) -> None:
        """Claim, have somebody edit the schedule by `update` or `put`, and settle."""
        self.claim(claimant=CLAIMANTS[0], lease=3, limit=1, ids=None, early=0)
        if not self.claims:
            return
        schedule_id = self.claims[-1].schedule.id
        if timing is None:
            self.update(schedule_id=schedule_id, fields=fields, expected_revision=None)
        else:
            self.put(ids=[schedule_id], timing=timing, due=due, paused=False, count=2, owner=None, replace=True)
        self.settle(chosen=[0], due=due, count=1, error=None, quarantined=False, kind=kind, rows=1)

    @rule(early=st.sampled_from([0, 1500, 4000]))
    def claim_beside_a_lease(self, early: int) -> None:
        """Have the second scheduler claim right after the first, accepting what is due soon."""
        self.claim(claimant=CLAIMANTS[0], lease=2, limit=2, ids=None, early=0)
        self.claim(claimant=CLAIMANTS[1], lease=3, limit=9, ids=None, early=early)

    @rule(due=offsets, kind=st.sampled_from(["renew", "release", "keep", "finish"]))
    def come_back_late(self, due: timedelta, kind: str) -> None:
        """Let a lease end, have the second scheduler take over some of it, and the first one come back."""
        self.claim(claimant=CLAIMANTS[0], lease=1, limit=2, ids=None, early=0)
        late = self.claims[-2:]
        self.advance(halves=2)
        self.claim(claimant=CLAIMANTS[1], lease=3, limit=1, ids=None, early=0)
        chosen = [len(self.claims) - 1 - self.claims.index(claim) for claim in late]
        if late and kind == "renew":
            self.renew(chosen=chosen, until=8)
        elif late:
            self.settle(chosen=chosen, due=due, count=1, error=None, quarantined=False, kind=kind, rows=1)

    @rule(schedule_id=st.sampled_from(IDS), due=offsets)
    def store_anew(self, schedule_id: str, due: timedelta) -> None:
        """Delete a schedule and store another one of the same id, while claims of the first may be about."""
        self.delete([schedule_id])
        self.put(ids=[schedule_id], timing="t1", due=due, paused=False, count=0, owner=None, replace=True)

    # -- history ---------------------------------------------------------------------------------------------------------------

    @rule(age=st.sampled_from([-1, 0, 1, 4, 40, 40]), keep=st.integers(0, 4))
    def prune(self, age: int, keep: int) -> None:
        """Throw old history away."""
        before = self.now - timedelta(milliseconds=500 * age)
        assert self.run(self.store.prune_runs(before=before, keep=keep)) == self.model.prune(before, keep)

    # -- after each step -------------------------------------------------------------------------------------------------------

    @invariant()
    def schedules_agree(self) -> None:
        """Every schedule is as the model has it, in the order of ids."""
        expected = [self.model.schedules[schedule_id] for schedule_id in sorted(self.model.schedules)]
        assert [asdict(found) for found in self.run(self.store.page(ScheduleQuery(), limit=100))] == expected

    @invariant()
    def filters_agree(self) -> None:
        """A filtered page holds what the model's schedules say."""
        query = ScheduleQuery(paused=False, quarantined=False, due_before=self.now)
        expected = [
            schedule_id
            for schedule_id, found in sorted(self.model.schedules.items())
            if not found["paused"] and not found["quarantined"] and found["next_run_at"] and found["next_run_at"] < self.now
        ]
        assert [found.id for found in self.run(self.store.page(query, limit=100))] == expected

    @invariant()
    def next_due_agrees(self) -> None:
        """`next_due` is what the model computes."""
        assert self.run(self.store.next_due(self.now)) == self.model.next_due(self.now)

    @invariant()
    def history_agrees(self) -> None:
        """History is as the model has it, newest first."""
        assert [asdict(row) for row in self.run(self.store.runs(RunQuery(), limit=1000))] == self.model.newest_history()


def run_state_machine(
    make_store: Callable[[], ScheduleStore],
    machine: type[StoreStateMachine] = StoreStateMachine,
    machine_settings: settings | None = None,
) -> None:
    """Run `machine` on handles of its own, in an event loop of its own.

    Args:
        make_store: Gives unopened handles on the same data; called twice where the backend is shared.
        machine: The machine to run.
        machine_settings: How many examples of what length; None for the machine's `default_settings`.
    """
    loop = asyncio.new_event_loop()
    first = make_store()
    handles = [first, make_store()] if first.capabilities.shared else [first]
    try:
        for handle in handles:
            loop.run_until_complete(handle.open())
        factory: Any = lambda: machine(loop, handles)  # noqa: E731 - its declared type is a class, but any callable will do
        run_state_machine_as_test(factory, settings=machine_settings or machine.default_settings)
    finally:
        for handle in handles:
            loop.run_until_complete(handle.close())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
