"""Rules for arguments that JSON has no words for: refused by name, or stored with the source's serializer."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any

import pytest
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.serializers import JSONSerializer

from taskiq_sources import ScheduleSource, ScheduleValidationError
from taskiq_sources_conformance.source_build import NOW, App, add, definition, ids, info, scheduled, send_due, take

_CYCLE: list[Any] = []
_CYCLE.append(_CYCLE)

#: What cannot be stored as JSON: arguments, keyword arguments, and the path that the error has to name.
NOT_JSON: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "nan": ([float("nan")], {}, "args[0]"),
    "infinity": ([], {"x": float("-inf")}, "kwargs['x']"),
    "bytes": ([1, b"x"], {}, "args[1]"),
    "datetime": ([], {"when": NOW}, "kwargs['when']"),
    "set": ([{"a": [{1}]}], {}, "args[0]['a'][0]"),
    "complex": ([1j], {}, "args[0]"),
    "object": ([object()], {}, "args[0]"),
    "class": ([int], {}, "args[0]"),
    "int-key": ([{1: "x"}], {}, "args[0]"),
    "none-key": ([], {"x": {None: 1}}, "kwargs['x']"),
    "tuple-key": ([{(1, 2): "x"}], {}, "args[0]"),
    "nested-nan": ([], {"x": [[float("nan")]]}, "kwargs['x'][0][0]"),
    "lone-surrogate": (["\ud800"], {}, "args[0]"),
    "lone-surrogate-key": ([{"\udfff": 1}], {}, "args[0]"),
    "cycle": ([_CYCLE], {}, "args[0][0][0]"),
    "too-many-digits": ([10**10_000], {}, "args[0]"),
}


@dataclass(frozen=True)
class Money:
    """An object of an application."""

    cents: int


class TaggedSerializer(TaskiqSerializer):
    """Stores a few types that JSON lacks as tagged objects, without pickle, as an application might write it."""

    def dumpb(self, value: Any) -> bytes:
        """Encode."""
        return json.dumps(value, default=_tagged).encode()

    def loadb(self, value: bytes) -> Any:
        """Decode."""
        return json.loads(value, object_hook=_untagged)


class FailingSerializer(TaggedSerializer):
    """Fails in every direction."""

    def dumpb(self, value: Any) -> bytes:
        """Fail."""
        raise RuntimeError("the serializer is told to fail")


def _tagged(value: Any) -> dict[str, Any]:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, Money):
        return {"$money": value.cents}
    raise TypeError(f"{type(value).__name__} is not known to this serializer")


def _untagged(value: dict[str, Any]) -> Any:
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    if "$datetime" in value:
        return datetime.fromisoformat(value["$datetime"])
    return Money(value["$money"]) if "$money" in value else value


RICH: list[Any] = [b"\x00\xff", datetime(2030, 1, 1, tzinfo=timezone.utc), Money(5), {"nested": [Money(7)]}]


class ArgumentRules:
    """Arguments that are not JSON are refused, naming the argument, unless the source has a serializer for them."""

    @pytest.mark.parametrize(("args", "kwargs", "path"), NOT_JSON.values(), ids=list(NOT_JSON))
    async def test_arguments_that_are_not_json_are_refused(
        self, source: ScheduleSource, args: list[Any], kwargs: dict[str, Any], path: str
    ) -> None:
        """What JSON cannot hold is refused by its path, and nothing is written. (Look at `codec`.)"""
        with pytest.raises(ScheduleValidationError) as caught:
            await source.add_schedule(scheduled("nightly", args=args, kwargs=kwargs))

        assert caught.value.field.startswith(path)
        assert "'nightly'" in str(caught.value)
        assert await ids(source) == []

    @pytest.mark.parametrize("label", [b"x", float("nan"), {1: 2}, date(2030, 1, 1)], ids=repr)
    async def test_labels_are_json_with_or_without_serializer(self, open_source: Any, label: Any) -> None:
        """Labels are JSON, whatever serializes the arguments. (Look at `codec`.)"""
        for options in ({}, {"serializer": TaggedSerializer()}):
            source: ScheduleSource = await open_source(**options)
            with pytest.raises(ScheduleValidationError, match="'nightly'") as caught:
                await source.add_schedule(scheduled("nightly", labels={"team": label}))
            assert caught.value.field == "labels['team']"
            assert await ids(source) == []

    async def test_a_serializer_stores_what_json_cannot(self, open_source: Any) -> None:
        """With a serializer, arguments of its types come back and are sent as they were. (Look at how documents are stored.)"""
        source: ScheduleSource = await open_source(serializer=TaggedSerializer())
        await add(source, args=RICH, kwargs={"x": Money(1)})

        stored = await definition(source)
        assert (stored.args, stored.kwargs) == (RICH, {"x": Money(1)})
        (sent,) = await send_due(source)
        assert (sent.task.args, sent.task.kwargs) == (RICH, {"x": Money(1)})

    async def test_taskiqs_json_serializer(self, open_source: Any) -> None:
        """A serializer of taskiq can be given. (Look at `codec`.)"""
        source: ScheduleSource = await open_source(serializer=JSONSerializer())
        await add(source, args=[1, 2.5, "ä"], kwargs={"x": [None]})

        stored = await definition(source)
        assert (stored.args, stored.kwargs) == ([1, 2.5, "ä"], {"x": [None]})

    async def test_a_manual_run_carries_serialized_arguments(self, open_source: Any) -> None:
        """`run_now` and `reschedule` keep arguments that only the serializer can read. (Look at `edits`.)"""
        source: ScheduleSource = await open_source(serializer=TaggedSerializer())
        await add(source, args=RICH, interval=60)
        await source.reschedule("a", cron="0 * * * *")
        await source.run_now("a")

        (sent,) = await send_due(source)
        assert sent.task.args == RICH

    async def test_a_task_may_have_arguments_of_any_name(self, source: ScheduleSource, app: App) -> None:
        """Those of taskiq's own methods and of ours among them. (Look at `captured_task`.)"""
        given = {"time": 1, "source": 2, "cron": 3, "interval": 4, "self": 5, "task": 6, "schedule_id": 7}
        await source.schedule(app.report, time=NOW, args=[8, 9], kwargs=given, schedule_id="a")

        stored = await definition(source)
        assert (stored.args, stored.kwargs) == ([8, 9], given)

    async def test_a_serializer_that_fails_is_named(self, open_source: Any, app: App) -> None:
        """A serializer's refusal is our error with its reason, and nothing is written. (Look at `codec`.)"""
        source: ScheduleSource = await open_source(serializer=FailingSerializer())
        with pytest.raises(ScheduleValidationError, match="FailingSerializer cannot encode them: the serializer is told to fail"):
            await source.schedule(app.report, interval=60, args=[1])

        assert await ids(source) == []

    async def test_without_the_serializer_a_schedule_cannot_be_read(self, open_source: Any) -> None:
        """A source without the serializer shows such schedules with the reason, and sends the others. (Look at `_plan`.)"""
        writer: ScheduleSource = await open_source(serializer=TaggedSerializer())
        reader: ScheduleSource = await open_source()
        await add(writer, "rich", args=RICH)
        await add(reader, "plain")

        found = await info(reader, "rich")
        assert found.task is None
        assert "TaggedSerializer" in str(found.error)
        assert [dispatch.schedule_id for dispatch in await send_due(reader)] == ["plain"]
        assert (await info(writer, "rich")).state.quarantined

    @pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
    async def test_what_was_quarantined_for_want_of_a_serializer_can_be_resumed(self, open_source: Any, delivery: str) -> None:
        """Set aside by a process that could not read it, a schedule is sent after `resume`. (Look at `attempt` in `settle`.)"""
        writer: ScheduleSource = await open_source(serializer=TaggedSerializer())
        reader: ScheduleSource = await open_source()
        await add(writer, args=RICH, schedule_options={"delivery": delivery})
        assert await take(reader) == []
        await writer.resume("a")

        assert [dispatch.task.args for dispatch in await send_due(writer)] == [RICH]

    async def test_a_document_of_one_mebibyte_is_stored(self, source: ScheduleSource) -> None:
        """Large arguments, up to 1 MiB with all around them, are stored whole. (Look at limits of columns and messages.)"""
        large = "ä" * (1024 * 1024 // 2 - 200)
        await add(source, args=[large])

        assert (await definition(source)).args == [large]

    @pytest.mark.parametrize("character", ["x", "ä", "😀"])
    async def test_more_than_one_mebibyte_is_refused(self, source: ScheduleSource, character: str) -> None:
        """A schedule of more than 1 MiB of UTF-8 is refused with its size. (Look at `codec.encode`.)"""
        size = len(character.encode())
        with pytest.raises(ScheduleValidationError, match=r"'nightly'.*1,048,576 bytes") as caught:
            await source.add_schedule(scheduled("nightly", args=[character * (1024 * 1024 // size)]))

        assert caught.value.field == "args"
        assert await ids(source) == []
