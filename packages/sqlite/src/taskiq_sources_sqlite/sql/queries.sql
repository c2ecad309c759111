-- Every statement of the store, by name. :name is a parameter; a list arrives as one JSON array, so that its length meets no limit.
-- {columns} and {run_columns} are the columns of the contract. A block "page.<condition>" is put in place of "/* conditions */" in
-- the block "page" when that condition is asked for.

-- name: put
-- Store a schedule, or overwrite an existing one: where the timing is equal, the pending occurrence stays.
INSERT INTO taskiq_sources_schedules (
    id, task_name, document, timing, owner, scheduled_for, next_run_at, anchor, coalesced, attempt, run_count,
    paused, quarantined, last_error, revision, timing_revision, created_at, updated_at
) VALUES (
    :id, :task_name, :document, :timing, :owner, :scheduled_for, :next_run_at, :anchor, :coalesced, :attempt, :run_count,
    :paused, :quarantined, :last_error, 1, 1, :created_at, :updated_at
)
ON CONFLICT (id) DO UPDATE SET
    task_name = excluded.task_name,
    document = excluded.document,
    timing = excluded.timing,
    owner = excluded.owner,
    scheduled_for = CASE WHEN timing = excluded.timing THEN scheduled_for ELSE excluded.scheduled_for END,
    next_run_at = CASE WHEN timing = excluded.timing THEN next_run_at ELSE excluded.next_run_at END,
    anchor = CASE WHEN timing = excluded.timing THEN anchor ELSE excluded.anchor END,
    coalesced = CASE WHEN timing = excluded.timing THEN coalesced ELSE excluded.coalesced END,
    attempt = CASE WHEN timing = excluded.timing THEN attempt ELSE excluded.attempt END,
    run_count = CASE WHEN timing = excluded.timing THEN run_count ELSE excluded.run_count END,
    last_error = CASE WHEN timing = excluded.timing THEN last_error ELSE excluded.last_error END,
    quarantined = 0,
    revision = revision + 1,
    timing_revision = CASE WHEN timing = excluded.timing THEN timing_revision ELSE revision + 1 END,
    updated_at = excluded.updated_at;

-- name: existing
-- Which of these ids are stored.
SELECT id FROM taskiq_sources_schedules WHERE id IN (SELECT value FROM json_each(:ids));

-- name: get
-- The schedules of these ids.
SELECT {columns} FROM taskiq_sources_schedules WHERE id IN (SELECT value FROM json_each(:ids));

-- name: delete
-- Delete the schedules of these ids.
DELETE FROM taskiq_sources_schedules WHERE id IN (SELECT value FROM json_each(:ids)) RETURNING id;

-- name: revision
-- The revision of a schedule.
SELECT revision FROM taskiq_sources_schedules WHERE id = :id;

-- name: edit
-- Edit the fields that are named in :changed; the columns of the lease are not part of an edit.
UPDATE taskiq_sources_schedules SET
    document = CASE WHEN 'document' IN (SELECT value FROM json_each(:changed)) THEN :document ELSE document END,
    timing = CASE WHEN 'timing' IN (SELECT value FROM json_each(:changed)) THEN :timing ELSE timing END,
    scheduled_for = CASE WHEN 'scheduled_for' IN (SELECT value FROM json_each(:changed)) THEN :scheduled_for ELSE scheduled_for END,
    next_run_at = CASE WHEN 'next_run_at' IN (SELECT value FROM json_each(:changed)) THEN :next_run_at ELSE next_run_at END,
    anchor = CASE WHEN 'anchor' IN (SELECT value FROM json_each(:changed)) THEN :anchor ELSE anchor END,
    coalesced = CASE WHEN 'coalesced' IN (SELECT value FROM json_each(:changed)) THEN :coalesced ELSE coalesced END,
    attempt = CASE WHEN 'attempt' IN (SELECT value FROM json_each(:changed)) THEN :attempt ELSE attempt END,
    run_count = CASE WHEN 'run_count' IN (SELECT value FROM json_each(:changed)) THEN :run_count ELSE run_count END,
    paused = CASE WHEN 'paused' IN (SELECT value FROM json_each(:changed)) THEN :paused ELSE paused END,
    quarantined = CASE WHEN 'quarantined' IN (SELECT value FROM json_each(:changed)) THEN :quarantined ELSE quarantined END,
    last_error = CASE WHEN 'last_error' IN (SELECT value FROM json_each(:changed)) THEN :last_error ELSE last_error END,
    updated_at = :updated_at,
    revision = revision + 1,
    timing_revision = CASE
        WHEN EXISTS (SELECT 1 FROM json_each(:changed) WHERE value IN ('timing', 'scheduled_for', 'next_run_at')) THEN revision + 1
        ELSE timing_revision
    END
