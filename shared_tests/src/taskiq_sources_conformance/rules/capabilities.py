"""Rules for the declaration of capabilities: a store promises no more than it keeps."""

from __future__ import annotations

import asyncio

import pytest

from taskiq_sources.models import Capabilities
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import TIMEOUT, read, schedule

# Declared but not kept: see also DurabilityRules (shared, durable) and PushRules (push), which run where these are declared.


class CapabilityRules:
    """Capabilities are declared on the class, completely and honestly."""

    async def test_capabilities_are_declared_on_the_class(self, store: ScheduleStore) -> None:
        """`capabilities` is a class attribute of type Capabilities. (Look at the class body of the store.)"""
        assert isinstance(type(store).capabilities, Capabilities)
        assert store.capabilities == type(store).capabilities

    async def test_shared_is_true(self, store: ScheduleStore, other: ScheduleStore) -> None:
        """A store that declares 'shared' shares. (Look at `capabilities`, and at what `make_store` gives out.)"""
        await store.put([schedule("a")])
        await other.put([schedule("b")])

        assert await read(other, "a") == schedule("a")
        assert await read(store, "b") == schedule("b")

    async def test_push_is_true(self, store: ScheduleStore) -> None:
        """A store that declares 'push' has a `watch` that yields. (Look at `capabilities` and `watch`.)"""
        if not store.capabilities.push:
            pytest.skip(f"{type(store).__name__} does not declare the capability 'push'")
        values = store.watch()

        await asyncio.wait_for(values.__anext__(), TIMEOUT)
        await store.close()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(values.__anext__(), TIMEOUT)

    async def test_push_is_refused_where_not_declared(self, store: ScheduleStore) -> None:
        """Without 'push', `watch` raises NotImplementedError instead of being silent. (Look at `capabilities` and `watch`.)"""
        if store.capabilities.push:
            pytest.skip(f"{type(store).__name__} declares the capability 'push'")

        with pytest.raises(NotImplementedError):
            await store.watch().__anext__()
