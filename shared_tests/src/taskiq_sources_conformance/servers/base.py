"""What all servers have in common: a supervised process with a directory of its own, to be stopped, killed and started again."""

from __future__ import annotations

import atexit
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from taskiq_sources_conformance.servers import supervisor
from taskiq_sources_conformance.servers.binaries import Binary, Program, find
from taskiq_sources_conformance.servers.errors import ServerUnavailable
from taskiq_sources_conformance.servers.wire import WireError

_READY_SECONDS = 20.0  # a machine under load; on an idle one it takes a tenth of one second
_POLL_SECONDS = 0.005
_STOP_SECONDS = 15.0
_LOG_LINES = 20
_LONGEST_BASE = 60  # characters: the path of a Unix socket has to fit into 104 bytes
_PORT_ATTEMPTS = 5
_SIGKILL = 9  # the signal module has no name for it on Windows, where this module can be imported, but starts nothing

#: Ports of servers. Not from the range that outgoing connections use (what binding port 0 gives): while a server is down, a
#: client that tries to reconnect could be given the server's port as its own, and the server could not come back.
_PORTS = range(11_000, 22_000)
_CLUSTER_BUS = 10_000  # the nodes of a Redis Cluster talk to each other on a second port, so much higher


class PortTaken(ServerUnavailable):
    """Somebody else was faster to take the port: another one has to be chosen."""


