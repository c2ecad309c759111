-- What the comment on the table of schedules says; as for version 0 if there is no such table. NULL if there is not even the schema.
SELECT coalesce(
    (
        SELECT coalesce(obj_description(pg_class.oid, 'pg_class'), '') FROM pg_catalog.pg_class
        WHERE relnamespace = pg_namespace.oid AND relname = '{prefix}schedules'
    ),
    'taskiq-sources schema 0'
)
FROM pg_catalog.pg_namespace WHERE nspname = '{schema}';
