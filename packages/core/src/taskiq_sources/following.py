"""Follows what a store tells of changes, so that a dispatcher looks at once. Claims nothing, sends nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime

from taskiq_sources.backends import together
from taskiq_sources.clock import Clock
from taskiq_sources.errors import SourceClosedError, SourceConnectionError
from taskiq_sources.settling import FIRST_PAUSE, LONGEST_PAUSE
from taskiq_sources.store import ScheduleStore
from taskiq_sources.tasking import end, sparsely

logger = logging.getLogger("taskiq_sources")

_GATHERING = 0.01  # seconds; for so long changes are gathered, to be looked at once
_CALLS_AT_ONCE = 4  # of a dispatcher: a claim, two settles, and a renewal or a look at what is due next


async def follow(store: ScheduleStore, clock: Clock, changed: Callable[[], None], *, name: str) -> None:
    """Turn the store's push into calls of `changed`; for ever. Without push, or while it is broken, polling goes on.

    Args:
        store: Tells of changes.
        clock: Whose present the store is asked about.
        changed: Called when there may be one.
        name: The source, for log lines.
    """
    if not store.capabilities.push:
        await asyncio.Event().wait()
    connecting = asyncio.ensure_future(_connect(store, clock, name=name))  # beside it: push waits for nothing
    try:
        await _follow(store, changed, name=name)
    finally:
        await end([connecting], within=LONGEST_PAUSE)


async def _connect(store: ScheduleStore, clock: Clock, *, name: str) -> None:
    """Have the store make the connections of a burst now: in one that follows a downtime each would wait for a busy server."""

    async def look(now: datetime) -> None:
        await store.next_due(now)

    try:
        now = await clock.now()
        await together(look(now) for _ in range(_CALLS_AT_ONCE))
    except Exception as error:  # the dispatcher asks the same, and tells of it
        logger.debug("%s: connections are made when they are needed: %s", name, error)


async def _follow(store: ScheduleStore, changed: Callable[[], None], *, name: str) -> None:
    pause = FIRST_PAUSE
    while True:
        try:
            # Each settle of each scheduler would have all others look. What is declared comes as two changes, at once.
            async with aclosing(sparsely(store.watch(), _GATHERING)) as changes:
                async for _ in changes:
                    pause = FIRST_PAUSE
                    changed()
        except (SourceConnectionError, SourceClosedError) as error:
            logger.debug("%s: watching for changes broke off: %s", name, error)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException:  # polling goes on without it, and so does what is being sent
            logger.exception("%s: watching for changes fell over and is begun again; please report this.", name)
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
