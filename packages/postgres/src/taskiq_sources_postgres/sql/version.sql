-- A row if there is the schema, and in it what the comment on the table of schedules says: NULL if there is no such table.
SELECT (
    SELECT coalesce(obj_description(pg_class.oid, 'pg_class'), '') FROM pg_catalog.pg_class
    WHERE relnamespace = pg_namespace.oid AND relname = '{prefix}schedules'
) AS comment
FROM pg_catalog.pg_namespace WHERE nspname = '{schema}';
