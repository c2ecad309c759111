"""Everything that is checked, built or run in this workspace: ``pip install nox && nox``.

Without arguments: lint, typing, the tests on every Python and taskiq version found here, and those against real servers, with the
proofs of the engine. ``nox -l`` lists the rest.
Distributions are found by their folder (``packages/*`` and ``shared_tests``): a new backend needs no change in here.
"""

from __future__ import annotations

import os
import random
import shutil
import tarfile
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "typing", "tests", "backends", "engine", "faststream"]

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
TASKIQ = ["0.12.2", "0.12.6", "0.13.0"]

#: Each Python and each taskiq is in at least one of these. What is costly, and needs no more than that, runs in these only.
DIAGONAL = {("3.10", "0.12.2"), ("3.11", "0.12.6"), ("3.12", "0.13.0"), ("3.13", "0.13.0")}

#: Tests of code that does not know taskiq: once for each Python.
WITHOUT_TASKIQ = [
    "--ignore=packages/core/tests/triggers",
    "--ignore=shared_tests/tests",
    "--deselect=packages/core/tests/test_conformance.py::TestMemoryStore",
    "--deselect=packages/sqlite/tests/test_conformance.py::TestSQLiteStore",
]

#: What needs no server: on every Python and with every taskiq.
SERVERLESS = ["packages/core", "packages/sqlite", "tests", "shared_tests", "--ignore=tests/engine"]

#: Tests of the servers that the session `backends` starts.
OF_SERVERS = "shared_tests/tests/test_servers.py"

#: Prints which versions of PostgreSQL can be had, the preferred one first.
POSTGRES_VERSIONS = """
import contextlib
from taskiq_sources_conformance.servers import ServerUnavailable, binaries

with contextlib.suppress(ServerUnavailable):
    print(*(found.version for found in binaries.find(binaries.POSTGRES)))
"""

#: Tests wait more than they compute, so a few more workers than a small machine has cores. What shares a fixture shares a worker.
PYTEST = ["pytest", "-n", "4", "--dist", "loadscope"]

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
VERSION = (ROOT / "VERSION").read_text(encoding="utf-8").strip()
DISTRIBUTIONS = [*sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml")), ROOT / "shared_tests"]
BACKENDS = [folder.name for folder in DISTRIBUTIONS if folder.parent.name == "packages" and folder.name != "core"]

#: What `build` installs from the wheels, each into an environment of its own: extras, and what is not an extra.
INSTALLABLE = ["core", *BACKENDS, "all", "conformance"]

#: A file that cannot be seen at once is two files. The contract that backend authors read is shorter still.
MAX_LINES = 400
MAX_CONTRACT_LINES = 300

IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}

# A missing interpreter is skipped, and said to be so; in CI it is an error. Nothing is downloaded behind anybody's back.
nox.options.error_on_missing_interpreters = IN_CI
nox.options.reuse_existing_virtualenvs = not IN_CI
if hasattr(nox.options, "download_python"):  # newer versions of nox
    nox.options.download_python = "never"


# -- by default ------------------------------------------------------------------------------------------------------------------


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff (rules, format, banned calls), length of modules, consistency of the workspace."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    problems = [*long_modules(), *unequal_copies(), *unlisted_distributions()]
    if problems:
        session.error("\n".join(problems))
    session.log(f"workspace: {len(DISTRIBUTIONS)} distributions, consistent; no module over {MAX_LINES} lines")


@nox.session
def typing(session: nox.Session) -> None:
    """Strict mypy over all sources, and over the files whose only job is to be type-checked."""
    session.install(*editable(*DISTRIBUTIONS), *group("typing"))
    paths = [folder / "src" for folder in DISTRIBUTIONS]
    paths += [*ROOT.glob("packages/*/tests/typing"), *ROOT.glob("tests/typing")]
    session.run("mypy", "--strict", *session.posargs, *(str(path.relative_to(ROOT)) for path in paths))


