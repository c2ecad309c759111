"""The suite catches what it is there to catch: each broken store fails the rules that name its defect, the intact one none."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

BROKEN = Path(__file__).with_name("broken")
MACHINE = "test_state_machine"
SOUND = "sound"
BETWEEN_PROCESSES = "files"
Outcome = dict[str, set[str]]  # "passed", "failure", "error" or "skipped" -> names of rules


def load(name: str) -> dict[str, Any]:
    """Return the defects in a module of the folder, which is no package: pytest of this session is not to collect it."""
    sys.path.insert(0, str(BROKEN))
    try:
        return dict(importlib.import_module(name).DEFECTS)
    finally:
        sys.path.remove(str(BROKEN))


HOMES = {defect: name for name in ("dispatch", "storage", "promises", BETWEEN_PROCESSES) for defect in load(name)}
DEFECTS = {defect: load(name)[defect] for defect, name in HOMES.items()}
HOMES |= {"IntactStore": SOUND, "FileStore": BETWEEN_PROCESSES}
MACHINE_CATCHES = [name for name, store in DEFECTS.items() if store.caught_by_machine]
RULES = sorted({rule for name, store in DEFECTS.items() for rule in store.caught_by if HOMES[name] != BETWEEN_PROCESSES})
PROCESS_RULES = sorted({rule for name, store in DEFECTS.items() for rule in store.caught_by} - {*RULES})


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """Tell which rules passed, failed and erred on a store, from one run over each module, in a pytest of its own."""

    @cache
    def run(home: str) -> dict[str, Outcome]:
        directory = tmp_path_factory.mktemp(home)
        (directory / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\npythonpath = '{BROKEN}'\n")
        options = [
            "-q",
            "--tb=line",
            "-p",
            "no:cacheprovider",
            "--import-mode=importlib",
            "--junitxml=report.xml",
            "-c",
            "pytest.ini",
        ]
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *(f"{BROKEN / home}.py::{test}" for test in chosen_in(home))],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        expected = pytest.ExitCode.OK if home == SOUND else pytest.ExitCode.TESTS_FAILED
        assert ran.returncode == expected, ran.stdout[-3000:] + ran.stderr[-3000:]
        return read_report(directory / "report.xml")

    return lambda store: run(HOMES[store])[store]


def chosen_in(home: str) -> list[str]:
    if home == SOUND:
        return [f"TestIntactStore::{rule}" for rule in [*RULES, MACHINE]]
    stores = {name: store for name, store in DEFECTS.items() if HOMES[name] == home}
    named = [f"Test{name}::{rule}" for name, store in stores.items() for rule in store.caught_by]
    if home == BETWEEN_PROCESSES:
        named += [f"TestFileStore::{rule}" for rule in PROCESS_RULES]
    return named + [f"Test{name}::{MACHINE}" for name, store in stores.items() if store.caught_by_machine]


def read_report(path: Path) -> dict[str, Outcome]:
    found: dict[str, Outcome] = defaultdict(lambda: defaultdict(set))
    for case in ET.parse(path).iter("testcase"):
        store = case.attrib["classname"].rpartition(".Test")[2]
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"} or {"passed"}
        for kind in kinds:
            found[store][kind].add(case.attrib["name"].partition("[")[0])
    return found


def test_there_are_enough_kinds_of_defects() -> None:
    assert len(DEFECTS) >= 40


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_fails_the_rules_that_name_it(outcomes: Callable[[str], Outcome], defect: str) -> None:
    missed = set(DEFECTS[defect].caught_by) - outcomes(defect)["failure"]

    assert missed == set(), f"{DEFECTS[defect].__doc__} {sorted(missed)} did not notice"
    assert outcomes(defect)["error"] == set()


@pytest.mark.parametrize("defect", MACHINE_CATCHES)
def test_the_state_machine_finds_a_defect_by_itself(outcomes: Callable[[str], Outcome], defect: str) -> None:
    assert MACHINE in outcomes(defect)["failure"]


def test_the_intact_store_passes_the_same_rules(outcomes: Callable[[str], Outcome]) -> None:
    # The one rule about what is not declared is skipped, since this store declares everything.
    undeclared = {"test_push_is_refused_where_not_declared"}

    assert outcomes("IntactStore") == {"passed": {*RULES, MACHINE} - undeclared, "skipped": undeclared}


def test_a_sound_store_passes_the_rules_about_processes(outcomes: Callable[[str], Outcome]) -> None:
    assert len(PROCESS_RULES) == 4
    assert outcomes("FileStore") == {"passed": {*PROCESS_RULES}}
