"""What the stores of backends share: checks of arguments and revisions, and calls beside one another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskiq_sources.backends import check_either, check_revision, check_schema_version, portions, together
from taskiq_sources.errors import (
    RevisionConflictError,
    ScheduleNotFoundError,
    ScheduleValidationError,
    SchemaVersionError,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("given", [{"url": None, "client": None}, {"url": "db://:s3cr3t@host", "client": object()}])
def test_one_of_several_arguments_has_to_be_given(given: dict[str, Any]) -> None:
    """None and all are refused, by name, and without what was given."""
    with pytest.raises(ScheduleValidationError, match="give either a url or a client") as refusal:
        check_either(**given)

    assert refusal.value.field == "url"
    assert "s3cr3t" not in str(refusal.value)
    check_either(**{**given, "url": "db://host", "client": None})


def test_an_edit_needs_the_schedule_and_the_revision_that_it_is_for() -> None:
    """Without an expected revision any will do."""
    check_revision("a", 3, 3)
    check_revision("a", 3, None)
    with pytest.raises(ScheduleNotFoundError, match="'a' does not exist"):
        check_revision("a", None, 3)
    with pytest.raises(RevisionConflictError, match="'a' is at revision 4, not 3"):
        check_revision("a", 4, 3)


def test_the_schema_of_a_newer_release_is_refused() -> None:
    """An older one is for the migrations."""
    check_schema_version(1, 2, where="the database", package="a-package")
    with pytest.raises(SchemaVersionError, match=r"the database has schema version 3, .* a-package; .* up to 2: upgrade it"):
        check_schema_version(3, 2, where="the database", package="a-package")


def test_portions_hold_all_values_in_order() -> None:
    """Of no size, there is one."""
    assert list(portions("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(portions("abc", None)) == [["a", "b", "c"]]
    assert list(portions("", 2)) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([1, 4, 3], [[1, 4], [3]]),
        ([4, 1, 9, 9, 1], [[4, 1], [9], [9], [1]]),
        ([5, 5], [[5], [5]]),
    ],
)
def test_portions_weigh_no_more_than_they_may(values: list[int], expected: list[list[int]]) -> None:
    """Nor are they empty: what weighs too much is a portion by itself."""
    assert list(portions(values, 5, lambda value: value)) == expected


class Calls:
    """Numbered calls, of which some fail, that know how many go on beside one another."""

    def __init__(self, *failing: int) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.most = 0
        self._failing = failing

    async def call(self, number: int) -> int:
        self.begun.append(number)
        self.most = max(self.most, len(self.begun) - len(self.ended))
        for _ in range(10 - number):  # so that the first ends last
            await asyncio.sleep(0)
        self.ended.append(number)
        if number in self._failing:
            raise ConnectionError(f"call {number}")
        return number


@pytest.mark.parametrize(("at_once", "most"), [(None, 5), (2, 2), (1, 1)])
async def test_results_come_in_the_order_of_calls(at_once: int | None, most: int) -> None:
    """However they end, and as many beside one another as they may."""
    calls = Calls()

    assert await together((calls.call(number) for number in range(5)), at_once=at_once) == [0, 1, 2, 3, 4]
    assert calls.most == most


async def test_the_first_error_is_raised_when_what_was_begun_has_ended() -> None:
    """Nothing goes on behind one's back, and what would come after it is not begun."""
    calls = Calls(1, 2)

    with pytest.raises(ConnectionError, match="call 1"):
        await together((calls.call(number) for number in range(9)), at_once=3)

    assert sorted(calls.ended) == sorted(calls.begun) == [0, 1, 2]
