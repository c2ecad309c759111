"""Follows what a store tells of changes, so that a dispatcher looks at once. Claims nothing, sends nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from taskiq_sources.errors import SourceClosedError, SourceConnectionError
from taskiq_sources.settling import FIRST_PAUSE, LONGEST_PAUSE
from taskiq_sources.store import ScheduleStore
from taskiq_sources.tasking import sparsely

logger = logging.getLogger("taskiq_sources")

_GATHERING = 0.01  # seconds; for so long changes are gathered, to be looked at once


async def follow(store: ScheduleStore, changed: Callable[[], None], *, name: str) -> None:
    """Turn the store's push into calls of `changed`; for ever. Without push, or while it is broken, polling goes on.

    Args:
        store: Tells of changes.
        changed: Called when there may be one.
        name: The source, for log lines.
    """
    if not store.capabilities.push:
        await asyncio.Event().wait()
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
