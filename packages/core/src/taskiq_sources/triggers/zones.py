"""What users write as a time zone, brought to one form: an IANA name, or an offset that is added to UTC.

Where the offset of a named zone changes is the business of :mod:`taskiq_sources.triggers.offsets`.
"""

from __future__ import annotations

import re
from datetime import timedelta, tzinfo
from functools import lru_cache
from typing import TypeAlias
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter, ValidationError

from taskiq_sources.errors import ScheduleValidationError

#: An IANA name, or an offset that is added to UTC.
Zone: TypeAlias = str | timedelta

UTC_NAME = "UTC"

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_DURATION = TypeAdapter(timedelta)

# What starts like "PT2H", "-P1D", "02:00:00" or "+2" is meant as a duration: no IANA name starts so.
_LOOKS_LIKE_DURATION = re.compile(r"[+-]?(P[\dT]|\d)|[+-]P", re.ASCII)

# Every IANA name has this form. What has not never reaches the file system: "../x", "/etc/x", "a\0b".
_LOOKS_LIKE_NAME = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,3}", re.ASCII)
_LONGEST_NAME = 64  # the longest in use has 32 characters

# Present in many time-zone databases, but they mean something else on each machine, or count leap seconds.
_UNPORTABLE = re.compile(r"(localtime|posixrules|Factory|posix/.*|right/.*)", re.ASCII)

_HOW = "use an IANA name such as 'Europe/Berlin', or an offset that is added to UTC, such as timedelta(hours=2) or 'PT2H'"


def parse_zone(value: str | timedelta | tzinfo, *, field: str) -> Zone:
    """Bring a time zone to the form that is stored.

    Args:
        value: An IANA name; an offset as `timedelta`, as ISO 8601 duration (``"-PT1H30M"``) or as clock text (``"02:00:00"``);
            or a `tzinfo` of the standard library, pytz, dateutil or anything alike.
        field: What the value was given as, for the error.

    Returns:
        An IANA name that this machine knows, or an offset of less than a day in whole seconds.

    Raises:
        ScheduleValidationError: The value names no time zone.
    """
    if isinstance(value, str):
        return _parse_text(value, field)
    if isinstance(value, timedelta):
        return _check_offset(value, value, field)
    if isinstance(value, tzinfo):
        return _parse_tzinfo(value, field)
    raise ScheduleValidationError(field, value, f"{type(value).__name__} is no time zone; {_HOW}")


@lru_cache(maxsize=1024)
def load_zone(name: str) -> ZoneInfo | None:
    """Return the zone of an IANA name, or None if there is no such zone on this machine."""
    if len(name) > _LONGEST_NAME or not _LOOKS_LIKE_NAME.fullmatch(name) or _UNPORTABLE.fullmatch(name):
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, ImportError):  # unknown, not a zone file, a folder, no tzdata: by Python version
        return None


def _parse_text(text: str, field: str) -> Zone:
    if _LOOKS_LIKE_DURATION.match(text):
        try:
            offset = _DURATION.validate_python(text)
        except ValidationError:
            raise ScheduleValidationError(field, text, f"it reads as neither a duration nor a time zone; {_HOW}") from None
        return _check_offset(offset, text, field)
    if text == UTC_NAME or load_zone(text) is not None:
        return text
    if not text:
        problem = f"it is empty; {_HOW}"
    elif _UNPORTABLE.fullmatch(text):
        problem = f"it does not mean the same on every machine; {_HOW}"
    elif load_zone("Europe/London") is None:
        problem = "no time-zone database is found on this machine; install one: pip install tzdata"
    else:
        problem = f"no such time zone is known (is the tzdata package up to date?); {_HOW}"
    raise ScheduleValidationError(field, text, problem)


def _parse_tzinfo(zone: tzinfo, field: str) -> Zone:
    for attribute in ("key", "zone"):  # zoneinfo and pendulum; pytz
        name = getattr(zone, attribute, None)
        if isinstance(name, str):
            return _parse_text(name, field)
    name = _dateutil_name(zone)
    if name is not None:
        return name
    offset = zone.utcoffset(None)  # only a zone whose offset never changes can tell it for no date
    if offset is None:
        raise ScheduleValidationError(field, zone, f"this tzinfo does not tell its IANA name; {_HOW}")
    return _check_offset(offset, zone, field) if offset else UTC_NAME


def _dateutil_name(zone: tzinfo) -> str | None:
    """Return the IANA name of a dateutil zone, which knows only the file that it was read from."""
    path = getattr(zone, "_filename", None)
    if not isinstance(path, str):
        return None
    parts = path.replace("\\", "/").rpartition("zoneinfo/")[2].split("/")
    candidates = ("/".join(parts[-length:]) for length in (3, 2, 1) if length <= len(parts))
    return next((name for name in candidates if load_zone(name) is not None), None)


def _check_offset(offset: timedelta, value: object, field: str) -> timedelta:
    if abs(offset) >= _DAY:
        raise ScheduleValidationError(
            field, value, "an offset is shorter than 24 hours either way; a negative one is written like '-PT2H'"
        )
    if offset % _SECOND:
        raise ScheduleValidationError(field, value, "an offset has whole seconds")
    return offset
