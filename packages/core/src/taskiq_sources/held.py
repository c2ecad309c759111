"""What a dispatcher holds: the claims it has taken and not settled yet. Bookkeeping only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime

from taskiq_sources.interpreter import COLLECTOR
from taskiq_sources.occurrences import Dispatch


class Held:
    """One claimed occurrence on its way.

    Attributes:
        dispatch: What is to be sent.
        lease_ends: Until when nobody else takes it, on the event loop's clock.
        lease_until: The same on the store's clock, which may be stepped.
        worker: Who is sending it just now.
        started: When its send began, on the event loop's clock; None if it never did.
        duration: How long the send took, in seconds.
        sent: Whether the broker took it.
        error: Why the send failed.
        cancelled: Whether the application cancelled it.
        timed_out: Whether the send was cut off because it took too long.
        drained: Whether that was because the scheduler stops.
        quarantined: Whether its schedule was set aside.
        lost: Whether the lease was lost; the result is dropped then.
        as_claimed: Whether it is given back as it was before the claim: what was planned is not recorded.
        is_over: Whether it was handed on to be settled. It may be by now, so a lease that is gone does not mean that it was lost.
    """

    __slots__ = (
        "as_claimed",
        "cancelled",
        "dispatch",
        "drained",
        "duration",
        "error",
        "is_over",
        "lease_ends",
        "lease_until",
        "lost",
        "quarantined",
        "sent",
        "started",
        "timed_out",
        "worker",
    )

    def __init__(self, dispatch: Dispatch, lease_ends: float) -> None:
        self.dispatch = dispatch
        self.lease_ends = lease_ends
        self.lease_until = dispatch.claim.lease_until
        self.worker: asyncio.Task[None] | None = None
        self.started: float | None = None
        self.duration = 0.0
        self.sent = False
        self.error: BaseException | None = None
        self.cancelled = False
        self.timed_out = False
        self.drained = False
        self.quarantined = False
        self.lost = False
        self.as_claimed = False
        self.is_over = False

    @property
    def due(self) -> datetime:
        """From when on it could be sent."""
        return self.dispatch.claim.schedule.next_run_at or self.dispatch.scheduled_for


class Ledger:
    """All that is held, oldest first. A schedule may be in here twice: once under a lost claim, once under a new one.

    A process that was suspended may come back to occurrences whose leases have ended, and claim the same schedules again. The new
    claim proves that the old one is lost: two of one schedule are never renewed or settled together.
    """

    def __init__(self) -> None:
        self._held: dict[Held, None] = {}
        self._newest: dict[str, Held] = {}  # by schedule
        #: How many sends are running.
        self.sending = 0
        #: Set while anything is held, so that nobody has to look at an empty ledger now and then.
        self.busy = asyncio.Event()
        self._collect_as_before: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held)

    def __contains__(self, held: Held) -> bool:
        return held in self._held

    def add(self, dispatch: Dispatch, lease_ends: float) -> Held:
        """Hold a claim from now on."""
        held = Held(dispatch, lease_ends)
        schedule_id = dispatch.claim.schedule.id
        if schedule_id in self._newest:
            self._newest[schedule_id].lost = True
        self._newest[schedule_id] = held
        if not self._held:
            self.busy.set()
            self._collect_as_before = COLLECTOR.change()
        self._held[held] = None
        return held

    def remove(self, held: Held) -> None:
        """Hold it no longer."""
        self._held.pop(held, None)
        schedule_id = held.dispatch.claim.schedule.id
        if self._newest.get(schedule_id) is held:
            del self._newest[schedule_id]
        if not self._held:
            self.rest()

    def clear(self) -> None:
        """Hold nothing any longer."""
        self._held.clear()
        self._newest.clear()
        self.rest()

    def rest(self) -> None:
        """Do nothing for what is held any more: no look at it now and then, no patience of the collector of cycles with it."""
        self.busy.clear()
        if self._collect_as_before is not None:
            self._collect_as_before()

    def running(self) -> list[Held]:
        """Return what is being sent just now."""
        return [held for held in self._held if held.worker is not None] if self.sending else []