@nox.session(python=PYTHONS)
@nox.parametrize("taskiq", TASKIQ)
def tests(session: nox.Session, taskiq: str) -> None:
    """All tests that need no server, on every Python and with every taskiq. Arguments go to pytest."""
    session.install(*editable(*DISTRIBUTIONS), *group("test"), f"taskiq=={taskiq}")
    which = [*SERVERLESS, f"--ignore={OF_SERVERS}"]
    if (session.python, taskiq) not in DIAGONAL:
        which += [*WITHOUT_TASKIQ, "-m", "not process"]
    session.run(*PYTEST, *(session.posargs or which))


@nox.session
def backends(session: nox.Session) -> None:
    """All tests against real servers, which are installed and started here. Arguments go to pytest.

    The rules of the contract are also tested on a second version of PostgreSQL, where there is one.
    """
    session.install(*editable(*DISTRIBUTIONS), *group("test"), *group("servers"))
    session.run(*PYTEST, *(session.posargs or served()))
    another = None if session.posargs else another_postgres(session)
    if another:
        session.run(*PYTEST, "packages/postgres/tests/test_conformance.py", env={"TASKIQ_SOURCES_POSTGRES_VERSION": another})


@nox.session
def engine(session: nox.Session) -> None:
    """The engine with real schedulers on every backend: killed, paused, cut off from broker and store. Arguments go to pytest."""
    session.install(*editable(*DISTRIBUTIONS), *group("test"), *group("servers"))
    session.run(*PYTEST, *(session.posargs or ["tests/engine"]))


@nox.session
def faststream(session: nox.Session) -> None:
    """The engine under taskiq-faststream's scheduler, which needs an older taskiq: an environment of its own."""
    session.install(*editable(*DISTRIBUTIONS), *group("test"), *group("servers"), "taskiq-faststream>=0.4.1", "faststream[redis]")
    session.run("python", "-c", "import taskiq_faststream")  # without it the test would be skipped
    session.run(*PYTEST, "-n", "0", *(session.posargs or ["tests/engine/test_faststream.py"]))


# -- on request ------------------------------------------------------------------------------------------------------------------


@nox.session
def conformance(session: nox.Session) -> None:
    """The conformance suite, for one backend alone: nox -s conformance -- --backend redis."""
    session.install(*editable(*DISTRIBUTIONS), *group("test"), *group("servers"))
    files = [str(path.relative_to(ROOT)) for path in ROOT.glob("packages/*/tests/test_conformance.py")]
    session.run(*PYTEST, *files, *session.posargs)


@nox.session
def races(session: nox.Session) -> None:
    """The tests of random orders with orders of their own: ``nox -s races -- 5000-9000``, without a range 2,000 by chance."""
    session.install(*editable(*DISTRIBUTIONS), *group("test"))
    first = random.randrange(10**9)
    seeds = session.posargs[0] if session.posargs else "1000-2000" if IN_CI else f"{first}-{first + 2_000}"
    session.log(f"seeds: {seeds}")
    session.run(
        *PYTEST,
        "--dist",
        "worksteal",
        "packages/core/tests/test_declaring.py",
        "packages/core/tests/test_walks.py",
        env={"TASKIQ_SOURCES_SEEDS": seeds},
    )


@nox.session(python="3.10", reuse_venv=False)
def min_versions(session: nox.Session) -> None:
    """Core and SQLite with the lowest version of every direct dependency, on the lowest Python. Arguments go to pytest."""
    lowest = [pin for folder in DISTRIBUTIONS for pin in lowest_versions(folder)]
    session.install(*editable(*DISTRIBUTIONS), *group("test"), *lowest)
    if session.posargs:
        session.run(*PYTEST, *session.posargs)
        return
    session.run(*PYTEST, "packages/core", "packages/sqlite", "--ignore=packages/core/tests/triggers")


