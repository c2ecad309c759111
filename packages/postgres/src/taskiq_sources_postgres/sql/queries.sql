-- Every statement of the store, by name. :name is a parameter; {schema} and {prefix} are the validated identifiers, {columns} and
-- {run_columns} the columns of the contract. A block "page.<condition>" is put in place of "/* conditions */" in the block "page"
-- when it is asked for.
--
-- Each operation is one statement, and so one transaction. Where it writes several rows it locks them in the order of their ids
-- first, so that two of them never wait for each other. Ids to be looked up arrive as arrays; other lists as text that PostgreSQL
-- reads as an array ('{"a",NULL}', :name::text::text[]), which is a fifth of the driver's work and less of the server's.
-- `= ANY (array)` rather than a join, where it decides which rows to look up, because it leads the planner to the primary key
-- however little it knows of the table.

-- name: put
-- Store schedules; where the timing of an existing one is equal, its pending occurrence stays.
WITH written AS (
    INSERT INTO "{schema}"."{prefix}schedules" AS old (
        id, task_name, document, timing, owner, scheduled_for, next_run_at, anchor, coalesced, attempt, run_count, paused,
        quarantined, last_error, created_at, updated_at, revision, timing_revision
    )
    SELECT given.*, 1, 1
    FROM unnest(
        :id::text[], :task_name::text::text[], :document::text::text[], :timing::text::text[], :owner::text::text[],
        :scheduled_for::text::bigint[], :next_run_at::text::bigint[], :anchor::text::bigint[], :coalesced::text::bigint[],
        :attempt::text::bigint[], :run_count::text::bigint[], :paused::text::boolean[], :quarantined::text::boolean[],
        :last_error::text::text[], :created_at::text::bigint[], :updated_at::text::bigint[]
    ) AS given (id)
    ORDER BY given.id COLLATE "C"
    ON CONFLICT (id) DO UPDATE SET
        task_name = excluded.task_name,
        document = excluded.document,
        timing = excluded.timing,
        owner = excluded.owner,
        scheduled_for = CASE WHEN old.timing = excluded.timing THEN old.scheduled_for ELSE excluded.scheduled_for END,
        next_run_at = CASE WHEN old.timing = excluded.timing THEN old.next_run_at ELSE excluded.next_run_at END,
        anchor = CASE WHEN old.timing = excluded.timing THEN old.anchor ELSE excluded.anchor END,
        coalesced = CASE WHEN old.timing = excluded.timing THEN old.coalesced ELSE excluded.coalesced END,
        attempt = CASE WHEN old.timing = excluded.timing THEN old.attempt ELSE excluded.attempt END,
        run_count = CASE WHEN old.timing = excluded.timing THEN old.run_count ELSE excluded.run_count END,
        last_error = CASE WHEN old.timing = excluded.timing THEN old.last_error ELSE excluded.last_error END,
        quarantined = FALSE,
        revision = old.revision + 1,
        timing_revision = CASE WHEN old.timing = excluded.timing THEN old.timing_revision ELSE old.revision + 1 END,
        updated_at = excluded.updated_at
    WHERE :replace
    RETURNING id, revision
)
SELECT array(SELECT id FROM written WHERE revision = 1) AS created, pg_notify(:channel, '');

-- name: get
-- The schedules of these ids.
SELECT {columns} FROM "{schema}"."{prefix}schedules" WHERE id = ANY (:ids::text[]);

-- name: page
-- One page of schedules, in the order of ids.
SELECT {columns} FROM "{schema}"."{prefix}schedules" WHERE TRUE /* conditions */ ORDER BY id LIMIT :limit;

-- name: page.after
-- The page after this id.
AND id > :after

-- name: page.task_name
-- Exactly this task; all but the last part are the index's.
AND task_name >= '' AND left(task_name, 200) = left(:task_name::text, 200) AND task_name = :task_name

