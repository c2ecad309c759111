"""One server of each kind for a whole test session: taken from the environment, or started when it is first asked for.

Under pytest-xdist the workers ask the controller, which starts a server once for all of them: see :func:`share`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from taskiq_sources_conformance.servers.base import Server
from taskiq_sources_conformance.servers.errors import ServerUnavailable
from taskiq_sources_conformance.servers.mongo import start_mongo
from taskiq_sources_conformance.servers.postgres import start_postgres
from taskiq_sources_conformance.servers.redis import RedisCluster, start_redis, start_redis_cluster, start_valkey

#: Where other processes of this session ask for servers, and the word that lets them: ``port:token``.
HUB = "TASKIQ_SOURCES_SERVER_HUB"

_HUB_SECONDS = 120.0  # a worker may have to wait while several servers are started on a busy machine


@dataclass(frozen=True)
class Kind:
    """A kind of server: the environment variable that names a running one, and how to start one."""

    variable: str
    start: Callable[[], Server | RedisCluster]


KINDS = {
    "redis": Kind("TASKIQ_SOURCES_REDIS_URL", start_redis),
    "redis_cluster": Kind("TASKIQ_SOURCES_REDIS_CLUSTER_URL", start_redis_cluster),
    "valkey": Kind("TASKIQ_SOURCES_VALKEY_URL", start_valkey),
    "postgres": Kind("TASKIQ_SOURCES_POSTGRES_URL", start_postgres),
    "mongo": Kind("TASKIQ_SOURCES_MONGO_URL", start_mongo),
    "mongo_replica_set": Kind("TASKIQ_SOURCES_MONGO_REPLICA_SET_URL", lambda: start_mongo(replica_set=True)),
}


def url_of(kind: str) -> str:
    """Return the URL of this session's server of a kind; start it if need be. It ends with the session.

    All tests of the session share it: keep to a prefix, schema or database of your own.

    Args:
        kind: ``redis``, ``redis_cluster``, ``valkey``, ``postgres``, ``mongo`` (standalone) or ``mongo_replica_set``.

    Raises:
        ServerUnavailable: None can be had; the message is the reason.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not known; choose from {', '.join(KINDS)}")
    url = os.environ.get(KINDS[kind].variable)
    if url:
        return url
    hub = os.environ.get(HUB)
    return _ask_hub(hub, kind) if hub and not _session.is_hub else _session.url_of(kind)


def url_or_skip(kind: str) -> str:
    """Return :func:`url_of`, or skip the test with the reason, which the conformance summary shows as *not run*."""
    try:
        return url_of(kind)
    except ServerUnavailable as error:
        import pytest

        pytest.skip(f"no {kind} server: {error}")


def share() -> None:
    """From now on, processes started by this one get their servers from it. For the controller of pytest-xdist.

    Servers are still started when the first one asks, and end with this process.
    """
    _session.open_hub()


class _Session:
    """The servers that this process started, and the reasons for those that it could not start."""

    def __init__(self) -> None:
        self.is_hub = False
        self._lock = threading.Lock()
        self._servers: dict[str, Server | RedisCluster] = {}
        self._reasons: dict[str, str] = {}

    def url_of(self, kind: str) -> str:
        with self._lock:
            if kind in self._reasons:  # not tried again for each of several hundred tests
                raise ServerUnavailable(self._reasons[kind])
            if kind not in self._servers:
                try:
                    self._servers[kind] = KINDS[kind].start()
                except ServerUnavailable as error:
                    self._reasons[kind] = str(error)
                    raise
            return self._servers[kind].url

    def open_hub(self) -> None:
        if self.is_hub:
            return
        token = secrets.token_hex(16)
        listener = socket.create_server(("127.0.0.1", 0))
        os.environ[HUB] = f"{listener.getsockname()[1]}:{token}"
        self.is_hub = True
        threading.Thread(target=self._serve, args=(listener, token), name="taskiq-sources-servers", daemon=True).start()

    def _serve(self, listener: socket.socket, token: str) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._answer, args=(connection, token), daemon=True).start()

    def _answer(self, connection: socket.socket, token: str) -> None:
        # A worker that died while it was waiting needs no answer.
        with connection, connection.makefile("rw", encoding="utf-8") as lines, contextlib.suppress(OSError):
            question = json.loads(lines.readline())
            if not secrets.compare_digest(question["token"], token):
                return
            try:
                answer = {"url": self.url_of(question["kind"])}
            except ServerUnavailable as error:
                answer = {"reason": str(error)}
            lines.write(json.dumps(answer) + "\n")
            lines.flush()


_session = _Session()


def _ask_hub(hub: str, kind: str) -> str:
    port, _, token = hub.partition(":")
    try:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=_HUB_SECONDS) as connection:
            connection.sendall(json.dumps({"token": token, "kind": kind}).encode() + b"\n")
            with connection.makefile("r", encoding="utf-8") as lines:
                answer = json.loads(lines.readline() or "{}")
    except OSError as error:
        raise ServerUnavailable(f"the test session that has the servers cannot be reached: {error}") from error
    if "url" not in answer:
        raise ServerUnavailable(answer.get("reason", "the test session that has the servers is ending"))
    return str(answer["url"])