@nox.session
def build(session: nox.Session) -> None:
    """Build every distribution, look into the archives, and install each extra from them into an empty environment."""
    session.install("build", "hatchling")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    for folder in DISTRIBUTIONS:
        # Builds the wheel from the unpacked source distribution, which so is proved to be complete.
        session.run("python", "-m", "build", "--no-isolation", "--outdir", "dist", str(folder), silent=True)
    problems = [problem for folder in DISTRIBUTIONS for problem in wrong_archives(folder)]
    if f"## [{VERSION}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        problems.append(f"CHANGELOG.md: no section for {VERSION}")
    if problems:
        session.error("\n".join(problems))
    for what in INSTALLABLE:
        session.notify(f"installed(what={what!r})")


@nox.session(default=False, reuse_venv=False)
@nox.parametrize("what", INSTALLABLE)
def installed(session: nox.Session, what: str) -> None:
    """Install what `build` built, as users will, and import it. Part of `build`."""
    names = {"core": [], "all": BACKENDS}.get(what, [what])
    modules = ["taskiq_sources", *(f"taskiq_sources_{name}" for name in names)]
    # By their paths: what is found by its name and version may come out of a cache, as it was built some other time.
    core, *others = (f"{ROOT / 'dist' / module}-{VERSION}-py3-none-any.whl" for module in modules)
    extra = "" if what in ("core", "conformance") else f"[{what}]"
    session.install(core + extra, *others)
    session.chdir(session.create_tmp())  # away from the sources
    for module in modules:
        session.run("python", "-I", "-c", IMPORT_CHECK, module, VERSION)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demonstration."""
    session.install(*editable(ROOT / "packages/core", ROOT / "packages/sqlite"))
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks. Arguments go to them."""
    session.install(*editable(*DISTRIBUTIONS), *group("servers"), *group("bench"))
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session(venv_backend="virtualenv")
def dev(session: nox.Session) -> None:
    """Make .venv, with everything that work on this project needs."""
    session.install("virtualenv")
    session.run("virtualenv", "--quiet", ".venv")
    python = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    session.run(str(python), "-m", "pip", "install", "--quiet", *editable(*DISTRIBUTIONS), *group("dev"), external=True)
    session.log("Ready. Activate .venv, then run: pytest")


# -- what is installed -----------------------------------------------------------------------------------------------------------


def served() -> list[str]:
    """Return the tests of the backends that need a server, and of the servers."""
    return [*(f"packages/{name}" for name in BACKENDS if name != "sqlite"), OF_SERVERS]


def another_postgres(session: nox.Session) -> str | None:
    """Return the newest major version of PostgreSQL that can be had here besides the preferred one; None if there is none."""
    if os.environ.get("TASKIQ_SOURCES_POSTGRES_URL"):
        return None
    listed = session.run("python", "-c", POSTGRES_VERSIONS, silent=True)
    majors = [version.partition(".")[0] for version in str(listed).split()]
    return max((major for major in majors if major != majors[0]), key=int, default=None)


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, name))


def editable(*folders: Path) -> list[str]:
    """Return the arguments that install the distributions in `folders` from where they are, with what is optional in them."""
    arguments = []
    for folder in folders:
        extras = ",".join(sorted(optional_dependencies(folder)))
        arguments += ["-e", f"{folder}[{extras}]" if extras else f"{folder}"]
    return arguments


def lowest_versions(folder: Path) -> list[str]:
    """Return a pin to the lower bound of each dependency of the distribution in `folder`, siblings left out."""
    texts = [*build_metadata(folder)["dependencies"], *chain.from_iterable(optional_dependencies(folder).values())]
    requirements = [Requirement(text) for text in texts if "{version}" not in text]
    return [
        f"{requirement.name}=={specifier.version}"
        for requirement in requirements
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]


def optional_dependencies(folder: Path) -> dict[str, list[str]]:
    """Return the extras of the distribution in `folder`, but for those that stand for siblings."""
    extras = build_metadata(folder).get("optional-dependencies", {})
    return {extra: texts for extra, texts in extras.items() if not any("{version}" in text for text in texts)}


