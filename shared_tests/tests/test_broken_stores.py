"""The suite catches what it is there to catch: each broken store fails the rules that name its defect, the intact one none."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

BROKEN = Path(__file__).with_name("broken")
MACHINE = "test_state_machine"
Outcomes = dict[str, dict[str, set[str]]]


def load(name: str) -> dict[str, Any]:
    """Return the defects in a module of the folder, which is no package: pytest of this session is not to collect it."""
    sys.path.insert(0, str(BROKEN))
    try:
        return dict(importlib.import_module(name).DEFECTS)
    finally:
        sys.path.remove(str(BROKEN))


HOMES = {defect: name for name in ("dispatch", "storage", "promises") for defect in load(name)}
DEFECTS = {defect: load(name)[defect] for defect, name in HOMES.items()}
MACHINE_CATCHES = [name for name, store in DEFECTS.items() if store.caught_by_machine]
RULES = sorted({rule for store in DEFECTS.values() for rule in store.caught_by})


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Which rules passed, failed and erred on which store, from one run over all of them in a pytest of its own."""
    directory = tmp_path_factory.mktemp("broken")
    (directory / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\npythonpath = '{BROKEN}'\n")
    chosen = [f"{BROKEN / HOMES[name]}.py::Test{name}::{rule}" for name, store in DEFECTS.items() for rule in store.caught_by]
    chosen += [f"{BROKEN / HOMES[name]}.py::Test{name}::{MACHINE}" for name in MACHINE_CATCHES]
    chosen += [f"{BROKEN}/sound.py::TestIntactStore::{rule}" for rule in [*RULES, MACHINE]]
    arguments = [
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
        [sys.executable, "-m", "pytest", *arguments, *chosen],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout[-3000:] + ran.stderr[-3000:]
    found: Outcomes = defaultdict(lambda: defaultdict(set))
    for case in ET.parse(directory / "report.xml").iter("testcase"):
        store = case.attrib["classname"].rpartition(".Test")[2]
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"} or {"passed"}
        for kind in kinds:
            found[store][kind].add(case.attrib["name"].partition("[")[0])
    return found


def test_there_are_enough_kinds_of_defects() -> None:
    assert len(DEFECTS) >= 40


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_fails_the_rules_that_name_it(outcomes: Outcomes, defect: str) -> None:
    missed = set(DEFECTS[defect].caught_by) - outcomes[defect]["failure"]

    assert missed == set(), f"{DEFECTS[defect].__doc__} {sorted(missed)} did not notice"
    assert outcomes[defect]["error"] == set()


@pytest.mark.parametrize("defect", MACHINE_CATCHES)
def test_the_state_machine_finds_a_defect_by_itself(outcomes: Outcomes, defect: str) -> None:
    assert MACHINE in outcomes[defect]["failure"]


def test_the_intact_store_passes_the_same_rules(outcomes: Outcomes) -> None:
    # Rules of the undeclared: skipped where the capability is declared.
    assert outcomes["IntactStore"]["skipped"] == {"test_push_is_refused_where_not_declared"}
    assert outcomes["IntactStore"]["failure"] == set()
    assert outcomes["IntactStore"]["error"] == set()
    assert outcomes["IntactStore"]["passed"] >= {*RULES, MACHINE} - outcomes["IntactStore"]["skipped"]
