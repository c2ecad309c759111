"""What is asked of the server: one file each in ``mql``, in MongoDB's query language. No I/O but reading them.

A file says what it is for (``purpose``), of which collection (``on``) which method of the driver is called (``call``), whether a
call whose connection broke is made again (``repeat``: twice is as good as once, and the driver does not do it), and, by their
names, what the method is given. In that, a text ``":name"`` stands for a value.

What is a list at its top is a pipeline. There, and in an ``$expr``, a text that begins with a dollar is a field, and a document
may be an expression: every value is wrapped in a ``$literal``. Elsewhere a value is just that.

An element of a list in which there is ``":name?"``, a value that may be None, is left out when it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

_ABSENT: Final = object()
_OF_VALUES: Final = {"$match", "$merge"}  # stages of pipelines that evaluate nothing


@cache
def load(name: str) -> Any:
    """Return what is in a data file of this package."""
    return json.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def statement(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the file of this name says but for its purpose, with values in their places; more than it has are fine."""
    parts = load(f"mql/{name}.json").items()
    return {key: _filled(part, values, evaluated=isinstance(part, list)) for key, part in parts if key != "purpose"}


def _filled(part: Any, values: Mapping[str, Any], *, evaluated: bool) -> Any:
    if isinstance(part, list):
        elements = [_filled(element, values, evaluated=evaluated) for element in part]
        kept = [element for element in elements if element is not _ABSENT]
        return kept if kept or not part else _ABSENT
    if isinstance(part, dict):
        filled = {
            key: _filled(one, values, evaluated=key == "$expr" or (evaluated and key not in _OF_VALUES))
            for key, one in part.items()
        }
        return _ABSENT if any(one is _ABSENT for one in filled.values()) else filled
    if not isinstance(part, str) or not part.startswith(":"):
        return part
    value = values[part.strip(":?")]
    if value is None and part.endswith("?"):
        return _ABSENT
    return {"$literal": value} if evaluated else value
