"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from engine_world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A broker, sources and schedulers in virtual time, which are stopped in the end."""
    world = World()
    yield world
    for scheduler in world.schedulers:
        await scheduler.stop()
