"""The verdict over a run is worth something: it tells a loss, a double and a wrong name, and knows the one excuse."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import cast

import pytest
from engine_harness import Log, Scheduler, Sent, verdict

START = datetime(2030, 5, 14, 12, tzinfo=timezone.utc)
DUE = [("a", START + timedelta(seconds=second)) for second in range(4)]
SENT = [Sent(f"id-{number}", *occurrence, by="S1", at=100.0 + number) for number, occurrence in enumerate(DUE)]
ON_RECORD = {("S1", message.task_id) for message in SENT}


def scheduler(name: str, *hits: float) -> Scheduler:
    return Scheduler(name, cast("subprocess.Popen[bytes]", None), Path(), Log(Path()), list(hits))


def test_a_good_run_holds() -> None:
    """Everything once, all on record."""
    assert verdict(set(DUE), SENT, ON_RECORD, [scheduler("S1")]).holds


def test_a_lost_occurrence_is_told() -> None:
    """What was due and not sent is lost."""
    assert verdict(set(DUE), SENT[1:], ON_RECORD, [scheduler("S1")]).lost == [DUE[0]]


def test_what_was_never_due_is_told() -> None:
    """A message of an occurrence that does not exist is a fault."""
    assert verdict(set(DUE[1:]), SENT, ON_RECORD, [scheduler("S1")]).unexpected == [SENT[0]]


def test_twins_with_different_names_are_told() -> None:
    """The second message of an occurrence has to carry the task_id of the first."""
    twin = replace(SENT[0], task_id="other", by="S2", at=105.0)

    assert verdict(set(DUE), [*SENT, twin], set(), [scheduler("S1", 100.5)]).misnamed


def test_occurrences_with_one_name_are_told() -> None:
    """Two occurrences never share a task_id: a consumer would drop one of them."""
    assert verdict(set(DUE), [*SENT[:3], replace(SENT[3], task_id="id-0")], ON_RECORD, [scheduler("S1")]).misnamed


@pytest.mark.parametrize(
    ("hits", "on_record", "excused"),
    [
        pytest.param([100.5], set(), True, id="hit between acknowledgement and record"),
        pytest.param([100.5, 200.0], set(), True, id="hit then, and again later"),
        pytest.param([], set(), False, id="nobody was hit"),
        pytest.param([100.5], ON_RECORD, False, id="it was on record"),
        pytest.param([200.0], set(), False, id="hit long after"),
        pytest.param([99.5], set(), False, id="sent after it was hit"),
    ],
)
def test_only_the_crash_window_excuses_a_repetition(hits: list[float], on_record: set[tuple[str, str]], excused: bool) -> None:
    """A message may come again if its sender was hit before anybody could record it; never otherwise."""
    result = verdict(set(DUE), [*SENT, replace(SENT[0], by="S2", at=105.0)], on_record, [scheduler("S1", *hits), scheduler("S2")])

    assert (len(result.repeated), len(result.doubled)) == ((1, 0) if excused else (0, 1))
    assert result.holds is excused


@pytest.mark.parametrize(("hits", "excused"), [([100.5], True), ([], False)])
def test_a_scheduler_that_was_paused_may_send_again_itself(hits: list[float], excused: bool) -> None:
    """Another one took over meanwhile and died; the record is of the second message."""
    result = verdict(set(DUE), [*SENT, replace(SENT[0], at=105.0)], ON_RECORD, [scheduler("S1", *hits)])

    assert result.holds is excused


@pytest.mark.parametrize(
    ("twins", "excused"),
    [
        pytest.param([(0, 110.01)], True, id="handed over as it went on"),
        pytest.param([(0, 112.0)], False, id="sent a while after"),
        pytest.param([(0, 110.01), (1, 110.02)], False, id="it had one message in its hands, not two"),
    ],
)
def test_a_scheduler_that_was_paused_amid_a_send_cannot_be_stopped(twins: list[tuple[int, float]], excused: bool) -> None:
    """Another one took over, sent and recorded it meanwhile."""
    paused = scheduler("S2", 99.0)
    paused.pauses.append((99.0, 110.0))
    again = [replace(SENT[number], by="S2", at=at) for number, at in twins]

    assert verdict(set(DUE), [*SENT, *again], ON_RECORD, [scheduler("S1"), paused]).holds is excused