WHERE id = :id
RETURNING revision - 1, {columns};

-- name: page
-- One page of schedules, in the order of ids.
SELECT {columns} FROM taskiq_sources_schedules WHERE TRUE /* conditions */ ORDER BY id LIMIT :limit;

-- name: page.after
-- The page after this id.
AND id > :after

-- name: page.task_name
-- Exactly this task.
AND task_name = :task_name

-- name: page.owner
-- Declared by exactly this owner.
AND owner = :owner

-- name: page.paused
-- Paused ones only.
AND paused = 1

-- name: page.not_paused
-- All but the paused ones.
AND paused = 0

-- name: page.quarantined
-- Quarantined ones only.
AND quarantined = 1

-- name: page.not_quarantined
-- All but the quarantined ones.
AND quarantined = 0

-- name: page.due_before
-- Pending earlier than this; the three parts are those of the three indexes over next_run_at, and together all schedules.
AND id IN (
    SELECT id FROM taskiq_sources_schedules
    WHERE paused = 0 AND quarantined = 0 AND lease_until IS NULL AND next_run_at < :due_before
    UNION ALL
    SELECT id FROM taskiq_sources_schedules
    WHERE paused = 0 AND quarantined = 0 AND lease_until IS NOT NULL AND next_run_at < :due_before
    UNION ALL
    SELECT id FROM taskiq_sources_schedules
    WHERE (paused = 1 OR quarantined = 1) AND next_run_at < :due_before
)

-- name: claimable
-- Whether there is anything to claim: asked before the write lock is taken, so that idle schedulers do not queue for it.
SELECT EXISTS (
    SELECT 1 FROM taskiq_sources_schedules
    WHERE paused = 0 AND quarantined = 0 AND lease_until IS NULL AND next_run_at <= :horizon
) OR EXISTS (
    SELECT 1 FROM taskiq_sources_schedules
    WHERE paused = 0 AND quarantined = 0 AND lease_until <= :now AND next_run_at <= :horizon
);

-- name: claim
-- The oldest eligible occurrences, in order: those nobody claimed, and those whose lease has ended. One row, of two lists: the rows
-- to lease, and what the schedules are then. With a row for each, the interpreter would be let go and waited for as often.
SELECT json_group_array(due), json_group_array(json_array({claimed_columns}, due || '-' || :token))
FROM (
    SELECT rowid AS due FROM (
        SELECT * FROM (
            SELECT rowid, next_run_at, id FROM taskiq_sources_schedules
            WHERE paused = 0 AND quarantined = 0 AND lease_until IS NULL AND next_run_at <= :horizon
            ORDER BY next_run_at, id LIMIT :limit
        )
        UNION ALL
        SELECT * FROM (
            SELECT rowid, next_run_at, id FROM taskiq_sources_schedules
            WHERE paused = 0 AND quarantined = 0 AND lease_until <= :now AND next_run_at <= :horizon
            ORDER BY next_run_at, id LIMIT :limit
        )
    )
    ORDER BY next_run_at, id LIMIT :limit
)
CROSS JOIN taskiq_sources_schedules AS stored ON stored.rowid = due;

