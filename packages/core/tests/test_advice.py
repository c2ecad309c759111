"""`Advice`: what a backend's data file says about an error."""

from __future__ import annotations

import pytest

from taskiq_sources.advice import Advice

TABLE = Advice(
    """
# what is refused
NOAUTH|WRONGPASS -> check the password
^READONLY -> connect to the master
password -> never reached by those above
"""
)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("WRONGPASS invalid password", "check the password"),
        ("READONLY You can't write", "connect to the master"),
        ("it is READONLY", None),
        ("a password is missing", "never reached by those above"),
        ("", None),
    ],
)
def test_the_first_expression_that_occurs_counts(said: str, advice: str | None) -> None:
    """The order of the file is the order of precedence."""
    assert TABLE.of(said) == advice


@pytest.mark.parametrize("line", ["NOAUTH", "NOAUTH -> ", " -> check the password", "NOAUTH->check"])
def test_a_line_of_another_form_is_refused_with_its_text(line: str) -> None:
    """A slip in a data file shows when the backend is imported, not when an error is to be explained."""
    with pytest.raises(ValueError, match="is not of the form"):
        Advice(line)