-- name: page.owner
-- Declared by exactly this owner; the first part is the index's.
AND left(owner, 200) = left(:owner::text, 200) AND owner = :owner

-- name: page.paused
-- Paused ones only.
AND paused

-- name: page.not_paused
-- All but the paused ones.
AND NOT paused

-- name: page.quarantined
-- Quarantined ones only.
AND quarantined

-- name: page.not_quarantined
-- All but the quarantined ones.
AND NOT quarantined

-- name: page.due_before
-- Pending earlier than this. A sum, which no index knows: "page_due" has looked there, and goes by ids.
AND next_run_at + 0 < :due_before

-- name: page_due
-- The same page, where there is such a condition. Whether few are due or many, statistics know too late: so what is due is looked at
-- first, up to a bound, through the two indexes over next_run_at. If that is all, the page is of that; else the order of ids leads
-- to it soon enough. One of the two parts is not begun.
WITH due AS MATERIALIZED (
    (
        SELECT id FROM "{schema}"."{prefix}schedules" WHERE NOT paused AND NOT quarantined AND next_run_at < :due_before
        ORDER BY next_run_at LIMIT 5000
    )
    UNION ALL
    (
        SELECT id FROM "{schema}"."{prefix}schedules" WHERE (paused OR quarantined) AND next_run_at < :due_before
        ORDER BY next_run_at LIMIT 5000
    )
), bound AS MATERIALIZED (
    SELECT count(*) >= 5000 AS reached FROM due
)
(
    SELECT {columns} FROM "{schema}"."{prefix}schedules"
    WHERE NOT (SELECT reached FROM bound) AND id = ANY (ARRAY(SELECT id FROM due)) /* conditions of page */
    ORDER BY id LIMIT :limit
)
UNION ALL
(
    SELECT {columns} FROM "{schema}"."{prefix}schedules"
    WHERE (SELECT reached FROM bound) /* conditions of page */
    ORDER BY id LIMIT :limit
)
ORDER BY id LIMIT :limit;

-- name: delete
-- Delete the schedules of these ids.
WITH locked AS (
    SELECT id FROM "{schema}"."{prefix}schedules" WHERE id = ANY (:ids::text[]) ORDER BY id FOR UPDATE
), deleted AS (
    DELETE FROM "{schema}"."{prefix}schedules" WHERE id = ANY (ARRAY(SELECT id FROM locked)) RETURNING id
)
SELECT array(SELECT id FROM deleted) AS deleted, pg_notify(:channel, '');

-- name: update
-- Edit the fields that are named in :changed; the rows tell the revision found and, unless another one was expected, the result.
WITH found AS (
    SELECT revision AS found_revision FROM "{schema}"."{prefix}schedules" WHERE id = :id FOR UPDATE
), edited AS (
    UPDATE "{schema}"."{prefix}schedules" SET
        document = CASE WHEN 'document' = ANY (:changed::text[]) THEN :document ELSE document END,
        timing = CASE WHEN 'timing' = ANY (:changed) THEN :timing ELSE timing END,
        scheduled_for = CASE WHEN 'scheduled_for' = ANY (:changed) THEN :scheduled_for ELSE scheduled_for END,
        next_run_at = CASE WHEN 'next_run_at' = ANY (:changed) THEN :next_run_at ELSE next_run_at END,
        anchor = CASE WHEN 'anchor' = ANY (:changed) THEN :anchor ELSE anchor END,
        coalesced = CASE WHEN 'coalesced' = ANY (:changed) THEN :coalesced ELSE coalesced END,
        attempt = CASE WHEN 'attempt' = ANY (:changed) THEN :attempt ELSE attempt END,
        run_count = CASE WHEN 'run_count' = ANY (:changed) THEN :run_count ELSE run_count END,
        paused = CASE WHEN 'paused' = ANY (:changed) THEN :paused ELSE paused END,
        quarantined = CASE WHEN 'quarantined' = ANY (:changed) THEN :quarantined ELSE quarantined END,
        last_error = CASE WHEN 'last_error' = ANY (:changed) THEN :last_error ELSE last_error END,
        updated_at = :updated_at,
        revision = revision + 1,
        timing_revision = CASE
            WHEN :changed && ARRAY['timing', 'scheduled_for', 'next_run_at'] THEN revision + 1 ELSE timing_revision
        END
    WHERE id = :id AND (SELECT :expected_revision::bigint IS NULL OR found_revision = :expected_revision FROM found)
    RETURNING {columns}
)
SELECT found_revision, edited.*, pg_notify(:channel, '') FROM found LEFT JOIN edited ON TRUE;

