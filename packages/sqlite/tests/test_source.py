"""What may be given to `SQLiteScheduleSource` as its file."""

# ruff: noqa: ASYNC240 - a test may wait for the disk

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from taskiq_sources import source_from_url
from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources_sqlite import SQLiteScheduleSource, SQLiteStore
from taskiq_sources_sqlite.source import path_from_url

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("schedules.db", "schedules.db"),
        ("./data/schedules.db", "./data/schedules.db"),
        ("/var/lib/app/schedules.db", "/var/lib/app/schedules.db"),
        ("a:b.db", None),
        ("C:\\data\\schedules.db", "C:\\data\\schedules.db"),
        (Path("data") / "schedules.db", str(Path("data") / "schedules.db")),
        (Path("odd: 100%? #1.db"), "odd: 100%? #1.db"),
        ("what? #1.db", "what? #1.db"),
        ("sqlite:///schedules.db", "schedules.db"),
        ("sqlite:///data/schedules.db", "data/schedules.db"),
        ("sqlite:////var/lib/app/schedules.db", "/var/lib/app/schedules.db"),
        ("SQLite:////var/lib/schedules.db", "/var/lib/schedules.db"),
        ("sqlite:///C:/data/schedules.db", "C:/data/schedules.db"),
        ("sqlite:////srv/my%20app/100%25%3F%23.db", "/srv/my app/100%?#.db"),
        ("sqlite:////srv/Zeitpläne.db", "/srv/Zeitpläne.db"),
    ],
)
def test_a_path_or_url_names_a_file(url: str | Path, path: str | None) -> None:
    assert path_from_url(url) == (url if path is None else path)


@pytest.mark.parametrize("url", ["", ":memory:", "sqlite://", "sqlite:///", "sqlite:///:memory:", Path(":memory:")])
def test_a_database_in_memory_is_refused_and_the_alternative_named(url: str | Path) -> None:
    with pytest.raises(ScheduleValidationError, match="InMemoryScheduleSource"):
        path_from_url(url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite://schedules.db", "third slash"),
        ("sqlite://var/lib/schedules.db", "third slash"),
        ("sqlite:schedules.db", "no sqlite:// URL"),
        ("sqlite:/var/lib/schedules.db", "no sqlite:// URL"),
        ("redis://localhost:6379/0", "no sqlite:// URL"),
        ("sqlite+aiosqlite:///schedules.db", "no sqlite:// URL"),
        ("file:schedules.db?mode=ro", "no sqlite:// URL"),
        ("sqlite:///schedules.db?synchronous=NORMAL", "keyword arguments"),
        ("sqlite:///schedules.db#1", "keyword arguments"),
        ("sqlite:///a%00b.db", "NUL"),
    ],
)
def test_a_url_that_names_no_file_is_refused_with_the_fix(url: str, problem: str) -> None:
    with pytest.raises(ScheduleValidationError, match=problem):
        path_from_url(url)


@pytest.mark.parametrize("url", [5, None, b"schedules.db"])
def test_what_is_no_path_is_refused_with_the_fix(url: Any) -> None:
    with pytest.raises(ScheduleValidationError, match=r"url .*use a path, sqlite:///"):
        path_from_url(url)


def test_a_password_in_a_mistaken_url_is_not_shown() -> None:
    with pytest.raises(ScheduleValidationError) as refused:
        path_from_url("sqlite://app:hunter2@db.example.com/schedules?password=hunter2")

    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_the_options_reach_the_store(path: Path) -> None:
    source = SQLiteScheduleSource(
        path,
        busy_timeout=timedelta(seconds=7),
        synchronous="NORMAL",
        poll_interval=timedelta(seconds=2),
        lease=timedelta(seconds=90),
    )

    assert isinstance(source.store, SQLiteStore)
    assert repr(source.store) == f"SQLiteStore({str(path)!r})"
    made: Any = source.store._new_session
    assert (*made.args, source.store._poll_interval) == (str(path), 7.0, "NORMAL", 2.0)


def test_a_url_finds_its_source(path: Path) -> None:
    source = source_from_url(f"sqlite:///{path}")

    assert isinstance(source, SQLiteScheduleSource)
    assert isinstance(source.store, SQLiteStore)
    assert source.store.path == str(path)


def test_making_a_source_touches_no_file(path: Path) -> None:
    SQLiteScheduleSource(path)

    assert not path.exists()


async def test_a_source_opens_itself_on_first_use_and_closes_on_shutdown(path: Path) -> None:
    source = SQLiteScheduleSource(path)

    assert await source.get_schedules() == []
    await source.shutdown()

    assert path.exists()
    assert not path.with_name(f"{path.name}-wal").exists()