class Server(ABC):
    """A real server of our own, on this machine. A context manager: its end is the end of the server and of its directory.

    The directory goes, and the server stops, even when this process is killed.

    Args:
        binary: What to run.
        port: The loopback port to listen on.
        user: User and group id to run as; None for our own.
        end_signal: What ends it most quickly, if its data is of no more use.
    """

    def __init__(self, binary: Binary, port: int, *, user: tuple[int, int] | None = None, end_signal: int = _SIGKILL) -> None:
        #: Version number, as the binary tells it.
        self.version = binary.version
        self.port = port
        #: What must not be shown: removed from logs before they are quoted.
        self.secrets: list[str] = []
        self._binary = binary.path
        self._supervisor = _Supervisor(user, end_signal)
        #: Everything that the server keeps, and its ``log``.
        self.directory = Path(self._supervisor.directory)

    # -- what each kind of server says of itself ---------------------------------------------------------------------------------

    @property
    @abstractmethod
    def url(self) -> str:
        """How to connect, with all rights."""

    @property
    @abstractmethod
    def socket_path(self) -> Path:
        """The Unix socket in the directory."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command line that starts the server in the foreground."""

    @abstractmethod
    def _ping(self) -> None:
        """Return if the server answers as a working one does; else raise OSError or WireError."""

    @abstractmethod
    def _prepare(self) -> None:
        """Write configuration, before the first start."""

    def _after_start(self) -> None:  # noqa: B027 - most have nothing left to do
        """Configure over the wire, after the first start."""

    #: Asks the server to stop in an orderly way.
    _stop_signal: int = signal.SIGTERM

    # -- its life ----------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server again, with its port and data, and wait until it answers. Does nothing while it runs.

        Raises:
            ServerUnavailable: It did not start, or not in time; quotes its log.
        """
        if self.pid is not None:
            return
        self._supervisor.ask("start", argv=self._command())
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the server answers.

        Raises:
            ServerUnavailable: It ended, or does not answer within 20 s; quotes its log.
        """
        deadline = time.monotonic() + _READY_SECONDS
        problem: Exception | None = None
        while time.monotonic() < deadline:
            try:
                self._ping()
            except (OSError, WireError) as error:
                problem = error
            else:
                return
            if self.pid is None:
                log = self.log_tail()
                kind = PortTaken if "ddress already in use" in log else ServerUnavailable
                raise kind(f"{self._binary} {self.version} ended at once; its log ends with:\n{log}")
            time.sleep(_POLL_SECONDS)
        what = f"{self._binary} {self.version} does not answer within {_READY_SECONDS:.0f} s ({problem})"
        raise ServerUnavailable(f"{what}; its log ends with:\n{self.log_tail()}")

    def stop(self) -> None:
        """Stop the server in an orderly way; its data is kept for :meth:`start`."""
        self._supervisor.ask("stop", signal_number=int(self._stop_signal), seconds=_STOP_SECONDS)

    def restart(self) -> None:
        """Stop the server and start it again: same port, same data."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill the server and all its children with SIGKILL, as a power cut would; :meth:`start` starts it again."""
        self._supervisor.ask("kill")

    def pause(self) -> None:
        """Freeze the server and its children (SIGSTOP): connections stay open, nothing is answered."""
        self._supervisor.ask("pause")

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._supervisor.ask("resume")

    def close(self) -> None:
        """End the server and delete its directory. It cannot be started again. Closing twice is fine."""
        self._supervisor.close()

    @property
    def pid(self) -> int | None:
        """Process id of the server, or None while it does not run."""
        pid: int | None = self._supervisor.ask("state")["pid"]
        return pid

    def log_tail(self) -> str:
        """Return the last lines that the server wrote to its log, without passwords."""
        log = self.directory / "log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        text = "\n".join(lines[-_LOG_LINES:])
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.version} on port {self.port}>"  # no URL: there may be a password in it

    # -- for subclasses ----------------------------------------------------------------------------------------------------------

    def _run(self, argv: list[str]) -> None:
        """Run a command that prepares the directory, as the user that the server will run as."""
        done = self._supervisor.ask("run", argv=argv)
        if done["returncode"] != 0:
            raise ServerUnavailable(f"{' '.join(argv)} failed: {done['output'].strip()}")

    def _write(self, name: str, text: str) -> Path:
        """Write a file that nobody else may read into the directory, and return its path."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        owner = self.directory.stat()
        if path.stat().st_uid != owner.st_uid:
            os.chown(path, owner.st_uid, owner.st_gid)
        return path


AnyServer = TypeVar("AnyServer", bound=Server)


def launch(program: Program, make: Callable[[Binary, int], AnyServer]) -> AnyServer:
    """Start the first binary of `program` that starts.

    Args:
        program: What to look for.
        make: Makes the server, not yet started, from a binary and a port.

    Raises:
        ServerUnavailable: There is none, or none that starts: all reasons.
    """
    if not hasattr(socket, "AF_UNIX") or os.name != "posix":
        raise ServerUnavailable(f"servers are started on POSIX systems only; give a URL of a running one ({program.name})")
    reasons = []
    for binary in find(program):
        try:
            return _launch(binary, make)
        except ServerUnavailable as error:
            reasons.append(str(error))
    raise ServerUnavailable("; ".join(reasons))


def _launch(binary: Binary, make: Callable[[Binary, int], AnyServer]) -> AnyServer:
    for attempt in range(_PORT_ATTEMPTS):
        server = make(binary, free_port())
        try:
            server._prepare()
            server.start()
            server._after_start()
        except BaseException as error:
            server.close()
            if isinstance(error, PortTaken) and attempt < _PORT_ATTEMPTS - 1:
                continue
            raise
        return server
    raise AssertionError("unreachable")


def free_port() -> int:
    """Return a loopback port on which nobody listens, nor on the one that is 10,000 higher."""
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if all(_is_free(number) for number in (port, port + _CLUSTER_BUS)):
            return port
    raise ServerUnavailable(f"no free port from {_PORTS.start} to {_PORTS.stop - 1}")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def directory_base(user: tuple[int, int] | None) -> str:
    """Return the folder for temporary directories: the usual one, unless its path is too long or `user` cannot get there."""
    base = Path(tempfile.gettempdir()).resolve()
    open_to_all = all(folder.stat().st_mode & stat.S_IXOTH for folder in (base, *base.parents))
    return str(base) if len(str(base)) <= _LONGEST_BASE and (user is None or open_to_all) else "/tmp"  # noqa: S108


class _Supervisor:
    """Our end of the pipe to supervisor.py."""

    def __init__(self, user: tuple[int, int] | None, end_signal: int) -> None:
        self._lock = threading.Lock()  # an answer belongs to the question before it
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", supervisor.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        _open.add(self)
        where = {"base": directory_base(user), "user": user, "end_signal": int(end_signal)}
        self.directory: str = self._exchange(where)["directory"]

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdin.closed:
            if do == "state":
                return {"pid": None, "returncode": None}
            raise ServerUnavailable("this server was closed; start a new one")
        return self._exchange({"do": do, **arguments})

    def _exchange(self, order: dict[str, Any]) -> dict[str, Any]:
        pipes = self._process
        assert pipes.stdin is not None
        assert pipes.stdout is not None
        try:
            with self._lock:
                pipes.stdin.write(json.dumps(order) + "\n")
                pipes.stdin.flush()
                line = pipes.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ServerUnavailable(f"the process that watches over the server ended (exit code {pipes.wait()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ServerUnavailable(answer["error"])
        return answer

    def close(self) -> None:
        pipes = self._process
        if pipes.stdin is not None and not pipes.stdin.closed:
            pipes.stdin.close()
            pipes.wait()
            assert pipes.stdout is not None
            pipes.stdout.close()
        _open.discard(self)


#: Closed at exit: the end of this process would end them too, but nobody would wait until they are gone.
_open: weakref.WeakSet[_Supervisor] = weakref.WeakSet()


_owner = os.getpid()


@atexit.register
def _close_all() -> None:
    if os.getpid() == _owner:  # a fork of this process has a copy of the list, and must leave the servers alone
        for running in list(_open):
            running.close()
