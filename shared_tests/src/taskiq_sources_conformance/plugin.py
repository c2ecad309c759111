"""The pytest plugin: the ``--backend`` option and one summary line for each backend.

It works from test reports alone, which pytest-xdist carries from its workers to the controller. What a backend is, and which
rules it keeps, is not known here.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from dataclasses import dataclass, field

import pytest

from taskiq_sources_conformance.base import Conformance, override_reason

#: Names of the report properties that carry the facts from where a test runs to where the summary is printed.
BACKEND = "conformance_backend"
VERSION = "conformance_version"
OVERRIDE = "conformance_override"

_WORST_LAST = ("skipped", "passed", "xfailed", "failed")
_PLUGIN_NAME = "taskiq-sources-conformance-summary"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--backend``."""
    parser.getgroup("taskiq-sources").addoption(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help="run only the conformance classes of this backend (repeatable); fail if it cannot be run",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the summary and the marker of anyio, which a strict configuration may not know yet."""
    config.addinivalue_line("markers", "anyio: run the coroutine test with anyio")
    config.pluginmanager.register(_Summary(config.getoption("--backend")), _PLUGIN_NAME)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let the workers of pytest-xdist share servers for tests: this process starts one when the first worker asks for it."""
    if session.config.pluginmanager.hasplugin("dsession"):
        from taskiq_sources_conformance.servers.session import share

        share()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Note on each rule whose it is."""
    backend = _backend_of(item)
    if backend is None:
        return
    item.user_properties.append((BACKEND, backend))
    reason = override_reason(getattr(item, "function", None))
    if reason is not None:
        item.user_properties.append((OVERRIDE, f"{getattr(item, 'originalname', item.name)}: {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with each rule that fails what it says and where to look, however short the traceback is to be."""
    report = yield
    if report.failed and _backend_of(item) is not None and (rule := getattr(item, "function", None)):
        report.sections.append(("The rule", inspect.getdoc(rule) or rule.__name__))
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--backend``, keep the conformance classes of those backends only."""
    wanted = config.getoption("--backend")
    if not wanted:
        return
    kept = [item for item in items if _backend_of(item) in wanted]
    dropped = [item for item in items if _backend_of(item) not in wanted]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def _backend_of(item: pytest.Item) -> str | None:
    cls = getattr(item, "cls", None)
    if not isinstance(cls, type) or not issubclass(cls, Conformance):
        return None
    return getattr(cls, "backend", None) or cls.__name__


@dataclass
class _Tally:
    """What is known of one backend."""

    outcomes: dict[str, str] = field(default_factory=dict)  # node id -> the worst outcome of its phases
    versions: set[str] = field(default_factory=set)
    skip_reasons: list[str] = field(default_factory=list)
    overrides: set[str] = field(default_factory=set)

    def add(self, node_id: str, outcome: str) -> None:
        known = self.outcomes.get(node_id)
        if known is None or _WORST_LAST.index(outcome) > _WORST_LAST.index(known):
            self.outcomes[node_id] = outcome

    def count(self, outcome: str) -> int:
        return sum(1 for found in self.outcomes.values() if found == outcome)

    @property
    def ran(self) -> bool:
        return any(outcome != "skipped" for outcome in self.outcomes.values())


class _Summary:
    """Counts the reports of conformance classes, and prints a line for each backend."""

    def __init__(self, wanted: list[str]) -> None:
        self._wanted = wanted
        self._tallies: dict[str, _Tally] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        facts = [(name, str(value)) for name, value in report.user_properties]
        backend = dict(facts).get(BACKEND)
        if backend is None:
            return
        tally = self._tallies.setdefault(backend, _Tally())
        tally.versions.update(value for name, value in facts if name == VERSION)
        tally.overrides.update(value for name, value in facts if name == OVERRIDE)
        if report.skipped and hasattr(report, "wasxfail"):
            tally.add(report.nodeid, "xfailed")
        elif report.skipped:
            tally.add(report.nodeid, "skipped")
            if isinstance(report.longrepr, tuple):
                tally.skip_reasons.append(str(report.longrepr[2]).removeprefix("Skipped: "))
        elif report.failed or report.when == "call":
            tally.add(report.nodeid, report.outcome)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that asked for a backend and did not get it: silence is not success."""
        on_worker = hasattr(session.config, "workerinput")
        if not on_worker and not session.config.option.collectonly and any(not self._ran(name) for name in self._wanted):
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        names = sorted({*self._tallies, *self._wanted})
        if not names or terminalreporter.config.option.collectonly:
            return
        terminalreporter.section("conformance")
        for name in names:
            terminalreporter.line(self._line(name))
            for override in sorted(self._tallies.get(name, _Tally()).overrides):
                terminalreporter.line(f"  {name} overrides {override}")

    def _ran(self, name: str) -> bool:
        return name in self._tallies and self._tallies[name].ran

    def _line(self, name: str) -> str:
        if not self._ran(name):
            reasons = self._tallies[name].skip_reasons if name in self._tallies else []
            # A backend whose server cannot be had skips every test for one reason; the odd undeclared capability is not it.
            reason = max(reasons, key=reasons.count) if reasons else "no conformance class of this backend was collected"
            return f"conformance: {name}: not run ({reason})"
        tally = self._tallies[name]
        title = " ".join([name, ", ".join(sorted(tally.versions))]).strip()
        counts = [f"{tally.count('passed')} passed"]
        counts += [f"{tally.count(word)} {word}" for word in ("skipped", "xfailed", "failed") if tally.count(word)]
        return f"conformance: {title}: {', '.join(counts)}"
