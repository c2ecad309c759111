"""The heartbeat of a dispatcher: renews the leases of what it holds. Claims nothing, sends nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime

from taskiq_sources.backends import portions
from taskiq_sources.claims import ClaimDesk
from taskiq_sources.clock import Clock
from taskiq_sources.errors import SourceClosedError, SourceConnectionError
from taskiq_sources.held import Held, Ledger
from taskiq_sources.reach import Reach
from taskiq_sources.store import ScheduleStore

logger = logging.getLogger("taskiq_sources")


class Leases:
    """Keeps leases from ending.

    Args:
        desk: Says how long a lease is.
        store: Renews them.
        clock: What they end by.
        ledger: What is held.
        batch_size: How many are renewed in one call at most.
        reach: Is told of an error of the store; the next heartbeat tries again.
        name: The source, for log lines.
    """

    def __init__(
        self,
        desk: ClaimDesk,
        store: ScheduleStore,
        clock: Clock,
        ledger: Ledger,
        batch_size: int,
        reach: Reach,
        *,
        name: str,
    ) -> None:
        self._desk = desk
        self._store = store
        self._clock = clock
        self._ledger = ledger
        self._batch_size = batch_size
        self._reach = reach
        self._name = name
        self.heartbeat = desk.lease / 3  # how often they are renewed

    async def keep(self) -> None:
        """Renew everything that is held, again and again; for ever."""
        while True:
            await self._ledger.busy.wait()
            await asyncio.sleep(self.heartbeat.total_seconds())
            try:
                await self.renew([held for held in self._ledger if not held.lost])
            except SourceConnectionError as error:
                self._reach.failed(error)
            except SourceClosedError:
                raise
            except Exception:  # what is being sent goes on without it
                logger.exception("%s: renewing leases failed and is tried again; please report this.", self._name)

    def late(self, now: datetime) -> list[Held]:
        """Return what the heartbeat is late for, which is to be renewed before anything is claimed at `now`.

        After a suspension of this process, an outage of the store, or a step of its clock, the claim would else return what is
        being sent here.
        """
        ends, until = asyncio.get_running_loop().time() + self.heartbeat.total_seconds(), now + self.heartbeat
        return [held for held in self._ledger if not held.lost and (held.lease_ends < ends or held.lease_until < until)]

    async def renew(self, held: Sequence[Held]) -> None:
        """Renew these, and mark those as lost that are somebody else's by now.

        Raises:
            SourceConnectionError: The store cannot be reached.
        """
        lease = self._desk.lease
        for batch in portions(held, self._batch_size):
            asked = asyncio.get_running_loop().time()
            until = await self._clock.now() + lease
            with self._reach.calling():
                ours = await self._store.renew([item.dispatch.claim for item in batch], until=until)
            for item in batch:
                item.lease_ends, item.lease_until = asked + lease.total_seconds(), until
                if item.dispatch.claim.schedule.id not in ours and item in self._ledger and not item.is_over:
                    item.lost = True
                    self._desk.metrics.lost(1)
                    logger.warning("The lease of schedule %r was lost; its result is dropped.", item.dispatch.schedule_id)
