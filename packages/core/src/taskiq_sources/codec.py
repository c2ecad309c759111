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
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError
from taskiq.abc.serializer import TaskiqSerializer

from taskiq_sources.errors import ScheduleDecodeError, ScheduleValidationError, shorten
from taskiq_sources.options import ScheduleOptions
from taskiq_sources.tasks import ScheduledTask
from taskiq_sources.triggers import Zone

VERSION = 1

#: Upper limit of a document. PostgreSQL, MongoDB (16 MB a document) and Redis all take it without special handling.
MAX_DOCUMENT_BYTES = 1024 * 1024

#: How deep arguments may be nested; far below what makes JSON libraries give up.
_MAX_DEPTH = 100

_TASK_FIELDS = ("task_name", "labels", "args", "kwargs", "task_id", "cron", "cron_offset", "interval", "time")
_KNOWN_FIELDS = frozenset({*_TASK_FIELDS, "v", "timezone", "options", "manual_of", "payload", "serializer"})
_NO_OPTIONS = ScheduleOptions()
_duration = TypeAdapter(timedelta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a document says.

    Attributes:
        task: The task and its triggers; `schedule_id` is the id it is stored under.
        options: How it behaves, all defaults resolved.
        timezone: What cron means where `cron_offset` is None.
        manual_of: For a manual run: the id of the schedule that was told to run.
        unknown: Fields of a newer release, carried along.
        unknown_options: Options of a newer release, carried along.
    """

    task: ScheduledTask
    options: ScheduleOptions
    timezone: Zone = "UTC"
    manual_of: str | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict)
    unknown_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def zone(self) -> Zone:
        """The time zone or offset that cron is evaluated in."""
        offset = self.task.cron_offset
        return self.timezone if offset is None else offset


def encode(definition: Definition, serializer: TaskiqSerializer | None = None) -> str:
    """Return the document of a definition.

    Args:
        definition: What to encode; triggers and options are taken to be valid.
        serializer: How to store arguments that are not JSON; None refuses them.

    Raises:
        ScheduleValidationError: An argument or label cannot be stored, or the document is larger than 1 MiB.
    """
    task = definition.task
    document: dict[str, Any] = {**definition.unknown, "v": VERSION, "task_name": task.task_name}
    _require_json(task.labels, "labels", "labels are JSON values")
    document["labels"] = task.labels
    if serializer is None:
        fix = "pass JSON values, or give the source a taskiq serializer (ScheduleSource(serializer=...))"
        _require_json(task.args, "args", fix)
        _require_json(task.kwargs, "kwargs", fix)
        document |= {"args": task.args, "kwargs": task.kwargs}
    else:
        document |= {"payload": _dump_payload(task, serializer), "serializer": type(serializer).__qualname__}
    optional = {
        "task_id": task.task_id,
        "cron": task.cron,
        "cron_offset": _zone_text(task.cron_offset),
        "timezone": None if definition.timezone == "UTC" else _zone_text(definition.timezone),
        "interval": _zone_text(task.interval),
        "time": None if task.time is None else task.time.isoformat().replace("+00:00", "Z"),
        "options": {**definition.unknown_options, **_options_json(definition.options)} or None,
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
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ScheduleDecodeError(schedule_id, "it is not a JSON object")
        fields = {name: document[name] for name in _TASK_FIELDS if name in document}
        if "payload" in document:
            fields |= _load_payload(schedule_id, document, serializer)
        written = document.get("options", {})
        options = ScheduleOptions(**{name: value for name, value in written.items() if name in ScheduleOptions.model_fields})
        task = ScheduledTask(
            **fields | {"cron_offset": _read_zone(document.get("cron_offset"))},
            schedule_id=schedule_id,
            schedule_options=options,
            owner=owner,
        )
        return Definition(
            task=task,
            options=options,
            timezone=_read_zone(document.get("timezone")) or "UTC",
            manual_of=document.get("manual_of"),
            unknown={name: value for name, value in document.items() if name not in _KNOWN_FIELDS},
            unknown_options={name: value for name, value in written.items() if name not in ScheduleOptions.model_fields},
        )
    except ScheduleDecodeError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field_name = ".".join(str(part) for part in first["loc"]) or "document"
        raise ScheduleDecodeError(schedule_id, f"{field_name}: {first['msg']}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ScheduleDecodeError(schedule_id, str(error) or type(error).__name__) from error


def _options_json(options: ScheduleOptions) -> dict[str, Any]:
    return {} if options == _NO_OPTIONS else options.model_dump(mode="json", exclude_defaults=True)


def _dump_payload(task: ScheduledTask, serializer: TaskiqSerializer) -> str:
    try:
        return base64.b64encode(serializer.dumpb({"args": task.args, "kwargs": task.kwargs})).decode("ascii")
    except Exception as error:  # a serializer is the user's code and may raise anything
        raise ScheduleValidationError(
            "args",
            {"args": task.args, "kwargs": task.kwargs},
            f"{type(serializer).__name__} cannot encode them: {error}",
        ) from error


def _load_payload(schedule_id: str, document: Mapping[str, Any], serializer: TaskiqSerializer | None) -> dict[str, Any]:
    if serializer is None:
        raise ScheduleDecodeError(
            schedule_id,
            f"its arguments were written with the serializer {shorten(document.get('serializer'))}; give this source the same",
        )
    try:
        payload = serializer.loadb(base64.b64decode(document["payload"]))
        return {"args": payload["args"], "kwargs": payload["kwargs"]}
    except Exception as error:  # as above
        raise ScheduleDecodeError(schedule_id, f"{type(serializer).__name__} cannot read its arguments: {error}") from error


def _zone_text(value: str | int | timedelta | None) -> str | int | None:
    """Durations become ISO 8601 text, the rest is JSON already."""
    return _duration.dump_python(value, mode="json") if isinstance(value, timedelta) else value


def _read_zone(value: Any) -> Zone | None:
    """Read a time zone name or an ISO 8601 duration. Names were checked when written; a removed one fails on use."""
    if value is None:
        return None
    if not isinstance(value, str):
        msg = f"time zone {shorten(value)} is neither a name nor a duration"
        raise TypeError(msg)
    try:
        return _duration.validate_python(value)
    except ValidationError:
        return value


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


def _require_text(value: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ScheduleValidationError(path, value, "it holds a lone surrogate, which has no UTF-8 form") from error