-- name: claim
-- Take the oldest eligible occurrences, stepping over those that somebody else is writing. What is locked stays where it is, so it
-- need not be looked up by id again; what somebody wrote a moment before is in another place already and waits for the next claim.
WITH taken AS (
    UPDATE "{schema}"."{prefix}schedules" SET
        claimant = :claimant, lease_until = :lease_until, attempt = attempt + 1, token = :token
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM "{schema}"."{prefix}schedules"
        WHERE NOT paused AND NOT quarantined AND next_run_at <= :horizon AND (lease_until IS NULL OR lease_until <= :now)
        ORDER BY next_run_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
    RETURNING {columns}, token
)
SELECT * FROM taken ORDER BY next_run_at, id;

-- name: claim_ids
-- Take the oldest eligible occurrences of these ids. Waits for who is writing them: an edit is no reason to miss an occurrence.
WITH taken AS (
    UPDATE "{schema}"."{prefix}schedules" SET
        claimant = :claimant, lease_until = :lease_until, attempt = attempt + 1, token = :token
    WHERE id = ANY (ARRAY(
        SELECT id FROM (
            SELECT id, next_run_at FROM "{schema}"."{prefix}schedules"
            WHERE id = ANY (:ids::text[])
                AND NOT paused AND NOT quarantined AND coalesce(next_run_at <= :horizon, FALSE)
                AND (lease_until IS NULL OR lease_until <= :now)
            ORDER BY id FOR UPDATE
        ) AS eligible
        ORDER BY next_run_at, id LIMIT :limit
    ))
    RETURNING {columns}, token
)
SELECT * FROM taken ORDER BY next_run_at, id;

-- name: renew
-- Let leases last until another instant, where the token is the current one.
WITH held AS (
    SELECT stored.id
    FROM (SELECT id, token FROM "{schema}"."{prefix}schedules" WHERE id = ANY (:id::text[]) ORDER BY id FOR UPDATE) AS stored
    JOIN unnest(:id, :token::text::text[]) AS given (id, token) ON stored.id = given.id AND stored.token = given.token
)
UPDATE "{schema}"."{prefix}schedules" SET lease_until = :until WHERE id = ANY (ARRAY(SELECT id FROM held)) RETURNING id;

