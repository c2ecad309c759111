"""The process between a test run and one server: it stops the server and deletes its directory when the test run is gone.

Run as a script, by path, with the standard library alone. It is told what to do by lines of JSON on standard input and answers
each with one on standard output. The owner holds the other end of the pipe, so its death, of whatever kind, is the end of input
here, and that is the order to clean up. What a server is, and how it is configured, is not known here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
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
        self.directory = Path(tempfile.mkdtemp(prefix="taskiq-sources-", dir=base))
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
            self.signal_all(signal.SIGCONT)
            self._process.send_signal(signal_number)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.state()

    def kill(self) -> dict[str, Any]:
        """Kill the server and its children, the parent first: it must not see them die and recover."""
        if self._process is not None and self._process.poll() is None:
            orphans = set(descendants(self._process.pid))
            self.signal_all(signal.SIGKILL)
            self._process.wait()
            deadline = time.monotonic() + _END_SECONDS
            while orphans & {pid for pid, _ in processes()} and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)  # a server started now would find them still at its data
        return self.state()

    def signal_all(self, number: int) -> dict[str, Any]:
        """Send a signal to the server and to all its descendants."""
        if self._process is not None and self._process.poll() is None:
            for pid in [self._process.pid, *descendants(self._process.pid)]:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue  # a child that ended by itself meanwhile
        return self.state()

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


def descendants(pid: int) -> list[int]:
    """Return the ids of the children of `pid`, and of theirs."""
    children: dict[int, list[int]] = {}
    for child, parent in processes():
        children.setdefault(parent, []).append(child)
    found = children.get(pid, [])[:]
    for known in found:  # grows while it is walked
        found.extend(children.get(known, []))
    return found


def processes() -> list[tuple[int, int]]:
    """Return (id, parent's id) of every process that has not ended."""
    proc = Path("/proc")
    if not (proc / "self" / "stat").exists():  # not Linux
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, check=True, text=True)  # noqa: S607
        rows = [line.split() for line in listing.stdout.splitlines()]
        return [(int(pid), int(parent)) for pid, parent, state in rows if not state.startswith("Z")]
    pairs = []
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(errors="replace")
            except OSError:
                continue  # ended meanwhile
            # The name, in parentheses, may hold spaces and parentheses; state and parent follow the last one.
            state, parent = stat.rpartition(")")[2].split()[:2]
            if state != "Z":
                pairs.append((int(entry.name), int(parent)))
    return pairs


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
    except BrokenPipeError:
        pass  # the owner died while it was being answered
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
