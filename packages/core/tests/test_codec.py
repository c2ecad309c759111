"""Documents: what is written comes back, what cannot come back is refused."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskiq.abc.serializer import TaskiqSerializer

from taskiq_sources import ScheduleDecodeError, ScheduleOptions, ScheduleValidationError, codec
from taskiq_sources.codec import Definition

_TEXT = st.text(st.characters(codec="utf-8"))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(_TEXT, children, max_size=4),
    max_leaves=20,
)


class ComplexSerializer(TaskiqSerializer):
    """Stores complex numbers, which JSON cannot."""

    def dumpb(self, value: Any) -> bytes:
        return json.dumps(value, default=lambda number: [number.real, number.imag]).encode()

    def loadb(self, value: bytes) -> Any:
        return json.loads(value)


def _definition(options: ScheduleOptions | None = None, **fields: Any) -> Definition:
    given = {"task_name": "job", "labels": {}, "args": [], "kwargs": {}, "schedule_id": "s", "interval": 5, **fields}
    return Definition(**given, options=options or ScheduleOptions())


def _round_trip(definition: Definition, serializer: TaskiqSerializer | None = None) -> Definition:
    return codec.decode("s", codec.encode(definition, serializer), serializer)


@given(args=st.lists(_JSON, max_size=4), kwargs=st.dictionaries(_TEXT, _JSON, max_size=4))
def test_json_arguments_come_back_as_they_were(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Any JSON value is stored exactly: types, big integers and Unicode included."""
    back = _round_trip(_definition(args=args, kwargs=kwargs)).task

    assert (back.args, back.kwargs) == (args, kwargs)
    assert json.dumps(back.args) == json.dumps(args), "1 and 1.0 and True are equal, but not the same"


@pytest.mark.parametrize(
    "fields",
    [
        {"interval": 5},
        {"interval": timedelta(seconds=5)},
        {"interval": None, "time": datetime(2030, 1, 1, 12, 0, 0, 123000, tzinfo=timezone.utc)},
        {"cron": "0 0 * * *", "cron_offset": "Europe/Berlin"},
        {"cron": "0 0 * * *", "cron_offset": timedelta(hours=-3, minutes=-30)},
        {"task_id": "mine", "labels": {"a": "1", "b": {"c": [1, 2.5, None]}}},
    ],
)
def test_fields_keep_value_and_type(fields: dict[str, Any]) -> None:
    """Triggers, offsets, ids and labels come back equal and of the same type."""
    back = _round_trip(_definition(**fields)).task

    assert {name: getattr(back, name) for name in fields} == fields
    assert {name: type(getattr(back, name)) for name in fields} == {name: type(value) for name, value in fields.items()}


def test_options_come_back() -> None:
    """Every option survives."""
    options = ScheduleOptions(
        misfire="skip",
        misfire_grace=timedelta(minutes=5),
        start_at=datetime(2030, 1, 1, tzinfo=timezone.utc),
        end_at=datetime(2031, 1, 1, tzinfo=timezone.utc),
        max_runs=7,
        jitter=timedelta(seconds=1.5),
        dst="twice",
        delivery="at_most_once",
    )

    assert _round_trip(_definition(options)).options == options


def test_what_a_newer_release_wrote_survives() -> None:
    """Unknown fields and unknown options are still there after this release has decoded and encoded the document."""
    document = json.loads(codec.encode(_definition(ScheduleOptions(misfire="skip"))))
    document |= {"v": 9, "overlap": "buffer_one"}
    document["options"]["calendar"] = "banking"

    again = json.loads(codec.encode(codec.decode("s", json.dumps(document))))

    assert (again["v"], again["overlap"]) == (9, "buffer_one")
    assert again["options"] == {"calendar": "banking", "misfire": "skip"}


