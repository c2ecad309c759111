"""What every conformance class has in common: the backend's name, the anyio set-up and the guard over the rules.

The rules themselves are in :mod:`taskiq_sources_conformance.rules`. This module imports neither Hypothesis nor taskiq-sources,
because the pytest plugin needs it in every session.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import pytest

_PACKAGE = __name__.partition(".")[0]
_GUARD = "test_no_rule_is_deleted_or_weakened"
_REASON = "__overrides_rule__"
_WEAKENING_MARKS = frozenset({"skip", "skipif", "xfail"})

F = TypeVar("F", bound=Callable[..., Any])


def overrides_rule(reason: str) -> Callable[[F], F]:
    """Allow a test method to replace the rule of the same name; the reason is shown in the terminal summary.

    Args:
        reason: Why this backend cannot keep the rule as it is written, in words that a user of the backend understands.

    Raises:
        ValueError: The reason is blank.
    """
    if not reason.strip():
        raise ValueError("overrides_rule() needs a reason that a user of the backend understands, not a blank text")

    def mark(function: F) -> F:
        setattr(function, _REASON, reason.strip())
        return function

    return mark


def override_reason(function: object) -> str | None:
    """Return the reason given to `overrides_rule`, or None if `function` carries none."""
    reason = getattr(function, _REASON, None)
    return reason if isinstance(reason, str) else None


class Conformance:
    """Base of `StoreConformance` and of the suites above it.

    Attributes:
        backend: The backend's short name, as the summary and ``--backend`` show it.
    """

    pytestmark = pytest.mark.anyio

    backend: ClassVar[str]
    _rules: ClassVar[Mapping[str, object]] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.partition(".")[0] == _PACKAGE:
            cls._rules = _rules_of(cls)
        elif inspect.getattr_static(cls, _GUARD) is not inspect.getattr_static(Conformance, _GUARD):
            raise TypeError(f"{cls.__qualname__} overrides {_GUARD}, which watches over the other rules and stays as it is")

    @pytest.fixture(scope="module")  # the scope of anyio's own fixture, so that async fixtures of a module can be used
    @staticmethod
    def anyio_backend() -> str:
        """Run the rules under asyncio, the event loop that taskiq uses."""
        return "asyncio"

    def test_no_rule_is_deleted_or_weakened(self) -> None:
        """A conformance class keeps every rule, or says with `overrides_rule` why not. (Look at the methods of your class.)"""
        problems = list(_weakened(type(self)))

        if problems:
            pytest.fail("\n".join(problems), pytrace=False)

    def test_the_class_names_its_backend(self) -> None:
        """A conformance class sets ``backend`` to a short name. (Look at the class attributes of your class.)"""
        backend = getattr(self, "backend", None)

        assert isinstance(backend, str) and backend.strip(), f"set {type(self).__qualname__}.backend to the backend's short name"


def _rules_of(cls: type[Conformance]) -> Mapping[str, object]:
    names = [name for name in dir(cls) if name.startswith("test_")]
    return MappingProxyType({name: inspect.getattr_static(cls, name) for name in names})


Conformance._rules = _rules_of(Conformance)


def _weakened(cls: type[Conformance]) -> list[str]:
    problems = []
    rules = {name: rule for suite in cls.__mro__ for name, rule in vars(suite).get("_rules", {}).items()}
    for name, rule in rules.items():
        current = inspect.getattr_static(cls, name, None)
        where = f"{cls.__qualname__}.{name}"
        if current is not rule and override_reason(current) is None:
            what = "was deleted" if not callable(current) else "is overridden"
            problems.append(
                f"{where} {what} without a reason: remove it, or put @overrides_rule('the reason') on a test method of that name"
            )
        elif override_reason(current) is None:
            marks = {mark.name for mark in getattr(current, "pytestmark", [])} & _WEAKENING_MARKS
            if marks:
                problems.append(
                    f"{where} is marked {', '.join(sorted(marks))}: override it with @overrides_rule('the reason') instead"
                )
    return problems
