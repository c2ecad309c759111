"""`Advice`: what a backend's data file says about an error."""

from __future__ import annotations

import pytest

from taskiq_sources.advice import Advice, classes_of
from taskiq_sources.errors import SourceConnectionError

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


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError("WRONGPASS for redis://me:s3cr3t@host/0"), "WRONGPASS for redis://***@host/0"),
        (OSError(), "OSError"),
        (TimeoutError(), "it does not answer in time"),
    ],
)
def test_what_there_is_advice_for_is_named(error: OSError, text: str) -> None:
    """Our error says which database, what is wrong and what to do, and shows no credentials."""
    with pytest.raises(SourceConnectionError) as caught:
        TABLE.raise_named("the database", error, f"NOAUTH {error}", cause=None)

    assert str(caught.value) == f"the database cannot be used: {text}; check the password"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("error", [KeyError("a bug"), SourceConnectionError("NOAUTH, said already")])
def test_what_there_is_no_advice_for_and_what_is_ours_goes_on_as_it_is(error: Exception) -> None:
    """A bug is not taken for trouble with the database, and nothing is said twice."""
    with pytest.raises(type(error)) as caught:
        TABLE.raise_named("the database", error, str(error), cause=None)

    assert caught.value is error


def test_an_error_is_known_by_all_of_its_classes() -> None:
    """The most special one comes first."""
    assert classes_of(ConnectionResetError()) == "ConnectionResetError ConnectionError OSError Exception BaseException object"
