"""The suite of sources as a whole: nothing in it is lost, and each rule helps whoever sees it fail."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter

from taskiq_sources_conformance import SourceConformance, source_rules

RULES = [name for name in dir(SourceConformance) if name.startswith("test_")]


def test_no_rule_hides_another() -> None:
    """Two topics with a rule of the same name would leave only one of them to run."""
    homes = Counter(name for topic in SourceConformance.__mro__ for name in vars(topic) if name in RULES)

    assert [name for name, count in homes.items() if count > 1] == []


def test_no_topic_is_left_out() -> None:
    """Every class of rules that is written is a base of the suite."""
    modules = [
        importlib.import_module(f"{source_rules.__name__}.{found.name}") for found in pkgutil.iter_modules(source_rules.__path__)
    ]
    topics = {value for module in modules for name, value in vars(module).items() if name.endswith("Rules")}

    assert topics - set(SourceConformance.__mro__) == set()
    assert len(topics) == len(modules)


def test_every_rule_says_what_it_proves_and_where_to_look() -> None:
    """A docstring of one line, with a hint."""
    assert [
        name for name in RULES if "(Look at " not in (getattr(SourceConformance, name).__doc__ or "").partition("\n")[0]
    ] == []
