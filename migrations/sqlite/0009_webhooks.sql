-- Webhooks: who wants to be told of what, and each telling with all its attempts. Twin of the PostgreSQL step.
-- The secret signs; the previous one signs beside it until previous_secret_until. failing_since is the first failure
-- since the last success, or since it was enabled.
CREATE TABLE IF NOT EXISTS webhook_endpoints (
    id                    INTEGER PRIMARY KEY AUTOINCREMENT,
    url                   TEXT NOT NULL,
    description           TEXT,
    on_ready              BOOLEAN NOT NULL,
    on_failed             BOOLEAN NOT NULL,
    on_finished           BOOLEAN NOT NULL,
    include_regenerations BOOLEAN NOT NULL,
    secret                TEXT NOT NULL,
    previous_secret       TEXT,
    previous_secret_until TEXT,
    failing_since         TEXT,
    disabled_at           TEXT,
    disabled_reason       TEXT,
    created_at            TEXT NOT NULL,
    updated_at            TEXT NOT NULL
);
-- An event for an endpoint: the outbox and the log in one. It is pending, then published (a message about its `round` is
-- with the broker), then delivered, failed, or retrying from not_before on. No foreign key: what a deleted endpoint
-- leaves is removed in the background.
CREATE TABLE IF NOT EXISTS webhook_deliveries (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint_id  INTEGER NOT NULL,
    event_id     TEXT NOT NULL,
    event        TEXT NOT NULL,
    occurred_at  TEXT NOT NULL,
    data         TEXT NOT NULL,
    state        TEXT NOT NULL,
    attempts     INTEGER NOT NULL,
    failures     INTEGER NOT NULL,
    round        INTEGER NOT NULL,
    not_before   TEXT NOT NULL,
    published_at TEXT,
    updated_at   TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS webhook_deliveries_due ON webhook_deliveries (endpoint_id, not_before, id)
    WHERE state IN ('pending', 'retrying');
CREATE INDEX IF NOT EXISTS webhook_deliveries_published ON webhook_deliveries (endpoint_id) WHERE state = 'published';
CREATE INDEX IF NOT EXISTS webhook_deliveries_log ON webhook_deliveries (endpoint_id, id);
CREATE INDEX IF NOT EXISTS webhook_deliveries_ended ON webhook_deliveries (updated_at)
    WHERE state IN ('delivered', 'failed');
-- One row a request: what was sent is the delivery's, under the URL and the timestamp that are kept here.
CREATE TABLE IF NOT EXISTS webhook_attempts (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery_id INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    at          TEXT NOT NULL,
    url         TEXT NOT NULL,
    status      INTEGER,
    duration_ms INTEGER NOT NULL,
    response    TEXT,
    error       TEXT,
    worker      TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS webhook_attempts_of ON webhook_attempts (delivery_id, id);
