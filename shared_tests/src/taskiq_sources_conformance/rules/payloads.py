"""Rules for ids and texts: whatever users write comes back as they wrote it."""

from __future__ import annotations

import json

import pytest

from taskiq_sources.models import RunQuery, ScheduleChanges, ScheduleQuery
from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.build import (
    NOW,
    at,
    claimable,
    code_points,
    listed,
    outcome,
    put_and_take,
    read,
    record,
    recorded,
    run,
    schedule,
    take,
    take_one,
)

IDS = {
    "one-character": "x",
    "number": "0",
    "float": "1.0",
    "none": "None",
    "null": "null",
    "dots": "reports.daily.v2",
    "colons": "reports:daily:00:30",
    "slashes": "/reports/../daily\\v2",
    "at-sign": "reports@2035-06-15T12:00:00.000Z",
    "dollar": "$set.{reports}[0]",
    "spaces": " leading, inner  and trailing ",
    "only-a-space": " ",
    "tab-and-newline": "a\tb\nc\r\nd",
    "control-characters": "a\x01\x1b\x7f\x85b",
    "single-quote": "it's",
    "double-quote": 'the "daily"',
    "backslash": "a\\'b\\",
    "percent": "100% %s %(id)s",
    "braces": "{0} {id} {{x}}",
    "question-mark": "? ?1 :id $1",
    "sql": "'; DROP TABLE schedules; --",
    "lua": 'a") redis.call("FLUSHALL") --',
    "glob": "*[a-z]?",
    "like": "_%",
    "uuid": "8c0d9a4e-9b1f-4b52-8c0d-0123456789ab",
    "object-id": "507f1f77bcf86cd799439011",
    "german": "Überprüfung-täglich",
    "chinese": "每日报告",
    "arabic": "تقرير يومي",
    "right-to-left-mark": "a\u202eb\u200fc",
    "zero-width": "a\u200b\ufeffb",
    "emoji": "⏰👩‍👩‍👧‍👦🇩🇪",
    "line-separators": "a\u2028b\u2029c",
    "private-use": "\ue000",
    "replacement-character": "\ufffd",
    "last-code-point": "\U0010ffff",
    "noncharacter": "a\uffff",
    "255-ascii": "i" * 255,
    "255-astral": "😀" * 255,
}
#: Ids that a careless comparison takes for one.
SIMILAR_IDS = [
    "a",
    "A",
    "a ",
    " a",
    "ａ",
    "á",
    "a\u0301",
    "ß",
    "ss",
    "ﬁ",
    "fi",
    "İ",
    "i",
    "I",
    "ı",
    "0",
    "00",
    "0.0",
    "1",
    "01",
    "1e0",
    "true",
    "True",
]

DOCUMENTS = {
    "object": '{"b": 1, "a": [1, 2.50, null, true], "c": {}}',
    "white-space": '  {"a" :\t1 ,\r\n"a":2 }\n',
    "null": "null",
    "number": "1",
    "big-number": "12345678901234567890123.10",
    "exponent": "1E400",
    "true": "true",
    "string": '"text"',
    "date": '"2035-06-15T12:00:00Z"',
    "escaped-nul": '{"a": "\\u0000"}',
    "escaped-surrogate": '{"a": "\\ud800"}',
    "escaped-pair": '{"a": "\\ud83d\\ude00"}',
    "unicode": json.dumps(IDS, ensure_ascii=False),
    "mongo-operators": '{"$set": {"$oid": "507f1f77bcf86cd799439011"}}',
    "not-json": "opaque to the store",
    "one-mebibyte": json.dumps({"text": "x" * (1024 * 1024 - 12)}),
    "one-mebibyte-of-emoji": json.dumps({"text": "😀" * (256 * 1024 - 3)}, ensure_ascii=False),
}


