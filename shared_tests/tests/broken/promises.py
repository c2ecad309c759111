"""Stores with one defect each in what they declare, and in how they meet their server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

from intact import NEWER_SCHEMA, IntactStore, conformance_classes, defects_of

from taskiq_sources.errors import SourceConnectionError
from taskiq_sources.memory import MemoryData
from taskiq_sources.models import (
    Capabilities,
    StoredSchedule,
)

# -- declarations --------------------------------------------------------------------------------------------------------------


class OpenWipes(IntactStore):
    """Starts with a clean table."""

    caught_by = ("test_open_is_idempotent", "test_open_never_deletes", "test_what_was_written_survives_every_handle")
    caught_by_machine = False

    async def open(self) -> None:
        self._data.schedules.clear()
        await super().open()


class DeclaresPushWithoutWatch(IntactStore):
    """Promises what it has not."""

    caught_by = ("test_push_is_true", "test_the_first_value_comes_at_once")
    caught_by_machine = False

    def watch(self) -> AsyncIterator[None]:
        raise NotImplementedError("no push")


class WatchNeverWakes(IntactStore):
    """Promises push, and says nothing after the first value."""

    caught_by = ("test_changes_of_another_handle_wake", "test_changes_of_the_same_handle_wake")
    caught_by_machine = False

    async def watch(self) -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()


class WatchOutlivesTheStore(IntactStore):
    """Leaves its watchers waiting."""

    caught_by = ("test_watch_ends_when_the_store_is_closed",)
    caught_by_machine = False

    async def close(self) -> None:
        self._open = False


class SilentWatchUndeclared(IntactStore):
    """Declares no push, and lets callers wait for ever instead of telling them."""

    capabilities = Capabilities(shared=True, durable=True, push=False)
    caught_by = ("test_push_is_refused_where_not_declared",)
    caught_by_machine = False

    async def watch(self) -> AsyncIterator[None]:
        yield


class DeclaresSharedAlone(IntactStore):
    """Promises sharing, and keeps each handle's schedules to itself."""

    caught_by = ("test_shared_is_true", "test_another_handle_sees_everything")
    caught_by_machine = False

    def __init__(self, data: MemoryData, **arguments: Any) -> None:
        super().__init__(MemoryData(), **arguments)


class DeclaresDurableForgets(IntactStore):
    """Promises durability, and forgets when the last handle closes."""

    caught_by = ("test_what_was_written_survives_every_handle", "test_leases_survive_every_handle")
    caught_by_machine = False

    async def close(self) -> None:
        await super().close()
        self._data.schedules.clear()


# -- servers -------------------------------------------------------------------------------------------------------------------


class PasswordInError(IntactStore):
    """Shows the URL it was given."""

    caught_by = ("test_an_unreachable_server_is_named_without_credentials",)
    caught_by_machine = False

    async def open(self) -> None:
        if self.server is not None:
            raise SourceConnectionError(f"cannot reach {self.server}")
        await super().open()


class PasswordInRepr(IntactStore):
    """Shows the URL it was given to whoever prints the store."""

    caught_by = ("test_an_unreachable_server_is_named_without_credentials",)
    caught_by_machine = False

    def __repr__(self) -> str:
        return f"PasswordInRepr({self.server!r})"


class NamelessError(IntactStore):
    """Says that something is wrong, not what."""

    caught_by = ("test_an_unreachable_server_is_named_without_credentials",)
    caught_by_machine = False

    async def open(self) -> None:
        if self.server is not None:
            raise SourceConnectionError("connection refused")
        await super().open()


class ForeignError(IntactStore):
    """Lets the driver's error through."""

    caught_by = ("test_an_unreachable_server_is_named_without_credentials",)
    caught_by_machine = False

    async def open(self) -> None:
        if self.server is not None:
            raise ConnectionRefusedError("db.example schedules")
        await super().open()


class StaysDisconnected(IntactStore):
    """Does not connect again by itself."""

    caught_by = ("test_reconnects_by_itself",)
    caught_by_machine = False

    async def get(self, ids: Collection[str]) -> dict[str, StoredSchedule]:
        if not self.connected:
            raise SourceConnectionError("the connection was lost")
        return await super().get(ids)


class NewerSchemaAccepted(IntactStore):
    """Opens whatever it finds."""

    caught_by = ("test_a_newer_schema_is_refused",)
    caught_by_machine = False

    async def open(self) -> None:
        self._data.tokens.pop(NEWER_SCHEMA, None)
        await super().open()


DEFECTS = defects_of(__name__)
globals().update(conformance_classes(__name__, DEFECTS.values()))
