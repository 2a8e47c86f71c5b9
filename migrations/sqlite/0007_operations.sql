-- What someone on call sees and does: the attempts of each task, dead letters by their error, discarded ones, drained
-- workers, and who did what. Twin of the PostgreSQL step.
-- error_group is last_error without ids and numbers; a dead task with a discarded_at is nobody's any more.
ALTER TABLE embedding_tasks ADD COLUMN error_group TEXT;
ALTER TABLE embedding_tasks ADD COLUMN discarded_at TEXT;
CREATE INDEX IF NOT EXISTS embedding_tasks_dead ON embedding_tasks (updated_at, recommendation_id)
    WHERE state = 'dead' AND discarded_at IS NULL;
ALTER TABLE workers ADD COLUMN state TEXT;
ALTER TABLE workers ADD COLUMN drain_since TEXT;
-- Attempts that failed, of the task as it stands now: those of older versions and finished tasks are forgotten in
-- the background, so that success costs nothing.
CREATE TABLE IF NOT EXISTS embedding_attempts (
    recommendation_id BIGINT NOT NULL,
    target            TEXT NOT NULL,
    attempt           INTEGER NOT NULL,
    content_version   BIGINT NOT NULL,
    at                TEXT NOT NULL,
    error             TEXT NOT NULL,
    class             TEXT NOT NULL,
    worker            TEXT,
    duration_ms       BIGINT,
    PRIMARY KEY (recommendation_id, target, attempt)
);
-- What was done by whom. An order over many dead letters is carried out in small steps: count grows, reached_at and
-- reached_id say how far it is, and it is finished when finished_at says so.
CREATE TABLE IF NOT EXISTS embedding_audit (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    at          TEXT NOT NULL,
    who         TEXT NOT NULL,
    action      TEXT NOT NULL,
    filter      TEXT NOT NULL,
    count       BIGINT NOT NULL,
    priority    SMALLINT,
    until       TEXT NOT NULL,
    reached_at  TEXT,
    reached_id  BIGINT,
    finished_at TEXT
);
CREATE INDEX IF NOT EXISTS embedding_audit_open ON embedding_audit (id) WHERE finished_at IS NULL;
