"""The plugin: one honest line for each backend, whatever happened to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import takewhile
from typing import TypeAlias

import pytest

pytest_plugins = ["pytester"]

# A suite of three rules: the plugin knows nothing of what rules are about.
SUITE = """
import pytest
from taskiq_sources_conformance.base import Conformance, overrides_rule

class Rules(Conformance):
    def test_one(self): ...
    async def test_two(self, version): ...

    @pytest.fixture
    async def version(self, request):
        if self.server_version:
            request.node.user_properties.append(("conformance_version", self.server_version))

    server_version = None
"""
GUARDS = 2  # rules that Conformance itself has


RunPytest: TypeAlias = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> RunPytest:
    def run_pytest(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_backends=SUITE + source)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-W", "error", *arguments)

    return run_pytest


def summary(result: pytest.RunResult) -> list[str]:
    """Return the lines of the section that the plugin prints."""
    lines = iter(result.outlines)
    for line in lines:
        if set(line.replace(" conformance ", "")) == {"="} and " conformance " in line:
            return list(takewhile(lambda text: text and not text.startswith("="), lines))
    return []


def test_a_backend_that_passes(run: RunPytest) -> None:
    result = run("class TestA(Rules):\n    backend = 'sqlite'\n    server_version = '3.45.1'")

    assert summary(result) == [f"conformance: sqlite 3.45.1: {2 + GUARDS} passed"]
    assert result.ret == pytest.ExitCode.OK


def test_a_backend_without_a_version(run: RunPytest) -> None:
    result = run("class TestA(Rules):\n    backend = 'memory'")

    assert summary(result) == [f"conformance: memory: {2 + GUARDS} passed"]


def test_skips_and_failures_are_counted(run: RunPytest) -> None:
    result = run(
        """
class TestA(Rules):
    backend = 'redis'
    server_version = '7.2'
    def test_more(self): pytest.skip('no capability')
    def test_wrong(self): assert 1 == 2
    @pytest.fixture
    def broken(self): raise RuntimeError
    def test_error_in_setup(self, broken): ...
    @pytest.fixture
    def untidy(self):
        yield
        raise RuntimeError
    def test_error_in_teardown(self, untidy): ...
    @pytest.mark.xfail
    def test_known(self): assert 1 == 2
"""
    )

    assert summary(result) == [f"conformance: redis 7.2: {2 + GUARDS} passed, 1 skipped, 1 xfailed, 3 failed"]
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_rule_that_fails_says_what_it_is_however_short_the_traceback(run: RunPytest) -> None:
    rule = "    def test_wrong(self):\n        '''One is two. (Look at both.)'''\n        assert 1 == 2"

    result = run(f"class TestA(Rules):\n{rule}", "--tb=short")

    assert "One is two. (Look at both.)" in result.outlines


def test_a_backend_that_cannot_be_had_is_not_run(run: RunPytest) -> None:
    result = run(
        """
class Away(Rules):
    @pytest.fixture(autouse=True)
    def server(self): pytest.skip('no redis-server on this machine')

class TestA(Away):
    backend = 'redis'
"""
    )

    assert summary(result) == ["conformance: redis: not run (no redis-server on this machine)"]


def test_backends_are_listed_by_name(run: RunPytest) -> None:
    result = run(
        """
class TestB(Rules):
    backend = 'sqlite'
class TestA(Rules):
    backend = 'memory'
class TestC(Rules):
    backend = 'sqlite'
"""
    )

    assert summary(result) == [
        f"conformance: memory: {2 + GUARDS} passed",
        f"conformance: sqlite: {2 * (2 + GUARDS)} passed",
    ]


def test_overridden_rules_are_shown(run: RunPytest) -> None:
    result = run(
        """
class TestA(Rules):
    backend = 'sqlite'
    @overrides_rule('it counts in seconds')
    def test_one(self): pytest.skip('seconds')
