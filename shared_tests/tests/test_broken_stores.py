"""The suite catches what it is there to catch: each broken store fails the rules that name its defect, the intact one none."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree as ET

import pytest

BROKEN_STORES = Path(__file__).with_name("broken_stores.py")
MACHINE = "test_state_machine"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DEFECTS: dict[str, Any] = load(BROKEN_STORES).DEFECTS
MACHINE_CATCHES = [name for name, store in DEFECTS.items() if store.caught_by_machine]
RULES = sorted({rule for store in DEFECTS.values() for rule in store.caught_by})

Outcomes = dict[str, dict[str, set[str]]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Which rules passed, failed and erred on which store, from one run over all of them in a pytest of its own."""
    directory = tmp_path_factory.mktemp("broken")
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    chosen = [f"{BROKEN_STORES}::Test{name}::{rule}" for name, store in DEFECTS.items() for rule in store.caught_by]
    chosen += [f"{BROKEN_STORES}::Test{name}::{MACHINE}" for name in MACHINE_CATCHES]
    chosen += [f"{BROKEN_STORES}::TestIntactStore::{rule}" for rule in [*RULES, MACHINE]]
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
