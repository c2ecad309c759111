"""The guard: rules stay as they are, or say why not."""

from __future__ import annotations

from typing import Any

import pytest

from taskiq_sources_conformance import StoreConformance, overrides_rule
from taskiq_sources_conformance.base import Conformance, override_reason

GUARD = "test_no_rule_is_deleted_or_weakened"


def subclass(**body: Any) -> type[StoreConformance]:
    return type("TestMyStore", (StoreConformance,), {"backend": "mine", "__module__": __name__, **body})


def complaints_about(cls: type[Conformance]) -> str:
    with pytest.raises(pytest.fail.Exception) as caught:
        getattr(cls(), GUARD)()
    return str(caught.value)


def test_a_plain_subclass_is_accepted() -> None:
    getattr(subclass()(), GUARD)()


def test_own_tests_and_fixtures_are_accepted() -> None:
    def test_something_of_mine(self: Any) -> None: ...

    getattr(subclass(test_something_of_mine=test_something_of_mine, server_version=None)(), GUARD)()


def test_an_override_without_a_reason_is_refused() -> None:
    def weaker(self: Any) -> None:
        assert True

    cls = subclass(test_the_limit_takes_the_oldest=weaker)

    assert "TestMyStore.test_the_limit_takes_the_oldest is overridden without a reason" in complaints_about(cls)
    assert "@overrides_rule" in complaints_about(cls)


def test_an_override_with_a_reason_is_accepted() -> None:
    @overrides_rule("the server counts in seconds")
    def other(self: Any) -> None: ...

    getattr(subclass(test_the_limit_takes_the_oldest=other)(), GUARD)()
    assert override_reason(other) == "the server counts in seconds"


def test_a_deleted_rule_is_refused() -> None:
    cls = subclass(test_the_limit_takes_the_oldest=None)

    assert "TestMyStore.test_the_limit_takes_the_oldest was deleted without a reason" in complaints_about(cls)


def test_a_rule_replaced_later_is_refused() -> None:
    cls = subclass()
    cls.test_the_limit_takes_the_oldest = lambda self: None  # type: ignore[method-assign,assignment]

    assert "test_the_limit_takes_the_oldest is overridden" in complaints_about(cls)


def test_an_override_by_a_mixin_is_refused() -> None:
    class Mixin:
        def test_history_stays(self) -> None: ...

    cls = type("TestMyStore", (Mixin, StoreConformance), {"backend": "mine", "__module__": __name__})

    assert "test_history_stays is overridden" in complaints_about(cls)


def test_a_rule_deleted_from_the_suite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    home = next(cls for cls in StoreConformance.__mro__ if "test_history_stays" in vars(cls))
    monkeypatch.delattr(home, "test_history_stays")

    assert "test_history_stays was deleted" in complaints_about(subclass())


@pytest.mark.parametrize(
    "mark", [pytest.mark.skip, pytest.mark.xfail(strict=False), pytest.mark.skipif(True, reason="")], ids=str
)
def test_a_rule_that_is_marked_away_is_refused(monkeypatch: pytest.MonkeyPatch, mark: pytest.MarkDecorator) -> None:
    rule = StoreConformance.test_history_stays
    monkeypatch.setattr(rule, "pytestmark", [mark.mark], raising=False)

    assert f"test_history_stays is marked {mark.name}" in complaints_about(subclass())


@pytest.mark.parametrize("value", [None, lambda self: None], ids=["deleted", "overridden"])
def test_the_guard_itself_cannot_be_touched(value: Any) -> None:
    with pytest.raises(TypeError, match=f"TestMyStore overrides {GUARD}"):
        subclass(**{GUARD: value})


@pytest.mark.parametrize("reason", ["", "  ", "\n"], ids=repr)
def test_a_blank_reason_is_refused(reason: str) -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        overrides_rule(reason)


@pytest.mark.parametrize("backend", ["", " ", None, 7], ids=repr)
def test_a_class_without_a_backend_is_refused(backend: Any) -> None:
    with pytest.raises(AssertionError, match=r"set TestMyStore\.backend"):
        subclass(backend=backend)().test_the_class_names_its_backend()


def test_no_rule_hides_another() -> None:
    homes: dict[str, list[str]] = {}
    for cls in StoreConformance.__mro__:
        for name in vars(cls):
            if name.startswith("test_"):
                homes.setdefault(name, []).append(cls.__name__)

    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_every_rule_says_what_it_proves_and_where_to_look() -> None:
    silent = [name for name in StoreConformance._rules if "(Look " not in (getattr(StoreConformance, name).__doc__ or "")]

    assert silent == []