def build_metadata(folder: Path) -> dict[str, Any]:
    """Return what hatch_build.py makes the metadata of the distribution in `folder` from."""
    metadata: dict[str, Any] = nox.project.load_toml(folder / "pyproject.toml")["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    return metadata


# -- what is checked -------------------------------------------------------------------------------------------------------------

IMPORT_CHECK = """
import importlib, importlib.metadata, sys

module, version = sys.argv[1:]
distribution = module.replace("_", "-")
assert importlib.import_module(module).__file__, "an empty folder"
assert importlib.metadata.version(distribution) == version, importlib.metadata.version(distribution)
entry_points = importlib.metadata.distribution(distribution).entry_points
for entry_point in entry_points:
    entry_point.load()
print(f"{distribution} {version}: imported; entry points: {', '.join(point.name for point in entry_points)}")
"""


def long_modules() -> list[str]:
    """Return a line for each source file that is too long."""
    problems = []
    for path in sorted(path for folder in DISTRIBUTIONS for path in (folder / "src").rglob("*.py")):
        limit = MAX_CONTRACT_LINES if path.match("taskiq_sources/store.py") else MAX_LINES
        length = len(path.read_text(encoding="utf-8").splitlines())
        if length > limit:
            problems.append(f"{path.relative_to(ROOT)}: {length} lines, {limit} are the limit: make it two modules")
    return problems


def unequal_copies() -> list[str]:
    """Return a line for each distribution whose copy of a shared file differs from the original."""
    originals = {"LICENSE": ROOT / "LICENSE", "hatch_build.py": ROOT / "packages/core/hatch_build.py"}
    return [
        f"{(folder / name).relative_to(ROOT)} is not equal to {original.relative_to(ROOT)}: copy it again"
        for folder in DISTRIBUTIONS
        for name, original in originals.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != original.read_bytes()
    ]


def unlisted_distributions() -> list[str]:
    """Return a line for each distribution that the configuration of mypy or coverage has not been told of."""
    tools = PROJECT["tool"]
    problems = []
    for folder in DISTRIBUTIONS:
        if f"$MYPY_CONFIG_FILE_DIR/{folder.relative_to(ROOT).as_posix()}/src" not in tools["mypy"]["mypy_path"]:
            problems.append(f"pyproject.toml: tool.mypy.mypy_path lacks {folder.relative_to(ROOT)}/src")
        if package_of(folder) not in tools["coverage"]["run"]["source_pkgs"]:
            problems.append(f"pyproject.toml: tool.coverage.run.source_pkgs lacks {package_of(folder)}")
    return problems


def wrong_archives(folder: Path) -> list[str]:
    """Return a line for each thing that is missing from, or does not belong into, what was built from `folder`."""
    package = package_of(folder)
    source_files = {path.relative_to(folder / "src").as_posix() for path in (folder / "src").rglob("*") if shipped(path)}
    info = f"{package}-{VERSION}.dist-info"
    about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    with zipfile.ZipFile(ROOT / f"dist/{package}-{VERSION}-py3-none-any.whl") as wheel:
        in_wheel = set(wheel.namelist())
    expected = source_files | about
    problems = [f"{package} wheel: {name} is missing" for name in sorted(expected - in_wheel)]
    problems += [f"{package} wheel: {name} does not belong there" for name in sorted(in_wheel - expected)]
    if f"{package}/py.typed" not in in_wheel:
        problems.append(f"{package} wheel: py.typed is missing")

    top = f"{package}-{VERSION}"
    with tarfile.open(ROOT / f"dist/{top}.tar.gz") as sdist:
        in_sdist = set(sdist.getnames())
    wanted = {f"src/{name}" for name in source_files} | {"LICENSE", "README.md", "PKG-INFO", "pyproject.toml", "hatch_build.py"}
    problems += [f"{package} sdist: {name} is missing" for name in sorted(wanted) if f"{top}/{name}" not in in_sdist]
    return problems


def package_of(folder: Path) -> str:
    """Return the import name of the distribution in `folder`."""
    [package] = [path.name for path in (folder / "src").iterdir() if path.is_dir() and path.name.isidentifier()]
    return package


def shipped(path: Path) -> bool:
    """Return whether `path` is a file that belongs into a wheel."""
    return path.is_file() and "__pycache__" not in path.parts and path.suffix not in {".pyc", ".pyo"}
