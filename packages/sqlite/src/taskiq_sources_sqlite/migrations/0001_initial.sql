-- Schedules, their history, and the indexes that keep the cost of a call in proportion to what is due.
-- Instants are INTEGER milliseconds since the Unix epoch, UTC. Text is compared byte by byte (BINARY), which orders UTF-8 by code point.

CREATE TABLE taskiq_sources_schedules (
    id              TEXT    NOT NULL PRIMARY KEY COLLATE BINARY,
    task_name       TEXT    NOT NULL,
    document        TEXT    NOT NULL,
    timing          TEXT    NOT NULL,
    owner           TEXT,
    scheduled_for   INTEGER,
    next_run_at     INTEGER,
    anchor          INTEGER NOT NULL,
    coalesced       INTEGER NOT NULL,
    attempt         INTEGER NOT NULL,
    run_count       INTEGER NOT NULL,
    paused          INTEGER NOT NULL,
    quarantined     INTEGER NOT NULL,
    last_error      TEXT,
    revision        INTEGER NOT NULL,
    timing_revision INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    claimant        TEXT,
    lease_until     INTEGER,
    token           TEXT
);

-- What can be claimed lies in two indexes: a claimed row moves from the first to the second, so that however many leases are
-- running, none of them stands in the way of a look-up of what is due.
CREATE INDEX taskiq_sources_schedules_waiting ON taskiq_sources_schedules (next_run_at, id)
    WHERE paused = 0 AND quarantined = 0 AND lease_until IS NULL;
CREATE INDEX taskiq_sources_schedules_leased ON taskiq_sources_schedules (lease_until, next_run_at, id)
    WHERE paused = 0 AND quarantined = 0 AND lease_until IS NOT NULL;

-- The rest serves listings. The partial ones are empty as long as nothing is paused, quarantined or owned: they cost nothing.
CREATE INDEX taskiq_sources_schedules_held ON taskiq_sources_schedules (next_run_at, id)
    WHERE paused = 1 OR quarantined = 1;
CREATE INDEX taskiq_sources_schedules_paused ON taskiq_sources_schedules (id) WHERE paused = 1;
CREATE INDEX taskiq_sources_schedules_quarantined ON taskiq_sources_schedules (id) WHERE quarantined = 1;
CREATE INDEX taskiq_sources_schedules_of_owner ON taskiq_sources_schedules (owner, id) WHERE owner IS NOT NULL;
CREATE INDEX taskiq_sources_schedules_of_task ON taskiq_sources_schedules (task_name, id);

CREATE TABLE taskiq_sources_runs (
    occurrence_id TEXT    NOT NULL PRIMARY KEY COLLATE BINARY,
    schedule_id   TEXT    NOT NULL COLLATE BINARY,
    task_name     TEXT    NOT NULL,
    scheduled_for INTEGER NOT NULL,
    status        TEXT    NOT NULL,
    recorded_at   INTEGER NOT NULL,
    task_id       TEXT,
    attempt       INTEGER NOT NULL,
    coalesced     INTEGER NOT NULL,
    claimant      TEXT,
    error         TEXT
);

-- Rows of equal recorded_at are those of one settle: few enough to be sorted when they are read, so their ids stay out of the
-- indexes. What was sent is nearly everything, and is found among all rows about as fast as by an index of its own.
CREATE INDEX taskiq_sources_runs_newest ON taskiq_sources_runs (recorded_at);
CREATE INDEX taskiq_sources_runs_of_status ON taskiq_sources_runs (status, recorded_at) WHERE status <> 'sent';
CREATE INDEX taskiq_sources_runs_of_schedule ON taskiq_sources_runs (schedule_id, recorded_at);
