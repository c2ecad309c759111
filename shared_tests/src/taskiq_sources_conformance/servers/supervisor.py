"""The process between a test run and one server: it stops the server and deletes its directory when the test run is gone.

Run as a script, by path, with the standard library alone. It is told what to do by lines of JSON on standard input and answers
each with one on standard output. The owner holds the other end of the pipe, so its death, of whatever kind, is the end of input
here, and that is the order to clean up. What a server is, and how it is configured, is not known here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_END_SECONDS = 5.0  # for the last, hasty stop; then SIGKILL
_POLL_SECONDS = 0.005


class Supervisor:
    """One directory, and at most one server process with its children.

    Args:
        base: Where to make the directory.
        user: Who owns it and runs the server: a user id and a group id, or None for whoever runs this.
        end_signal: Ends the server quickly, without caring for its data.
    """

    def __init__(self, base: str, user: list[int] | None, end_signal: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="taskiq-server-", dir=base))
        self._user = user
        self._end_signal = end_signal
        self._process: subprocess.Popen[bytes] | None = None
        try:
            if user is not None:
                os.chown(self.directory, *user)
        except OSError:
            self.directory.rmdir()
            raise

    def run(self, argv: list[str]) -> dict[str, Any]:
        """Run a command that prepares something, and wait for it."""
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, **self._surroundings())  # noqa: S603
        return {"returncode": done.returncode, "output": (done.stdout + done.stderr).decode(errors="replace")}

    def start(self, argv: list[str]) -> dict[str, Any]:
        """Start the server; its output is appended to the file ``log``."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self._surroundings()
            )
        return self.state()

    def state(self) -> dict[str, Any]:
        """Tell whether the server runs."""
        if self._process is None:
            return {"pid": None, "returncode": None}
        returncode = self._process.poll()
        return {"pid": self._process.pid if returncode is None else None, "returncode": returncode}

    def stop(self, signal_number: int, seconds: float) -> dict[str, Any]:
        """Ask the server to stop; kill it when it has not done so in time."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self._process.send_signal(signal_number)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.state()

    def kill(self) -> dict[str, Any]:
        """Kill the server and its children, the parent first: it must not see them die and recover."""
        if self._process is not None and self._process.poll() is None:
            family = self._family()
            self._signal(family, signal.SIGKILL)
            self._process.wait()
            deadline = time.monotonic() + _END_SECONDS
            while family.keys() & processes().keys() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)  # a server started now would find them still at its data
        return self.state()

    def pause(self) -> dict[str, Any]:
        """Freeze the server and its children; return when they are."""
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline:
            moving = {pid: state for pid, state in self._family().items() if state != "T"}
            if not moving:
                break
            self._signal(moving, signal.SIGSTOP)
            time.sleep(_POLL_SECONDS)
        return self.state()

    def resume(self) -> dict[str, Any]:
        """Let them go on."""
        self._signal(self._family(), signal.SIGCONT)
        return self.state()

    def _family(self) -> dict[int, str]:
        """Return the ids and states of the server, which is first, and its descendants."""
        if self._process is None or self._process.poll() is not None:
            return {}
        known = processes()
        children: dict[int, list[int]] = {}
        for pid, (parent, _) in known.items():
            children.setdefault(parent, []).append(pid)
        family = [self._process.pid]
        for pid in family:  # grows while it is walked
            family.extend(children.get(pid, []))
        return {pid: known[pid][1] for pid in family if pid in known}

    @staticmethod
    def _signal(pids: Iterable[int], number: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # a child may end by itself meanwhile
                os.kill(pid, number)

    def end(self) -> None:
        """Stop the server and delete the directory."""
        self.stop(self._end_signal, _END_SECONDS)
        deadline = time.monotonic() + _END_SECONDS
        while self.directory.exists() and time.monotonic() < deadline:
            shutil.rmtree(self.directory, ignore_errors=True)  # a last child may still be writing: then once more
            time.sleep(_POLL_SECONDS)

    def _surroundings(self) -> dict[str, Any]:
        # HOME: servers look for configuration there; the language of messages must not depend on the machine.
        environment = {**os.environ, "HOME": str(self.directory), "LC_ALL": "C", "TZ": "UTC"}
        as_user: dict[str, Any] = {}
        if self._user is not None:
            as_user = {"user": self._user[0], "group": self._user[1], "extra_groups": []}
        return {"cwd": self.directory, "env": environment, **as_user}


def processes() -> dict[int, tuple[int, str]]:
    """Return parent's id and state (``T``: stopped) by id of all processes that have not ended."""
    proc = Path("/proc")
    if not (proc / "self" / "stat").exists():  # not Linux
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, check=True, text=True)  # noqa: S607
        rows = [line.split() for line in listing.stdout.splitlines()]
    else:
        rows = [row for entry in proc.iterdir() if entry.name.isdigit() for row in _row(entry)]
    return {int(pid): (int(parent), state[0]) for pid, parent, state in rows if state[0] != "Z"}


def _row(entry: Path) -> list[list[str]]:
    try:
        stat = (entry / "stat").read_text(errors="replace")
    except OSError:
        return []  # ended meanwhile
    # The name, in parentheses, may hold spaces and parentheses; state and parent follow the last one.
    state, parent = stat.rpartition(")")[2].split()[:2]
    return [[entry.name, parent, state]]


def main() -> None:
    """Serve one owner until it closes its end or dies."""
    # A terminal's Ctrl-C is the owner's business; a machine that shuts down says SIGTERM to everybody.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        supervisor = Supervisor(**json.loads(sys.stdin.readline()))
    except OSError as error:
        answer({"error": str(error)})
        return
    try:
        answer({"directory": str(supervisor.directory)})
        for line in sys.stdin:
            order = json.loads(line)
            try:
                answer(getattr(supervisor, order.pop("do"))(**order))
            except OSError as error:
                answer({"error": str(error)})
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        supervisor.end()
        # What could not be flushed has nobody to read it, and must not be complained about at exit.
        os._exit(0)


def answer(fields: dict[str, Any]) -> None:
    """Write one answer."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
