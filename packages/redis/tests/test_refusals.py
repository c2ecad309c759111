"""What Redis, Valkey or a Cluster may answer instead of doing what it was asked: by real servers, or by the table of advice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import redis

from taskiq_sources.advice import Advice, classes_of
from taskiq_sources.errors import SourceConnectionError
from taskiq_sources_conformance.build import listed, schedule
from taskiq_sources_conformance.servers import RedisServer, ServerUnavailable, start_redis, start_valkey
from taskiq_sources_conformance.servers.wire import WireError
from taskiq_sources_redis import RedisStore
from taskiq_sources_redis.server import load_script

pytestmark = pytest.mark.anyio

#: What a server sends, as the driver makes errors of it, and what the advice says.
SAID = [
    ("NOPERM No permissions to access a key", "README"),
    ("ERR ACL failure in script: No permissions to access a channel script: 1f, on @user_script:3.", "README"),
    ("OOM command not allowed when used memory > 'maxmemory'. script: 1f, on @user_script:3.", "more memory"),
    ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "log"),
    ("MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk.", "log"),
    ("CLUSTERDOWN The cluster is down", "part of the Cluster"),
    ("TRYAGAIN Multiple keys request during rehashing of slot", "part of the Cluster"),
    ("CROSSSLOT Keys in request don't hash to the same slot", "redis+cluster"),
    ("ERR max number of clients + cluster connections reached", "max_connections"),
    ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", "busy"),
    ("UNKILLABLE Sorry the script already executed write commands against the dataset.", "busy"),
    ("ERR Error running script (call to f_1f): @user_script:3: Script killed by user with SCRIPT KILL...", "before it wrote"),
    ("ERR Script killed by user with SCRIPT KILL. script: 1f, on @user_script:3.", "before it wrote"),
    ("ERR Unknown Redis command called from script script: 1f, on @user_script:3.", "does not offer"),
    ("DENIED Redis is running in protected mode because protected mode is enabled", "password"),
    ("REDIRECT 127.0.0.1:6379", "try again"),
    ("INPROG Failover already in progress", "try again"),
    ("ERR max daily request limit exceeded. Limit: 10000, Usage: 10000.", "try again"),
]
BUGS = [
    "ERR Error running script (call to f_1f): @user_script:3: user_script:3: attempt to index local 'a' (a nil value)",
    "ERR user_script:3: attempt to index local 'a' (a nil value) script: 1f, on @user_script:3.",
    "ERR user_script:3: too many results to unpack script: 1f, on @user_script:3.",
    "ERR Error compiling script (new function): user_script:1: unexpected symbol near '<eof>'",
    "ERR Error running script (call to f_1f): @user_script:3: @user_script: 3: Wrong number of args calling Redis command",
    "ERR value is not a valid float script: 1f, on @user_script:3.",
    "ERR value is not an integer or out of range",
    "ERR min or max not valid string range item script: 1f, on @user_script:3.",
    "ERR syntax error script: 1f, on @user_script:3.",
    "ERR Lua redis() command arguments must be strings or integers script: 1f, on @user_script:3.",
    "ERR Command arguments must be strings or integers script: 1f, on @user_script:3.",
    "ERR Please specify at least one argument for this redis.call() call script: 1f, on @user_script:3.",
    "ERR min or max is not a float script: 1f, on @user_script:3.",
    "ERR This Redis command is not allowed from script script: 1f, on @user_script:3.",
    "ERR increment or decrement would overflow",
]


def advice_on(answer: str) -> str | None:
    error = redis.connection.DefaultParser(socket_read_size=1).parse_error(answer)
    return Advice.load("taskiq_sources_redis").of(f"{classes_of(error)} {error}")


@pytest.mark.parametrize(("answer", "advice"), SAID)
def test_what_a_server_says_has_advice(answer: str, advice: str) -> None:
    assert advice in str(advice_on(answer))


@pytest.mark.parametrize("answer", BUGS)
def test_what_proves_a_bug_of_ours_has_none(answer: str) -> None:
    """It fails each time, and nobody who runs Redis can do anything about it."""
    assert advice_on(answer) is None


@pytest.fixture(params=[start_redis, start_valkey])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A Redis and a Valkey of this test's own."""
    start: Callable[[], RedisServer] = request.param
    try:
        with start() as running:
            yield running
    except ServerUnavailable as error:
        pytest.skip(str(error))


async def test_a_channel_that_is_closed_to_us_is_named(server: RedisServer) -> None:
    server.command("ACL", "SETUSER", "deaf", "on", "nopass", "~*", "resetchannels", "+@all")
    store = RedisStore(server.url.replace("redis://", "redis://deaf:x@"))
    await store.open()
    with pytest.raises(SourceConnectionError, match="README"):
        await store.put([schedule()])
    assert await listed(store) == []
    await store.close()


async def test_a_script_that_an_operator_ends_has_written_nothing(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis ends no script that has written, so it is safe to say so and to try again."""
    store = RedisStore(server.url)
    await store.open()
    server.command("CONFIG", "SET", "lua-time-limit", "10")
    endless = "redis.call('PUBLISH', 'news', '') while true do end", "no-such-sha"
    monkeypatch.setattr("taskiq_sources_redis.server.load_script", lambda name: endless if name == "put" else load_script(name))
    waiting = asyncio.ensure_future(store.put([schedule()]))
    while not waiting.done():
        await asyncio.sleep(0.02)
        with suppress(WireError):  # it has not begun, or not taken long enough
            await asyncio.to_thread(server.command, "SCRIPT", "KILL")

    with pytest.raises(SourceConnectionError, match="before it wrote anything"):
        await waiting
    assert await listed(store) == []
    await store.close()


async def test_a_redis_that_repeats_scripts_is_told_what_to_set(server: RedisServer) -> None:
    try:
        server.command("CONFIG", "SET", "lua-replicate-commands", "no")
    except WireError:
        pytest.skip("this server always repeats the effects")
    store = RedisStore(server.url)
    with pytest.raises(SourceConnectionError, match="lua-replicate-commands"):
        await store.open()
    await store.close()
