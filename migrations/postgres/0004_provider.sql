-- What all processes know together of an embedding provider's rate limits, and what each tells of its calls. Twin
-- of the SQLite step.
-- One row a provider and model: requests and tokens are taken together by one statement, or not at all. A limit of 0
-- is unknown. Moments are milliseconds since 1970 by the database's clock, the only one that all processes share.
CREATE TABLE IF NOT EXISTS provider_limits (
    provider TEXT PRIMARY KEY,
    window_ms DOUBLE PRECISION NOT NULL,
    requests_limit DOUBLE PRECISION NOT NULL,
    requests_left DOUBLE PRECISION NOT NULL,
    tokens_limit DOUBLE PRECISION NOT NULL,
    tokens_left DOUBLE PRECISION NOT NULL,
    refilled_at DOUBLE PRECISION NOT NULL,
    queried_at DOUBLE PRECISION NOT NULL DEFAULT 0,
    blocked_until DOUBLE PRECISION NOT NULL DEFAULT 0
);
ALTER TABLE workers ADD COLUMN breaker_state TEXT;
ALTER TABLE workers ADD COLUMN breaker_reason TEXT;
ALTER TABLE workers ADD COLUMN breaker_since TIMESTAMPTZ;
ALTER TABLE workers ADD COLUMN breaker_probe_at TIMESTAMPTZ;
ALTER TABLE workers ADD COLUMN concurrency_min BIGINT;
ALTER TABLE workers ADD COLUMN concurrency_max BIGINT;
ALTER TABLE workers ADD COLUMN concurrency_reason TEXT;
ALTER TABLE workers ADD COLUMN concurrency_changed_at TIMESTAMPTZ;
