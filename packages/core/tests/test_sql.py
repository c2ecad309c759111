"""SQL in files: how blocks, conditions, parameters and migrations are read. The stores on top are tested by their backends."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskiq_sources.rows import RUN_COLUMNS, SCHEDULE_COLUMNS
from taskiq_sources.sql import Statements, load_migrations, read_sql, split_script

TEXT = """-- What stands before the first block is a comment.

-- name: page
-- One page,
-- in order.
SELECT {columns} FROM s WHERE id > :after /* conditions */ AND again > :after LIMIT :limit::bigint;

-- name: page_both
-- From two places.
SELECT 1 FROM s WHERE TRUE /* conditions of page */ UNION ALL SELECT 1 FROM t WHERE TRUE /* conditions of page */;

-- name: page.owner
-- Of one owner.
AND owner = :owner

-- name: page.paused
-- Paused ones.
AND paused
"""

VALUES = {"after": "a", "limit": 10, "owner": "me", "unused": None}


def test_parameters_are_numbered_where_the_driver_wants_numbers() -> None:
    sql, arguments = Statements(TEXT, marker="$").bind("page", VALUES)

    assert sql == f"SELECT {', '.join(SCHEDULE_COLUMNS)} FROM s WHERE id > $1  AND again > $1 LIMIT $2::bigint;"
    assert arguments == ["a", 10]


def test_the_columns_of_a_claim_are_those_of_the_schedule_as_the_claim_leaves_it() -> None:
    text = "-- name: claim\n-- Take.\nSELECT {claimed_columns} FROM s;\n"

    sql, arguments = Statements(text, marker="?").bind("claim", {"claimant": "me", "lease_until": 1})

    changed = {"attempt": "attempt + 1", "claimant": "?", "lease_until": "?"}
    assert sql == f"SELECT {', '.join(changed.get(column, column) for column in SCHEDULE_COLUMNS)} FROM s;"
    assert arguments == ["me", 1]


def test_parameters_are_repeated_where_the_driver_takes_one_after_the_other() -> None:
    sql, arguments = Statements(TEXT, marker="?").bind("page", VALUES)

    assert sql.endswith("WHERE id > ?  AND again > ? LIMIT ?::bigint;")
    assert arguments == ["a", "a", 10]


@pytest.mark.parametrize(
    ("conditions", "joined", "arguments"),
    [
        (["owner"], "AND owner = $2", ["a", "me", 10]),
        (["paused", "owner"], "AND paused\nAND owner = $2", ["a", "me", 10]),
    ],
)
def test_conditions_that_are_asked_for_are_put_in_their_place(
    conditions: list[str], joined: str, arguments: list[object]
) -> None:
    bound = Statements(TEXT, marker="$").bind("page", VALUES, conditions)

    assert f"id > $1 {joined} AND again > $1" in bound[0]
    assert bound[1] == arguments


def test_conditions_of_another_statement_can_stand_in_several_places() -> None:
    bound = Statements(TEXT, marker="$").bind("page_both", VALUES, ["owner"])

    assert bound == (
        "SELECT 1 FROM s WHERE TRUE AND owner = $1 UNION ALL SELECT 1 FROM t WHERE TRUE AND owner = $1;",
        ["me"],
    )


def test_columns_are_in_the_order_in_which_rows_are_read() -> None:
    sql, _ = Statements("-- name: runs\n-- All.\nSELECT {run_columns} FROM r", marker="?").bind("runs", {})

    assert sql == f"SELECT {', '.join(RUN_COLUMNS)} FROM r"


@pytest.mark.parametrize(
    "text",
    [
        "-- name: claim\n-- One.\nSELECT 1;\n-- name: claim\n-- Two.\nSELECT 2;\n",
        "-- name: get\n-- One.\nSELECT 1;\n-- name: claim\nSELECT 2;\n",
    ],
    ids=["twice", "without a purpose"],
)
def test_blocks_that_are_named_twice_or_say_no_purpose_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="claim"):
        Statements(text, marker="?")


def test_a_condition_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"page\.colour"):
        Statements(TEXT, marker="?").bind("page", VALUES, ["colour"])


def test_migrations_are_read_in_the_order_of_their_numbers(package: Path) -> None:
    (package / "migrations" / "0002_second.sql").write_text("SELECT 2;")
    (package / "migrations" / "0001_first.sql").write_text("SELECT 1;")
    (package / "migrations" / "README").write_text("not a migration")

    assert load_migrations(package.name) == (("0001_first.sql", "SELECT 1;"), ("0002_second.sql", "SELECT 2;"))
    assert read_sql(package.name, "migrations/README") == "not a migration"


@pytest.mark.parametrize("names", [["0002_second.sql"], ["0001_a.sql", "0001_b.sql"], ["1_first.sql"]])
def test_migrations_with_a_gap_or_a_number_twice_are_refused(package: Path, names: list[str]) -> None:
    for name in names:
        (package / "migrations" / name).touch()

    with pytest.raises(ValueError, match=names[-1]):
        load_migrations(package.name)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that can be imported, with a folder for migrations."""
    folder = tmp_path / f"package_{tmp_path.name.replace('-', '_')}"
    (folder / "migrations").mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_script_is_split_where_statements_end_and_not_inside_triggers() -> None:
    trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n    DELETE FROM a;\n    DELETE FROM b;\nEND;"

    assert list(split_script(f"CREATE TABLE a (x);\n{trigger}\n-- the end\n")) == ["CREATE TABLE a (x);", trigger]


def test_a_script_without_its_last_semicolon_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no semicolon.*CREATE TABLE b"):
        list(split_script("CREATE TABLE a (x);\nCREATE TABLE b (x)\n"))
