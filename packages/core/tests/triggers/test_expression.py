"""Which cron expressions are accepted, what they match on a wall clock, and what is said about the others."""

from __future__ import annotations

import string
from datetime import datetime, timedelta, timezone

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.triggers import compile_cron
from taskiq_sources.triggers.expression import parse_expression


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        ("* * * * *", "2026-01-01 00:00:00", "2026-01-01 00:01:00"),
        ("* * * * *", "2026-01-01 00:00:59.999", "2026-01-01 00:01:00"),
        ("*/15 * * * *", "2026-01-01 00:50:00", "2026-01-01 01:00:00"),
        ("5/20 * * * *", "2026-01-01 00:26:00", "2026-01-01 00:45:00"),
        ("0 22-2 * * *", "2026-01-01 22:30:00", "2026-01-01 23:00:00"),
        ("0 9 * * mon-fri", "2026-01-02 09:00:00", "2026-01-05 09:00:00"),
        ("0 9 * JAN,mar *", "2026-01-31 09:00:00", "2026-03-01 09:00:00"),
        ("0 0 * * THU", "2026-01-01 00:00:00", "2026-01-08 00:00:00"),
        ("0 0 1 APR FRI", "2026-03-31 00:00:00", "2026-04-01 00:00:00"),
        ("0 0 * * 7", "2026-01-01 00:00:00", "2026-01-04 00:00:00"),
        ("0 0 * * 0", "2026-01-01 00:00:00", "2026-01-04 00:00:00"),
        ("0 0 * * 5-7", "2026-01-03 00:00:00", "2026-01-04 00:00:00"),
        ("0 0 * * 0-7", "2026-01-05 00:00:00", "2026-01-06 00:00:00"),
        ("0 0 L * *", "2026-02-01 00:00:00", "2026-02-28 00:00:00"),
        ("0 0 L,15 * *", "2026-02-15 00:00:00", "2026-02-28 00:00:00"),
        ("0 0 28-L * *", "2026-02-28 00:00:00", "2026-03-28 00:00:00"),
        ("0 0 * * 2#3", "2026-01-01 00:00:00", "2026-01-20 00:00:00"),
        ("0 0 * * mon#5", "2026-01-01 00:00:00", "2026-03-30 00:00:00"),
        ("0 0 * * sun-sat#1", "2026-01-07 00:00:00", "2026-02-01 00:00:00"),
        ("0 0 * * L5", "2026-01-01 00:00:00", "2026-01-30 00:00:00"),
        ("0 0 15W * *", "2026-02-01 00:00:00", "2026-02-16 00:00:00"),
        ("0 0 1W * *", "2026-07-31 00:00:00", "2026-08-03 00:00:00"),
        ("0 0 31W * *", "2026-01-30 00:00:00", "2026-02-27 00:00:00"),
        ("0 0 ? * *", "2026-01-01 00:00:00", "2026-01-02 00:00:00"),
        ("0 0 29 2 *", "2026-01-01 00:00:00", "2028-02-29 00:00:00"),
        ("0 0 29 2 *", "2096-03-01 00:00:00", "2104-02-29 00:00:00"),
        ("0 0 * 2 1#5", "2072-03-01 00:00:00", "2112-02-29 00:00:00"),
        ("*/10 * * * * *", "2026-01-01 00:00:50", "2026-01-01 00:01:00"),
        ("30 0 12 * * *", "2026-01-01 12:00:30", "2026-01-02 12:00:30"),
        ("  0   0\t* *  * ", "2026-01-01 00:00:00", "2026-01-02 00:00:00"),
        ("01 002 * * *", "2026-01-01 00:00:00", "2026-01-01 02:01:00"),
    ],
)
def test_expression_matches_as_documented(expression: str, start: str, expected: str) -> None:
    """The next match after an instant is the one that the syntax promises, in UTC."""
    assert compile_cron(expression).next_after(utc(start)) == utc(expected)


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        ("@hourly", "2026-05-20 11:00:00"),
        ("@daily", "2026-05-21 00:00:00"),
        ("@midnight", "2026-05-21 00:00:00"),
        ("@weekly", "2026-05-24 00:00:00"),
        ("@monthly", "2026-06-01 00:00:00"),
        ("@yearly", "2027-01-01 00:00:00"),
        ("@annually", "2027-01-01 00:00:00"),
        (" @Daily ", "2026-05-21 00:00:00"),
    ],
)
def test_alias_means_what_its_name_says(alias: str, expected: str) -> None:
    """An alias stands for the start of its period, in any case and with blanks around it."""
    assert compile_cron(alias).next_after(utc("2026-05-20 10:30:00")) == utc(expected)


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 0 13 * 5", [2, 9, 13, 16, 23, 30]),
        ("0 0 8 * 1#2", [8, 12]),
        ("0 0 1 * 1#2", [1, 12]),
        ("0 0 30 2 1", []),
        ("0 0 15W * 3", [7, 14, 15, 21, 28]),
        ("0 0 L * L5", [30, 31]),
        ("0 0 1-31 * 5", list(range(1, 32))),
        ("0 0 */10 * 5", [1, 2, 9, 11, 16, 21, 23, 30, 31]),
        ("0 0 ? * 5", [2, 9, 16, 23, 30]),
        pytest.param("0 0 */10 * 0-6", [1, 11, 21, 31], id="every weekday beside a step restricts nothing"),
        pytest.param("0 0 1-31 * */6", [3, 4, 10, 11, 17, 18, 24, 25, 31], id="every day beside a step restricts nothing"),
        pytest.param("0 0 15 * 0-6", list(range(1, 32)), id="every weekday beside a number is written out, so it counts"),
    ],
)
def test_both_day_fields_restricted_means_either(expression: str, days: list[int]) -> None:
    """With day of month and day of week both restricted a day matches if one of them does, whatever their syntax."""
    trigger = compile_cron(expression)
    found = []
    moment = trigger.next_after(utc("2025-12-31 23:59:59"))
    while moment is not None and moment < utc("2026-02-01 00:00:00"):
        found.append(moment.day)
        moment = trigger.next_after(moment)

    assert found == days


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("0 25 * * *", "hour 25 is out of range 0-23"),
        ("60 * * * *", "minute 60 is out of range 0-59"),
        ("61 * * * * *", "second 61 is out of range 0-59"),
        ("0 0 0 * *", "day of month 0 is out of range 1-31"),
        ("0 0 32 * *", "day of month 32 is out of range 1-31"),
        ("0 0 * 13 *", "month 13 is out of range 1-12"),
        ("0 0 * * 8", "day of week 8 is out of range 0-7"),
        ("1-70 * * * *", "minute 70 is out of range 0-59"),
        ("5,99 * * * *", "minute 99 is out of range 0-59 (in 5,99)"),
        ("-5 * * * *", "minute -5 is negative"),
        ("*/0 * * * *", "has the step 0"),
        ("*/x * * * *", "has the step x"),
        ("*/90 * * * *", "the step is longer than the field"),
        ("1,,2 * * * *", "a comma too many"),
        ("a * * * *", "minute a is not a number from 0 to 59"),
        ("0 0 * foo *", "month foo is not a number from 1 to 12 and not a name such as jan"),
        ("0 0 * * thx", "day of week thx is not"),
        ("? * * * *", "? is for the day fields only"),
        ("0 0 * * mon#6", "position in the month, 1-5"),
        ("0 0 * * 1#2,3", "mixes 1#2 with whole weekdays"),
        ("0 5-5 * * *", "range of one value"),
        ("0 22-4/3 * * *", "hour 22-4/3 goes round the end of the field in steps; write the values"),
        ("50-10/15 * * * *", "goes round the end"),
        ("0 0 * * fri-mon/3", "goes round the end"),
        ("0 0 * nov-feb/2 *", "goes round the end"),
        ("0 0 LW * *", "L is the last one"),
        ("0 0 L-3 * *", "L is the last one"),
        ("0 0 1W,15W * *", "the weekday nearest to the 15th"),
        ("0 0 * * 5L", "L5 is the last Friday"),
        ("", "it is empty"),
        ("   ", "it is empty"),
        ("* * * *", "it has 4 fields"),
        ("*", "it has 1 field;"),
        ("0 0 0 1 1 * 2026", "7 fields, and years are not supported"),
        ("* * * * * * * *", "it has 8 fields"),
        ("@reboot", "@reboot is not supported"),
        ("@every 5m", "@every is not supported"),
        ("@daily 5", "each on its own"),
        ("0 0 30 2 *", "day of month 30 never comes in month 2"),
        ("0 0 31 4,6 *", "no date matches it"),
        ("0 0 0 31 feb ?", "no date matches it"),
        ("* " * 200, "at most 255"),
        ("\N{ARABIC-INDIC DIGIT FIVE} * * * *", "ASCII"),
        ("*\N{NO-BREAK SPACE}* * * *", "ASCII"),
        ("*\N{FULLWIDTH DIGIT ONE} * * * *", "ASCII"),
        ("* * * * *\x00", "not valid"),
    ],
)
def test_bad_expression_is_refused_with_its_reason(expression: str, problem: str) -> None:
    """The error names the field `cron`, the expression, and what is wrong with it."""
    with pytest.raises(ScheduleValidationError) as caught:
        compile_cron(expression)

    assert caught.value.field == "cron"
    assert problem in str(caught.value)


