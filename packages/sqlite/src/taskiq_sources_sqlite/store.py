"""`SQLiteStore`: the store contract on one SQLite file, which any number of processes of one machine may share.

What a call does is in :mod:`taskiq_sources_sqlite.operations`, what the tables look like in ``migrations``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import ClassVar

from taskiq_sources.backends import check_durations, check_patience
from taskiq_sources.clock import system_now
from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.models import Capabilities
from taskiq_sources.sql import SQLStore
from taskiq_sources_sqlite.file import File
from taskiq_sources_sqlite.operations import Rows, Values, run
from taskiq_sources_sqlite.schema import SYNCHRONOUS, Synchronous


class SQLiteStore(SQLStore[File]):
    """Schedules in tables ``taskiq_sources_*`` of one SQLite file, which may hold other tables too.

    Args:
        path: The file; created when it is missing, its directory is not. On a local disk, not on a network share.
        busy_timeout: How long a call waits for other processes' transactions before it fails.
        synchronous: ``FULL`` (default): what was written survives a power failure. ``NORMAL``: several times faster for single
            writes, survives the death of any process, but the last moments before a power failure may be lost.
        poll_interval: How often `watch` looks for changes.

    Raises:
        ScheduleValidationError: An argument is not valid.
    """

    _of_one_loop: ClassVar[bool] = False  # a thread works with it

    capabilities: ClassVar[Capabilities] = Capabilities(shared=True, durable=True, push=True)

    _prune_batch: ClassVar[int] = 2_000

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: timedelta = timedelta(seconds=5),
        synchronous: Synchronous = "FULL",
        poll_interval: timedelta = timedelta(milliseconds=75),
    ) -> None:
        super().__init__()
        if synchronous not in SYNCHRONOUS:
            raise ScheduleValidationError("synchronous", synchronous, f"use one of {', '.join(SYNCHRONOUS)}")
        check_patience(busy_timeout=busy_timeout)
        check_durations(poll_interval=poll_interval)
        #: The file; absolute, so that it stays the same one when the process changes its directory. ``taskiq schedules`` looks
        #: whether it is there.
        self.path = os.path.abspath(path)
        self._new_session = partial(File, self.path, busy_timeout.total_seconds(), synchronous)
        self._poll_interval = poll_interval.total_seconds()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    async def now(self) -> datetime:
        _ = self._session
        return system_now()

    async def _run(self, operation: str, values: Values, conditions: Sequence[str] = (), *, repeatable: bool = False) -> Rows:
        return await self._session.call(partial(run, operation=operation, values=values, conditions=conditions))

    def watch(self) -> AsyncIterator[None]:
        return self._session.changes(self._poll_interval)
