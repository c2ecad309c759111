"""`ScheduledTask`: taskiq's schedule definition, extended by what taskiq-sources adds. Data only."""

from __future__ import annotations

from datetime import timedelta, tzinfo
from typing import Annotated, Any

import taskiq
from pydantic import BeforeValidator, ConfigDict

from taskiq_sources.options import ScheduleOptions
from taskiq_sources.triggers import parse_zone


def _plain_offset(value: Any) -> Any:
    """Accept time zone objects of any library where taskiq takes a name or an offset."""
    return parse_zone(value, field="cron_offset") if isinstance(value, tzinfo) else value


class ScheduledTask(taskiq.ScheduledTask):
    """What to run and when: a `taskiq.ScheduledTask` with options.

    All of taskiq's fields keep their meaning. A plain `taskiq.ScheduledTask` is accepted wherever this one is.

    Args:
        cron_offset: As in taskiq, an IANA time zone name (cron then means that wall clock) or an offset that is added to UTC.
            Time zone objects (``zoneinfo``, ``pytz``, ``dateutil``) are accepted too.
        schedule_options: How the schedule behaves; what is not set falls back on the source's defaults.
        owner: Who declares the schedule, so that a declaring side can later tell its own schedules from others'.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    cron_offset: Annotated[str | timedelta | None, BeforeValidator(_plain_offset)] = None
    schedule_options: ScheduleOptions | None = None
    owner: str | None = None