-- name: settle
-- Record outcomes where the token is the current one. History rows come in arrays of their own; "holder" is the schedule whose
-- outcome they belong to. Returns the ids whose claim did not survive although it should have. Notifies of what can be claimed
-- before others look for it, which they do when its lease would have ended: the commits of those who notify queue for one lock.
-- A column of "same" may come with the one value that all its rows have; unnest() makes up for the rest with NULL.
WITH same AS MATERIALIZED (
    SELECT
        (:claimed_revision::text::bigint[])[1] AS claimed_revision,
        (:coalesced::text::bigint[])[1] AS coalesced,
        (:attempt::text::bigint[])[1] AS attempt,
        (:run_count::text::bigint[])[1] AS run_count,
        (:quarantined::text::boolean[])[1] AS quarantined,
        (:finished::text::boolean[])[1] AS finished,
        (:release::text::boolean[])[1] AS release,
        (:run_task_name::text::text[])[1] AS run_task_name,
        (:run_status::text::text[])[1] AS run_status,
        (:run_recorded_at::text::bigint[])[1] AS run_recorded_at,
        (:run_attempt::text::bigint[])[1] AS run_attempt,
        (:run_coalesced::text::bigint[])[1] AS run_coalesced
), given AS (
    SELECT
        outcome.id, outcome.token, outcome.scheduled_for, outcome.next_run_at, outcome.last_error,
        coalesce(outcome.claimed_revision, same.claimed_revision) AS claimed_revision,
        coalesce(outcome.coalesced, same.coalesced) AS coalesced,
        coalesce(outcome.attempt, same.attempt) AS attempt,
        coalesce(outcome.run_count, same.run_count) AS run_count,
        coalesce(outcome.quarantined, same.quarantined) AS quarantined,
        coalesce(outcome.finished, same.finished) AS finished,
        coalesce(outcome.release, same.release) AS release
    FROM same, unnest(
        :id::text[], :token::text::text[], :claimed_revision::text::bigint[], :scheduled_for::text::bigint[],
        :next_run_at::text::bigint[], :coalesced::text::bigint[], :attempt::text::bigint[], :run_count::text::bigint[],
        :last_error::text::text[], :quarantined::text::boolean[], :finished::text::boolean[], :release::text::boolean[]
    ) AS outcome (
        id, token, claimed_revision, scheduled_for, next_run_at, coalesced, attempt, run_count, last_error, quarantined, finished,
        release
    )
), held AS (
    SELECT
        given.*,
        stored.timing_revision > given.claimed_revision AS rescheduled,
        stored.lease_until,
        CASE WHEN NOT stored.quarantined THEN greatest(stored.next_run_at, stored.lease_until) END AS looked_for_at
    FROM (
        SELECT id, token, timing_revision, next_run_at, lease_until, quarantined FROM "{schema}"."{prefix}schedules"
        WHERE id = ANY (:id) ORDER BY id FOR UPDATE
    ) AS stored
    JOIN given ON stored.id = given.id AND stored.token = given.token
), recorded AS (
    INSERT INTO "{schema}"."{prefix}runs" (
        occurrence_id, schedule_id, task_name, scheduled_for, status, recorded_at, task_id, attempt, coalesced, claimant, error
    )
    SELECT DISTINCT ON (run.occurrence_id)
        run.occurrence_id, run.schedule_id, coalesce(run.task_name, same.run_task_name), run.scheduled_for,
        coalesce(run.status, same.run_status), coalesce(run.recorded_at, same.run_recorded_at), run.task_id,
        coalesce(run.attempt, same.run_attempt), coalesce(run.coalesced, same.run_coalesced), run.claimant, run.error
    FROM same, unnest(
        :run_holder::text::text[], :run_occurrence_id::text::text[], :run_schedule_id::text::text[], :run_task_name::text::text[],
        :run_scheduled_for::text::bigint[], :run_status::text::text[], :run_recorded_at::text::bigint[],
        :run_task_id::text::text[], :run_attempt::text::bigint[], :run_coalesced::text::bigint[], :run_claimant::text::text[],
        :run_error::text::text[]
    ) WITH ORDINALITY AS run (
        holder, occurrence_id, schedule_id, task_name, scheduled_for, status, recorded_at, task_id, attempt, coalesced, claimant,
        error, position
    )
    JOIN held ON held.id = run.holder
    ORDER BY run.occurrence_id, run.position DESC
    ON CONFLICT (occurrence_id) DO UPDATE SET
        schedule_id = excluded.schedule_id, task_name = excluded.task_name, scheduled_for = excluded.scheduled_for,
        status = excluded.status, recorded_at = excluded.recorded_at, task_id = excluded.task_id, attempt = excluded.attempt,
        coalesced = excluded.coalesced, claimant = excluded.claimant, error = excluded.error
), deleted AS (
    DELETE FROM "{schema}"."{prefix}schedules"
    WHERE id = ANY (ARRAY(SELECT id FROM held WHERE finished AND NOT rescheduled))
), released AS (
    UPDATE "{schema}"."{prefix}schedules" SET claimant = NULL, lease_until = NULL, token = NULL
    WHERE id = ANY (ARRAY(SELECT id FROM held WHERE rescheduled))
), advanced AS (
    UPDATE "{schema}"."{prefix}schedules" AS stored SET
        scheduled_for = held.scheduled_for,
        next_run_at = held.next_run_at,
        coalesced = held.coalesced,
        attempt = held.attempt,
        run_count = held.run_count,
        last_error = held.last_error,
        quarantined = held.quarantined,
        claimant = CASE WHEN held.release THEN NULL ELSE stored.claimant END,
        lease_until = CASE WHEN held.release THEN NULL ELSE stored.lease_until END,
        token = CASE WHEN held.release THEN NULL ELSE stored.token END
    FROM held
    WHERE stored.id = held.id AND NOT held.finished AND NOT held.rescheduled /* conditions */
)
SELECT
    array(
        SELECT given.id FROM given LEFT JOIN held USING (id)
        WHERE held.id IS NULL OR (held.rescheduled AND NOT given.release)
    ) AS lost,
    CASE
        WHEN EXISTS (
            SELECT FROM held
            WHERE rescheduled OR (
                NOT finished AND NOT quarantined
                AND CASE WHEN release THEN next_run_at ELSE greatest(next_run_at, lease_until) END
                    < coalesce(looked_for_at, 9223372036854775807)
            )
        )
        THEN pg_notify(:channel, '')
    END;

