"""How the engine fares, as data for probes, dashboards and tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from taskiq_sources.breaker import BreakerState
from taskiq_sources.clock import StoreClock

if TYPE_CHECKING:
    from taskiq_sources.dispatcher import Dispatcher
    from taskiq_sources.source import ScheduleSource


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHealth:
    """How one source is served.

    Attributes:
        source: The source, as its ``repr``.
        serving: False from when its dispatcher fell over until that has looked at the store again.
        store_reachable: Whether the last call to the store was answered, and none has waited for longer than two leases.
        breaker: ``closed`` while the broker takes messages.
        failing: How many schedules have failed in the last ten minutes, and were not sent since.
        in_flight: Sends that are running.
        queued: Occurrences that are claimed and wait for a send.
        held: Claims that are not settled yet.
        lag: How long after its due time the last occurrence was settled.
        overdue: How late the oldest due occurrence was when the store was last asked; 0 if nothing was due.
        last_claim_at: When something was claimed last, by the store's clock; None if never.
        last_settle_at: When something was settled last; None if never.
        next_due: When something is due next, as of the last look.
        clock_offset: Store clock minus local clock; None if a clock of the application's own is used.
    """

    source: str
    serving: bool
    store_reachable: bool
    breaker: BreakerState
    failing: int
    in_flight: int
    queued: int
    held: int
    lag: timedelta
    overdue: timedelta
    last_claim_at: datetime | None
    last_settle_at: datetime | None
    next_due: datetime | None
    clock_offset: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How the engine fares.

    Attributes:
        running: Whether it runs.
        sources: Each source that it serves.
    """

    running: bool
    sources: tuple[SourceHealth, ...]

    @property
    def ok(self) -> bool:
        """Whether it runs, serves all sources, reaches every store, and no breaker is open."""
        return self.running and all(
            source.serving and source.store_reachable and source.breaker != "open" for source in self.sources
        )


def health_of(running: bool, served: list[tuple[ScheduleSource, Dispatcher]]) -> Health:
    """Return the health of dispatchers and the sources they serve."""
    return Health(running=running, sources=tuple(_source_health(source, dispatcher) for source, dispatcher in served))


def _source_health(source: ScheduleSource, dispatcher: Dispatcher) -> SourceHealth:
    return SourceHealth(
        source=repr(source),
        serving=dispatcher.reach.serving,
        store_reachable=dispatcher.reach.reachable,
        breaker=dispatcher.breaker.state,
        failing=dispatcher.breaker.failing,
        in_flight=dispatcher.in_flight,
        queued=dispatcher.queued,
        held=len(dispatcher.ledger),
        lag=dispatcher.settlers.lag,
        overdue=dispatcher.overdue,
        last_claim_at=dispatcher.last_claim_at,
        last_settle_at=dispatcher.settlers.last_settle_at,
        next_due=dispatcher.next_due,
        clock_offset=source.clock.offset if isinstance(source.clock, StoreClock) else None,
    )
