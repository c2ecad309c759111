"""Durable schedule sources for taskiq: one contract, many stores, safe to run with many schedulers.

What applications need is importable from here; what authors of a backend need is in :mod:`taskiq_sources.store` and
:mod:`taskiq_sources.models`.
"""

from importlib.metadata import version

from taskiq_sources.clock import ManualClock
from taskiq_sources.created import CreatedSchedule, ManualRun
from taskiq_sources.errors import (
    BackendVersionError,
    RevisionConflictError,
    ScheduleDecodeError,
    ScheduleExistsError,
    ScheduleNotFoundError,
    ScheduleValidationError,
    SchemaVersionError,
    SourceClosedError,
    SourceConnectionError,
    TaskiqSourcesError,
    UnknownBackendError,
)
from taskiq_sources.health import Health, SourceHealth
from taskiq_sources.info import ScheduleInfo, SourceOptions
from taskiq_sources.memory import InMemoryScheduleSource
from taskiq_sources.merge import MergedScheduleSource, only_new, only_unique, preserve_all
from taskiq_sources.models import Capabilities, Claim, Outcome, Run, RunStatus, StoredSchedule
from taskiq_sources.options import OnConflict, ScheduleOptions
from taskiq_sources.plugins import source_from_url
from taskiq_sources.scheduler import DurableMixin, DurableScheduler
from taskiq_sources.settings import DispatchOptions, DispatchSettings
from taskiq_sources.source import ScheduleSource
from taskiq_sources.store import ScheduleStore
from taskiq_sources.tasks import ScheduledTask

__version__ = version("taskiq-sources")

__all__ = [
    "BackendVersionError",
    "Capabilities",
    "Claim",
    "CreatedSchedule",
    "DispatchOptions",
    "DispatchSettings",
    "DurableMixin",
    "DurableScheduler",
    "Health",
    "InMemoryScheduleSource",
    "ManualClock",
    "ManualRun",
    "MergedScheduleSource",
    "OnConflict",
    "Outcome",
    "RevisionConflictError",
    "Run",
    "RunStatus",
    "ScheduleDecodeError",
    "ScheduleExistsError",
    "ScheduleInfo",
    "ScheduleNotFoundError",
    "ScheduleOptions",
    "ScheduleSource",
    "ScheduleStore",
    "ScheduleValidationError",
    "ScheduledTask",
    "SchemaVersionError",
    "SourceClosedError",
    "SourceConnectionError",
    "SourceHealth",
    "SourceOptions",
    "StoredSchedule",
    "TaskiqSourcesError",
    "UnknownBackendError",
    "__version__",
    "only_new",
    "only_unique",
    "preserve_all",
    "source_from_url",
]