-- name: settle.planned_as_we_say
-- A planner that does not join in loops would go through the whole table; others take this for a reason to.
AND stored.id = ANY (ARRAY(SELECT id FROM held WHERE NOT finished AND NOT rescheduled))

-- name: next_due
-- When a claim could return something: when the first free schedule is due, or when a lease of one that is due before it ends.
WITH pending AS NOT MATERIALIZED (
    SELECT next_run_at, lease_until, id FROM "{schema}"."{prefix}schedules"
    WHERE NOT paused AND NOT quarantined AND next_run_at IS NOT NULL
), free AS MATERIALIZED (
    SELECT next_run_at FROM pending WHERE lease_until IS NULL OR lease_until <= :now ORDER BY next_run_at, id LIMIT 1
)
SELECT least(
    (SELECT next_run_at FROM free),
    (
        SELECT min(greatest(next_run_at, lease_until)) FROM pending
        WHERE lease_until > :now AND next_run_at < coalesce((SELECT next_run_at FROM free), 9223372036854775807)
    )
);

-- name: runs
-- One page of history, newest first.
SELECT {run_columns} FROM "{schema}"."{prefix}runs" WHERE TRUE /* conditions */
ORDER BY recorded_at DESC, occurrence_id DESC LIMIT :limit;

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
-- The newest row that is one too many, if there are more than :keep.
SELECT recorded_at, occurrence_id FROM "{schema}"."{prefix}runs"
ORDER BY recorded_at DESC, occurrence_id DESC LIMIT 1 OFFSET :keep;

-- name: prune
-- Delete the oldest rows that are to go, stepping over those that somebody else is writing.
WITH pruned AS (
    DELETE FROM "{schema}"."{prefix}runs" WHERE occurrence_id = ANY (ARRAY(
        SELECT occurrence_id FROM "{schema}"."{prefix}runs" WHERE TRUE /* conditions */
        ORDER BY recorded_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) AS pruned FROM pruned;

-- name: prune.before
-- Recorded before an instant.
AND recorded_at < :before

-- name: prune.surplus
-- Up to and with this row.
AND (recorded_at, occurrence_id) <= (:recorded_at, :occurrence_id)

-- name: now
-- The server's clock, in whole milliseconds.
SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now;