@pytest.mark.parametrize(
    ("args", "path"),
    [
        ([b"bytes"], "args[0]"),
        ([1, {"a": [{2}]}], "args[1]['a'][0]"),
        ([datetime(2030, 1, 1, tzinfo=timezone.utc)], "args[0]"),
        ([float("nan")], "args[0]"),
        ([float("-inf")], "args[0]"),
        ([{1: "one"}], "args[0]"),
        (["\ud800"], "args[0]"),
        ([1 + 2j], "args[0]"),
    ],
)
def test_what_is_not_json_is_refused_by_name(args: list[Any], path: str) -> None:
    """An argument that JSON cannot keep is refused with an error that says which one and what to do."""
    with pytest.raises(ScheduleValidationError) as caught:
        codec.encode(_definition(args=args))

    assert caught.value.field == path


def test_endless_nesting_is_refused() -> None:
    """An argument that contains itself is refused, not followed for ever."""
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(ScheduleValidationError, match="nested"):
        codec.encode(_definition(args=loop))


def test_a_serializer_stores_the_rest() -> None:
    """With a taskiq serializer, arguments that are not JSON are stored; without it they cannot be read, and the error says so."""
    text = codec.encode(_definition(args=[1 + 2j], kwargs={"a": "b"}), ComplexSerializer())

    back = codec.decode("s", text, ComplexSerializer()).task
    assert (back.args, back.kwargs) == ([[1.0, 2.0]], {"a": "b"})
    with pytest.raises(ScheduleDecodeError, match="ComplexSerializer"):
        codec.decode("s", text)


def test_a_serializer_that_fails_is_reported() -> None:
    """What the serializer itself cannot encode is refused as a validation error."""
    with pytest.raises(ScheduleValidationError, match="ComplexSerializer cannot encode"):
        codec.encode(_definition(args=[object()]), ComplexSerializer())


def test_documents_end_at_one_mebibyte() -> None:
    """A document of exactly 1 MiB is stored, one byte more is refused."""
    room = codec.MAX_DOCUMENT_BYTES - len(codec.encode(_definition(args=[""])))

    assert len(codec.encode(_definition(args=["x" * room])).encode()) == codec.MAX_DOCUMENT_BYTES
    with pytest.raises(ScheduleValidationError, match="bytes at most"):
        codec.encode(_definition(args=["x" * (room + 1)]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"v": 1}',
        '{"v":1,"task_name":"t","labels":{},"args":[],"kwargs":{}}',
        '{"v":1,"task_name":"t","labels":{},"args":[],"kwargs":{},"interval":0}',
        '{"v":1,"task_name":"t","labels":{},"args":{},"kwargs":{},"interval":5}',
        '{"v":1,"task_name":"t","labels":{},"args":[],"kwargs":{},"interval":5,"options":[]}',
        '{"v":1,"task_name":"t","labels":{},"args":[],"kwargs":{},"interval":5,"options":{"misfire":"perhaps"}}',
        '{"v":1,"task_name":"t","labels":{},"args":[],"kwargs":{},"cron":"* * * * *","cron_offset":7}',
        '{"v":1,"task_name":"t","labels":{},"interval":5,"payload":"%%%","serializer":"X"}',
        '{"v":1,"task_name":"t","labels":{},"args":[],"kwargs":{},"interval":5,"serializer":"X"}',
        "[" * 100_000,
    ],
)
def test_what_is_not_a_document_is_a_decode_error(text: str) -> None:
    """Whatever is stored, reading it raises our own error or nothing."""
    with pytest.raises(ScheduleDecodeError) as caught:
        codec.decode("s", text)

    assert caught.value.schedule_id == "s"


@pytest.mark.parametrize("missing", ["task_name", "labels", "args", "kwargs"])
@pytest.mark.parametrize("null", [True, False])
def test_what_a_document_lacks_is_named(missing: str, null: bool) -> None:
    """In words: this is what is read on a schedule that was quarantined."""
    fields: dict[str, Any] = {"v": 1, "task_name": "t", "labels": {}, "args": [], "kwargs": {}, "interval": 5}
    del fields[missing]
    with pytest.raises(ScheduleDecodeError, match=f"it has no {missing}"):
        codec.decode("s", json.dumps({**fields, missing: None} if null else fields))


@given(text=st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    """Random text is a decode error as well."""
    with pytest.raises(ScheduleDecodeError):
        codec.decode("s", text)
