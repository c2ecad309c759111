"""What an error of a database means and what to do about it, in the words of a data file that a backend ships.

No I/O but reading that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NoReturn

from taskiq_sources.errors import SourceConnectionError, redact_text

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

    def raise_named(self, where: str, error: Exception, said: str, *, cause: BaseException | None) -> NoReturn:
        """Raise our error for one that there is advice for; any other, and one that is ours already, goes on as it is.

        Args:
            where: How to name the database.
            error: What was raised.
            said: What the advice is looked up by.
            cause: What may be shown below our error; None if `error` may hold a secret.

        Raises:
            SourceConnectionError: It names database, reason and fix. URLs in the reason are shown without credentials.
        """
        advice = self.of(said)
        if advice is None or isinstance(error, SourceConnectionError):
            raise error
        without_text = "it does not answer in time" if "TimeoutError" in classes_of(error) else type(error).__name__
        raise SourceConnectionError(f"{where} cannot be used: {redact_text(str(error)) or without_text}; {advice}") from cause


def classes_of(error: BaseException) -> str:
    """Return the names of the classes of an error, the most special one first: a part of what advice is looked up by."""
    return " ".join(kind.__name__ for kind in type(error).__mro__)


def _entries(lines: Iterable[str]) -> Iterable[tuple[re.Pattern[str], str]]:
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        sign, separator, advice = line.partition(_SEPARATOR)
        if not (separator and sign.strip() and advice.strip()):
            raise ValueError(f"{line!r} is not of the form '<regular expression>{_SEPARATOR}<what to do about it>'")
        yield re.compile(sign.strip()), advice.strip()
