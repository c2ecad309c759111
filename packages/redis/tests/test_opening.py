"""What a source is made with, and what is checked when it is opened."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import redis as sync_redis
from redis.asyncio import Redis

from taskiq_sources.errors import BackendVersionError, ScheduleValidationError, SchemaVersionError, SourceConnectionError
from taskiq_sources.plugins import BACKENDS_GROUP, source_from_url
from taskiq_sources_conformance.build import listed, schedule
from taskiq_sources_conformance.servers import ServerUnavailable, start_redis
from taskiq_sources_redis import RedisScheduleSource, RedisStore

pytestmark = pytest.mark.anyio


def start_or_skip(**arguments: Any) -> Any:
    try:
        return start_redis(**arguments)
    except ServerUnavailable as error:
        pytest.skip(f"no redis server: {error}")


# -- arguments -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:s3cr3t@localhost:6379/orders",
        "redis://:s3/cr3t@localhost:6379/0",
        "redis://:s3cr3t@localhost:port/0",
        "redis+sentinel://:s3cr3t@localhost:26379",
        "redis+sentinel://:s3cr3t@localhost:26379/orders/main",
        "redis+sentinel://:s3cr3t@,localhost/orders",
        "redis+cluster://:s3cr3t@localhost:x/",
        "redis://:s3cr3t@localhost?socket_timeout=soon",
        "http://:s3cr3t@localhost",
        "localhost:6379",
    ],
)
def test_a_url_that_is_not_valid_is_refused_at_once(url: str) -> None:
    with pytest.raises(ScheduleValidationError, match="redis://host:port/db") as caught:
        RedisScheduleSource(url)

    assert "cr3t" not in f"{caught.value} {caught.value.__cause__!r}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("redis://localhost/0?password=s3cr3t&socket_timeuot=3", "socket_timeuot"),
        ("redis://localhost/0?socket_timeout=soon&password=s3cr3t", "socket_timeout"),
        ("redis://:s3cr3t@localhost/0?protocol=9", "protocol"),
        ("rediss://:s3cr3t@localhost/0?ssl=true", "ssl"),
        ("unix://:s3cr3t@/run/redis.sock?socket_timeuot=3", "socket_timeuot"),
        ("redis+sentinel://:s3cr3t@localhost:26379/orders/0?socket_timeuot=3", "socket_timeuot"),
        ("redis+cluster://:s3cr3t@localhost:7000?socket_timeuot=3", "socket_timeuot"),
        ("redis+cluster://:s3cr3t@localhost:7000?db=3", "db"),
    ],
)
def test_an_option_that_the_client_does_not_take_is_named(url: str, option: str) -> None:
    with pytest.raises(ScheduleValidationError, match=f"takes no option '{option}'.*use redis://") as caught:
        RedisScheduleSource(url)

    assert "s3cr3t" not in f"{caught.value} {caught.value.__cause__!r}"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("place", ["redis://localhost/0", "redis+sentinel://localhost/orders", "redis+cluster://localhost"])
def test_a_client_option_that_there_is_not_is_named(place: str) -> None:
    with pytest.raises(ScheduleValidationError, match="takes no option 'pasword'") as caught:
        RedisScheduleSource(place, client_options={"pasword": "s3cr3t"})

    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("database", ["3", "00", "0/", "orders"])
def test_a_cluster_has_no_database_but_0(database: str) -> None:
    with pytest.raises(ScheduleValidationError, match=f"behind the host stands '{database}'.*database 0 alone") as caught:
        RedisScheduleSource(f"redis+cluster://:s3cr3t@localhost:7000,localhost:7001/{database}")

    assert "s3cr3t" not in str(caught.value)
    assert RedisScheduleSource("redis+cluster://localhost:7000/0")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "url"),
        ({"url": "redis://localhost", "client": Redis()}, "url"),
        ({"client": sync_redis.Redis()}, "client"),
        ({"url": "redis://localhost", "shards": 0}, "shards"),
        ({"url": "redis://localhost", "shards": 100_000}, "shards"),
        ({"url": "redis://localhost", "timeout": timedelta(0)}, "timeout"),
    ],
)
def test_arguments_that_are_not_valid_are_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ScheduleValidationError) as caught:
        RedisScheduleSource(**arguments)

    assert caught.value.field == field


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "redis+sentinel", "redis+cluster"])
def test_every_scheme_is_registered(scheme: str) -> None:
    path = {"redis+sentinel": "host/orders/0", "unix": "/path?db=1"}.get(scheme, "host/0")

    assert scheme in {entry.name for entry in entry_points(group=BACKENDS_GROUP)}
    assert isinstance(source_from_url(f"{scheme}://{path}"), RedisScheduleSource)


def test_passwords_are_in_no_repr() -> None:
    assert "s3cr3t" not in repr(RedisScheduleSource("redis://me:s3cr3t@localhost/0"))
    assert "s3cr3t" not in repr(RedisScheduleSource(client=Redis(username="me", password="s3cr3t")))


async def test_a_unix_socket_and_options_in_the_url() -> None:
    with start_or_skip(user="app", password="p@ss/w%rd") as server:
        for url in (server.unix_url, f"{server.url}?socket_timeout=3&max_connections=4"):
            source = RedisScheduleSource(url)
            await source.startup()
            assert [found async for found in source.iter_schedules()] == []
            await source.shutdown()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that is its own authority; its key is in the same file."""
    path = tmp_path / "server.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, "-keyout", "-", "-out", "-"]
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return path


