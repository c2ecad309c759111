"""Rules for what comes back of a definition: exactly what was given."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from taskiq_sources import ScheduledTask, ScheduleOptions, ScheduleSource
from taskiq_sources.options import OPTIONS_LABEL
from taskiq_sources_conformance.source_build import (
    HOUR,
    MINUTE,
    NOON,
    NOW,
    SECOND,
    add,
    definition,
    ids,
    scheduled,
    send_due,
    state,
)

#: Values that JSON has, and that stores and codecs are known to change.
VALUES: dict[str, Any] = {
    "none": None,
    "booleans": [True, False],
    "integers": [0, -1, 1, 2**31, 2**53 + 1, 2**63, -(2**64), 10**40],
    "floats": [0.1, -0.0, 1.0, 1e300, 5e-324, 3.141592653589793],
    "texts": ["", " ", "a\nb", "\x00", "\u2028", "ä", "e\u0301", "東京", "😀", "\U0010ffff", "'\"\\%$:{}", "null", "1"],
    "nested": {"a": [{"b": [[], {}, [None]]}], "": {"": ""}, "a.b": 1, "$set": 2, "__class__": 3},
    "deep": [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]],
    "looks-like-a-date": "2030-01-01T00:00:00Z",
    "long-text": "x" * 100_000,
}

#: What may be given as an offset, what is kept of it, and when 07:00 there is, after noon UTC in June.
OFFSETS: dict[str, tuple[Any, str | timedelta, timedelta]] = {
    "name": ("Europe/Berlin", "Europe/Berlin", 17 * HOUR),
    "utc": ("UTC", "UTC", 19 * HOUR),
    "three-parts": ("America/Argentina/Ushuaia", "America/Argentina/Ushuaia", 22 * HOUR),
    "timedelta": (timedelta(hours=2), timedelta(hours=2), 17 * HOUR),
    "negative": (-timedelta(hours=3, minutes=30), -timedelta(hours=3, minutes=30), 22.5 * HOUR),
    "zero": (timedelta(0), timedelta(0), 19 * HOUR),
    "iso-text": ("PT2H", timedelta(hours=2), 17 * HOUR),
    "negative-iso-text": ("-PT3H30M", -timedelta(hours=3, minutes=30), 22.5 * HOUR),
    "zoneinfo": (ZoneInfo("Asia/Tokyo"), "Asia/Tokyo", 10 * HOUR),
    "datetime-utc": (timezone.utc, "UTC", 19 * HOUR),
    "datetime-fixed": (timezone(timedelta(hours=2)), timedelta(hours=2), 17 * HOUR),
}

IDS = ["a", " ", "a b", "a.b", "a:b", "a@1", "a/b?c#d", "%s{}'\"\\", "*", "ä", "e\u0301", "東京", "😀", "\n", "-1"]
LONGEST_IDS = ["x" * 255, "😀" * 255]

LABELS: dict[str, Any] = {
    "text": "1",
    "number": 1,
    "nested": {"a": [1.5, None, True]},
    "": "",
    "a.b": "dot",
    "$x": "dollar",
    "😀": "ä",
}

ALL_OPTIONS = ScheduleOptions(
    misfire="fire_all",
    misfire_grace=timedelta(minutes=7),
    start_at=NOW + MINUTE,
    end_at=NOW + 1000 * HOUR,
    max_runs=7,
    jitter=timedelta(seconds=3),
    dst="twice",
    delivery="at_most_once",
)


class RoundTripRules:
    """A definition that was stored reads back, and is sent, as it was given."""

    @pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
    async def test_arguments_come_back(self, source: ScheduleSource, value: Any) -> None:
        """JSON arguments come back and are sent with value and type unchanged. (Look at how documents are stored.)"""
        await add(source, args=[value, "last"], kwargs={"key": value})

        stored = await definition(source)
        assert repr(stored.args) == repr([value, "last"])  # tells 1 from 1.0 and from True
        assert repr(stored.kwargs) == repr({"key": value})
        (sent,) = await send_due(source)
        assert (repr(sent.task.args), repr(sent.task.kwargs)) == (repr(stored.args), repr(stored.kwargs))

    async def test_tuples_become_lists(self, source: ScheduleSource) -> None:
        """A tuple comes back as a list, as from every taskiq broker. (Look at `codec`.)"""
        await add(source, args=[(1, (2, 3))])

        assert (await definition(source)).args == [[1, [2, 3]]]

    async def test_labels_come_back(self, source: ScheduleSource) -> None:
        """Labels, nested and with any key, come back and are sent unchanged. (Look at how documents are stored.)"""
        await add(source, labels=LABELS)

        assert (await definition(source)).labels == LABELS
        (sent,) = await send_due(source)
        assert sent.task.labels == LABELS

    @pytest.mark.parametrize("task_id", [None, "fixed", "ä 😀", "x" * 255])
    async def test_the_task_id_comes_back(self, source: ScheduleSource, task_id: str | None) -> None:
        """A task id that the user chose, or none, comes back. (Look at the document: `task_id`.)"""
        await add(source, task_id=task_id)

        assert (await definition(source)).task_id == task_id

    @pytest.mark.parametrize("schedule_id", [*IDS, *LONGEST_IDS], ids=[*map(repr, IDS), "longest-ascii", "longest-emoji"])
    async def test_any_text_is_an_id(self, source: ScheduleSource, schedule_id: str) -> None:
        """An id is any text of up to 255 characters, all the way. (Look at keys, column sizes, quoting and collation.)"""
        await add(source, schedule_id, interval=60)

        assert await ids(source) == [schedule_id]
        assert [task.schedule_id for task in await source.get_schedules() if task.interval] == [schedule_id]
        (sent,) = await send_due(source)
        assert sent.schedule_id == sent.task.schedule_id == schedule_id
        assert [row.schedule_id async for row in source.runs(schedule_id)] == [schedule_id]
        assert await source.delete_schedules([schedule_id]) == {schedule_id}

    async def test_ids_differ_in_every_character(self, source: ScheduleSource) -> None:
        """Ids that differ in case, in blanks or in how an accent is written are different. (Look at collation and keys.)"""
        different = ["a", "A", "a ", " a", "ä", "a\u0308", "a\n", "\uff41"]
        await source.add_schedules([scheduled(schedule_id) for schedule_id in different])

        assert await ids(source) == sorted(different)
        assert await source.delete_schedules(["A"]) == {"A"}
        assert len(await ids(source)) == len(different) - 1

    @pytest.mark.parametrize(("given", "kept", "due"), OFFSETS.values(), ids=list(OFFSETS))
    async def test_cron_offsets_come_back(
        self, source: ScheduleSource, given: Any, kept: str | timedelta, due: timedelta
    ) -> None:
        """Zone names and offsets come back as what they mean and are obeyed. (Look at the document: `cron_offset`.)"""
        found = await add(source, cron="0 7 * * *", cron_offset=given)

        stored = (await definition(source)).cron_offset
        assert (stored, type(stored)) == (kept, type(kept))
        assert found.scheduled_for == NOON + due

    @pytest.mark.parametrize("library", ["pytz", "dateutil.tz"])
    async def test_time_zones_of_other_libraries(self, source: ScheduleSource, library: str) -> None:
        """Zone objects of pytz and dateutil are stored as IANA names. (Look at `triggers.zones`.)"""
        module = pytest.importorskip(library)
        zone: tzinfo = module.timezone("Europe/Berlin") if library == "pytz" else module.gettz("Europe/Berlin")
        await add(source, cron="0 7 * * *", cron_offset=zone)

        assert (await definition(source)).cron_offset == "Europe/Berlin"
        assert (await state(source)).scheduled_for == NOON + 17 * HOUR

    @pytest.mark.parametrize("interval", [1, 90, timedelta(seconds=90), timedelta(days=400), 10**9], ids=repr)
    async def test_intervals_come_back_as_given(self, source: ScheduleSource, interval: int | timedelta) -> None:
        """An interval comes back as the int or the timedelta that it was. (Look at the document: `interval`.)"""
        await add(source, interval=interval)

        stored = (await definition(source)).interval
        assert (stored, type(stored)) == (interval, type(interval))

    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            (datetime(2040, 1, 1), datetime(2040, 1, 1, tzinfo=timezone.utc)),  # noqa: DTZ001 - the case in question
            (datetime(2040, 1, 1, tzinfo=ZoneInfo("Asia/Tokyo")), datetime(2039, 12, 31, 15, tzinfo=timezone.utc)),
            (datetime(2040, 1, 1, tzinfo=timezone(-HOUR)), datetime(2040, 1, 1, 1, tzinfo=timezone.utc)),
            (NOW + timedelta(microseconds=999), NOW),
            (datetime(1999, 1, 1, tzinfo=timezone.utc), datetime(1999, 1, 1, tzinfo=timezone.utc)),
            (datetime(9000, 1, 1, tzinfo=timezone.utc), datetime(9000, 1, 1, tzinfo=timezone.utc)),
        ],
        ids=["naive-is-utc", "zone", "offset", "cut-to-milliseconds", "past", "far-future"],
    )
    async def test_times_are_kept_as_instants(self, source: ScheduleSource, given: datetime, meant: datetime) -> None:
        """A time is kept as an instant in UTC, naive meaning UTC, cut to milliseconds. (Look at how datetimes are stored.)"""
        found = await add(source, time=given)

        stored = (await definition(source)).time
        assert stored is not None
        assert (stored, stored.utcoffset()) == (meant, timedelta(0))
        assert found.scheduled_for == found.next_run_at == meant

    async def test_several_triggers_come_back(self, source: ScheduleSource) -> None:
        """A schedule may have cron, interval and time together. (Look at the document.)"""
        await add(source, cron="0 * * * *", cron_offset="Europe/Berlin", interval=90, time=NOW + SECOND)

        stored = await definition(source)
        assert (stored.cron, stored.cron_offset, stored.interval) == ("0 * * * *", "Europe/Berlin", 90)
        assert stored.time == NOW + SECOND

    async def test_options_come_back(self, source: ScheduleSource) -> None:
        """Every option comes back as it was given. (Look at the document: `options`.)"""
        await add(source, interval=60, schedule_options=ALL_OPTIONS)

        assert (await definition(source)).schedule_options == ALL_OPTIONS

    @pytest.mark.parametrize(
        "label",
        [
            ALL_OPTIONS,
            ALL_OPTIONS.model_dump(mode="json"),
            ALL_OPTIONS.model_dump_json(),
            str(ALL_OPTIONS.model_dump(mode="json")),
        ],
        ids=["instance", "dictionary", "json", "display"],
    )
    async def test_options_as_a_label(self, source: ScheduleSource, label: Any) -> None:
        """The label `schedule_options` sets options, in any of its forms, and is not sent. (Look at `from_label`.)"""
        await add(source, interval=60, labels={OPTIONS_LABEL: label, "other": "kept"})

        stored = await definition(source)
        assert (stored.schedule_options, stored.labels) == (ALL_OPTIONS, {"other": "kept"})

    async def test_a_schedules_options_win_over_the_label_and_the_defaults(self, open_source: Any) -> None:
        """Options fall back field by field: the schedule's, then the label's, then the source's. (Look at `definitions`.)"""
        source: ScheduleSource = await open_source(options=ScheduleOptions(misfire="skip", max_runs=9, dst="skip"))
        own = ScheduleOptions(misfire="fire_all")
        await add(source, interval=60, labels={OPTIONS_LABEL: {"misfire": "fire_once", "max_runs": 5}}, schedule_options=own)

        assert (await definition(source)).schedule_options == ScheduleOptions(misfire="fire_all", max_runs=5, dst="skip")

    async def test_a_schedule_keeps_the_defaults_it_was_written_with(self, open_source: Any) -> None:
        """A source with other defaults reads a schedule as it was written. (Look at what `codec.encode` leaves out.)"""
        writer: ScheduleSource = await open_source(options=ScheduleOptions(misfire="skip"), default_timezone="Asia/Tokyo")
        reader: ScheduleSource = await open_source(options=ScheduleOptions(misfire="fire_all", max_runs=1))
        await add(writer, cron="0 7 * * *")

        assert (await definition(reader)).schedule_options == ScheduleOptions(misfire="skip")
        assert (await definition(reader)).cron_offset == "Asia/Tokyo"
        assert (await state(reader)).scheduled_for == NOON + 10 * HOUR

    @pytest.mark.parametrize("misfire", ["fire_once", "fire_all"])
    async def test_what_was_read_can_be_written_back(self, open_source: Any, misfire: Any) -> None:
        """Through whichever source, a schedule stays what it was. (Look at defaults that come in again: `over` in `define`.)"""
        writer: ScheduleSource = await open_source(
            options=ScheduleOptions(misfire="skip", max_runs=5), default_timezone="Asia/Tokyo"
        )
        other: ScheduleSource = await open_source(options=ScheduleOptions(misfire="fire_all", max_runs=1))
        await add(writer, cron="0 7 * * *", schedule_options=ScheduleOptions(misfire=misfire, max_runs=None))
        before = await definition(writer)

        for source in (other, writer):
            await source.add_schedule(await definition(source))

            assert await definition(source) == before
            assert (await state(source)).scheduled_for == NOON + 10 * HOUR

    async def test_every_handle_reads_what_one_wrote(self, source: ScheduleSource, open_source: Any) -> None:
        """A schedule written through one handle reads equal through another. (Look at state kept in the handle.)"""
        given = scheduled(cron="0 * * * *", args=[1], labels=LABELS, schedule_options=ALL_OPTIONS, owner="me", task_id="t")
        await source.add_schedule(given)
        other: ScheduleSource = await open_source()

        stored = await definition(other)
        assert isinstance(stored, ScheduledTask)
        assert stored == given
        assert await state(other) == await state(source)
