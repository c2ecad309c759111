"""Writes the parts of the documentation that are taken from the code: ``python docs/generate.py``.

- ``README.md``: the table of backends, between two marker comments, from the declared capabilities of every installed backend;
- ``docs/reference.md``: all public names, from their docstrings: the first line, arguments and attributes.

``tests/test_docs.py`` fails when either of them is not what this script would write.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import get_args

import taskiq_sources
from taskiq_sources.models import Capabilities
from taskiq_sources.plugins import BACKENDS_GROUP
from taskiq_sources.store import ScheduleStore

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
REFERENCE = ROOT / "docs/reference.md"

BEGIN = "<!-- backends: written by docs/generate.py -->"
END = "<!-- /backends -->"

INTRODUCTION = """\
All names that `taskiq_sources` exports: what they are, their arguments with defaults, attributes and methods. What an argument
of a method means is in the linked module, and in `help()`; methods that are coroutines have an `await` before them.
Applications need [`ScheduleSource`](#schedulesource), [`DurableScheduler`](#durablescheduler) and
[`ScheduleOptions`](#scheduleoptions); a backend adds arguments of its own, which its package's README describes.
`ScheduleStore`, `Claim`, `Outcome`, `StoredSchedule` and what they are made of are for authors of backends. This page is
written by `docs/generate.py`."""

#: Column titles, and the fields of `Capabilities` they show.
COLUMNS = {"several processes": "shared", "survives a restart": "durable", "push between processes": "push"}


def backends_table() -> str:
    """Return a row for each installed backend, with what its store declares."""
    schemes: dict[str, list[str]] = {}
    for entry in entry_points(group=BACKENDS_GROUP):
        schemes.setdefault(entry.module.partition(":")[0], []).append(entry.name)
    rows = [
        f"| {source_name(module)} | {', '.join(f'`{scheme}:`' for scheme in sorted(names))} | {cells(module)} |"
        for module, names in sorted(schemes.items(), key=lambda item: sorted(item[1]))
    ]
    head = f"| source | URL | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}"
    return "\n".join([head, *rows])


def source_name(module: str) -> str:
    [entry, *_] = (entry for entry in entry_points(group=BACKENDS_GROUP) if entry.module == module)
    distribution = entry.dist.name if entry.dist is not None else module
    return f"`{class_of(entry)}` ({distribution})"


def class_of(entry: EntryPoint) -> str:
    """Return the name of the class behind an entry point, which names the class or a constructor method of it."""
    return entry.attr.partition(".")[0]


def cells(module: str) -> str:
    stores = sorted(stores_of(importlib.import_module(module)), key=lambda store: len(store.__mro__))
    return " | ".join(cell(stores, field) for field in COLUMNS.values())


def cell(stores: list[type[ScheduleStore]], field: str) -> str:
    """Return what a backend's first store declares, and which of its other stores declare something else."""
    first, *others = (declared(store.capabilities, field) for store in stores)
    different = [f"`{store.__name__}`: {other}" for store, other in zip(stores[1:], others, strict=True) if other != first]
    return "; ".join([first, *different])


def declared(capabilities: Capabilities, field: str) -> str:
    # What a store tells within its one process is not push between processes.
    value = getattr(capabilities, field) and (field != "push" or capabilities.shared)
    return "yes" if value else "no"


def stores_of(module: ModuleType) -> Iterator[type[ScheduleStore]]:
    """Yield the store classes that a backend's module offers."""
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, ScheduleStore) and value is not ScheduleStore:
            yield value


def readme() -> str:
    """Return the README with the present table."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{backends_table()}\n{END}{after}"


def reference() -> str:
    """Return the page of public names."""
    names = [name for name in taskiq_sources.__all__ if not name.startswith("__")]
    objects = {name: getattr(taskiq_sources, name) for name in names}
    errors = {name: value for name, value in objects.items() if inspect.isclass(value) and issubclass(value, Exception)}
    functions = {name: value for name, value in objects.items() if inspect.isfunction(value)}
    classes = {name: value for name, value in objects.items() if inspect.isclass(value) and name not in errors}
    literals = {name: get_args(value) for name, value in objects.items() if get_args(value) and name not in classes}
    parts = [
        "# Reference",
        INTRODUCTION,
        "## Classes",
        *(class_section(name, value) for name, value in classes.items()),
        "## Functions",
        listing(functions),
        "## Types",
        "\n".join(f"- `{name}`: {', '.join(f'`{value!r}`' for value in values)}" for name, values in literals.items()),
        "## Errors",
        "All are subclasses of `TaskiqSourcesError`. Each message names the offending value and the way out.",
        listing(errors),
    ]
    return "\n\n".join(parts) + "\n"


def class_section(name: str, value: type) -> str:
    text = f"### {name}\n\n{first_line(value)} ([{value.__module__}]({source_path(value)}))"
    members = {member: found for member in sorted(dir(value)) if (found := documented_member(value, member)) is not None}
    tables = [fields_table(value, section) for section in ("Args", "Attributes")]
    unlisted = {member: found for member, found in members.items() if f"| `{member}` |" not in "".join(tables)}
    parts = [text, *tables, listing(unlisted)]
    return "\n\n".join(part for part in parts if part)


def fields_table(value: type, section: str) -> str:
    """Return a section of a docstring as a table, with the defaults of the signature; empty if there is no such section."""
    body = re.search(rf"^{section}:\n((?:    .*\n|\n)+)", f"{inspect.getdoc(value)}\n", re.MULTILINE)
    if body is None:
        return ""
    entries = re.findall(r"^    (\**\w+): ((?:.+\n|\n(?=     ))(?:      .*\n|\n(?=     ))*)", body[1], re.MULTILINE)
    parameters = inspect.signature(value).parameters
    rows = []
    for name, text in entries:
        default = getattr(parameters.get(name.lstrip("*")), "default", inspect.Parameter.empty)
        shown = "" if default is inspect.Parameter.empty else f"`{default_of(default)}`"
        rows.append(f"| `{name}` | {shown} | {' '.join(text.split()).replace('|', chr(92) + '|')} |")
    return "\n".join(["| name | default | meaning |", "|---|---|---|", *rows])


def default_of(value: object) -> str:
    """Return a default for people to read."""
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    return getattr(value, "__name__", repr(value)).replace("|", r"\|")


def documented_member(value: type, member: str) -> object | None:
    """Return a public method or property of `value` that we define and document, not what pydantic or taskiq bring along."""
    if member.startswith(("_", "model_")):
        return None
    home = next((base for base in value.__mro__ if member in vars(base)), object)
    found = getattr(value, member)
    ours = home.__module__.startswith("taskiq_sources")
    public_bases = [base for base in value.__mro__[1:] if getattr(taskiq_sources, base.__name__, None) is base]
    if home is not value and any(hasattr(base, member) for base in public_bases):
        return None  # listed there
    shown = inspect.isroutine(found) or isinstance(found, property)
    return found if ours and shown and found.__doc__ else None


def listing(objects: dict[str, object]) -> str:
    return "\n".join(f"- `{use_of(value)}{name}{parameters_of(value)}`: {first_line(value)}" for name, value in objects.items())


def use_of(value: object) -> str:
    """Return the words that come before a call: those of a coroutine, of what is iterated over, or none."""
    if inspect.iscoroutinefunction(value):
        return "await "
    result = str(inspect.signature(value).return_annotation) if inspect.isfunction(value) else ""
    return "async for … in " if "AsyncIterator" in result else ""


def parameters_of(value: object) -> str:
    """Return the parameters of a function or method with their defaults, as one would write them; empty for anything else."""
    if not inspect.isroutine(value):
        return ""
    parameters = inspect.signature(value).parameters.values()
    shown = [one.replace(annotation=inspect.Parameter.empty, default=Default.of(one.default)) for one in parameters]
    return str(inspect.Signature([one for one in shown if one.name != "self"]))


class Default(str):
    """A default as `default_of` shows it, without the quotes of a string."""

    __slots__ = ()

    @classmethod
    def of(cls, value: object) -> object:
        return value if value is inspect.Parameter.empty else cls(default_of(value))

    def __repr__(self) -> str:
        return str(self)


def first_line(value: object) -> str:
    return (inspect.getdoc(value) or "").partition("\n")[0]


def source_path(value: type) -> str:
    return f"../packages/core/src/{value.__module__.replace('.', '/')}.py"


if __name__ == "__main__":
    README.write_text(readme(), encoding="utf-8")
    REFERENCE.write_text(reference(), encoding="utf-8")
