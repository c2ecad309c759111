"""When a schedule runs: cron, interval and time, time zones and daylight saving, jitter. Pure functions of their arguments.

Nothing in here does I/O (besides reading the time-zone database) or looks at a clock: callers pass every instant. Every datetime
passed in or returned is aware, in UTC and in whole milliseconds; wall-clock times stay inside.

- :mod:`~taskiq_sources.triggers.zones`: what users write as a time zone;
- :mod:`~taskiq_sources.triggers.offsets`: where a zone's UTC offset changes;
- :mod:`~taskiq_sources.triggers.expression`: cron text, checked and parsed;
- :mod:`~taskiq_sources.triggers.fields`: matching of wall-clock times;
- :mod:`~taskiq_sources.triggers.cron`: the two together: instants at which a cron fires, and the DST policies;
- :mod:`~taskiq_sources.triggers.timetable`: all triggers of one schedule;
- :mod:`~taskiq_sources.triggers.jitter`: spreading of equal due times.
"""

from __future__ import annotations

from taskiq_sources.triggers.cron import CronTrigger, DstPolicy, compile_cron
from taskiq_sources.triggers.jitter import jittered
from taskiq_sources.triggers.timetable import Timetable
from taskiq_sources.triggers.zones import Zone, parse_zone

__all__ = ["CronTrigger", "DstPolicy", "Timetable", "Zone", "compile_cron", "jittered", "parse_zone"]
