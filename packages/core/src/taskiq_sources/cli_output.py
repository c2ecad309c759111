"""What ``taskiq schedules`` prints: rows, documents and errors, in whatever the terminal, the file or the pipe can take."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from taskiq_sources.codec import MAX_INTEGER_BITS
from taskiq_sources.continuing import is_held
from taskiq_sources.errors import redact_text
from taskiq_sources.info import ScheduleInfo
from taskiq_sources.models import Run, StoredSchedule

SCHEDULE_COLUMNS = ("ID", "TASK", "WHEN", "NEXT RUN", "STATE")
RUN_COLUMNS = ("RECORDED", "SCHEDULE", "SCHEDULED FOR", "STATUS", "COALESCED", "ATTEMPT", "ERROR")

_ROWS_AT_ONCE = 500
_DEEPEST = 100  # what is nested deeper, as what holds itself is, no reader of JSON needs


class OutputError(Exception):
    """Standard output takes no more; the cause says why."""


def accept_all_characters() -> None:
    """Have characters that an encoding lacks printed as escapes: half-way through a command is too late to fail for that."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print to standard output.

    Raises:
        OutputError: It takes no more.
    """
    with _writing():
        print(text)


def flush() -> None:
    """See to it that everything said has been written.

    Raises:
        OutputError: It could not be.
    """
    with _writing():
        if sys.stdout is not None:  # it is where the shell has closed it
            sys.stdout.flush()


def complain(error: object) -> int:
    """Print one line to standard error, and return the exit status that goes with it."""
    name = "" if isinstance(error, str) else f"{type(error).__name__}: "
    with suppress(OSError):  # there is nowhere left to say so
        print(plain(f"{name}{redact_text(str(error))}"), file=sys.stderr)
    return 1


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # What is buffered goes nowhere: the interpreter, when it exits, would try once more, and complain.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise OutputError from error


class Table:
    """Prints rows as they come: a screenful or more at a time, in columns as wide as they have been needed so far.

    Args:
        titles: Of the columns.
        as_json: Whether to print the documents that the rows are of instead, one a line.
    """

    def __init__(self, titles: Sequence[str], *, as_json: bool) -> None:
        self._as_json = as_json
        self._rows: list[Sequence[str]] = [titles]
        self._widths = [0] * len(titles)

    def __enter__(self) -> Table:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and not self._as_json:
            self._print()

    def add(self, row: Callable[[], Sequence[str]], document: Callable[[], dict[str, Any]]) -> None:
        """Print a row, now or later: of the two, what is to be printed is made."""
        if self._as_json:
            say(json.dumps(_json_value(document()), allow_nan=False))
            return
        self._rows.append([plain(cell) for cell in row()])
        if len(self._rows) == _ROWS_AT_ONCE:
            self._print()

    def _print(self) -> None:
        self._widths = [max(map(len, [" " * width, *cells])) for width, *cells in zip(self._widths, *self._rows, strict=True)]
        for row in self._rows:
            say("  ".join(cell.ljust(width) for cell, width in zip(row, self._widths, strict=True)).rstrip())
        self._rows.clear()


def schedule_row(info: ScheduleInfo, now: datetime) -> tuple[str, ...]:
    """Return the cells of a schedule, as it stands at this instant."""
    return info.state.id, info.state.task_name, _triggers(info), _instant(info.state.next_run_at), _state(info, now)


def schedule_document(info: ScheduleInfo) -> dict[str, Any]:
    """Return everything about a schedule."""
    task = info.task and info.task.model_dump()
    return asdict(info.state) | {"task": task, "error": info.error, "manual_of": info.manual_of}


def run_row(run: Run) -> tuple[str, ...]:
    """Return the cells of a history row."""
    return (
        _instant(run.recorded_at),
        run.schedule_id,
        _instant(run.scheduled_for),
        run.status,
        str(run.coalesced),
        str(run.attempt),
        run.error or "",
    )


def plain(text: str) -> str:
    """Return text on one line, in which nothing is left that a terminal would obey."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _triggers(info: ScheduleInfo) -> str:
    task = info.task
    if task is None:
        return "?"
    zone = "" if task.cron_offset is None else f" ({task.cron_offset})"
    parts = {
        f"cron {task.cron}{zone}": task.cron,
        f"every {timedelta(seconds=task.interval) if isinstance(task.interval, int) else task.interval}": task.interval,
        f"at {_instant(task.time)}{'' if info.manual_of is None else f' (a run of {info.manual_of})'}": task.time,
    }
    return ", ".join(text for text, trigger in parts.items() if trigger is not None)


def _state(info: ScheduleInfo, now: datetime) -> str:
    state = info.state
    if state.quarantined:
        return f"quarantined: {state.last_error or info.error}"
    # Who schedules it may have the serializer that is missing here.
    unread = "" if info.error is None else f"; it cannot be read here: {info.error}"
    return _progress(state, now) + unread


def _progress(state: StoredSchedule, now: datetime) -> str:
    if state.paused:
        return "paused"
    if is_held(state, now):
        return f"being sent by {state.claimant}"
    if state.last_error is not None:
        return f"attempt {state.attempt} failed: {state.last_error}"
    if state.next_run_at is None:
        return "ended"
    return "due" if state.next_run_at <= now else "waiting"


def _instant(moment: datetime | None) -> str:
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S UTC")  # all that is stored is in UTC


def _json_value(value: object, room: int = _DEEPEST) -> object:
    """Return what JSON has for a value. Arguments that a serializer stores may be anything."""
    if room == 0:
        return "…"
    if isinstance(value, dict):
        return {key if isinstance(key, str) else _text(key): _json_value(item, room - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item, room - 1) for item in value]
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        return _text(value)
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return value.isoformat() if isinstance(value, datetime) else _text(value)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # an integer of more digits than Python writes, or a class whose text cannot be made
        return hex(value) if isinstance(value, int) else f"<{type(value).__name__}>"
