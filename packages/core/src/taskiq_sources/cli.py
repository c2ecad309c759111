"""``taskiq schedules …``: look at schedules and steer them from a shell. Arguments and text only; sources do the work."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from typing import Any, get_args

import taskiq
from taskiq.abc.cmd import TaskiqCMD
from taskiq.cli.utils import import_object

from taskiq_sources.errors import ScheduleNotFoundError, TaskiqSourcesError
from taskiq_sources.info import ScheduleInfo
from taskiq_sources.merge import MergedScheduleSource
from taskiq_sources.models import Run, RunStatus
from taskiq_sources.plugins import source_from_url
from taskiq_sources.source import ScheduleSource

_WHERE = """\
SOURCE is what `taskiq scheduler` takes (module:variable, a scheduler), or module:variable of a source, or the URL of a store
(sqlite:///schedules.db). A URL that has a password is better left in the module: other users of the machine see command lines."""

_SCHEDULE_COLUMNS = ("ID", "TASK", "WHEN", "NEXT RUN", "STATE")
_RUN_COLUMNS = ("RECORDED", "SCHEDULE", "SCHEDULED FOR", "STATUS", "ATTEMPT", "ERROR")

_ROWS_AT_ONCE = 500


class SchedulesCommand(TaskiqCMD):
    """The subcommand of ``taskiq``."""

    short_help = "List, pause, resume, run and delete schedules of taskiq-sources"

    def exec(self, args: Sequence[str]) -> int:
        """Do what the command line says, and return the exit status.

        Args:
            args: What follows ``taskiq schedules``.

        Returns:
            0; 1 if something could not be done, which standard error says. A command line that makes no sense exits with 2.
        """
        parser = _parser()
        given = parser.parse_args(args)
        try:
            status = asyncio.run(_on(_sources(given.source, parser), given))
            sys.stdout.flush()
        except TaskiqSourcesError as error:
            return _complain(error)
        except BrokenPipeError:  # whoever reads has enough, as ``head`` has; what is left goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="taskiq schedules", description=SchedulesCommand.short_help + ".", epilog=_WHERE)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, work: Callable[..., Awaitable[int]], help: str) -> argparse.ArgumentParser:  # noqa: A002
        added = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=_WHERE)
        added.add_argument("source", metavar="SOURCE", help="whose schedules")
        added.set_defaults(work=work)
        return added

    listing = command("list", _list, "list schedules in the order of their ids")
    listing.add_argument("--task", help="only those of this task")
    listing.add_argument("--owner", help="only those that this owner declared")
    listing.add_argument("--paused", action="store_true", default=None, help="only paused ones")
    listing.add_argument("--quarantined", action="store_true", default=None, help="only those set aside with an error")
    listing.add_argument("--overdue", type=_seconds, metavar="SECONDS", help="only active ones that are late by more than this")
    listing.add_argument("--json", action="store_true", help="one JSON document a line, with everything")
    runs = command("runs", _runs, "list history, the newest first")
    runs.add_argument("id", nargs="?", metavar="ID", help="only that of this schedule, which may be gone")
    runs.add_argument("--status", choices=get_args(RunStatus), help="only that with this status")
    runs.add_argument("--limit", type=int, default=50, help="how much (default: %(default)s)")
    runs.add_argument("--json", action="store_true", help="one JSON document a line, with everything")
    resume = command("resume", _resume, "let schedules run again that were paused or set aside")
    resume.add_argument("--catch-up", action="store_true", help="treat what fell into the pause by the misfire policy")
    for added in (
        command("pause", _pause, "keep schedules from running until they are resumed"),
        resume,
        command("run", _run, "have schedules sent once more, now"),
        command("delete", _delete, "delete schedules; their history stays"),
    ):
        added.add_argument("ids", nargs="+", metavar="ID")
    return parser


def _seconds(text: str) -> timedelta:
    return timedelta(seconds=float(text))


def _sources(where: str, parser: argparse.ArgumentParser) -> list[ScheduleSource]:
    """Return the sources of ours at a place; leave with an error if there are none."""
    if "://" in where:
        return [source_from_url(where)]
    try:
        found = import_object(where)
    except (ValueError, AttributeError, ModuleNotFoundError) as error:
        parser.error(f"{where!r} cannot be imported: {error}")
    sources = list(_ours(found))
    if not sources:
        parser.error(f"{where!r} is {type(found).__name__}, in which there is no source of taskiq-sources")
    return sources


def _ours(found: object) -> Iterable[ScheduleSource]:
    if isinstance(found, ScheduleSource):
        yield found
    elif isinstance(found, (taskiq.TaskiqScheduler, MergedScheduleSource)):
        for source in found.sources:
            yield from _ours(source)


async def _on(sources: list[ScheduleSource], given: argparse.Namespace) -> int:
    try:
        for source in sources:
            await source.startup()
        done: int = await given.work(sources, given)
    finally:
        for source in sources:
            await source.shutdown()
    return done


# -- commands ----------------------------------------------------------------------------------------------------------------


async def _list(sources: list[ScheduleSource], given: argparse.Namespace) -> int:
    with _Table(_SCHEDULE_COLUMNS, as_json=given.json) as table:
        for source in sources:
            now = await source.clock.now()
            async for info in _chosen(source, given, now):
                table.add(partial(_schedule_row, info, now), partial(_schedule_document, info))
    return 0


