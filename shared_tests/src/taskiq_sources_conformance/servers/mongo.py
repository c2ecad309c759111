"""MongoDB: standalone, or a replica set of one node (which transactions and change streams need)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from taskiq_sources_conformance.servers import binaries
from taskiq_sources_conformance.servers.base import Server, launch
from taskiq_sources_conformance.servers.binaries import Binary
from taskiq_sources_conformance.servers.wire import WireError, mongo_command

_REPLICA_SET = "rs0"
_USER = "root"


class MongoServer(Server):
    """A running mongod. :func:`start_mongo` makes it."""

    def __init__(self, binary: Binary, port: int, *, replica_set: bool, auth: bool, arguments: Sequence[str]) -> None:
        super().__init__(binary, port)
        self._replica_set = replica_set
        self._arguments = arguments
        self._initiated = False
        #: The password of the user ``root``, or None if nobody is asked for one.
        self.password = secrets.token_hex(12) if auth else None
        self.secrets.extend([self.password] if self.password else [])

    @property
    def url(self) -> str:
        """How to connect, with all rights. Without ``directConnection``: a driver finds out what it talks to."""
        userinfo = f"{_USER}:{self.password}@" if self.password else ""
        options = [f"replicaSet={_REPLICA_SET}"] if self._replica_set else []
        options += ["authSource=admin"] if self.password else []
        return f"mongodb://{userinfo}127.0.0.1:{self.port}/" + ("?" + "&".join(options) if options else "")

    @property
    def unix_url(self) -> str:
        """The same over the Unix socket, straight to this server."""
        userinfo = f"{_USER}:{self.password}@" if self.password else ""
        return f"mongodb://{userinfo}{quote(str(self.socket_path), safe='')}/?directConnection=true"

    @property
    def socket_path(self) -> Path:
        """The Unix socket in the directory."""
        return self.directory / f"mongodb-{self.port}.sock"

    def command(self, command: Mapping[str, Any], database: str = "admin") -> dict[str, Any]:
        """Run a command without any driver, and without logging in.

        Raises:
            WireError: MongoDB answered with an error.
        """
        return mongo_command(self.socket_path, command, database)

    def _prepare(self) -> None:
        (self.directory / "data").mkdir()
        if self.password and self._replica_set:
            self._write("key", secrets.token_hex(32))

    def _command(self) -> list[str]:
        words = [str(self._binary), "--dbpath", str(self.directory / "data"), "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        words += ["--unixSocketPrefix", str(self.directory), "--wiredTigerCacheSizeGB", "0.25"]
        # The default keeps statistics in a file for support staff: half of the work of an idle server.
        words += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
        if self._replica_set:
            words += ["--replSet", _REPLICA_SET, "--oplogSize", "64"]
        if self.password:
            words += ["--auth"] if not self._replica_set else ["--keyFile", str(self.directory / "key")]
        return [*words, *self._arguments]

    def _ping(self) -> None:
        hello = self.command({"hello": 1})
        if self._replica_set and self._initiated and not hello.get("isWritablePrimary"):
            raise WireError("it is not yet the primary of its replica set")

    def _after_start(self) -> None:
        if self._replica_set:
            members = [{"_id": 0, "host": f"127.0.0.1:{self.port}"}]
            self.command({"replSetInitiate": {"_id": _REPLICA_SET, "members": members}})
            self._initiated = True
            self.wait_ready()
        if self.password:
            # Whoever connects from this machine may create the first user, and nothing else.
            self.command({"createUser": _USER, "pwd": self.password, "roles": ["root"]})


def start_mongo(replica_set: bool = False, *, auth: bool = False, arguments: Sequence[str] = ()) -> MongoServer:
    """Start a MongoDB.

    Args:
        replica_set: A replica set of one node instead of a standalone server.
        auth: Ask for user and password, which are in the URL.
        arguments: More for mongod's command line.

    Raises:
        ServerUnavailable: None can be had.
    """
    return launch(
        binaries.MONGO,
        lambda binary, port: MongoServer(binary, port, replica_set=replica_set, auth=auth, arguments=arguments),
    )
