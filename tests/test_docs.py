"""What the documentation says is so: its Python runs, its links lead somewhere, its tables are those of the code."""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.util
import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import taskiq_sources
from taskiq_sources import ScheduleOptions

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("packages/*/README.md"))]
PAGES_WITH_PYTHON = [page for page in PAGES if "```python\n" in page.read_text(encoding="utf-8")]

_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"# (?P<module>\w+)\.py\n")
_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)", re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# -- Python ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, from which the modules that a page names can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for module in set(sys.modules) - before:
        if module == "docs_page" or str(tmp_path) in str(getattr(sys.modules[module], "__file__", None)):
            del sys.modules[module]


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=name_of)
def test_every_python_block_runs(page: Path, directory: Path) -> None:
    """The Python blocks of a page run, one after the other, in one namespace and one event loop."""
    asyncio.run(run_page(page, directory))


async def run_page(page: Path, directory: Path) -> None:
    module = ModuleType("docs_page")
    sys.modules[module.__name__] = module  # taskiq looks up where a task was defined
    namespace = vars(module)
    for line, code in blocks(page):
        named = _FILE_NAME.match(code)
        if named is not None:  # a file that later blocks, and the reader's shell, use by its name
            (directory / f"{named['module']}.py").write_text(code, encoding="utf-8")
            namespace.update({**vars(importlib.import_module(named["module"])), "__name__": module.__name__})
            continue
        # Lines are counted as in the page, so that a traceback points into it.
        compiled = compile("\n" * (line - 1) + code, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(compiled, namespace)  # the documentation of this repository, and nothing else
        if inspect.isawaitable(result):
            await result


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        yield text.count("\n", 0, match.start("code")) + 1, match["code"]


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="stops the schedulers with SIGTERM")
def test_the_quick_start_runs_with_two_schedulers(directory: Path) -> None:
    """The first block of the README, saved and run as it says, greets once for each occurrence, from one of two schedulers."""
    _, code = next(blocks(ROOT / "README.md"))
    (directory / "app.py").write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    subprocess.run([sys.executable, "app.py"], check=True, timeout=60, env=environment)

    outputs = [directory / f"{number}.txt" for number in range(2)]
    command = [sys.executable, "-m", "taskiq", "scheduler", "app:scheduler"]
    schedulers = []
    try:
        for output in outputs:
            with output.open("wb") as stdout:
                schedulers.append(subprocess.Popen(command, stdout=stdout, stderr=subprocess.STDOUT, env=environment))
        deadline = time.monotonic() + 60
        greeted = settled = 0
        # A greeting comes before its row: only once both agree is every occurrence settled, and a scheduler may be told to stop.
        while not greeted == settled >= 3 and time.monotonic() < deadline:
            time.sleep(0.1)
            settled = len(asyncio.run(history(directory / "schedules.db")))
            greeted = greetings(outputs)
    finally:
        for scheduler in schedulers:
            scheduler.send_signal(signal.SIGTERM)
        for scheduler in schedulers:
            scheduler.wait(timeout=20)

    assert greeted == settled >= 3, "\n".join(output.read_text() for output in outputs)


def greetings(outputs: list[Path]) -> int:
    return sum(output.read_text(encoding="utf-8").count("Hello, world!") for output in outputs)


async def history(path: Path) -> list[taskiq_sources.Run]:
    source = taskiq_sources.source_from_url(f"sqlite:///{path}")
    rows = [run async for run in source.runs("hello")]
    await source.shutdown()
    return rows


# -- links -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_or_a_heading(page: Path) -> None:
    """Links inside the repository name files that exist, headings that exist, and tests that exist in the file they name."""
    problems = []
    for match in _LINK.finditer(page.read_text(encoding="utf-8")):
        target, _, anchor = match["target"].partition("#")
        if target.startswith(("http:", "https:")):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists():
            problems.append(f"{match['target']}: there is no such file")
        elif anchor and anchor not in anchors(path):
            problems.append(f"{match['target']}: there is no such heading")
        elif match["text"].startswith("`test_") and f"def {match['text'].strip('`')}(" not in path.read_text(encoding="utf-8"):
            problems.append(f"{match['target']}: there is no {match['text']} in it")

    assert not problems


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_page_can_be_reached() -> None:
    """Every page under ``docs`` is listed in its table of contents."""
    contents = ROOT / "docs/README.md"
    listed = {(contents.parent / match["target"]).resolve() for match in _LINK.finditer(contents.read_text(encoding="utf-8"))}

    assert {name_of(page) for page in ROOT.glob("docs/**/*.md") if page != contents and page not in listed} == set()


# -- what is taken from the code ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_backends_is_what_they_declare(generate: ModuleType) -> None:
    """The README's table has a row for each installed backend, with its declared capabilities. (Run docs/generate.py.)"""
    assert (ROOT / "README.md").read_text(encoding="utf-8") == generate.readme()


def test_the_reference_lists_all_public_names(generate: ModuleType) -> None:
    """The reference has every public name with the first line of its docstring. (Run docs/generate.py.)"""
    assert (ROOT / "docs/reference.md").read_text(encoding="utf-8") == generate.reference()


def test_every_option_is_in_the_readme_with_its_default() -> None:
    """The README's table of options has every field of `ScheduleOptions`, and no other, with its default."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Options\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| `(.+?)` \|", section, re.MULTILINE)
    documented = {field.strip("`"): default.strip('"') for fields, default in rows for field in fields.split(", ")}
    defaults = {name: field.default for name, field in ScheduleOptions.model_fields.items()}

    assert documented == {name: "0" if name == "jitter" else str(default) for name, default in defaults.items()}
