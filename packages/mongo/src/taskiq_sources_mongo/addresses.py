"""What a URL says of the database: how to name it, and whether it is a replica set. Resolves no names, shows no credentials."""

from __future__ import annotations

from dataclasses import replace

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from taskiq_sources.addresses import Address, parse_address
from taskiq_sources.errors import ScheduleValidationError

_FORM = "use mongodb://user:password@host:27017/database, with everything but letters and digits of a password percent-encoded"


def address_of(url: str) -> Address:
    """Return what `url` says; the names of its options in small letters, as the driver takes them.

    Raises:
        ScheduleValidationError: It is not the URL of a MongoDB. The error shows nothing of it but the scheme.
    """
    address = parse_address(url, schemes=("mongodb", "mongodb+srv"), form=_FORM)
    if address.scheme == "mongodb":
        try:
            parse_uri(url, validate=False)
        except (PyMongoError, ValueError, TypeError):  # the text may quote the password
            raise ScheduleValidationError("url", f"{address.scheme}://…", _FORM) from None
    return replace(address, options={name.lower(): value for name, value in address.options.items()})


def speaks_of_replicas(address: Address) -> bool:
    """Tell whether a URL speaks of more than a single server."""
    several = address.scheme == "mongodb+srv" or "," in address.hosts or "replicaset" in address.options
    return several and address.options.get("directconnection", "").lower() != "true"
