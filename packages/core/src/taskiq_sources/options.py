"""`ScheduleOptions`: how a schedule behaves beyond *what* and *when*. Data and its validation; its rules are elsewhere."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from taskiq_sources.clock import OUT_OF_RANGE, floor_ms
from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources.triggers import DstPolicy

MisfirePolicy: TypeAlias = Literal["fire_once", "fire_all", "skip"]
Delivery: TypeAlias = Literal["at_least_once", "at_most_once"]
OnConflict: TypeAlias = Literal["replace", "keep", "error"]

#: Task label that carries options through taskiq's own ``schedule_by_*`` methods.
OPTIONS_LABEL = "schedule_options"


class ScheduleOptions(BaseModel):
    """How a schedule behaves when things are late, repeated or limited.

    Given to a source as defaults for its schedules, to ``ScheduleSource.schedule`` for one of them, or as the task label
    ``schedule_options`` (an instance, a dictionary, or JSON text). A field that was not set falls back on the source's defaults.

    Args:
        misfire: What happens to occurrences found late. ``fire_once`` (default): all that are pending collapse into one send of
            the latest. ``fire_all``: each is sent, oldest first, at most the newest 1,000. ``skip``: those that are later than
            `misfire_grace` (60 s if that is None) are recorded as missed, the others are sent.
        misfire_grace: How late an occurrence may be sent; later ones are recorded as missed. None: any lateness is acceptable.
        start_at: No occurrence before this instant; also the phase of an interval. Aware.
        end_at: No occurrence after this instant. Aware.
        max_runs: The schedule is finished when this many occurrences have been sent.
        jitter: Each occurrence is delayed by up to this long, always by the same amount for the same occurrence, and never
            beyond the next one.
        dst: What cron does when clocks change. ``vixie`` (default): a fixed wall time that is skipped runs right after the gap,
            one that is repeated runs the first time. ``skip``: skipped ones do not run. ``twice``: repeated ones run twice.
        delivery: ``at_least_once`` (default) sends again when it is not known whether a send reached the broker.
            ``at_most_once`` never does, and does not retry failed sends either.

    Raises:
        ScheduleValidationError: A value is refused; the error names the field, the value and what would be right.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    misfire: MisfirePolicy = "fire_once"
    misfire_grace: timedelta | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    max_runs: int | None = Field(default=None, ge=1, strict=True)
    jitter: timedelta = timedelta(0)
    dst: DstPolicy = "vixie"
    delivery: Delivery = "at_least_once"

    if not TYPE_CHECKING:  # the checker keeps the signature that pydantic derives from the fields

        def __init__(self, /, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise _first_problem(error) from error

    @field_validator("start_at", "end_at")
    @classmethod
    def _aware(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        if value.utcoffset() is None:
            msg = "it has no time zone; pass an aware datetime, for example one with tzinfo=timezone.utc"
            raise ValueError(msg)
        try:
            return floor_ms(value)
        except OverflowError as error:
            raise ValueError(OUT_OF_RANGE) from error

    @field_validator("misfire_grace", "jitter")
    @classmethod
    def _not_negative(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value < timedelta(0):
            msg = "it must not be negative"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _window(self) -> ScheduleOptions:
        if self.start_at is not None and self.end_at is not None and self.end_at < self.start_at:
            raise ScheduleValidationError("end_at", self.end_at.isoformat(), f"it is before start_at {self.start_at.isoformat()}")
        return self

    def __str__(self) -> str:
        """Return the set fields as JSON: what taskiq keeps of a label is its text, and this text can be read back."""
        return self.model_dump_json(exclude_unset=True)

    def over(self, defaults: ScheduleOptions) -> ScheduleOptions:
        """Return these options, with the fields that were not set taken from `defaults`."""
        if not self.model_fields_set:
            return defaults
        return ScheduleOptions(**{**_set_fields(defaults), **_set_fields(self)})

    @classmethod
    def from_label(cls, label: object) -> ScheduleOptions:
        """Read the ``schedule_options`` label: an instance, a dictionary, JSON text, or the text of a dictionary display.

        Raises:
            ScheduleValidationError: It is none of these, or holds a refused value.
        """
        if isinstance(label, ScheduleOptions):
            return label
        value = _parse_text(label) if isinstance(label, str) else label
        if not isinstance(value, Mapping):
            raise ScheduleValidationError(
                OPTIONS_LABEL,
                label,
                'give ScheduleOptions(...), a dictionary of plain values, or JSON text such as \'{"misfire": "skip"}\'',
            )
        return cls(**{str(name): item for name, item in value.items()})


def _parse_text(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Stock taskiq stores str(label): a dictionary arrives as its display, which literal_eval reads without running code.
        try:
            return ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None


def _set_fields(options: ScheduleOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.model_fields_set}


def _first_problem(error: ValidationError) -> ScheduleValidationError:
    """Turn pydantic's report into our error, about the first field that is wrong."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ScheduleValidationError):
        return cause
    field = ".".join(str(part) for part in first["loc"]) or "options"
    if first["type"] == "extra_forbidden":
        known = ", ".join(ScheduleOptions.model_fields)
        return ScheduleValidationError(field, first["input"], f"there is no such option; the options are {known}")
    return ScheduleValidationError(field, first["input"], first["msg"].removeprefix("Value error, "))
