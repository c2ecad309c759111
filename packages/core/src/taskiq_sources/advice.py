"""What to do about an error of a database, in the words of a data file that a backend ships. No I/O but reading that file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

_SEPARATOR = " -> "


class Advice:
    """A table of what databases and drivers say, and what to do about it.

    Args:
        text: Lines ``<regular expression> -> <what to do about it>``. Empty lines, and those that begin with ``#``, are left out.

    Raises:
        ValueError: A line is of another form.
    """

    def __init__(self, text: str) -> None:
        self._entries = list(_entries(text.splitlines()))

    @staticmethod
    @cache
    def load(package: str) -> Advice:
        """Return the advice in the file ``advice.txt`` that is shipped with `package`."""
        return Advice(files(package).joinpath("advice.txt").read_text(encoding="utf-8"))

    def of(self, said: str) -> str | None:
        """Return the advice of the first line whose expression occurs in `said`; None if there is none."""
        return next((advice for sign, advice in self._entries if sign.search(said)), None)


def _entries(lines: Iterable[str]) -> Iterable[tuple[re.Pattern[str], str]]:
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        sign, separator, advice = line.partition(_SEPARATOR)
        if not (separator and sign.strip() and advice.strip()):
            raise ValueError(f"{line!r} is not of the form '<regular expression>{_SEPARATOR}<what to do about it>'")
        yield re.compile(sign.strip()), advice.strip()