def _chosen(source: ScheduleSource, given: argparse.Namespace, now: datetime) -> AsyncIterator[ScheduleInfo]:
    late = given.overdue
    active = None if late is None else False
    return source.iter_schedules(
        task_name=given.task,
        owner=given.owner,
        paused=given.paused or active,
        quarantined=given.quarantined or active,
        due_before=None if late is None else now - late,
    )


async def _runs(sources: list[ScheduleSource], given: argparse.Namespace) -> int:
    found: list[Run] = []
    for source in sources:
        left = given.limit
        async for run in source.runs(given.id, status=given.status):
            if left <= 0:
                break
            left -= 1
            found.append(run)
    with _Table(_RUN_COLUMNS, as_json=given.json) as table:
        for run in sorted(found, key=lambda run: run.recorded_at, reverse=True)[: given.limit]:
            table.add(partial(_run_row, run), partial(asdict, run))
    return 0


async def _pause(sources: list[ScheduleSource], given: argparse.Namespace) -> int:
    return await _each(sources, given.ids, lambda source, name: source.pause(name), "paused")


async def _resume(sources: list[ScheduleSource], given: argparse.Namespace) -> int:
    return await _each(sources, given.ids, lambda source, name: source.resume(name, catch_up=given.catch_up), "resumed")


async def _run(sources: list[ScheduleSource], given: argparse.Namespace) -> int:
    return await _each(sources, given.ids, lambda source, name: source.run_now(name), "will be sent with the task id {}")


async def _delete(sources: list[ScheduleSource], given: argparse.Namespace) -> int:
    return await _each(sources, given.ids, lambda source, name: source.delete_schedule(name), "deleted")


async def _each(
    sources: list[ScheduleSource],
    ids: Sequence[str],
    work: Callable[[ScheduleSource, str], Awaitable[object]],
    done: str,
) -> int:
    """Do something to each schedule, in the source that has it; go on after those for which it cannot be done."""
    status = 0
    for name in ids:
        try:
            result = await work(await _source_of(sources, name), name)
            print(f"{_plain(name)}: {done.format(result)}")
        except TaskiqSourcesError as error:
            status = _complain(error)
    return status


async def _source_of(sources: list[ScheduleSource], schedule_id: str) -> ScheduleSource:
    for source in sources:
        if await source.get_schedule(schedule_id) is not None:
            return source
    raise ScheduleNotFoundError(schedule_id)


# -- text --------------------------------------------------------------------------------------------------------------------


class _Table:
    """Prints rows as they come: a screenful or more at a time, in columns as wide as they have been needed so far.

    Args:
        titles: Of the columns.
        as_json: Whether to print the documents that the rows are of instead, one a line.
    """

    def __init__(self, titles: Sequence[str], *, as_json: bool) -> None:
        self._as_json = as_json
        self._rows: list[Sequence[str]] = [titles]
        self._widths = [0] * len(titles)

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._as_json:
            self._print()

    def add(self, row: Callable[[], Sequence[str]], document: Callable[[], dict[str, Any]]) -> None:
        """Print a row, now or later: of the two, what is to be printed is made."""
        if self._as_json:
            print(json.dumps(document(), default=_json_value))
            return
        self._rows.append([_plain(cell) for cell in row()])
        if len(self._rows) == _ROWS_AT_ONCE:
            self._print()

    def _print(self) -> None:
        self._widths = [max(map(len, [" " * width, *cells])) for width, *cells in zip(self._widths, *self._rows, strict=True)]
        for row in self._rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, self._widths, strict=True)).rstrip())
        self._rows.clear()


def _schedule_row(info: ScheduleInfo, now: datetime) -> tuple[str, ...]:
    return info.state.id, info.state.task_name, _triggers(info), _instant(info.state.next_run_at), _state(info, now)


def _schedule_document(info: ScheduleInfo) -> dict[str, Any]:
    return asdict(info.state) | {"task": info.task and info.task.model_dump(), "error": info.error}


def _triggers(info: ScheduleInfo) -> str:
    task = info.task
    if task is None:
        return "?"
    zone = "" if task.cron_offset is None else f" ({task.cron_offset})"
    parts = {
        f"cron {task.cron}{zone}": task.cron,
        f"every {timedelta(seconds=task.interval) if isinstance(task.interval, int) else task.interval}": task.interval,
        f"at {_instant(task.time)}": task.time,
    }
    return ", ".join(text for text, trigger in parts.items() if trigger is not None)


def _state(info: ScheduleInfo, now: datetime) -> str:
    state = info.state
    if state.quarantined or info.error:
        return f"quarantined: {info.error or state.last_error}"
    if state.paused:
        return "paused"
    if state.lease_until is not None and state.lease_until > now:
        return f"being sent by {state.claimant}"
    if state.last_error is not None:
        return f"attempt {state.attempt} failed: {state.last_error}"
    if state.next_run_at is None:
        return "ended"
    return "due" if state.next_run_at <= now else "waiting"


def _run_row(run: Run) -> tuple[str, ...]:
    return (
        _instant(run.recorded_at),
        run.schedule_id,
        _instant(run.scheduled_for),
        run.status,
        str(run.attempt),
        run.error or "",
    )


def _instant(moment: datetime | None) -> str:
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S UTC")  # all that is stored is in UTC


def _plain(text: str) -> str:
    """Return text on one line, in which nothing is left that a terminal would obey."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _json_value(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _complain(error: Exception) -> int:
    print(_plain(f"{type(error).__name__}: {error}"), file=sys.stderr)
    return 1
