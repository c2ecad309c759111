"""Redis: a single server, a replica of one, and a Cluster of three masters; and Valkey, which is run in the same way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from taskiq_sources_conformance.servers import binaries
from taskiq_sources_conformance.servers.base import Server, launch
from taskiq_sources_conformance.servers.binaries import Binary, Program
from taskiq_sources_conformance.servers.errors import ServerUnavailable
from taskiq_sources_conformance.servers.wire import WireError, redis_command

_SLOTS = 16_384
_CLUSTER_READY_SECONDS = 20.0
_POLL_SECONDS = 0.01


class RedisServer(Server):
    """A running redis-server or valkey-server. :func:`start_redis` and :func:`start_valkey` make it."""

    def __init__(self, binary: Binary, port: int, settings: Mapping[str, str], login: Sequence[str]) -> None:
        super().__init__(binary, port)
        self._settings = settings
        self._login = login
        self.secrets.extend(login[-1:])

    @property
    def url(self) -> str:
        """How to connect, as ``redis://[[user]:password@]127.0.0.1:port/0``."""
        return f"redis://{self._userinfo()}127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """The same over the Unix socket, as ``unix://[[user]:password@]/path?db=0``."""
        return f"unix://{self._userinfo()}{self.socket_path}?db=0"

    @property
    def socket_path(self) -> Path:
        """The Unix socket in the directory."""
        return self.directory / "socket"

    def command(self, *words: str | int) -> Any:
        """Run a command without any driver, as ``server.command("CONFIG", "SET", "maxmemory", "1mb")``.

        Raises:
            WireError: Redis answered with an error.
        """
        return redis_command(self.socket_path, *words, login=self._login)

    def _userinfo(self) -> str:
        if not self._login:
            return ""
        *user, password = self._login
        return f"{quote(user[0], safe='') if user else ''}:{quote(password, safe='')}@"

    def _prepare(self) -> None:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            **self._settings,
        }
        lines = [f"{name} {value}" for name, value in settings.items()]
        if len(self._login) > 1:
            user, password = self._login
            lines += [f"user {user} on >{password} ~* &* +@all", "user default off"]
        elif self._login:
            lines.append(f"requirepass {self._login[0]}")
        self._write("redis.conf", "\n".join(lines) + "\n")

    def _command(self) -> list[str]:
        return [str(self._binary), str(self.directory / "redis.conf")]

    def _ping(self) -> None:
        self.command("PING")


def start_redis(
    *,
    appendonly: bool = True,
    password: str | None = None,
    user: str | None = None,
    replica_of: RedisServer | None = None,
    settings: Mapping[str, str] | None = None,
    program: Program = binaries.REDIS,
) -> RedisServer:
    """Start a Redis.

    Args:
        appendonly: Keep the data over stop, kill and start. Without it, every start is with an empty store.
        password: Asked of every client. No spaces or quotes.
        user: With `password`: the one user (ACL) that may log in; the default user is turned off.
        replica_of: Be a read-only replica of that server; returns when it is in step.
        settings: More directives of redis.conf, as ``{"maxmemory": "1mb"}``.
        program: What to start; Valkey takes the same settings.

    Raises:
        ServerUnavailable: None can be had.
    """
    if user is not None and password is None:
        raise ValueError(f"user={user!r} needs a password")
    if any(character.isspace() or character in "\"'" for character in (user or "") + (password or "")):
        raise ValueError("user and password go into redis.conf: no spaces or quotes")
    # The operating system has what Redis wrote even if Redis is killed; fsync is for power cuts, and slow.
    persistence = {"appendonly": "yes", "appendfsync": "no"} if appendonly else {"appendonly": "no"}
    known = {"save": '""', **persistence}
    if replica_of is not None:
        known |= {"replicaof": f"127.0.0.1 {replica_of.port}", "repl-diskless-sync-delay": "0"}
        if replica_of._login:
            *master_user, master_password = replica_of._login
            known |= {"masterauth": master_password} | ({"masteruser": master_user[0]} if master_user else {})
    login = [word for word in (user, password) if word is not None]
    server = launch(program, lambda binary, port: RedisServer(binary, port, {**known, **(settings or {})}, login))
    if replica_of is not None:
        _wait_for([server], "INFO", "replication", until="master_link_status:up")
    return server


def start_valkey(*, appendonly: bool = True, settings: Mapping[str, str] | None = None) -> RedisServer:
    """Start a Valkey. The arguments are those of :func:`start_redis`.

    Raises:
        ServerUnavailable: None can be had.
    """
    return start_redis(appendonly=appendonly, settings=settings, program=binaries.VALKEY)


class RedisCluster:
    """A running Redis Cluster of masters only. :func:`start_redis_cluster` makes it."""

    def __init__(self, nodes: Sequence[RedisServer]) -> None:
        #: The servers, each with a third of the slots: stop one, and its slots are not served.
        self.nodes = list(nodes)
        self.version = self.nodes[0].version

    @property
    def url(self) -> str:
        """How to connect: the first node, which tells of the others."""
        return self.nodes[0].url

    @property
    def urls(self) -> list[str]:
        """The URL of each node."""
        return [node.url for node in self.nodes]

    def wait_ready(self) -> None:
        """Wait until every node serves, and knows that all slots are served.

        Raises:
            ServerUnavailable: Not within 20 s.
        """
        _wait_for(self.nodes, "CLUSTER", "INFO", until="cluster_state:ok")

    def close(self) -> None:
        """End all nodes and delete their directories."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> RedisCluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RedisCluster {self.version} on ports {', '.join(str(node.port) for node in self.nodes)}>"


def start_redis_cluster(nodes: int = 3, *, settings: Mapping[str, str] | None = None) -> RedisCluster:
    """Start a Redis Cluster of masters. Takes two seconds: so long a master waits, on each start, before it serves.

    Args:
        nodes: How many masters share the slots. Redis wants three or more.
        settings: More directives for each node's redis.conf.

    Raises:
        ServerUnavailable: None can be had.
    """
    known = {
        "cluster-enabled": "yes",
        "cluster-config-file": "nodes.conf",
        "cluster-node-timeout": "2000",
        "cluster-announce-ip": "127.0.0.1",
        **(settings or {}),
    }
    started: list[RedisServer] = []
    cluster = None
    try:
        for index in range(nodes):
            started.append(start_redis(settings=known))
            slots = range(index * _SLOTS // nodes, (index + 1) * _SLOTS // nodes)
            started[index].command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            started[index].command("CLUSTER", "ADDSLOTS", *slots)
        for node in started[1:]:
            started[0].command("CLUSTER", "MEET", "127.0.0.1", node.port)
        cluster = RedisCluster(started)
        cluster.wait_ready()
    except BaseException:
        for node in started:
            node.close()
        raise
    return cluster


def _wait_for(servers: Sequence[RedisServer], *words: str, until: str) -> None:
    """Wait until each server's answer to a command has the line `until`."""
    deadline = time.monotonic() + _CLUSTER_READY_SECONDS
    waiting = list(servers)
    while waiting:
        try:
            answer = waiting[0].command(*words)
        except (OSError, WireError) as error:
            answer = str(error)
        if until in answer.splitlines():
            del waiting[0]
        elif time.monotonic() > deadline:
            raise ServerUnavailable(f"{waiting[0]!r}: {' '.join(words)} does not say {until} in time, but:\n{answer}")
        else:
            time.sleep(_POLL_SECONDS)