"""
    )

    assert summary(result) == [
        f"conformance: sqlite: {1 + GUARDS} passed, 1 skipped",
        "  sqlite overrides test_one: it counts in seconds",
    ]


def test_a_weakened_rule_fails_the_run(run: RunPytest) -> None:
    result = run("class TestA(Rules):\n    backend = 'sqlite'\n    test_the_class_names_its_backend = None")

    assert summary(result) == ["conformance: sqlite: 2 passed, 1 failed"]
    result.stdout.fnmatch_lines(["*test_the_class_names_its_backend was deleted without a reason*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


OTHERS = """
class TestA(Rules):
    backend = 'memory'
class TestB(Rules):
    backend = 'sqlite'
def test_of_something_else(): raise RuntimeError
"""


def test_one_backend_can_be_chosen(run: RunPytest) -> None:
    result = run(OTHERS, "--backend", "sqlite")

    assert summary(result) == [f"conformance: sqlite: {2 + GUARDS} passed"]
    assert result.ret == pytest.ExitCode.OK


def test_several_backends_can_be_chosen(run: RunPytest) -> None:
    result = run(OTHERS, "--backend", "sqlite", "--backend", "memory")

    assert len(summary(result)) == 2


def test_a_chosen_backend_that_is_not_there_fails_the_run(run: RunPytest) -> None:
    result = run(OTHERS, "--backend", "oracle", "--backend", "memory")

    assert summary(result) == [
        f"conformance: memory: {2 + GUARDS} passed",
        "conformance: oracle: not run (no conformance class of this backend was collected)",
    ]
    assert result.ret != pytest.ExitCode.OK


def test_a_chosen_backend_that_is_skipped_fails_the_run(run: RunPytest) -> None:
    result = run(
        """
class TestA(Rules):
    backend = 'redis'
    @pytest.fixture(autouse=True)
    def server(self): pytest.skip('no server')
""",
        "--backend",
        "redis",
    )

    assert summary(result) == ["conformance: redis: not run (no server)"]
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_the_summary_is_the_same_under_xdist(run: RunPytest) -> None:
    pytest.importorskip("xdist")
    result = run(
        """
class TestA(Rules):
    backend = 'memory'
    server_version = '1.0'
    def test_more(self): pytest.skip('no capability')
    @overrides_rule('it is told so')
    def test_one(self): assert 1 == 2
class TestB(Rules):
    backend = 'redis'
    @pytest.fixture(autouse=True)
    def server(self): pytest.skip('no server')
class TestC(Rules):
    backend = 'not wanted'
""",
        *("-n", "2", "--backend", "memory", "--backend", "redis", "--backend", "oracle"),
    )

    assert summary(result) == [
        f"conformance: memory 1.0: {1 + GUARDS} passed, 1 skipped, 1 failed",
        "  memory overrides test_one: it is told so",
        "conformance: oracle: not run (no conformance class of this backend was collected)",
        "conformance: redis: not run (no server)",
    ]
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_not_run_fails_the_run_under_xdist(run: RunPytest) -> None:
    pytest.importorskip("xdist")
    result = run("class TestA(Rules):\n    backend = 'memory'", "-n", "2", "--backend", "memory", "--backend", "oracle")

    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_collection_has_no_summary(run: RunPytest) -> None:
    result = run("class TestA(Rules):\n    backend = 'memory'", "--collect-only", "--backend", "memory")

    assert summary(result) == []
    assert result.ret == pytest.ExitCode.OK


def test_sessions_without_conformance_classes_have_no_summary(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_x="def test_x(): ...")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-W", "error")

    assert summary(result) == []
    assert result.ret == pytest.ExitCode.OK


def test_the_plugin_imports_neither_hypothesis_nor_the_project() -> None:
    program = "import sys, taskiq_sources_conformance.plugin as p; print({'hypothesis', 'taskiq_sources'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert ran.stdout.strip() == "set()"
