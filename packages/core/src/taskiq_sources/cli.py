"""``taskiq schedules …``: look at schedules and steer them from a shell. Arguments only; sources do the work."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from typing import NoReturn, get_args

from taskiq.abc.cmd import TaskiqCMD

from taskiq_sources.cli_output import (
    RUN_COLUMNS,
    SCHEDULE_COLUMNS,
    OutputError,
    Table,
    accept_all_characters,
    complain,
    flush,
    plain,
    run_row,
    say,
    schedule_document,
    schedule_row,
)
from taskiq_sources.cli_sources import SourceRefusedError, Sources, sources_at
from taskiq_sources.errors import TaskiqSourcesError
from taskiq_sources.info import ScheduleInfo
from taskiq_sources.models import Run, RunStatus
from taskiq_sources.source import ScheduleSource

_WHERE = """\
SOURCE is what `taskiq scheduler` takes (module:variable of a scheduler, or of a function that returns one), or the same of a
source, or the URL of a store (sqlite:///schedules.db). A URL that has a password is better left in the module: other users of the
machine see command lines."""

_MAY_HOLD_A_PASSWORD = re.compile(r"://|[@?]")

_LATEST = timedelta(days=36_525)  # a century: no schedule is later, and a date that long ago exists for every store

_INTERRUPTED = 130  # what shells make of it: 128, and 2 for SIGINT


class SchedulesCommand(TaskiqCMD):
    """The subcommand of ``taskiq``."""

    short_help = "List, pause, resume, run and delete schedules of taskiq-sources"

    def exec(self, args: Sequence[str]) -> int:
        """Do what the command line says, and return the exit status.

        Args:
            args: What follows ``taskiq schedules``.

        Returns:
            0; 1 if something could not be done, which standard error says; 130 if it was interrupted. A command line that makes
            no sense exits with 2.
        """
        accept_all_characters()
        parser = _parser()
        given = parser.parse_args(args)
        try:
            status = asyncio.run(_done(given))
            flush()
        except SourceRefusedError as error:
            parser.refuse(str(error))
        except TaskiqSourcesError as error:
            return complain(error)
        except KeyboardInterrupt:
            with suppress(OutputError):
                flush()
            return _INTERRUPTED
        except OutputError as error:
            if isinstance(error.__cause__, BrokenPipeError):  # whoever reads has enough, as ``head`` has
                return 0
            return complain(f"standard output cannot be written: {error.__cause__}")
        return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit. What may be a URL in the wrong place is not quoted."""
        if _MAY_HOLD_A_PASSWORD.search(message):
            what = message.partition(": ")[0]
            message = f"{what}: not shown, because it may hold a password; the order is COMMAND SOURCE, and then the rest"
        self.refuse(message)

    def refuse(self, message: str) -> NoReturn:
        """Say what is wrong, in words that hold no password, and exit."""
        super().error(message)


def _parser() -> _Parser:
    parser = _Parser(prog="taskiq schedules", description=SchedulesCommand.short_help + ".", epilog=_WHERE)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, work: Callable[..., Awaitable[None]], help: str) -> argparse.ArgumentParser:  # noqa: A002
        added = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=_WHERE)
        added.add_argument("source", metavar="SOURCE", help="whose schedules")
        added.add_argument("-d", "--app-dir", metavar="DIR", help="where modules are looked for first, as for `taskiq scheduler`")
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
    runs.add_argument("--limit", type=_count, default=50, help="how much (default: %(default)s)")
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
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 <= seconds <= _LATEST.total_seconds():  # nothing is true of NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {_LATEST.total_seconds():.0f}")
    return timedelta(seconds=seconds)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


async def _done(given: argparse.Namespace) -> int:
    sources = Sources(await sources_at(given.source, app_dir=given.app_dir))
    try:
        await given.work(sources, given)
    finally:
        await sources.shutdown()
    return sources.status


# -- commands ----------------------------------------------------------------------------------------------------------------


async def _list(sources: Sources, given: argparse.Namespace) -> None:
    with Table(SCHEDULE_COLUMNS, as_json=given.json) as table:

        async def listed(source: ScheduleSource) -> bool:
            now = await source.clock.now()
            async for info in _chosen(source, given, now):
                table.add(partial(schedule_row, info, now), partial(schedule_document, info))
            return True

        for source in sources:
            await sources.ask(source, listed)


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


async def _runs(sources: Sources, given: argparse.Namespace) -> None:
    found: list[Run] = []

    async def read(source: ScheduleSource) -> bool:
        found.extend([run async for run in source.runs(given.id, status=given.status, limit=given.limit)])
        return True

    for source in sources:
        await sources.ask(source, read)
    with Table(RUN_COLUMNS, as_json=given.json) as table:
        for run in sorted(found, key=lambda run: run.recorded_at, reverse=True)[: given.limit]:
            table.add(partial(run_row, run), partial(asdict, run))


async def _pause(sources: Sources, given: argparse.Namespace) -> None:
    await _each(sources, given.ids, lambda source, name: source.pause(name), "paused")


async def _resume(sources: Sources, given: argparse.Namespace) -> None:
    await _each(sources, given.ids, lambda source, name: source.resume(name, catch_up=given.catch_up), "resumed")


async def _run(sources: Sources, given: argparse.Namespace) -> None:
    await _each(sources, given.ids, lambda source, name: source.run_now(name), "will be sent with the task id {}")


async def _delete(sources: Sources, given: argparse.Namespace) -> None:
    await _each(sources, given.ids, lambda source, name: source.delete_schedule(name), "deleted")


async def _each(
    sources: Sources,
    ids: Sequence[str],
    work: Callable[[ScheduleSource, str], Awaitable[object]],
    done: str,
) -> None:
    """Do something to each schedule, in the source that has it; go on after those for which it cannot be done."""
    for name in ids:
        try:
            result = await work(await sources.that_has(name), name)
        except TaskiqSourcesError as error:
            sources.tell(error)
        else:
            say(f"{plain(name)}: {done.format(result)}")