-- name: claim_ids
-- The same among these ids.
SELECT json_group_array(due), json_group_array(json_array({claimed_columns}, due || '-' || :token))
FROM (
    SELECT rowid AS due FROM taskiq_sources_schedules
    WHERE id IN (SELECT value FROM json_each(:ids))
        AND +paused = 0 AND +quarantined = 0 AND +next_run_at <= :horizon AND (+lease_until IS NULL OR +lease_until <= :now)
    ORDER BY next_run_at, id LIMIT :limit
)
CROSS JOIN taskiq_sources_schedules AS stored ON stored.rowid = due;

-- name: lease
-- Lease rows to a claimant. A token begins with the row of its schedule, so that no index is searched for it, and ends with that.
UPDATE taskiq_sources_schedules SET
    claimant = :claimant, lease_until = :lease_until, attempt = attempt + 1, token = rowid || '-' || :token
WHERE rowid IN (SELECT value FROM json_each(:rows));

-- name: leases
-- What decides whether claims still count. Two lists in the order of the tokens: ids and timing_revisions, null where one is dead.
SELECT json_group_array(stored.id), json_group_array(timing_revision) FROM json_each(:token) AS given
LEFT JOIN taskiq_sources_schedules AS stored ON stored.rowid = CAST(given.value AS INTEGER) AND token = given.value;

-- name: renew
-- Let leases last until another instant.
UPDATE taskiq_sources_schedules SET lease_until = :until
WHERE rowid IN (SELECT CAST(value AS INTEGER) FROM json_each(:token));

-- name: release
-- End leases and change nothing else.
UPDATE taskiq_sources_schedules SET claimant = NULL, lease_until = NULL, token = NULL
WHERE rowid IN (SELECT CAST(value AS INTEGER) FROM json_each(:token));

-- name: finish
-- Delete schedules of which nothing is left to be sent.
DELETE FROM taskiq_sources_schedules WHERE rowid IN (SELECT CAST(value AS INTEGER) FROM json_each(:token));

-- name: advance
-- Move schedules on, and end their leases unless the claims go on. The row of values is repeated for each.
WITH moved (
    held, scheduled_for, next_run_at, coalesced, attempt, run_count, last_error, quarantined, release
) AS (
    VALUES (:token, :scheduled_for, :next_run_at, :coalesced, :attempt, :run_count, :last_error, :quarantined, :release)
)
UPDATE taskiq_sources_schedules AS stored SET
    scheduled_for = moved.scheduled_for, next_run_at = moved.next_run_at, coalesced = moved.coalesced, attempt = moved.attempt,
    run_count = moved.run_count, last_error = moved.last_error, quarantined = moved.quarantined,
    claimant = CASE WHEN moved.release THEN NULL ELSE claimant END,
    lease_until = CASE WHEN moved.release THEN NULL ELSE lease_until END,
    token = CASE WHEN moved.release THEN NULL ELSE token END
FROM moved WHERE stored.rowid = CAST(moved.held AS INTEGER);

-- name: record
-- Write history rows over older ones of the same occurrences. The row of values is repeated for each.
INSERT OR REPLACE INTO taskiq_sources_runs ({run_columns}) VALUES (
    :run_occurrence_id, :run_schedule_id, :run_task_name, :run_scheduled_for, :run_status, :run_recorded_at, :run_task_id,
    :run_attempt, :run_coalesced, :run_claimant, :run_error
);

-- name: next_due
-- When a claim could return something: the first unclaimed occurrence, an ended lease, or the end of a running one.
SELECT min(instant) FROM (
    SELECT min(next_run_at) AS instant FROM taskiq_sources_schedules
    WHERE paused = 0 AND quarantined = 0 AND lease_until IS NULL AND next_run_at IS NOT NULL
    UNION ALL
    SELECT min(next_run_at) FROM taskiq_sources_schedules
    WHERE paused = 0 AND quarantined = 0 AND lease_until <= :now AND next_run_at IS NOT NULL
    UNION ALL
    SELECT min(max(next_run_at, lease_until)) FROM taskiq_sources_schedules
    WHERE paused = 0 AND quarantined = 0 AND lease_until > :now AND next_run_at IS NOT NULL
);

