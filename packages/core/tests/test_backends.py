"""What the stores of different backends share."""

from __future__ import annotations

import pytest

from taskiq_sources.backends import portions


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


def test_portions_that_are_not_weighed_are_of_a_size() -> None:
    assert list(portions("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
