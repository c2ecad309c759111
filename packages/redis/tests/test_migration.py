"""What the how-to guide on migration says of taskiq-redis' sources is so. Not run where taskiq-redis is not installed."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis
import taskiq

from taskiq_sources_redis import RedisScheduleSource

taskiq_redis = pytest.importorskip("taskiq_redis")

pytestmark = pytest.mark.anyio

_PAGE = Path(__file__).parents[3] / "docs/how-to/migrate.md"


@pytest.fixture
def page() -> dict[str, Any]:
    """What the Python blocks of the page define."""
    namespace: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(code, namespace)
    return namespace


def _schedules() -> list[taskiq.ScheduledTask]:
    now = datetime(2035, 5, 14, 12, tzinfo=timezone.utc)
    triggers: dict[str, dict[str, Any]] = {
        "cron": {"cron": "0 7 * * *", "cron_offset": "Europe/Berlin"},
        "interval": {"interval": 3600},
        "overdue": {"time": datetime(2024, 5, 14, tzinfo=timezone.utc)},
        "soon": {"time": now},
        "later": {"time": now + timedelta(days=3)},
    }
    common: dict[str, Any] = {"task_name": "t", "labels": {"colour": "red"}, "args": [1], "kwargs": {"two": 2}}
    return [taskiq.ScheduledTask(schedule_id=name, **common, **trigger) for name, trigger in triggers.items()]


@pytest.fixture
def old_prefix(place: Any) -> Iterator[str]:
    """Of keys that are deleted in the end."""
    prefix = f"old-{uuid.uuid4().hex}"
    yield prefix
    with redis.Redis.from_url(place.url) as client:
        client.delete(*client.scan_iter(f"{prefix}:*"))


async def test_everything_in_the_list_source_is_copied(page: dict[str, Any], place: Any, old_prefix: str) -> None:
    """One-offs of later days included; running it again changes nothing."""
    old = taskiq_redis.ListRedisScheduleSource(place.url, prefix=old_prefix)
    for schedule in _schedules():
        await old.add_schedule(schedule)
    await old._connection_pool.disconnect()  # nothing else does
    new = place.source()

    for _ in range(2):
        assert await page["copy_from_list_source"](place.url, new, prefix=old_prefix) == len(_schedules())

    await _holds_what_was_given(new)


@pytest.mark.filterwarnings("ignore:RedisScheduleSource is deprecated:DeprecationWarning")
async def test_everything_in_the_older_source_is_copied(page: dict[str, Any], place: Any, old_prefix: str) -> None:
    old = taskiq_redis.RedisScheduleSource(place.url, prefix=old_prefix)
    for schedule in _schedules():
        await old.add_schedule(schedule)
    new = place.source()

    assert await page["copy"](old, new) == len(_schedules())

    await _holds_what_was_given(new)


async def _holds_what_was_given(new: RedisScheduleSource) -> None:
    stored = {info.state.id: info.task async for info in new.iter_schedules()}
    assert set(stored) == {schedule.schedule_id for schedule in _schedules()}
    for schedule in _schedules():
        found = stored[schedule.schedule_id]
        for name in ("task_name", "labels", "args", "kwargs", "cron", "cron_offset", "interval", "time"):
            assert getattr(found, name) == getattr(schedule, name), name
    await new.shutdown()