-- name: runs
-- One page of history, newest first.
SELECT {run_columns} FROM taskiq_sources_runs WHERE TRUE /* conditions */ ORDER BY recorded_at DESC, occurrence_id DESC LIMIT :limit;

-- name: runs.schedule_id
-- Of exactly this schedule.
AND schedule_id = :schedule_id

-- name: runs.status
-- With exactly this status, which is not the usual one; the first part is the index's.
AND status <> 'sent' AND status = :status

-- name: runs.usual_status
-- With the status that nearly all have, and that is in no index.
AND status = :usual_status

-- name: runs.since
-- Recorded then or later.
AND recorded_at >= :since

-- name: runs.until
-- Recorded earlier.
AND recorded_at < :until

-- name: runs.after
-- The page after this row.
AND (recorded_at, occurrence_id) < (:after_recorded_at, :after_occurrence_id)

-- name: newest_surplus
-- The newest row that is one too many, if there are more than :keep. Its instant is found in an index alone.
WITH instant AS MATERIALIZED (SELECT recorded_at FROM taskiq_sources_runs ORDER BY recorded_at DESC LIMIT 1 OFFSET :keep)
SELECT recorded_at, occurrence_id FROM taskiq_sources_runs INDEXED BY taskiq_sources_runs_newest
WHERE recorded_at = (SELECT recorded_at FROM instant)
ORDER BY occurrence_id DESC
LIMIT 1 OFFSET :keep - (SELECT count(*) FROM taskiq_sources_runs WHERE recorded_at > (SELECT recorded_at FROM instant));

-- name: prune
-- Delete the oldest rows that are to go.
DELETE FROM taskiq_sources_runs WHERE rowid IN (
    SELECT rowid FROM taskiq_sources_runs WHERE TRUE /* conditions */ ORDER BY recorded_at, occurrence_id LIMIT :limit
);

-- name: prune.before
-- Recorded before an instant.
AND recorded_at < :before

-- name: prune.surplus
-- Up to and with this row.
AND (recorded_at, occurrence_id) <= (:recorded_at, :occurrence_id)

-- name: begin
-- Take the write lock at once: a transaction that begins by reading cannot become a writing one while another process writes.
BEGIN IMMEDIATE;

-- name: encoding
-- How the file keeps text: ids are in code point order in UTF-8 only.
PRAGMA encoding;

-- name: use_wal
-- Readers and the one writer do not wait for each other. Stays with the file.
PRAGMA journal_mode = WAL;

-- name: synchronous_full
-- A commit is on the disk when it returns.
PRAGMA synchronous = FULL;

-- name: synchronous_normal
-- A commit may be lost when the power fails, though not when the process dies.
PRAGMA synchronous = NORMAL;

-- name: checkpoint_seldom
-- Move the log to the file when it has 16 MiB and not at 4: pages that many transactions write are then moved once.
PRAGMA wal_autocheckpoint = 4000;

-- name: cache_more
-- 16 MiB instead of 2, if there is so much: history lands all over its indexes.
PRAGMA cache_size = -16000;

-- name: spill_to_memory
-- Pages to go back to if a statement fails are kept in memory: a batch of 500 would write them to a temporary file.
PRAGMA temp_store = MEMORY;

-- name: data_version
-- A number that changes when another connection commits a change.
PRAGMA data_version;

-- name: has_migrations
-- Whether this file has been migrated before.
SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'taskiq_sources_migrations');

-- name: create_migrations
-- A table of our own and not PRAGMA user_version: the file may belong to an application that counts its versions there.
CREATE TABLE IF NOT EXISTS taskiq_sources_migrations (version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL);

-- name: schema_version
-- The last migration that was applied.
SELECT coalesce(max(version), 0) FROM taskiq_sources_migrations;

-- name: migrated
-- Record a migration.
INSERT INTO taskiq_sources_migrations (version, name) VALUES (:version, :name);
