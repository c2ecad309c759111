"""What a URL says of the database: how to name it, and whether it is a replica set. Resolves no names, shows no credentials."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from taskiq_sources.errors import ScheduleValidationError

_FORM = "use mongodb://user:password@host:27017/database, with everything but letters and digits of a password percent-encoded"
_URL = re.compile(r"(?P<scheme>mongodb(?:\+srv)?)://(?:[^@/]*@)?(?P<hosts>[^@/?]+)(?:/(?P<database>[^/?]*))?(?:\?(?P<query>.*))?")


@dataclass(frozen=True)
class Address:
    """What is known of a database from its URL.

    Attributes:
        hosts: The hosts, as the URL has them.
        database: The database; None if the URL names none.
        options: Names of the options that are given, in small letters.
        replicated: Whether the URL speaks of more than a single server.
    """

    hosts: str
    database: str | None
    options: frozenset[str]
    replicated: bool


def address_of(url: str) -> Address:
    """Return what `url` says.

    Raises:
        ScheduleValidationError: It is not the URL of a MongoDB. The error shows nothing of it but the scheme.
    """
    match = _URL.fullmatch(url)
    shown = f"{match['scheme']}://…" if match else "…"
    if match is None:
        raise ScheduleValidationError("url", shown, _FORM)
    if match["scheme"] == "mongodb":
        try:
            parse_uri(url, validate=False)
        except (PyMongoError, ValueError, TypeError):  # the text may quote the password
            raise ScheduleValidationError("url", shown, _FORM) from None
    options = {name.lower(): value for name, value in parse_qsl(match["query"] or "")}
    several = match["scheme"] == "mongodb+srv" or "," in match["hosts"] or "replicaset" in options
    return Address(
        hosts=unquote(match["hosts"]),
        database=unquote(match["database"] or "") or None,
        options=frozenset(options),
        replicated=several and options.get("directconnection", "").lower() != "true",
    )
