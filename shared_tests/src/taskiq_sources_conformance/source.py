"""`SourceConformance`: what the author of a source class subclasses, and the fixtures that the source rules use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import pytest

from taskiq_sources import ScheduleSource
from taskiq_sources.clock import ManualClock
from taskiq_sources_conformance.base import Conformance
from taskiq_sources_conformance.build import NOW
from taskiq_sources_conformance.source_build import App, ids, make_app, rows
from taskiq_sources_conformance.source_rules.accounting import AccountingRules
from taskiq_sources_conformance.source_rules.arguments import ArgumentRules
from taskiq_sources_conformance.source_rules.changing import ChangingRules
from taskiq_sources_conformance.source_rules.conflicts import ConflictRules
from taskiq_sources_conformance.source_rules.declaring import DeclaringRules
from taskiq_sources_conformance.source_rules.dst import DstRules
from taskiq_sources_conformance.source_rules.edits import EditRules
from taskiq_sources_conformance.source_rules.history import SourceHistoryRules
from taskiq_sources_conformance.source_rules.identity import IdentityRules
from taskiq_sources_conformance.source_rules.life import LifeRules
from taskiq_sources_conformance.source_rules.listing import ListingRules
from taskiq_sources_conformance.source_rules.manual import ManualRunRules
from taskiq_sources_conformance.source_rules.misfires import MisfireRules
from taskiq_sources_conformance.source_rules.overview import OverviewRules
from taskiq_sources_conformance.source_rules.pausing import PausingRules
from taskiq_sources_conformance.source_rules.records import RecordRules
from taskiq_sources_conformance.source_rules.releases import ReleaseRules
from taskiq_sources_conformance.source_rules.rescheduling import ReschedulingRules
from taskiq_sources_conformance.source_rules.retries import RetryRules
from taskiq_sources_conformance.source_rules.round_trip import RoundTripRules
from taskiq_sources_conformance.source_rules.sending import SendingRules
from taskiq_sources_conformance.source_rules.taskiq_api import TaskiqApiRules
from taskiq_sources_conformance.source_rules.triggers import TriggerRules
from taskiq_sources_conformance.source_rules.validation import ValidationRules
from taskiq_sources_conformance.source_rules.windows import WindowRules

MakeSource: TypeAlias = Callable[..., ScheduleSource]
OpenSource: TypeAlias = Callable[..., Awaitable[ScheduleSource]]


class SourceConformance(
    TaskiqApiRules,
    RoundTripRules,
    ArgumentRules,
    ValidationRules,
    ConflictRules,
    DeclaringRules,
    ChangingRules,
    ReleaseRules,
    AccountingRules,
    ListingRules,
    OverviewRules,
    TriggerRules,
    WindowRules,
    DstRules,
    IdentityRules,
    MisfireRules,
    RetryRules,
    SendingRules,
    EditRules,
    PausingRules,
    ReschedulingRules,
    ManualRunRules,
    SourceHistoryRules,
    RecordRules,
    LifeRules,
    Conformance,
):
    """Every promise of `taskiq_sources.ScheduleSource`. Subclass it, set `backend` and give it the fixture `make_source`."""

    @pytest.fixture
    def make_source(self) -> MakeSource:
        """Return a factory ``make(**options)`` whose every call gives a new, unopened source on the same data.

        The data is this test's own and empty at first; the options go to the source's constructor. To be overridden, as an
        ordinary (not async) fixture.
        """
        raise NotImplementedError(
            f"{type(self).__qualname__} has to define the fixture make_source; see its docstring in SourceConformance",
        )

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The clock of all sources; shows `NOW` until a rule moves it."""
        return ManualClock(NOW)

    @pytest.fixture
    def app(self, clock: ManualClock) -> App:
        """An application with a broker that writes down what it is given."""
        return make_app(clock)

    @pytest.fixture
    async def open_source(self, make_source: MakeSource, clock: ManualClock) -> AsyncIterator[OpenSource]:
        """A function that returns one more started source on the same data; all are shut down in the end."""
        async with AsyncExitStack() as stack:

            async def open_one(**options: Any) -> ScheduleSource:
                source = make_source(**{"clock": clock, **options})
                stack.push_async_callback(source.shutdown)
                await source.startup()
                return source

            yield open_one

    @pytest.fixture
    async def source(self, open_source: OpenSource) -> ScheduleSource:
        """A started source on empty data, in virtual time."""
        source = await open_source()
        left = [*await ids(source), *(row.occurrence_id for row in await rows(source))]
        if left:
            pytest.fail(f"make_source has to give each test empty data of its own; this one already holds {left}", pytrace=False)
        return source