def test_error_reads_as_one_sentence() -> None:
    """The whole message is what a user sees: value first, then the reason."""
    with pytest.raises(ScheduleValidationError) as caught:
        compile_cron("0 25 * * *")

    assert str(caught.value) == "cron '0 25 * * *' is not valid: hour 25 is out of range 0-23"


@pytest.mark.parametrize("token", ["H", "h", "R", "r", "H/15", "R/15", "H(0-29)", "R(1-5)", "R(1-5)/2", "5,R"])
@pytest.mark.parametrize("position", range(6))
def test_hashed_and_random_values_are_refused(token: str, position: int) -> None:
    """A value that differs from one evaluation to the next, or from one machine to the next, is never taken."""
    parts = ["*"] * 6
    parts[position] = token

    with pytest.raises(ScheduleValidationError, match="hashed and random"):
        compile_cron(" ".join(parts))


@pytest.mark.parametrize("value", [None, 5, b"* * * * *", ["*"]])
def test_expression_that_is_not_text_is_refused(value: object) -> None:
    """Anything but text is refused with our error, not with a TypeError from deep inside."""
    with pytest.raises(ScheduleValidationError, match="is text, not"):
        compile_cron(value)  # type: ignore[arg-type]


_SYNTAX = st.text(alphabet="0123456789*/,-?#LlWwHhRr@ \t" + "monfeb", max_size=40)
_FIELD = st.text(alphabet="0123456789*/,-?#LWhr", min_size=1, max_size=8)


