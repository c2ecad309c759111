"""The rule that holds all others together: any sequence of calls does what the model says."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import settings

from taskiq_sources.store import ScheduleStore
from taskiq_sources_conformance.state_machine import StoreStateMachine, run_state_machine


class StatefulRules:
    """A Hypothesis state machine against plain dictionaries.

    Attributes:
        state_machine: The machine to run; a subclass of it may have more rules.
    """

    state_machine: ClassVar[type[StoreStateMachine]] = StoreStateMachine

    def test_state_machine(self, make_store: Callable[[], ScheduleStore], request: pytest.FixtureRequest) -> None:
        """Any sequence of calls does what a model of plain dictionaries does. (Look at the last step of the printed program.)"""
        chosen = self.state_machine.default_settings
        if request.config.getoption("--hypothesis-seed", default=None) is not None:
            chosen = settings(chosen, derandomize=False)

        run_state_machine(make_store, self.state_machine, chosen)
