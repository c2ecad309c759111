"""URLs, entry points, and what the errors say."""

from __future__ import annotations

import pytest

from taskiq_sources import InMemoryScheduleSource, UnknownBackendError, plugins, source_from_url
from taskiq_sources.errors import ScheduleExistsError, redact_text, redact_url, shorten


def test_an_installed_backend_is_found_by_its_scheme() -> None:
    """The scheme decides, in upper or lower case; options are passed on."""
    source = source_from_url("MEMORY://", claimant="me")

    assert isinstance(source, InMemoryScheduleSource)


def test_a_known_but_missing_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error lists what is installed, and the pip command for what is not, and shows no password."""
    monkeypatch.setattr(plugins, "entry_points", lambda group: ())

    with pytest.raises(UnknownBackendError) as caught:
        source_from_url("redis://user:secret@host/0")

    assert 'pip install "taskiq-sources[redis]"' in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["gopher://host", "nonsense", "", "://x"])
def test_an_unknown_scheme_lists_the_installed_ones(url: str) -> None:
    """Whoever mistypes a scheme sees what there is."""
    with pytest.raises(UnknownBackendError, match="memory://"):
        source_from_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pa@ss@host:6379/0?password=x#y", "redis://host:6379/0"),
        ("redis://user:p/a#s?s@host:6379/0", "redis://host:6379/0"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("sqlite:///path/to.db", "sqlite:///path/to.db"),
    ],
)
def test_urls_are_shown_without_credentials(url: str, shown: str) -> None:
    """User, password and query never reach a log."""
    assert redact_url(url) == shown


def test_credentials_in_other_people_s_messages_are_removed() -> None:
    """A driver's message may quote the URL it was given."""
    assert (
        redact_text("cannot connect to amqp://u:p@host/x and http://plain/")
        == "cannot connect to amqp://***@host/x and http://plain/"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no redis://host/0?password=pa%26ss&db=1!", "no redis://host/0?password=***&db=1!"),
        ("no 'postgres://host/db?user=u&sslpassword=secret'", "no 'postgres://host/db?user=u&sslpassword=***'"),
        ("passwords are wrong?", "passwords are wrong?"),
        ("sasl_plain_password='s3cr3t', retries=3", "sasl_plain_password=***, retries=3"),
        ("{'user': 'a', 'password': 's3cr3t', 'x': 1}", "{'user': 'a', 'password': ***, 'x': 1}"),
        ('{"api_token": "s3 cr3t"}', '{"api_token": ***}'),
        ("passwd: s3cr3t", "passwd: ***"),
        ("unexpected token: }", "unexpected token: }"),
        ("the password is wrong", "the password is wrong"),
        ("sent 'Authorization: Basic dTpw==', got 401", "sent 'Authorization: Basic ***', got 401"),
        ("{'authorization': 's3cr3t', 'x': 1}", "{'authorization': '***', 'x': 1}"),
        ("refused Bearer eyJ0.e-x_1", "refused Bearer ***"),
        ("authorization failed: no bearer token", "authorization failed: no bearer token"),
    ],
)
def test_secret_options_in_other_people_s_messages_are_removed(text: str, shown: str) -> None:
    """Many drivers take a password as an option of the URL too, or show what options they were given."""
    assert redact_text(text) == shown


def test_a_password_among_the_words_of_an_error_is_not_told() -> None:
    """As of a connection string in the form of libpq."""
    text = "connect failed: host=db password=s3cret user=a"

    assert redact_text(text) == "connect failed: host=db password=*** user=a"


def test_long_values_are_cut() -> None:
    """An error stays one log line, however large the offending value is."""
    assert len(shorten("x" * 10_000)) < 250
    assert "and 995 more" in str(ScheduleExistsError([str(number) for number in range(1000)]))
