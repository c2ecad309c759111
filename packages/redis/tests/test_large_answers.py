"""However large the documents are, no answer is: others get their turn, and neither side holds more than a few of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from taskiq_sources.models import ScheduleChanges, ScheduleQuery
from taskiq_sources_conformance.build import LEASE, NOW, at, schedule, take
from taskiq_sources_redis import RedisStore
from taskiq_sources_redis.server import Server

pytestmark = pytest.mark.anyio

MOST = 4 * 1024 * 1024  # bytes of documents in an answer
REST = 100_000  # bytes of everything else in it
IDS = [f"{number:02}" for number in range(20)]
DOCUMENTS = {schedule_id: schedule_id * (350_000 if int(schedule_id) % 5 else 10) for schedule_id in IDS}


class LargeAnswers:
    """Twenty schedules of which most are large, and all of them due, the last one first."""

    @pytest.fixture
    async def store(self, place: Any) -> AsyncIterator[RedisStore]:
        store = place.store()
        await store.open()
        for schedule_id, document in DOCUMENTS.items():
            await store.put([schedule(schedule_id, document=document, next_run_at=at(-int(schedule_id)))])
        yield store
        await store.close()

    @pytest.fixture
    def answers(self, store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The sizes of the answers from here on."""
        sizes: list[int] = []
        run = Server.run

        async def measured(server: Server, script: str, *arguments: Any) -> Any:
            answer = await run(server, script, *arguments)
            if isinstance(answer, list):
                sizes.append(sum(len(part) for part in answer if isinstance(part, bytes)))
            return answer

        monkeypatch.setattr(Server, "run", measured)
        return sizes

    @pytest.mark.parametrize("ids", [None, IDS])
    @pytest.mark.parametrize("limit", [len(IDS) - 2, len(IDS) + 2])
    async def test_a_claim(self, store: RedisStore, answers: list[int], ids: list[str] | None, limit: int) -> None:
        """It takes as much as it may, the oldest first, each once and whole; what it takes, it has been given."""
        claims = await take(store, ids=ids, limit=limit)
        assert max(answers) < MOST + REST
        assert [claim.schedule.id for claim in claims] == IDS[::-1][:limit]
        assert {claim.schedule.id: claim.schedule.document for claim in claims} == dict(list(DOCUMENTS.items())[-limit:])
        assert {claim.schedule.attempt for claim in claims} == {1}

        rest = await take(store)
        assert [claim.schedule.id for claim in rest] == IDS[::-1][limit:]
        assert await store.renew([*claims, *rest], until=NOW + 2 * LEASE) == set(IDS)
        assert await store.next_due(NOW) == NOW + 2 * LEASE

    async def test_get(self, store: RedisStore, answers: list[int]) -> None:
        given = await store.get(["none", *IDS, "none either"])

        assert max(answers) < MOST + REST
        assert {schedule_id: one.document for schedule_id, one in given.items()} == DOCUMENTS

    @pytest.mark.parametrize("limit", [1, 7, 20, 100])
    @pytest.mark.parametrize("query", [ScheduleQuery(), ScheduleQuery(due_before=NOW), ScheduleQuery(paused=False)])
    async def test_a_page(self, store: RedisStore, answers: list[int], query: ScheduleQuery, limit: int) -> None:
        """It is as long as it may be, from wherever it starts."""
        await store.update("03", ScheduleChanges(paused=True, updated_at=NOW))
        wanted = [schedule_id for schedule_id in IDS if schedule_id > "01" and (query.paused is None or schedule_id != "03")]
        found = await store.page(query, after="01", limit=limit)

        assert max(answers) < MOST + REST
        assert [one.id for one in found] == wanted[:limit]
        assert all(one.document == DOCUMENTS[one.id] for one in found)

    async def test_a_document_that_is_larger_than_an_answer_is_given_alone(self, store: RedisStore, answers: list[int]) -> None:
        await store.put([schedule("20", document="x" * (MOST + 1), next_run_at=at(-20))])

        assert [claim.schedule.id for claim in await take(store)] == ["20", *IDS[::-1]]
        assert set(await store.get(["20", *IDS])) == {"20", *IDS}
        assert len(await store.page(ScheduleQuery(), limit=100)) == 21
        assert sorted(answers)[-3] > MOST + 1
        assert sorted(answers)[-1] < MOST + REST


class TestOneServer(LargeAnswers):
    """Of one server."""


class TestCluster(LargeAnswers):
    """Of a Cluster, over three shards."""

    backend = "redis_cluster"
