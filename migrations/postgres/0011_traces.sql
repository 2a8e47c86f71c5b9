-- The trace that a task belongs to (W3C traceparent of its save); none where it isn't recorded. Twin of the SQLite
-- step.
ALTER TABLE embedding_tasks ADD COLUMN trace TEXT;
