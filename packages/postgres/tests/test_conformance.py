"""The PostgreSQL stores and the source against every rule of the contract."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from taskiq_sources_conformance import SourceConformance, StoreConformance
from taskiq_sources_conformance.stock import StockLoopConformance


class TestPostgresStore(StoreConformance):
    backend = "postgres"
    make_store = pytest.fixture(lambda _self, either_store: either_store)
    unreachable = pytest.fixture(lambda _self, place: place.unreachable())
    place: Any  # that of the test, which either_store puts here

    async def server_version(self, store: Any) -> str:
        return str(await self.place.server_version())

    async def make_schema_newer(self, store: Any) -> None:
        await self.place.make_schema_newer()

    async def drop_connections(self, store: Any) -> None:
        await self.place.cut_connections()

    @contextlib.contextmanager
    def each_step(self, store: Any, before: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """Do something before each statement, and before its commit."""
        call = store._session.call

        async def stepwise(work: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
            async def in_a_transaction(connection: Any) -> Any:
                await before()
                async with connection.transaction():
                    done = await work(connection)
                    await before()
                return done

            return await call(in_a_transaction, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store._session, "call", stepwise)
            yield


class TestPostgresSource(SourceConformance, StockLoopConformance):
    backend = "postgres"
    make_source = pytest.fixture(lambda _self, place: place.source)
