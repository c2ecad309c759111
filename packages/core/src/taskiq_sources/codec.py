"""Documents: a definition as versioned JSON text and back. No triggers are evaluated here, and no store is known.

A document looks like this; everything but the first three is left out where it says nothing::

    {"v": 1, "task_name": "app:report", "labels": {}, "args": [11], "kwargs": {"x": "2"}, "task_id": null,
     "cron": "0 7 * * *", "cron_offset": "Europe/Berlin", "timezone": "…", "interval": 60, "time": "2030-01-01T00:00:00Z",
     "options": {"misfire": "skip"}, "manual_of": "nightly", "payload": "<base64>", "serializer": "…"}

Fields that this release does not know (a newer one wrote them) are kept when a document is edited.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from taskiq.abc.serializer import TaskiqSerializer

from taskiq_sources.clock import UTC, floor_ms
from taskiq_sources.errors import ScheduleDecodeError, ScheduleValidationError, shorten
from taskiq_sources.models import in_order, record
from taskiq_sources.options import ScheduleOptions
from taskiq_sources.tasks import ScheduledTask
from taskiq_sources.triggers import Zone

VERSION = 1

#: Upper limit of a document. PostgreSQL, MongoDB (16 MB a document) and Redis all take it without special handling.
MAX_DOCUMENT_BYTES = 1024 * 1024

#: Larger integers may have more than the 4,300 digits that Python reads back by default.
MAX_INTEGER_BITS = 14_284

#: How deep arguments may be nested; far below what makes JSON libraries give up.
_MAX_DEPTH = 100

_DEFAULT_FIELDS = ScheduleOptions().model_dump()

#: All fields count as set: what is read from a store is resolved, and stays as it is if it is written to another source.
_NO_OPTIONS = ScheduleOptions(**_DEFAULT_FIELDS)
_duration = TypeAdapter(timedelta)


@record
class Definition:
    """What a document says: the fields of a `ScheduledTask`, checked, and what goes with them.

    Attributes:
        schedule_id: The id it is stored under.
        task_name: As in taskiq, like all that follow.
        labels: Labels, without ``schedule_options``.
        args: Positional arguments.
        kwargs: Keyword arguments.
        task_id: The message's id, if the schedule has one of its own.
        cron: Cron expression.
        cron_offset: Time zone or offset of `cron`.
        interval: Seconds or timedelta, as it was given.
        time: Single instant, aware UTC.
        owner: Who declared it.
        options: How it behaves, all defaults resolved.
        timezone: What cron means where `cron_offset` is None.
        manual_of: For a manual run: the id of the schedule that was told to run.
        unknown: Fields of a newer release, carried along.
        unknown_options: Options of a newer release, carried along.
    """

    schedule_id: str
    task_name: str
    labels: dict[str, Any]
    args: list[Any]
    kwargs: dict[str, Any]
    task_id: str | None = None
    cron: str | None = None
    cron_offset: Zone | None = None
    interval: int | timedelta | None = None
    time: datetime | None = None
    owner: str | None = None
    options: ScheduleOptions = _NO_OPTIONS
    timezone: Zone = "UTC"
    manual_of: str | None = None
    unknown: Mapping[str, Any] | None = None
    unknown_options: Mapping[str, Any] | None = None

    @property
    def zone(self) -> Zone:
        """The time zone or offset that cron is evaluated in."""
        return self.timezone if self.cron_offset is None else self.cron_offset

    @property
    def stated_offset(self) -> Zone | None:
        """What ``cron_offset`` has to say to a reader whose own default is UTC."""
        return None if self.zone == "UTC" and self.cron_offset is None else self.zone

    @property
    def is_one_off(self) -> bool:
        """Whether there is a single occurrence, at `time`."""
        return self.cron is None and self.interval is None

    @property
    def task(self) -> ScheduledTask:
        """The definition as applications know it, of use to any source. Shares arguments and labels with this object."""
        return ScheduledTask.model_construct(
            schedule_id=self.schedule_id,
            task_name=self.task_name,
            labels=self.labels,
            args=self.args,
            kwargs=self.kwargs,
            task_id=self.task_id,
            cron=self.cron,
            cron_offset=self.cron_offset if self.cron is None else self.stated_offset,
            interval=self.interval,
            time=self.time,
            owner=self.owner,
            schedule_options=self.options,
        )


_in_order = in_order(Definition)


def encode(definition: Definition, serializer: TaskiqSerializer | None = None) -> str:
    """Return the document of a definition.

    Args:
        definition: What to encode; triggers and options are taken to be valid.
        serializer: How to store arguments that are not JSON; None refuses them.

    Raises:
        ScheduleValidationError: An argument or label cannot be stored, or the document is larger than 1 MiB.
    """
    document: dict[str, Any] = {"v": VERSION, **(definition.unknown or {}), "task_name": definition.task_name}
    _require_json(definition.labels, "labels", "labels are JSON values")
    document["labels"] = definition.labels
    if serializer is None:
        fix = "pass JSON values, or give the source a taskiq serializer (ScheduleSource(serializer=...))"
        _require_json(definition.args, "args", fix)
        _require_json(definition.kwargs, "kwargs", fix)
        document |= {"args": definition.args, "kwargs": definition.kwargs}
    else:
        document |= {"payload": _dump_payload(definition, serializer), "serializer": type(serializer).__qualname__}
    optional = {
        "task_id": definition.task_id,
        "cron": definition.cron,
        "cron_offset": _as_text(definition.cron_offset),
        "timezone": None if definition.timezone == "UTC" else _as_text(definition.timezone),
        "interval": _as_text(definition.interval),
        "time": None if definition.time is None else definition.time.isoformat().replace("+00:00", "Z"),
        "options": {**(definition.unknown_options or {}), **_options_json(definition.options)} or None,
        "manual_of": definition.manual_of,
    }
    document |= {name: value for name, value in optional.items() if value is not None}
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    size = len(text.encode())
    if size > MAX_DOCUMENT_BYTES:
        raise ScheduleValidationError(
            "args",
            f"{size:,} bytes",
            f"a schedule may take up {MAX_DOCUMENT_BYTES:,} bytes at most; store large data elsewhere and pass a reference to it",
        )
    return text


def decode(
    schedule_id: str,
    text: str,
    serializer: TaskiqSerializer | None = None,
    *,
    owner: str | None = None,
) -> Definition:
    """Return what a document says.

    Raises:
        ScheduleDecodeError: The text is not a document that this release can read.
    """
    try:
        document = from_json(text)
        if not isinstance(document, dict):
            raise ScheduleDecodeError(schedule_id, "it is not a JSON object")
        return _definition(schedule_id, document, serializer, owner)
    except ScheduleDecodeError:
        raise
    except KeyError as error:
        raise ScheduleDecodeError(schedule_id, f"it has no {error.args[0]}") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ScheduleDecodeError(schedule_id, f"{type(error).__name__}: {error}") from error


def _definition(schedule_id: str, fields: dict[str, Any], serializer: TaskiqSerializer | None, owner: str | None) -> Definition:
    """Return the definition of a document whose fields these are; they are changed."""
    unknown: dict[str, Any] = {}
    for name in [name for name, value in fields.items() if type(value) is not _plain_type(name)]:
        value = fields[name]
        if name not in _READERS:
            unknown[name] = value
        elif value is None:  # as if it was not there
            del fields[name]
        else:
            fields[name] = _READERS[name](name, value)
    get = fields.get
    version = get("v", VERSION)
    if version > VERSION:
        unknown["v"] = version  # an edit by this release does not make it an old document
    if "payload" in fields or "serializer" in fields:
        fields |= _load_payload(schedule_id, fields["payload"], get("serializer"), serializer)
    options, unknown_options = _NO_OPTIONS, None
    if "options" in fields:
        written = fields["options"]
        known = {name: value for name, value in written.items() if name in ScheduleOptions.model_fields}
        options = ScheduleOptions(**{**_DEFAULT_FIELDS, **known})
        unknown_options = {name: value for name, value in written.items() if name not in known}
    cron, interval, time = get("cron"), get("interval"), get("time")
    if cron is None and interval is None and time is None:
        raise ScheduleDecodeError(schedule_id, "it has no cron, interval or time")
    return _in_order(
        schedule_id,
        fields["task_name"],
        fields["labels"],
        fields["args"],
        fields["kwargs"],
        get("task_id"),
        cron,
        get("cron_offset"),
        interval,
        time,
        owner,
        options,
        get("timezone", "UTC"),
        get("manual_of"),
        unknown or None,
        unknown_options,
    )


def _text(name: str, value: Any) -> str:
    return value if isinstance(value, str) else _refuse(name, value, "text")


def _number(name: str, value: Any) -> int:
    return value if isinstance(value, int) else _refuse(name, value, "a number")


def _list(name: str, value: Any) -> list[Any]:
    return value if isinstance(value, list) else _refuse(name, value, "a list")


def _mapping(name: str, value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else _refuse(name, value, "an object")


def _refuse(name: str, value: Any, wanted: str) -> NoReturn:
    msg = f"{name} is {shorten(value)}, not {wanted}"
    raise TypeError(msg)


def _interval(name: str, value: Any) -> int | timedelta:
    """Read seconds or an ISO 8601 duration."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    interval = _duration_in(value) if isinstance(value, str) else None
    if interval is None or interval < timedelta(seconds=1):
        _refuse(name, value, "a number of seconds or a duration of at least 1 s")
    return interval