async def test_tls(certificate: Path) -> None:
    """A server that speaks TLS alone; options of the client name the authority. Needs a binary that was built with TLS."""
    settings = {"tls-cert-file": str(certificate), "tls-key-file": str(certificate), "tls-auth-clients": "no"}
    with start_or_skip(settings=settings) as server:
        server.command("CONFIG", "SET", "port", "0")
        server.command("CONFIG", "SET", "tls-port", server.port)
        url = f"rediss://127.0.0.1:{server.port}/0"
        store = RedisStore(url, client_options={"ssl_ca_certs": str(certificate)})
        await store.open()
        await store.put([schedule()])
        news = store.watch()
        await anext(news)
        await news.aclose()
        assert await listed(store) == ["a"]
        await store.close()
        with pytest.raises(SourceConnectionError, match="certificate"):
            await RedisStore(url).open()


# -- what is checked -------------------------------------------------------------------------------------------------------------


async def test_another_number_of_shards_is_refused(place: Any) -> None:
    first = place.store()
    await first.open()
    await first.close()
    store = place.store(shards=4)

    with pytest.raises(ScheduleValidationError, match="spread over 1"):
        await store.open()


@pytest.mark.parametrize(("version", "advice"), [(3, "upgrade"), (1, "another prefix")])
async def test_another_layout_is_refused_and_left_alone(place: Any, version: int, advice: str) -> None:
    first = place.store()
    await first.open()
    await first.put([schedule()])
    meta = first._shards.keys[0][-1]
    async with Redis.from_url(place.url) as client:
        await client.hset(meta, "version", version)
        with pytest.raises(SchemaVersionError, match=advice):
            await place.store().open()
        assert await client.hget(meta, "version") == str(version).encode()
        await client.hset(meta, "version", 2)
    assert await listed(first) == ["a"]
    await first.close()


async def test_an_old_server_is_refused(monkeypatch: pytest.MonkeyPatch, place: Any) -> None:
    """No server older than 6.2 is to be had: every one is when a newer one is asked for."""
    monkeypatch.setattr("taskiq_sources_redis.store._OLDEST_SERVER", "100.0")
    with pytest.raises(BackendVersionError, match=r"is version \d+\.\d+\.\d+; 100\.0 or later is needed"):
        await place.store().open()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"appendonly": False}, "appendonly"), ({"settings": {"maxmemory-policy": "allkeys-lru"}}, "noeviction"), ({}, None)],
    ids=["no-aof", "evicts", "as-it-should-be"],
)
async def test_settings_that_break_promises_are_warned_of(
    caplog: pytest.LogCaptureFixture, arguments: dict[str, Any], word: str | None
) -> None:
    with start_or_skip(password="s3cr3t", **arguments) as server, caplog.at_level(logging.WARNING, "taskiq_sources"):
        store = RedisStore(server.url)
        await store.open()
        await store.close()

    assert [record.getMessage().count(word or "") > 0 for record in caplog.records] == ([] if word is None else [True])
    assert "s3cr3t" not in caplog.text


def test_importing_it_connects_to_nothing() -> None:
    program = "import taskiq_sources_redis as t; t.RedisScheduleSource('redis://no-such-host.invalid/0')"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)
