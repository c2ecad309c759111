"""A web application that serves its own schedules: any number of its processes may run, each occurrence is sent by one of them.

``uvicorn fastapi_app:app`` runs it, where fastapi, uvicorn, taskiq-sources and taskiq-sources-sqlite are installed. Then
``curl -X POST 'localhost:8000/reminders/tea?in_seconds=5'``, and ``curl localhost:8000/reminders`` a while later.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated

from fastapi import FastAPI, Query, Response
from taskiq import InMemoryBroker

from taskiq_sources import DurableScheduler
from taskiq_sources.clock import system_now
from taskiq_sources_sqlite import SQLiteScheduleSource

broker = InMemoryBroker(await_inplace=True)  # executes tasks in this process; any other broker hands them to its workers
source = SQLiteScheduleSource("reminders.db")
scheduler = DurableScheduler(broker, [source])
reminded: list[str] = []


@broker.task
async def remind_of(what: str) -> None:
    """Remind of something."""
    reminded.append(what)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Serve schedules for as long as the application runs; what is being sent when it ends is settled first."""
    async with scheduler:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/reminders/{what}")
async def remind(what: str, in_seconds: Annotated[float, Query(ge=0, le=1e9)]) -> str:
    """Be reminded later, whether or not this process still runs then; return the id of the schedule."""
    created = await remind_of.schedule_by_time(source, system_now() + timedelta(seconds=in_seconds), what)
    return created.schedule_id


@app.get("/reminders")
async def reminders() -> list[str]:
    """Return what this process has reminded of."""
    return reminded


@app.get("/health")
async def health() -> Response:
    """Tell a probe whether schedules are served."""
    return Response(status_code=200 if scheduler.health().ok else 503)
