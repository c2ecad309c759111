"""Rows of plain values as stores write and read them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from taskiq_sources.rows import lines, plain, rows_in

VALUES = st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]))
ROWS = st.lists(st.lists(VALUES, min_size=1), min_size=1)


@given(rows=ROWS)
def test_lines_hold_one_value_each_whatever_is_in_a_text(rows: list[list[object]]) -> None:
    """Scripts of Redis take them apart at the line breaks, and compare texts with what other releases wrote."""
    written = [json.dumps(row, ensure_ascii=False, separators=(",\n", ":"))[1:-1].encode() for row in rows]

    assert lines(rows) == written
    assert rows_in(b"[[" + b"],[".join(written) + b"]]") == rows


def test_no_rows_are_no_lines() -> None:
    assert lines([]) == []


def test_instants_are_milliseconds() -> None:
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=1_234)

    assert plain([moment, None, "x", True]) == [1_234, None, "x", True]