class PayloadRules:
    """Ids, names and documents are text: never parsed, never normalised, never pasted into a statement."""

    @pytest.mark.parametrize("schedule_id", IDS.values(), ids=IDS.keys())
    async def test_any_id_lives_a_whole_life(self, store: ScheduleStore, schedule_id: str) -> None:
        """Each method takes any id of up to 255 characters. (Look at keys and statements that are built from text.)"""
        await store.put([schedule("bystander", next_run_at=at(7200)), schedule(schedule_id)])

        assert await store.get([schedule_id]) == {schedule_id: schedule(schedule_id)}
        assert await listed(store, limit=1) == code_points([schedule_id, "bystander"])
        assert (await store.update(schedule_id, ScheduleChanges(updated_at=NOW, document="edited"))).id == schedule_id
        assert await store.put([schedule(schedule_id)]) == {schedule_id}
        claim = await take_one(store, schedule_id)
        assert await store.renew([claim], until=at(60)) == {schedule_id}
        row = run(f"{schedule_id}@2035-06-15T12:00:00.123Z", schedule_id=schedule_id)
        assert await store.settle([outcome(claim, runs=(row,))]) == frozenset()
        assert await store.runs(RunQuery(schedule_id=schedule_id), limit=10) == [row]
        assert await claimable(store, at(3600)) == [schedule_id]
        assert await store.delete([schedule_id]) == {schedule_id}
        assert await listed(store) == ["bystander"]

    async def test_similar_ids_are_different(self, store: ScheduleStore) -> None:
        """Ids differ when a single character does. (Look at collation, case, trailing spaces, Unicode normalisation, numbers.)"""
        assert (
            await store.put([schedule(schedule_id, document=f"of {schedule_id!r}") for schedule_id in SIMILAR_IDS]) == frozenset()
        )

        assert await listed(store) == code_points(SIMILAR_IDS)
        for schedule_id in SIMILAR_IDS:
            assert (await read(store, schedule_id)).document == f"of {schedule_id!r}"
            assert await store.delete([schedule_id]) == {schedule_id}
        assert await listed(store) == []

    async def test_similar_occurrence_ids_are_different(self, store: ScheduleStore) -> None:
        """So do occurrence ids, and the ids of schedules in history. (Look at collation of the history's key.)"""
        await record(store, *(run(schedule_id, schedule_id=schedule_id) for schedule_id in SIMILAR_IDS))

        assert await recorded(store) == sorted(SIMILAR_IDS, reverse=True)
        for schedule_id in SIMILAR_IDS:
            assert await recorded(store, RunQuery(schedule_id=schedule_id)) == [schedule_id]

    @pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS.keys())
    async def test_documents_come_back_exactly(self, store: ScheduleStore, document: str) -> None:
        """A document comes back character by character, on every route. (Look at JSON types: they reorder, round and refuse.)"""
        await store.put(
            [schedule("put", document=document), schedule("updated", next_run_at=None), schedule("again", next_run_at=None)]
        )
        await store.update("updated", ScheduleChanges(updated_at=NOW, document=document))
        await store.put([schedule("again", document=document)])

        assert {
            schedule_id: found.document == document
            for schedule_id, found in (await store.get(["put", "updated", "again"])).items()
        } == {
            "put": True,
            "updated": True,
            "again": True,
        }
        assert [found.document == document for found in await store.page(ScheduleQuery(), limit=3)] == [True] * 3
        assert [claim.schedule.document == document for claim in await take(store)] == [True]

    @pytest.mark.parametrize("text", [*IDS.values(), "n" * 1000], ids=[*IDS.keys(), "1000-characters"])
    async def test_any_text_in_any_text_field(self, store: ScheduleStore, text: str) -> None:
        """Names, owners, timings, errors and claimants are any text. (Look at column sizes and at statements built from text.)"""
        given = schedule(task_name=text, timing=text, owner=text, last_error=text, document=text)
        await store.put([given, schedule("b", owner="somebody", next_run_at=None)])

        assert await read(store) == given
        assert await listed(store, ScheduleQuery(task_name=text)) == ["a"]
        assert await listed(store, ScheduleQuery(owner=text)) == ["a"]
        claim = await take_one(store, claimant=text)
        assert (await read(store)).claimant == text
        row = run(task_name=text, task_id=text, claimant=text, error=text)
        assert await store.settle([outcome(claim, last_error=text, runs=(row,))]) == frozenset()
        assert (await read(store)).last_error == text
        assert await store.runs(RunQuery(), limit=1) == [row]

    async def test_empty_text_is_not_none(self, store: ScheduleStore) -> None:
        """An empty owner or error is text, not "nobody" or "none". (Look at how None is stored.)"""
        await store.put([schedule("empty", owner="", last_error=""), schedule("none", next_run_at=None)])

        assert await store.get(["empty", "none"]) == {
            "empty": schedule("empty", owner="", last_error=""),
            "none": schedule("none", next_run_at=None),
        }
        assert await listed(store, ScheduleQuery(owner="")) == ["empty"]
        claim = await take_one(store, "empty")
        row = run(error="", task_id="", claimant="")
        await store.settle([outcome(claim, runs=(row,))])
        assert await store.runs(RunQuery(), limit=1) == [row]

    async def test_large_numbers(self, store: ScheduleStore) -> None:
        """Counters hold what years of fast schedules count. (Look at the integer types: at least up to 2**31 - 1.)"""
        large = 2**31 - 1
        given = schedule(coalesced=large, run_count=large, attempt=large - 1)
        await store.put([given])
        assert await read(store) == given
        claim = await take_one(store)
        assert claim.schedule.attempt == large

    async def test_ids_that_contain_each_other(self, store: ScheduleStore) -> None:
        """Keys that are joined from parts do not collide. (Look at separators in keys.)"""
        ids = ["a", "a:b", "a:b:c", "b:c", "a@1", "a@1@2", ":", "::", "a:lease", "a:token", "schedules", "runs", "meta"]
        await store.put([schedule(schedule_id) for schedule_id in ids])
        claims = await take(store)
        await store.settle(
            [outcome(claim, runs=(run(f"{claim.schedule.id}@1", schedule_id=claim.schedule.id),)) for claim in claims]
        )

        assert await listed(store) == code_points(ids)
        for schedule_id in ids:
            assert await recorded(store, RunQuery(schedule_id=schedule_id)) == [f"{schedule_id}@1"]
        assert await store.delete(["a", "schedules"]) == {"a", "schedules"}
        assert await listed(store) == code_points(set(ids) - {"a", "schedules"})

    async def test_a_claimed_life_of_a_large_document(self, store: ScheduleStore) -> None:
        """Claims and settles of large documents leave them whole. (Look at what `settle` writes back.)"""
        document = DOCUMENTS["one-mebibyte-of-emoji"]
        claim = await put_and_take(store, document=document)
        await store.settle([outcome(claim)])

        assert (await read(store)).document == document
