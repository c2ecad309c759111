"""Figures for operators, through the OpenTelemetry API if it is installed (``taskiq-sources[otel]``); else nothing is done.

Attributes carry the source's kind only: ids and task names would make the number of series grow without bound. Sources of one
kind are one series: their counts add up, and of what is overdue the oldest counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary, WeakSet

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation


class Gauges(Protocol):
    """What is asked for its present value."""

    @property
    def in_flight(self) -> int:
        """How many sends are running."""

    @property
    def overdue(self) -> timedelta:
        """How late the oldest due occurrence is; 0 if none is."""


class Metrics:
    """Takes figures and does nothing with them: what is used when OpenTelemetry is not installed."""

    def claimed(self, number: int) -> None:
        """Occurrences were claimed for sending."""

    def sent(self, figures: Iterable[tuple[float, float]]) -> None:
        """Occurrences were sent: for each, how many seconds after it was due, and how many seconds the send took."""

    def failed(self, number: int) -> None:
        """Sends failed."""

    def missed(self, number: int) -> None:
        """Occurrences were not sent, by the misfire policy."""

    def quarantined(self, number: int) -> None:
        """Schedules were set aside."""

    def lost(self, number: int) -> None:
        """Leases were lost while sending."""


#: Who is asked for present values, by provider and kind of source: a second instrument of a name would be left out.
_GAUGES: WeakKeyDictionary[object, dict[str, WeakSet[Gauges]]] = WeakKeyDictionary()
_GAUGES_LOCK = Lock()  # they are read in a thread of the exporter's


class OpenTelemetryMetrics(Metrics):
    """Hands figures to the OpenTelemetry API.

    Args:
        source: The kind of source, as an attribute of every figure.
        gauges: Who knows how many sends are in flight, and how late the oldest due occurrence is.
    """

    def __init__(self, source: str, gauges: Gauges) -> None:
        from opentelemetry import metrics
        from opentelemetry.metrics import Observation

        meter = metrics.get_meter("taskiq_sources")
        self._attributes = {"source": source}

        with _GAUGES_LOCK:
            asked = _GAUGES.setdefault(metrics.get_meter_provider(), {})
            is_first = not asked
            asked.setdefault(source, WeakSet()).add(gauges)

        def served() -> dict[str, list[Gauges]]:
            with _GAUGES_LOCK:
                return {kind: list(ones) for kind, ones in asked.items()}

        def read_in_flight(_options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(sum(one.in_flight for one in ones), {"source": kind}) for kind, ones in served().items()]

        def read_overdue(_options: CallbackOptions) -> Iterable[Observation]:
            latest = {kind: max((one.overdue.total_seconds() for one in ones), default=0.0) for kind, ones in served().items()}
            return [Observation(overdue, {"source": kind}) for kind, overdue in latest.items()]

        def counter(name: str, description: str) -> metrics.Counter:
            return meter.create_counter(f"taskiq_sources.{name}", unit="1", description=description)

        self._claimed = counter("claimed", "Occurrences claimed for sending")
        self._sent = counter("sent", "Occurrences sent")
        self._failed = counter("failed", "Failed sends")
        self._missed = counter("missed", "Occurrences not sent, by the misfire policy")
        self._quarantined = counter("quarantined", "Schedules set aside because they cannot be sent")
        self._lost = counter("lost_leases", "Leases lost while sending")
        self._lag = meter.create_histogram("taskiq_sources.dispatch_lag", unit="s", description="Time from due to sent")
        self._duration = meter.create_histogram("taskiq_sources.send_duration", unit="s", description="Time that a send took")
        if is_first:
            meter.create_observable_gauge("taskiq_sources.in_flight", callbacks=[read_in_flight], unit="1")
            meter.create_observable_gauge("taskiq_sources.overdue", callbacks=[read_overdue], unit="s")

    def claimed(self, number: int) -> None:
        self._claimed.add(number, self._attributes)

    def sent(self, figures: Iterable[tuple[float, float]]) -> None:
        number = 0
        for number, (lag, duration) in enumerate(figures, start=1):  # noqa: B007 - it is used below
            self._lag.record(lag, self._attributes)
            self._duration.record(duration, self._attributes)
        self._sent.add(number, self._attributes)

    def failed(self, number: int) -> None:
        self._failed.add(number, self._attributes)

    def missed(self, number: int) -> None:
        self._missed.add(number, self._attributes)

    def quarantined(self, number: int) -> None:
        self._quarantined.add(number, self._attributes)

    def lost(self, number: int) -> None:
        self._lost.add(number, self._attributes)


def make_metrics(source: str, gauges: Gauges) -> Metrics:
    """Return what takes the figures of one source."""
    try:
        return OpenTelemetryMetrics(source, gauges)
    except ModuleNotFoundError:
        return Metrics()
