"""The store without a defect, which those with one are made from, and the conformance class of them all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import Phase, settings

from taskiq_sources.errors import SchemaVersionError, SourceConnectionError, redact_url
from taskiq_sources.memory import MemoryData, MemoryStore
from taskiq_sources.models import (
    Capabilities,
    StoredSchedule,
)
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance import StoreConformance, StoreStateMachine, Unreachable
from taskiq_sources_conformance.build import stepwise
from taskiq_sources_conformance.rules import push

NEWER_SCHEMA = "\0newer schema"  # among the tokens: no id contains a NUL


class IntactStore(MemoryStore):
    """The reference store; within one event loop, handles on the same data are as good as shared and durable."""

    capabilities: ClassVar[Capabilities] = Capabilities(shared=True, durable=True, push=True)

    #: The rules that have to fail on this store.
    caught_by: ClassVar[tuple[str, ...]] = ()
    #: Whether the state machine has to fail too: it sees what one caller at a time can see.
    caught_by_machine: ClassVar[bool] = True

    def __init__(self, data: MemoryData, *, server: str | None = None) -> None:
        super().__init__(data)
        self.server = server  # the URL of one that does not answer, for the rules about servers
        self.connected = True

    async def others_run(self) -> None:
        """Be amid a call, where others get their turn."""
        await asyncio.sleep(0)

    async def open(self) -> None:
        if self.server is not None:
            raise SourceConnectionError(f"cannot reach {redact_url(self.server)}: connection refused")
        if NEWER_SCHEMA in self._data.tokens:
            raise SchemaVersionError("the schema is of release 99; upgrade this process")
        await super().open()

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        if not self.connected:
            self.connected = True
            raise SourceConnectionError("the connection was lost")
        return await super().get(ids)

    def edit(self, schedule_id: str, **values: Any) -> None:
        self._data.schedules[schedule_id] = replace(self._data.schedules[schedule_id], **values)


class HastyStateMachine(StoreStateMachine):
    """Stops at the first failure: that there is one is enough, the shortest is not needed.

    Its examples are those of one release of Python and Hypothesis. Of 400 runs with seeds, one missed its defect in the usual 50
    examples; three times as many, most of them never reached, keep this test from failing on a release that is unlucky.
    """

    default_settings = settings(
        StoreStateMachine.default_settings, max_examples=150, phases=[Phase.generate], report_multiple_bugs=False
    )


class BrokenConformance(StoreConformance):
    broken: ClassVar[type[IntactStore]]

    @pytest.fixture(autouse=True)
    def impatience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(push, "TIMEOUT", 0.5)  # watchers that never wake are among the defects

    @pytest.fixture
    def make_store(self) -> Callable[[], IntactStore]:
        data = MemoryData()
        return lambda: self.broken(data)

    @pytest.fixture
    def unreachable(self) -> Unreachable:
        server = "db://user:hunter2@db.example/schedules"
        return Unreachable(self.broken(MemoryData(), server=server), mentions=("db.example", "schedules"), secret="hunter2")

    async def make_schema_newer(self, store: ScheduleStore) -> None:
        assert isinstance(store, IntactStore)
        store._data.tokens[NEWER_SCHEMA] = ""

    async def drop_connections(self, store: ScheduleStore) -> None:
        assert isinstance(store, IntactStore)
        store.connected = False

    @contextmanager
    def each_step(self, store: ScheduleStore, before: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """Do something before each call, and where others get their turn amid it."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("put", "get", "page", "delete", "update", "claim", "renew", "settle", "next_due", "runs"):
                patch.setattr(store, name, stepwise(getattr(store, name), before))
            patch.setattr(store, "others_run", before)
            yield


def defects_of(module: str) -> dict[str, type[IntactStore]]:
    """Return the broken stores that `module` defines, by name."""
    return {defect.__name__: defect for defect in IntactStore.__subclasses__() if defect.__module__ == module}


def conformance_classes(module: str, stores: Iterable[type[IntactStore]]) -> dict[str, type[BrokenConformance]]:
    """Return a conformance class for each store, to be put into `module` for pytest to collect."""
    names = {store: f"Test{store.__name__}" for store in stores}
    return {
        name: type(
            name,
            (BrokenConformance,),
            {
                "broken": store,
                "backend": store.__name__,
                # Without a defect nothing stops the machine early, so the usual number of examples has to do.
                "state_machine": StoreStateMachine if store is IntactStore else HastyStateMachine,
                "__module__": module,
            },
        )
        for store, name in names.items()
    }
