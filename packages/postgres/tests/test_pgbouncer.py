"""Behind a real PgBouncer in transaction mode. Not run where there is none: Debian has it as ``pgbouncer``."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.models import RunQuery, ScheduleQuery
from taskiq_sources_conformance.build import NOW, outcome, run, schedule, take
from taskiq_sources_conformance.servers.base import directory_base, free_port
from taskiq_sources_postgres import PgBouncerStore, PostgresScheduleSource, PostgresStore

pytestmark = pytest.mark.anyio

_SEARCH = os.pathsep.join([os.environ.get("TASKIQ_SOURCES_SERVER_PATH", ""), os.environ.get("PATH", ""), "/usr/sbin"])
_PROGRAM = shutil.which("pgbouncer", path=_SEARCH)
_SERVER_CONNECTIONS = 2


@pytest.fixture(scope="module")
def bouncer(url: str) -> Iterator[str]:
    """The URL of a PgBouncer that has fewer connections to the server than clients."""
    if _PROGRAM is None:
        pytest.skip("no pgbouncer on PATH or in /usr/sbin; TASKIQ_SOURCES_SERVER_PATH can name a folder")
    # It refuses to run as root.
    user = (pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid) if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(dir=directory_base(user)) as folder:
        port = _configure(Path(folder), url)
        if user is not None:
            for path in (Path(folder), *Path(folder).iterdir()):
                os.chown(path, *user)
        command = [_PROGRAM, "-q", f"{folder}/pgbouncer.ini"]
        as_user = {} if user is None else {"user": user[0], "group": user[1], "extra_groups": []}
        with subprocess.Popen(command, stderr=subprocess.PIPE, **as_user) as process:  # type: ignore[call-overload]
            try:
                parts = urlsplit(url)
                bouncer = f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
                asyncio.run(_answers(process, bouncer))
                yield bouncer
            finally:
                process.terminate()


def _configure(folder: Path, url: str) -> int:
    """Write the configuration for a PgBouncer before the server at `url`, and return its port."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    host = parts.hostname or options["host"][0]
    port = parts.port or options.get("port", ["5432"])[0]
    password = f" password={parts.password}" if parts.password else ""
    own_port = free_port()
    (folder / "users.txt").write_text(f'"{parts.username}" "{parts.password or ""}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={host} port={port}{password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own_port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder}/users.txt\n"
        f"pool_mode = transaction\ndefault_pool_size = {_SERVER_CONNECTIONS}\nmax_client_conn = 100\n"
    )
    return own_port


async def test_many_clients_share_few_connections(bouncer: str, place: Any) -> None:
    """Claims, settles and edits of more clients than there are connections: each is done once, by whoever asked for it."""
    stores = [PgBouncerStore(bouncer, prefix=place.prefix, max_connections=4) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    ids = [f"{number:03}" for number in range(300)]
    await stores[0].put([schedule(schedule_id) for schedule_id in ids])
    sent: list[str] = []

    async def work(store: PgBouncerStore) -> None:
        while claims := await take(store, limit=5):
            sent.extend(claim.schedule.id for claim in claims)
            await store.next_due(NOW)
            assert len(await store.page(ScheduleQuery(task_name=claims[0].schedule.task_name), limit=3)) > 0
            settled = [
                outcome(claim, finished=True, runs=(run(claim.schedule.id, schedule_id=claim.schedule.id),)) for claim in claims
            ]
            assert await store.settle(settled) == frozenset()

    await asyncio.gather(*(work(stores[number % 4]) for number in range(16)))
    await work(stores[0])

    assert sorted(sent) == ids
    assert sorted(row.schedule_id for row in await stores[1].runs(RunQuery(), limit=999)) == ids
    for store in stores:
        await store.close()


async def test_writes_through_it_wake_those_who_are_connected_directly(bouncer: str, place: Any) -> None:
    direct, through = PostgresStore(place.dsn, prefix=place.prefix), PgBouncerStore(bouncer, prefix=place.prefix)
    await direct.open()
    await through.open()
    watch = direct.watch()
    await watch.__anext__()
    await through.put([schedule()])

    await asyncio.wait_for(watch.__anext__(), 10)
    await watch.aclose()
    await direct.close()
    await through.close()


async def test_the_source_takes_the_store_for_it(bouncer: str, place: Any) -> None:
    source = PostgresScheduleSource(bouncer, prefix=place.prefix, pgbouncer=True)
    await source.startup()

    assert not source.store.capabilities.push
    assert [one async for one in source.iter_schedules()] == []
    await source.shutdown()


async def test_an_unannounced_pgbouncer_is_named(bouncer: str, place: Any) -> None:
    """Prepared statements that got lost between two connections are explained, with the option that helps."""
    store = PostgresStore(bouncer, prefix=place.prefix)

    async def work() -> None:
        await store.open()
        for _ in range(50):
            await asyncio.gather(*(store.get([str(number)]) for number in range(8)))

    with pytest.raises(SourceConnectionError, match="pgbouncer=True"):
        await work()
    await store.close()


async def _answers(process: subprocess.Popen[bytes], url: str) -> None:
    problem: Exception | None = None
    for _ in range(500):
        try:
            connection = await asyncpg.connect(url, statement_cache_size=0)
        except (OSError, asyncpg.PostgresError) as error:
            problem = error
            if process.poll() is not None:
                assert process.stderr is not None
                pytest.fail(f"pgbouncer ended: {process.stderr.read().decode()}")
            await asyncio.sleep(0.01)
        else:
            await connection.close()
            return
    pytest.fail(f"pgbouncer does not answer: {problem}")
