"""What operators get to see through OpenTelemetry, read back from its SDK."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from taskiq import AsyncBroker, BrokerMessage

from taskiq_sources import DurableScheduler, InMemoryScheduleSource, ScheduledTask, ScheduleOptions
from taskiq_sources.metrics import Metrics, OpenTelemetryMetrics, make_metrics
from taskiq_sources.models import ScheduleChanges

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    return reader


def read(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Return the sum of each counter, the value of each gauge, and the count of each histogram."""
    data: Any = reader.get_metrics_data()
    found = {}
    for metric in (metric for one in data.resource_metrics for scope in one.scope_metrics for metric in scope.metrics):
        if not metric.data.data_points:  # older releases of the SDK name what nothing was added to yet
            continue
        [point] = metric.data.data_points
        assert point.attributes == {"source": "InMemoryScheduleSource"}
        found[metric.name.removeprefix("taskiq_sources.")] = getattr(point, "count", getattr(point, "value", None))
    return found


class Broker(AsyncBroker):
    """Takes three messages in four: refuses what is called ``refused``, once."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = False

    async def kick(self, message: BrokerMessage) -> None:
        if message.task_name == "refused" and not self.refused:
            self.refused = True
            raise ConnectionError("not now")

    async def listen(self) -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""


async def test_figures_tell_what_was_done(reader: InMemoryMetricReader) -> None:
    source = InMemoryScheduleSource()
    await source.startup()
    now = await source.clock.now()
    common: dict[str, Any] = {"labels": {}, "args": [], "kwargs": {}}
    late = ScheduleOptions(misfire_grace=timedelta(seconds=1))
    old = now - timedelta(hours=1)
    await source.add_schedules(
        [
            *(ScheduledTask(task_name="sent", schedule_id=f"sent-{index}", time=now, **common) for index in range(3)),
            ScheduledTask(task_name="refused", schedule_id="refused", time=now, **common),
            ScheduledTask(task_name="late", schedule_id="late", time=old, schedule_options=late, **common),
            ScheduledTask(task_name="broken", schedule_id="broken", time=now, **common),
        ]
    )
    await source.store.update("broken", ScheduleChanges(updated_at=now, document="{"))

    scheduler = DurableScheduler(Broker(), [source])
    found: dict[str, Any] = {}
    done = {"sent": 3, "failed": 1, "missed": 1, "quarantined": 1, "in_flight": 0, "overdue": 0}
    async with scheduler:
        for _ in range(1_000):
            found |= read(reader)  # older releases of the SDK leave out what has not changed since the last look
            if done.items() <= found.items():
                break
            await asyncio.sleep(0.005)

    assert found["claimed"] == 4
    assert found["sent"] == found["dispatch_lag"] == found["send_duration"] == 3
    assert found["failed"] == found["missed"] == found["quarantined"] == 1
    assert found["in_flight"] == 0
    assert found["overdue"] == 0


async def test_gauges_tell_of_all_sources_and_of_later_starts(reader: InMemoryMetricReader) -> None:
    """Of one kind they are one series: what is in flight adds up, and of what is overdue the oldest counts."""

    class Gauges:
        def __init__(self, in_flight: int, overdue: int) -> None:
            self.in_flight = in_flight
            self.overdue = timedelta(seconds=overdue)

    first = Gauges(3, 10)
    make_metrics("InMemoryScheduleSource", first)
    second = Gauges(4, 20)
    make_metrics("InMemoryScheduleSource", second)

    assert read(reader) == {"in_flight": 7, "overdue": 20}
    del second
    assert read(reader) == {"in_flight": 3, "overdue": 10}


async def test_without_the_api_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(name)
        return wanted(name, *arguments)

    class Gauges:
        in_flight = 0
        overdue = timedelta(0)

    assert isinstance(make_metrics("a", Gauges()), OpenTelemetryMetrics)
    monkeypatch.setattr(builtins, "__import__", without)
    assert type(make_metrics("a", Gauges())) is Metrics
