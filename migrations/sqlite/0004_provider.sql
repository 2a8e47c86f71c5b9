-- What all processes know together of an embedding provider's rate limits, and what each tells of its calls. Twin
-- of the PostgreSQL step.
-- One row a provider and model: requests and tokens are taken together by one statement, or not at all. A limit of 0
-- is unknown. Moments are milliseconds since 1970 by the database's clock, the only one that all processes share.
CREATE TABLE IF NOT EXISTS provider_limits (
    provider TEXT PRIMARY KEY,
    window_ms REAL NOT NULL,
    requests_limit REAL NOT NULL,
    requests_left REAL NOT NULL,
    tokens_limit REAL NOT NULL,
    tokens_left REAL NOT NULL,
    refilled_at REAL NOT NULL,
    queried_at REAL NOT NULL DEFAULT 0,
    blocked_until REAL NOT NULL DEFAULT 0
);
ALTER TABLE workers ADD COLUMN breaker_state TEXT;
ALTER TABLE workers ADD COLUMN breaker_reason TEXT;
ALTER TABLE workers ADD COLUMN breaker_since TEXT;
ALTER TABLE workers ADD COLUMN breaker_probe_at TEXT;
ALTER TABLE workers ADD COLUMN concurrency_min BIGINT;
ALTER TABLE workers ADD COLUMN concurrency_max BIGINT;
ALTER TABLE workers ADD COLUMN concurrency_reason TEXT;
ALTER TABLE workers ADD COLUMN concurrency_changed_at TEXT;
