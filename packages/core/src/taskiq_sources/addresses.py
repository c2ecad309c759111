"""What a URL says of a server: ``scheme://user:password@host:port,host:port/path?option=value``. Resolves no names.

Nothing that is raised, or shown of an `Address`, holds a user, a password or an option.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from taskiq_sources.errors import ScheduleValidationError

_ENCODE = "; percent-encode what stands before the host: %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #"
_URL = re.compile(r"(?P<scheme>[\w+.-]{1,40})://(?P<server>[^/?#]*)(?P<path>[^?#@]*)(?:\?(?P<query>[^#@]*))?")
_HOST = r"(?:[\w.%-]+|\[[\w:.%]+\])?(?::\d{1,5})?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*")


@dataclass(frozen=True)
class Address:
    """What a URL says.

    Attributes:
        scheme: What stands before ``://``, in small letters.
        hosts: Hosts and ports as they are in the URL, with commas between them; may be empty.
        path: What follows the hosts, without the slash before it, percent-decoded. Often the name of a database.
        userinfo: ``user:password`` as it is in the URL, percent-encoded. Never shown.
        options: The options behind the ``?``, percent-decoded. Never shown.
    """

    scheme: str
    hosts: str
    path: str
    userinfo: str = field(repr=False)
    options: Mapping[str, str] = field(repr=False)

    @property
    def user(self) -> str:
        """The user, percent-decoded; empty if there is none."""
        return unquote(self.userinfo.partition(":")[0])

    def servers(self, default_port: int) -> list[tuple[str, int]]:
        """Return host and port of each server; a host that is not named is ``localhost``."""
        found = (re.fullmatch(r"(?P<host>.*?)(?::(?P<port>\d+))?", server) for server in self.hosts.split(","))
        return [
            (unquote(match["host"]).strip("[]") or "localhost", int(match["port"] or default_port)) for match in found if match
        ]


def path_of(path: str | os.PathLike[str], form: str) -> str:
    """Return a path as text.

    Args:
        path: The path; or a URL, which is left as it is.
        form: How to write it, for errors.

    Raises:
        ScheduleValidationError: It is neither text nor a path.
    """
    given: object = path
    if not isinstance(given, (str, os.PathLike)):
        raise ScheduleValidationError("url", given, form)
    return os.fspath(path)


def parse_address(url: str, *, schemes: Collection[str], form: str, argument: str = "url") -> Address:
    """Return what `url` says.

    Args:
        url: The URL.
        schemes: The schemes that are right, in small letters.
        form: How to write it, for errors: ``use redis://host:port/db``.
        argument: What the caller's argument is called, for errors.

    Raises:
        ScheduleValidationError: It is not of this form. The error shows nothing of it but the scheme.
    """
    given: object = url
    if not isinstance(given, str):
        raise ScheduleValidationError(argument, type(given), f"it is no text; {form}")
    match = _URL.fullmatch(url)
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    shown = f"{scheme}://…" if re.fullmatch(r"[\w+.-]{1,40}", scheme) else "…"
    if scheme not in schemes:
        raise ScheduleValidationError(argument, shown, form)
    userinfo, _, hosts = match["server"].rpartition("@") if match else ("", "", "")
    if match is None or not _HOSTS.fullmatch(hosts):
        raise ScheduleValidationError(argument, shown, form + _ENCODE)
    options = dict(parse_qsl(match["query"] or "", keep_blank_values=True))
    return Address(scheme=scheme, hosts=hosts, path=unquote(match["path"][1:]), userinfo=userinfo, options=options)
