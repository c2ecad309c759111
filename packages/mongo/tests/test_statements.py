"""The statements in their files: what is put in place of names, and that no value is taken for more than that."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

from taskiq_sources_mongo.statements import load, statement

_NAMES = sorted(file.name.removesuffix(".json") for file in files("taskiq_sources_mongo").joinpath("mql").iterdir())
_PAGE = dict.fromkeys(["after", "task_name", "owner", "paused", "quarantined", "due_of_these", "due_of_all"])


@pytest.mark.parametrize("name", _NAMES)
def test_every_statement_says_what_it_is_for(name: str) -> None:
    assert load(f"mql/{name}.json")["purpose"]


@pytest.mark.parametrize("value", ["$document", "$$ROOT", {"$toUpper": "$document"}, ":id"])
def test_a_value_in_a_pipeline_is_never_an_expression(value: Any) -> None:
    """What users store may look like a field, an expression or a name of ours."""
    [stage] = statement("update", {"id": "a", "expected_revision": None, "of_when": False, "changes": value})["update"]

    assert stage["$replaceWith"]["$mergeObjects"][1] == {"$literal": value}


def test_a_value_in_an_expression_of_a_filter_is_none_either() -> None:
    held = statement("held", {"ids": ["$_id"], "holders": ["$_id"]})["filter"]

    assert held["_id"] == {"$in": ["$_id"]}
    assert held["$expr"]["$gte"][0]["$indexOfArray"][0] == {"$literal": ["$_id"]}


def test_a_condition_whose_value_is_none_is_left_out() -> None:
    """It alone, and what has no conditions left."""
    one = statement("page", {**_PAGE, "after": "b", "paused": False, "limit": 9})

    assert one["filter"] == {"$and": [{"finished": False}, {"_id": {"$gt": "b"}}, {"paused": False}]}
    assert one["limit"] == 9


def test_a_value_that_is_not_given_is_an_error() -> None:
    """So that a misspelt condition is not one that is left out."""
    with pytest.raises(KeyError, match="owner"):
        statement("page", {name: None for name in _PAGE if name != "owner"})
