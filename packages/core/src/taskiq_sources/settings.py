"""The knobs of the dispatch engine, each with a default that needs no thought. Data and its validation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TypedDict

from taskiq_sources.errors import ScheduleValidationError


class DispatchOptions(TypedDict, total=False):
    """Keyword arguments of `DurableScheduler`; `DispatchSettings` says what they mean."""

    max_concurrent_sends: int
    batch_size: int
    send_timeout: timedelta
    drain_timeout: timedelta
    poll_interval: timedelta
    max_attempts: int | None
    breaker_threshold: int
    breaker_pause: timedelta
    breaker_longest_pause: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings:
    """How the engine works.

    Args:
        max_concurrent_sends: How many sends run at the same time, for all sources together. At least 1 for each source.
        batch_size: How many occurrences are claimed or settled in one call to a store at most.
        send_timeout: After this long a send is given up as failed, and tried again later.
        drain_timeout: How long a stopping scheduler takes at most: two thirds of it for its sends in flight, the rest to settle
            and to give back. What is cut off is tried again by others.
        poll_interval: How often a store is looked at when nothing is due and it has told of no change: the safety net behind
            push, and how late a change may be noticed without it.
        max_attempts: A schedule whose pending occurrence has failed this often is quarantined. None: it is tried for ever. A
            scheduler that dies between two failures counts as one.
        breaker_threshold: After this many failed sends in a row, with no success between them, the broker is taken to be down.
            What had failed already when the broker took something else does not count.
        breaker_pause: How long nothing is claimed then, before a few occurrences are tried; doubled each time that they fail too.
        breaker_longest_pause: Where that doubling ends.

    Raises:
        ScheduleValidationError: A value is refused.
    """

    max_concurrent_sends: int = 64
    batch_size: int = 500
    send_timeout: timedelta = timedelta(seconds=30)
    drain_timeout: timedelta = timedelta(seconds=10)
    poll_interval: timedelta = timedelta(seconds=1)
    max_attempts: int | None = None
    breaker_threshold: int = 10
    breaker_pause: timedelta = timedelta(seconds=1)
    breaker_longest_pause: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name == "max_attempts" and value is None:
                continue
            if "timedelta" in str(setting.type):
                if not isinstance(value, timedelta) or value <= timedelta(0):
                    raise ScheduleValidationError(setting.name, value, "give a timedelta longer than 0")
            elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ScheduleValidationError(setting.name, value, "give a whole number of at least 1")