def _time(name: str, value: Any) -> datetime:
    return _instant(_text(name, value))


@lru_cache(maxsize=1024)  # many one-offs are due at the same instants
def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 does not read the suffix
    if moment.tzinfo is UTC and moment.microsecond % 1000 == 0:
        return moment
    return floor_ms(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def _options_json(options: ScheduleOptions) -> dict[str, Any]:
    return {} if options == _NO_OPTIONS else options.model_dump(mode="json", exclude_defaults=True)


def _dump_payload(definition: Definition, serializer: TaskiqSerializer) -> str:
    try:
        return base64.b64encode(serializer.dumpb({"args": definition.args, "kwargs": definition.kwargs})).decode("ascii")
    except Exception as error:  # a serializer is the user's code and may raise anything
        raise ScheduleValidationError(
            "args",
            {"args": definition.args, "kwargs": definition.kwargs},
            f"{type(serializer).__name__} cannot encode them: {error}",
        ) from error


def _load_payload(
    schedule_id: str,
    encoded: str,
    written_by: str | None,
    serializer: TaskiqSerializer | None,
) -> dict[str, Any]:
    if serializer is None:
        raise ScheduleDecodeError(
            schedule_id,
            f"its arguments were written with the serializer {shorten(written_by)}; give this source the same",
        )
    try:
        payload = serializer.loadb(base64.b64decode(encoded))
        return {"args": list(payload["args"]), "kwargs": dict(payload["kwargs"])}  # some serializers know tuples only
    except Exception as error:  # as above
        raise ScheduleDecodeError(schedule_id, f"{type(serializer).__name__} cannot read its arguments: {error}") from error


def _as_text(value: str | int | timedelta | None) -> str | int | None:
    """Durations become ISO 8601 text, the rest is JSON already."""
    return _duration.dump_python(value, mode="json") if isinstance(value, timedelta) else value


def _zone(name: str, value: Any) -> Zone:
    """Read a time zone name or an ISO 8601 duration. Names were checked when written; a removed one fails on use."""
    text = _text(name, value)
    offset = None if text[:1].isalpha() and text[:1] != "P" else _duration_in(text)
    return text if offset is None else offset


def _duration_in(text: str) -> timedelta | None:
    try:
        return _duration.validate_python(text)
    except ValidationError:
        return None


#: How each field is read; what is not in here was written by a newer release.
_READERS: dict[str, Callable[[str, Any], Any]] = {
    "v": _number,
    "task_name": _text,
    "labels": _mapping,
    "args": _list,
    "kwargs": _mapping,
    "task_id": _text,
    "cron": _text,
    "cron_offset": _zone,
    "timezone": _zone,
    "interval": _interval,
    "time": _time,
    "options": _mapping,
    "manual_of": _text,
    "payload": _text,
    "serializer": _text,
}

#: Of what type a field needs no reading: the most part of most documents.
_plain_type = {
    **dict.fromkeys(("task_name", "task_id", "cron", "manual_of", "payload", "serializer"), str),
    **dict.fromkeys(("labels", "kwargs", "options"), dict),
    "args": list,
    "v": int,
}.get


def _require_json(value: object, path: str, fix: str, depth: int = 0) -> None:
    """Refuse what would not come back from JSON as it went in (tuples come back as lists, as everywhere in taskiq)."""
    if depth > _MAX_DEPTH:
        raise ScheduleValidationError(path, value, f"it is nested more than {_MAX_DEPTH} levels deep; {fix}")
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _require_text(value, path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ScheduleValidationError(path, value, f"JSON has no such number; {fix}")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ScheduleValidationError(path, key, f"keys of JSON objects are text, not {type(key).__name__}; {fix}")
            _require_text(key, path)
            _require_json(item, f"{path}[{key!r}]", fix, depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _require_json(item, f"{path}[{index}]", fix, depth + 1)
    elif not isinstance(value, int):
        raise ScheduleValidationError(path, value, f"{type(value).__name__} is not a JSON type; {fix}")
    elif value.bit_length() > MAX_INTEGER_BITS:
        shown = f"an integer of {value.bit_length():,} bits"
        raise ScheduleValidationError(
            path, shown, "it has more than the 4,300 digits that Python reads by default; pass it as text"
        )


def _require_text(value: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ScheduleValidationError(path, value, "it holds a lone surrogate, which has no UTF-8 form") from error
