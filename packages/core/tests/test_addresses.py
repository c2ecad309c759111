"""`parse_address`: what URLs of servers say, and that nobody learns their passwords."""

from __future__ import annotations

from typing import Any

import pytest

from taskiq_sources.addresses import Address, parse_address
from taskiq_sources.errors import ScheduleValidationError

FORM = "use db://user:password@host:1/name"


def parse(url: str) -> Address:
    return parse_address(url, schemes={"db", "db+srv"}, form=FORM)


def test_all_parts_are_found() -> None:
    """Names are decoded, hosts and user info stay as they were written."""
    address = parse("DB://me:s%40cret@a.example:1,[::1]:2/my%20name?tls=1&app=a%40b")

    assert (address.scheme, address.hosts, address.path) == ("db", "a.example:1,[::1]:2", "my name")
    assert (address.userinfo, address.user) == ("me:s%40cret", "me")
    assert address.options == {"tls": "1", "app": "a@b"}


def test_servers_have_a_host_and_a_port() -> None:
    """What is not said is filled in."""
    assert parse("db://a:1,b,[::1]:2,:3/x").servers(9) == [("a", 1), ("b", 9), ("::1", 2), ("localhost", 3)]
    assert parse("db:///x").servers(9) == [("localhost", 9)]


@pytest.mark.parametrize(
    "url",
    [
        "s3cr3t",
        "other://me:s3cr3t@host/x",
        "db:me:s3cr3t@host/x",
        "db://me:s3cr3t@host:port/x",
        "db://me:s3/cr3t@host/x",
        "db://me:s3?cr3t@host/x",
        "db://me:1?s3cr3t@host/x",
        "db://me:1/s3cr3t@host/x",
        "db://me:s3#cr3t@host/x",
        "db://host/x#s3cr3t",
        "s3cr3t s3cr3t://host",
    ],
)
def test_what_is_not_of_the_form_is_refused_without_being_shown(url: str) -> None:
    """A password that should have been percent-encoded may have become part of anything."""
    with pytest.raises(ScheduleValidationError) as refusal:
        parse(url)

    assert "s3" not in str(refusal.value)
    assert "cr3t" not in str(refusal.value)
    assert FORM in str(refusal.value)


@pytest.mark.parametrize("url", [5, b"db://me:secret@host/name", ["secret"]])
def test_what_is_no_text_is_refused_without_being_shown(url: Any) -> None:
    """Only of what kind it is, and what to write instead."""
    with pytest.raises(ScheduleValidationError, match=FORM) as caught:
        parse(url)

    assert "secret" not in str(caught.value)


def test_credentials_and_options_are_not_shown() -> None:
    """Options may be secrets too."""
    assert "s3cr3t" not in repr(parse("db://me:s3cr3t@host/x?token=s3cr3t"))
