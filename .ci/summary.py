"""Reads what the jobs of ``.ci/run`` left behind, prints it, and counts: the last line is ``N passed, N failed``.

A session that runs pytest counts with its tests, any other session as one. What should be there and is not counts as failed: a
session without a summary of pytest, a job that ended early, a backend without a conformance run.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Sessions that are nothing but a pytest run.
PYTEST_SESSIONS = re.compile(r"^(tests-|backends|engine|faststream|races|min_versions|conformance)")

SESSION_STARTS = re.compile(r"^nox > Running session (?P<name>.+)$")
PYTEST_SUMMARY = re.compile(r"^=+ (?P<counts>\d+ \w+.*) in [\d.]+s.*=+$")
CONFORMANCE = re.compile(r"^conformance: (?P<backend>[^:\s]+)(?: [^:]+)?: (?P<passed>\d+) passed(?P<rest>.*)$")
TAIL = 15


@dataclass
class Session:
    """What one nox session did."""

    name: str
    succeeded: bool
    lines: list[str]
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    problems: list[str] = field(default_factory=list)


def main() -> int:
    """Print the report and return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("logs", type=Path)
    parser.add_argument("--expect", nargs="+", required=True, help="PREFIX=BACKEND,...: what sessions of that name have to run")
    arguments = parser.parse_args()

    sessions = []
    problems = []
    for code_file in sorted(arguments.logs.glob("*.code")):
        job = code_file.stem
        found = list(sessions_of(arguments.logs, job))
        sessions += found
        code = int(code_file.read_text())
        if code != 0 and all(session.succeeded for session in found):
            problems.append(f"job {job}: nox ended with exit code {code} without naming a session that failed")
            show(f"job {job}", (arguments.logs / f"{job}.log").read_text(errors="replace").splitlines())
        if not found:
            problems.append(f"job {job}: no session ran")
    for session in sessions:
        expected = [each.partition("=") for each in arguments.expect]
        count(session, [name for prefix, _, names in expected if session.name.startswith(prefix) for name in names.split(",")])

    for session in sorted(sessions, key=lambda session: session.failed):  # what failed comes last, where eyes are
        show(f"{session.name}: {session.passed} passed, {session.failed} failed", tail_or_all(session))
    print("\n== conformance")
    for session in sessions:
        for line in session.lines:
            if line.startswith("conformance: "):
                print(f"{session.name}: {line.removeprefix('conformance: ')}")
    print("\n== sessions")
    for session in sessions:
        skipped = f", {session.skipped} skipped" if session.skipped else ""
        verdict = "FAILED" if session.failed else "ok"
        print(f"{verdict:6} {session.name}: {session.passed} passed, {session.failed} failed{skipped}")
        problems += [f"{session.name}: {problem}" for problem in session.problems]
    for problem in problems:
        print(f"PROBLEM {problem}")

    passed = sum(session.passed for session in sessions)
    failed = sum(session.failed for session in sessions) + sum(1 for problem in problems if problem.startswith("job "))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def sessions_of(logs: Path, job: str) -> Iterator[Session]:
    """Yield the sessions of a job, by the report of nox, each with its part of the log."""
    log = logs / f"{job}.log"
    parts: dict[str, list[str]] = {}
    current: list[str] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if start := SESSION_STARTS.match(line):
            current = parts.setdefault(start["name"], [])
        current.append(line)
    report = logs / f"{job}.json"
    results = json.loads(report.read_text(encoding="utf-8"))["sessions"] if report.exists() else []
    for result in results:
        name = (result.get("signatures") or [result["name"]])[0]
        yield Session(name, result["result"] == "success", parts.get(name, []))


def count(session: Session, backends: list[str]) -> None:
    """Fill in the numbers and the problems of `session`."""
    if not PYTEST_SESSIONS.match(session.name):
        session.passed, session.failed = (1, 0) if session.succeeded else (0, 1)
        return
    summaries = [match["counts"] for line in session.lines if (match := PYTEST_SUMMARY.match(line))]
    for number, word in re.findall(r"(\d+) (\w+)", " ".join(summaries)):
        if word == "passed":
            session.passed += int(number)
        elif word in {"failed", "error", "errors", "xpassed"}:
            session.failed += int(number)
        elif word == "skipped":
            session.skipped += int(number)
    conformance = [match for line in session.lines if (match := CONFORMANCE.match(line))]
    ran = {match["backend"] for match in conformance if int(match["passed"]) > 0 and "failed" not in match["rest"]}
    if summaries:
        session.problems += [f"no clean conformance run of {backend}" for backend in backends if backend not in ran]
    else:
        session.problems.append("pytest did not run to its end")
    if not session.succeeded and not session.failed and not session.problems:
        session.problems.append("failed, although no test did")
    session.failed += len(session.problems)


def tail_or_all(session: Session) -> list[str]:
    """Return the log of a session that failed, and the end of that of any other."""
    return session.lines if session.failed else session.lines[-TAIL:]


def show(title: str, lines: list[str]) -> None:
    """Print a part of a log."""
    print(f"\n== {title}")
    for line in lines:
        print(f"   {line}")


if __name__ == "__main__":
    sys.exit(main())
