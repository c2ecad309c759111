"""The short way through taskiq's kicker: the same message as the long one, and only where nobody would notice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import datetime, timezone
from typing import Any

import pytest
import taskiq
from taskiq import AsyncBroker, BrokerMessage, TaskiqMessage
from taskiq.formatters.proxy_formatter import ProxyFormatter
from taskiq.kicker import AsyncKicker
from taskiq.labels import LabelType
from taskiq.serializers import JSONSerializer, PickleSerializer

from taskiq_sources import DurableScheduler, InMemoryScheduleSource
from taskiq_sources.codec import Definition
from taskiq_sources.kicking import kick
from taskiq_sources.models import Claim, StoredSchedule
from taskiq_sources.occurrences import Dispatch

pytestmark = pytest.mark.anyio

NOW = datetime(2030, 5, 14, 12, 30, 0, 123_000, tzinfo=timezone.utc)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Broker(AsyncBroker):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[BrokerMessage] = []

    async def kick(self, message: BrokerMessage) -> None:
        self.sent.append(message)

    async def listen(self) -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""


#: All of ASCII, and what is not in it: the two are written in different ways.
TEXTS = ["".join(map(chr, range(128))), 'ß😀\u2028"\\/']


def dispatch_of(labels: dict[str, Any], text: str = "") -> Dispatch:
    definition = Definition(
        schedule_id="nightly",
        task_name="app:report",
        labels=labels,
        args=[1, 2.5, "three", None, True, [4, {"five": 5}], [], {}, -0.0, 1e22, 5e-324, 0.1 + 0.2, 10**40, text],
        kwargs={"six": {"seven": [7]}, text: "", "nested": [[[{"a": {"b": [None, False]}}]]]},
        time=NOW,
    )
    schedule = StoredSchedule(
        id="nightly",
        task_name="app:report",
        document="{}",
        timing="{}",
        scheduled_for=NOW,
        next_run_at=NOW,
        anchor=NOW,
        created_at=NOW,
        updated_at=NOW,
    )
    claim = Claim(schedule=schedule, token="t", claimed_at=NOW, lease_until=NOW)
    return Dispatch(
        claim=claim,
        definition=definition,
        scheduled_for=NOW,
        coalesced=1,
        occurrence_id="nightly@2030-05-14T12:30:00.123Z",
        task_id="the-task-id",
    )


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"queue": "a", "priority": 3, "ratio": 0.5, "fast": True, "nothing": None, "list": [1], "map": {"a": 1}},
        {"types_of_exceptions": ["ValueError"], "queue": "a"},
        {"übung": 'ß\u2028"', "tiny": 1e-300},
        {"schedule_id": "overwritten", "scheduled_for": 1},
        {"slash": "/</script>", "control": "\x00\x1f\x7f", "astral": "😀", "quote": '\\"'},
    ],
)
async def test_the_message_is_the_one_that_taskiq_makes(labels: dict[str, Any], text: str) -> None:
    broker = Broker()
    dispatch = dispatch_of(labels, text)
    definition = dispatch.definition
    ours = {"schedule_id": "nightly", "scheduled_for": "2030-05-14T12:30:00.123+00:00"}
    long_way: AsyncKicker[..., Any] = AsyncKicker(definition.task_name, broker, {**labels, **ours})

    assert await kick(broker, dispatch)
    await long_way.with_task_id("the-task-id").kiq(*definition.args, **definition.kwargs)

    short, long = broker.sent
    assert short.message.isascii()
    assert json.dumps(json.loads(short.message)) == json.dumps(json.loads(long.message))  # where 1 is not True
    assert short.model_copy(update={"message": long.message}) == long
    assert broker.formatter.loads(short.message) == broker.formatter.loads(long.message)


async def test_middlewares_see_the_message_and_may_replace_it() -> None:
    class Renamer(taskiq.TaskiqMiddleware):
        def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
            return message.model_copy(update={"task_name": "app:other"})

    broker = Broker().with_middlewares(Renamer())
    await kick(broker, dispatch_of({}))

    assert [message.task_name for message in broker.sent] == ["app:other"]  # type: ignore[attr-defined]


async def test_hooks_after_a_send_are_called() -> None:
    seen: list[str] = []

    class Noter(taskiq.TaskiqMiddleware):
        def post_send(self, message: TaskiqMessage) -> None:
            seen.append(message.task_id)

    await kick(Broker().with_middlewares(Noter()), dispatch_of({}))

    assert seen == ["the-task-id"]


async def test_a_formatter_of_the_application_makes_the_message() -> None:
    class Shouting(ProxyFormatter):
        def dumps(self, message: TaskiqMessage) -> BrokerMessage:
            return super().dumps(message).model_copy(update={"message": message.task_name.upper().encode()})

    broker = Broker()
    broker.formatter = Shouting(broker)
    await kick(broker, dispatch_of({}))

    assert [message.message for message in broker.sent] == [b"APP:REPORT"]


async def test_a_serializer_of_the_application_is_used() -> None:
    broker = Broker().with_serializer(PickleSerializer())
    dispatch = dispatch_of({"priority": 3})
    await kick(broker, dispatch)

    sent: BrokerMessage = broker.sent[0]  # type: ignore[attr-defined]
    message = broker.formatter.loads(sent.message)
    assert (message.args, message.kwargs) == (dispatch.definition.args, dispatch.definition.kwargs)
    assert message.labels_types is not None
    assert message.labels_types["priority"] == LabelType.INT.value


async def test_settings_of_the_serializer_are_kept() -> None:
    serializer = JSONSerializer(ensure_ascii=False)
    broker = Broker().with_serializer(serializer)
    await kick(broker, dispatch_of({"übung": "ß"}))

    sent: BrokerMessage = broker.sent[0]  # type: ignore[attr-defined]
    assert sent.message == serializer.dumpb(serializer.loadb(sent.message))


@pytest.mark.parametrize("middlewares", [(), (taskiq.SimpleRetryMiddleware(),)])
async def test_taskiq_s_kicker_is_spared_where_nobody_would_notice(
    monkeypatch: pytest.MonkeyPatch, middlewares: tuple[taskiq.TaskiqMiddleware, ...]
) -> None:
    async def kiq(*_: Any, **__: Any) -> None:
        raise AssertionError("the long way was taken")

    monkeypatch.setattr(AsyncKicker, "kiq", kiq)
    broker = Broker().with_middlewares(*middlewares)
    await kick(broker, dispatch_of({}))

    assert len(broker.sent) == 1  # type: ignore[attr-defined]


class _WithHook(InMemoryScheduleSource):
    async def post_send(self, task: taskiq.ScheduledTask) -> None:
        await super().post_send(task)


class _WithOnReady(DurableScheduler):
    async def on_ready(self, source: taskiq.ScheduleSource, task: taskiq.ScheduledTask) -> None:
        await super().on_ready(source, task)


def test_the_short_way_is_taken_where_no_hook_is_overridden() -> None:
    plain = InMemoryScheduleSource()
    scheduler = DurableScheduler(Broker(), [plain])
    assert scheduler._sender(plain).func is kick  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("scheduler", "source"),
    [
        (DurableScheduler, _WithHook()),
        (_WithOnReady, InMemoryScheduleSource()),
        (DurableScheduler, InMemoryScheduleSource(serializer=PickleSerializer())),
    ],
)
def test_the_long_way_is_taken_where_somebody_would_notice(
    scheduler: type[DurableScheduler], source: InMemoryScheduleSource
) -> None:
    made = scheduler(Broker(), [source])
    assert made._sender(source).func == made._send  # type: ignore[attr-defined]


def test_a_hook_that_is_replaced_on_the_object_is_seen_too(monkeypatch: pytest.MonkeyPatch) -> None:
    source = InMemoryScheduleSource()

    async def post_send(_task: taskiq.ScheduledTask) -> None: ...

    monkeypatch.setattr(source, "post_send", post_send)
    scheduler = DurableScheduler(Broker(), [source])
    assert scheduler._sender(source).func == scheduler._send  # type: ignore[attr-defined]
