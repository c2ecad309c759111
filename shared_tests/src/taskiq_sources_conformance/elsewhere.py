"""Runs part of a rule in another process, on a store of its own: what the locks and counters of this process cannot reach."""

from __future__ import annotations

import asyncio
import contextlib
import pickle  # noqa: TID251 - between two processes of one test
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest

from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import TIMEOUT

#: What is done there, with the open store and further arguments: a function of a module, as pickle wants it.
Work: TypeAlias = Callable[..., Awaitable[Any]]

#: To start an interpreter and to import a driver takes a second, and much more on a crowded machine.
_PATIENCE = 6 * TIMEOUT

_PROGRAM = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from taskiq_sources_conformance.elsewhere import main
main()
"""
_FIX = "have make_store (or make_store_elsewhere) return functools.partial(MyStore, ...), with MyStore in a module to be imported"


def can_travel(make_store: Callable[[], ScheduleStore]) -> bool:
    """Tell whether another process can be given the factory."""
    try:
        pickle.dumps(make_store)
    except (pickle.PicklingError, AttributeError, TypeError):  # which of them says what is wrong depends on Python's version
        return False
    return True


class Elsewhere:
    """A process that has opened a store, and waits to be told to go on."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def receive(self) -> Any:
        """Return what it says next: that it is ready, or what its work came to."""
        assert self._process.stdout is not None
        size = await self._process.stdout.readline()
        if not size:
            await self._explain()
        return pickle.loads(await self._process.stdout.readexactly(int(size)))  # noqa: S301 - from the process started here

    async def result(self) -> Any:
        """Have the work done, and return what it came to. The store stays open."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        await self._process.stdin.drain()
        return await asyncio.wait_for(self.receive(), _PATIENCE)

    async def kill(self) -> None:
        """End it at once, its store open."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._end()

    async def close(self) -> None:
        """Have it close its store and end."""
        errors = await asyncio.wait_for(self._end(), _PATIENCE)
        if self._process.returncode:
            pytest.fail(f"the other process failed to close its store:\n{errors.decode()}", pytrace=False)

    async def _end(self) -> bytes:
        """Wait until it has ended, and return its errors."""
        assert self._process.stdin is not None
        self._process.stdin.close()  # before Python 3.12, `communicate` does so only after it has written something
        _, errors = await self._process.communicate()
        return errors

    async def _explain(self) -> None:
        errors = await self._end()
        pytest.fail(f"in another process (if that cannot make a store: {_FIX}):\n{errors.decode()}", pytrace=False)


@asynccontextmanager
async def elsewhere(make_store: Callable[[], ScheduleStore], work: Work, *arguments: Any) -> AsyncIterator[Elsewhere]:
    """Start a process that opens a store and is to do `work` with it; it is closed in the end, or killed after an error."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _PROGRAM, stdin=pipe, stdout=pipe, stderr=pipe)
    other = Elsewhere(process)
    try:
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(sys.path) + pickle.dumps((make_store, work, arguments)))
        await asyncio.wait_for(other.receive(), _PATIENCE)
        yield other
        if process.returncode is None:
            await other.close()
    finally:
        if process.returncode is None:
            await other.kill()


def main() -> None:
    """Be the other process."""
    make_store, work, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
    output, sys.stdout = sys.stdout.buffer, sys.stderr  # nothing that is printed gets between the answers

    def say(value: object) -> None:
        answer = pickle.dumps(value)
        output.write(b"%d\n%b" % (len(answer), answer))
        output.flush()

    async def live() -> None:
        loop = asyncio.get_running_loop()
        store = make_store()
        await store.open()
        try:
            say("ready")
            if await loop.run_in_executor(None, sys.stdin.buffer.readline):
                say(await work(store, *arguments))
                await loop.run_in_executor(None, sys.stdin.buffer.read)
        finally:
            await store.close()

    asyncio.run(live())
