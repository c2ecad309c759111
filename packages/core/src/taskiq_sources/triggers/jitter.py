"""Spreading of schedules that are due at the same instant, the same way every time."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone

_MILLISECOND = timedelta(milliseconds=1)
_END = datetime.max.replace(tzinfo=timezone.utc)  # of all instants


def jittered(scheduled_for: datetime, *, following: datetime | None, jitter: timedelta, occurrence_id: str) -> datetime:
    """Return the instant from which an occurrence may be sent: its nominal time plus a delay drawn from its id.

    The delay is in ``[0, jitter)``, in whole milliseconds, evenly distributed over ids, and the same for the same arguments in
    every process. If the next occurrence is nearer than `jitter`, the delay is drawn from the time up to it instead, so that
    occurrences keep their order.

    Args:
        scheduled_for: The nominal time, aware UTC.
        following: The nominal time of the next occurrence, aware UTC; None if there is none.
        jitter: The upper bound of the delay.
        occurrence_id: What the delay is drawn from.
    """
    room = min(jitter, _END - scheduled_for) // _MILLISECOND
    if following is not None:
        room = min(room, (following - scheduled_for) // _MILLISECOND)
    if room <= 0:
        return scheduled_for
    digest = hashlib.blake2b(occurrence_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return scheduled_for + int.from_bytes(digest, "big") % room * _MILLISECOND
