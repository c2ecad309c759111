-- Schedules, their history, and the indexes that keep the cost of a call in proportion to what is due.
-- Instants are milliseconds since the Unix epoch, UTC: to_timestamp(next_run_at / 1000.0) shows one. Ids are compared byte by byte
-- (COLLATE "C"), which orders UTF-8 by code point.

-- Claims write columns that no index knows, into the room that the fill factor leaves: so they touch one page a row and no index
-- (HOT), even if all schedules of a page are claimed at once, as they are when they were added together.
CREATE TABLE "{schema}"."{prefix}schedules" (
    id              text COLLATE "C" NOT NULL,
    task_name       text COLLATE "C" NOT NULL,
    document        text NOT NULL,
    timing          text NOT NULL,
    owner           text COLLATE "C",
    scheduled_for   bigint,
    next_run_at     bigint,
    anchor          bigint NOT NULL,
    coalesced       bigint NOT NULL,
    attempt         bigint NOT NULL,
    run_count       bigint NOT NULL,
    paused          boolean NOT NULL,
    quarantined     boolean NOT NULL,
    last_error      text,
    revision        bigint NOT NULL,
    timing_revision bigint NOT NULL,
    created_at      bigint NOT NULL,
    updated_at      bigint NOT NULL,
    claimant        text,
    lease_until     bigint,
    token           text,
    CONSTRAINT "{prefix}schedules_pkey" PRIMARY KEY (id)
) WITH (fillfactor = 50);

-- What can be claimed, oldest first.
CREATE INDEX "{prefix}schedules_due" ON "{schema}"."{prefix}schedules" (next_run_at, id)
    WHERE NOT paused AND NOT quarantined AND next_run_at IS NOT NULL;

-- The rest serves listings. The partial ones are empty as long as nothing is paused, quarantined or owned: they cost nothing. Of
-- texts that users may make as long as they like only the beginning is indexed: an index entry has its limit at 2.7 kB.
-- What holds for every name says that look-ups by id, which do not ask for it, are not to go through the whole of that index: of a
-- small table PostgreSQL thinks that is cheaper, and keeps the plan when it has grown.
CREATE INDEX "{prefix}schedules_held" ON "{schema}"."{prefix}schedules" (next_run_at) WHERE paused OR quarantined;
CREATE INDEX "{prefix}schedules_paused" ON "{schema}"."{prefix}schedules" (id) WHERE paused;
CREATE INDEX "{prefix}schedules_quarantined" ON "{schema}"."{prefix}schedules" (id) WHERE quarantined;
CREATE INDEX "{prefix}schedules_of_owner" ON "{schema}"."{prefix}schedules" (left(owner, 200), id) WHERE owner IS NOT NULL;
CREATE INDEX "{prefix}schedules_of_task" ON "{schema}"."{prefix}schedules" (left(task_name, 200), id) WHERE task_name >= '';

CREATE TABLE "{schema}"."{prefix}runs" (
    occurrence_id text COLLATE "C" NOT NULL,
    schedule_id   text COLLATE "C" NOT NULL,
    task_name     text NOT NULL,
    scheduled_for bigint NOT NULL,
    status        text COLLATE "C" NOT NULL,
    recorded_at   bigint NOT NULL,
    task_id       text,
    attempt       bigint NOT NULL,
    coalesced     bigint NOT NULL,
    claimant      text,
    error         text,
    CONSTRAINT "{prefix}runs_pkey" PRIMARY KEY (occurrence_id)
);

-- Rows of equal recorded_at are those of one settle: few enough to be sorted when they are read, so their ids stay out of the
-- indexes, which are a third of the size and half the work without. What was sent is nearly everything, and is found among all rows
-- about as fast as by an index of its own.
CREATE INDEX "{prefix}runs_recorded" ON "{schema}"."{prefix}runs" (recorded_at);
CREATE INDEX "{prefix}runs_of_schedule" ON "{schema}"."{prefix}runs" (schedule_id, recorded_at);
CREATE INDEX "{prefix}runs_of_status" ON "{schema}"."{prefix}runs" (status, recorded_at) WHERE status <> 'sent';

-- The schema's version. A comment and not a row, so that whatever makes the tables (this file, Alembic, pg_dump) makes it too.
COMMENT ON TABLE "{schema}"."{prefix}schedules" IS 'taskiq-sources schema 1';