@given(
    st.one_of(
        _SYNTAX,
        st.text(max_size=60),
        st.text(alphabet=string.printable, max_size=60),
        st.lists(_FIELD, min_size=5, max_size=6).map(" ".join),
    )
)
@settings(max_examples=1500)
def test_any_text_is_a_cron_or_a_validation_error(text: str) -> None:
    """Whatever a user types, the outcome is a working trigger or a `ScheduleValidationError`."""
    try:
        trigger = compile_cron(text)
    except ScheduleValidationError:
        return
    moment = utc("2026-01-01 00:00:00")
    following = trigger.next_after(moment)
    assert following is not None
    assert following > moment


@pytest.mark.parametrize(
    "expression",
    [
        ",".join(["*"] * 120) + " * * * *",
        ",".join(["0-59"] * 48) + " * * * *",
        "0-59/" + "9" * 200 + " * * * *",
        "9" * 240 + " * * * *",
        "/" * 240 + " * * * *",
        "-" * 240 + " * * * *",
        "* * * * " + "#" * 240,
        "* * * * " + "mon-" * 60,
        "(" * 240 + " * * * *",
    ],
)
def test_hostile_expression_is_judged_at_once(expression: str) -> None:
    """No text within the length limit makes parsing blow up in time, in memory or in an error of its own."""
    try:
        trigger = compile_cron(expression)
    except ScheduleValidationError:
        return
    assert trigger.next_after(utc("2026-01-01 00:00:00")) is not None


def _entries(low: int, high: int, *special: str) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.lists(number, min_size=2, max_size=4).map(lambda values: ",".join(map(str, values))),
        st.lists(number, min_size=2, max_size=2, unique=True).map(lambda pair: f"{pair[0]}-{pair[1]}"),
        st.integers(2, high).map(lambda step: f"*/{step}"),
        *([st.sampled_from(special)] if special else []),
    )


@given(
    seconds=st.one_of(st.none(), _entries(0, 59)),
    minutes=_entries(0, 59),
    hours=_entries(0, 23),
    days=st.one_of(
        st.tuples(_entries(1, 31, "l", "l,3"), _entries(0, 6, "mon-fri", "7", "5-7")),
        st.tuples(st.just("*"), st.sampled_from(["fri#5", "l5", "mon-fri#2", "sun#1,l3"])),
        st.tuples(st.sampled_from(["15w", "1w", "31w"]), st.just("*")),
    ),
    months=_entries(1, 12, "feb", "jun-aug"),
    start=st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)),  # noqa: DTZ001 - a wall clock has no zone
)
@settings(max_examples=600)
def test_wall_clock_matches_agree_with_croniter(
    seconds: str | None,
    minutes: str,
    hours: str,
    days: tuple[str, str],
    months: str,
    start: datetime,
) -> None:
    """Next and previous matches are croniter's, where croniter has one reading of both day fields."""
    parts = [minutes, hours, days[0], months, days[1]]
    expression = " ".join(parts if seconds is None else [seconds, *parts])
    try:
        fields = parse_expression(expression).fields
    except ScheduleValidationError as error:
        if "no date matches it" not in str(error):
            raise
        return

    ahead = croniter(expression, start, ret_type=datetime, second_at_beginning=True)
    back = croniter(expression, start + timedelta(microseconds=1), ret_type=datetime, second_at_beginning=True)
    assert fields.after(start) == ahead.get_next()
    assert fields.until(start) == back.get_prev()
