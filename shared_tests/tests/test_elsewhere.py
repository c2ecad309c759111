"""The processes of a rule end with it, whichever of them fails."""

from __future__ import annotations

import asyncio
from operator import methodcaller

import pytest

from taskiq_sources.backends import together
from taskiq_sources.memory import MemoryStore
from taskiq_sources_conformance.elsewhere import elsewhere

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_results_come_in_order() -> None:
    assert await together([asyncio.sleep(0.01, "a"), asyncio.sleep(0, "b")]) == ["a", "b"]


async def test_an_error_is_told_when_all_have_ended() -> None:
    ended = asyncio.Event()

    async def fail() -> None:
        raise ValueError("the first")

    async def end_later() -> None:
        await asyncio.sleep(0.01)
        ended.set()

    with pytest.raises(ValueError, match="the first"):
        await together([fail(), end_later()])
    assert ended.is_set()


async def test_a_failure_in_another_process_is_told_with_its_cause() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"in another process(.|\n)*TypeError"):
        async with (
            elsewhere(MemoryStore, methodcaller("get", None)) as broken,
            elsewhere(MemoryStore, methodcaller("get", ["a"])) as sound,
        ):
            await together([broken.result(), sound.result()])
