-- What calls to an embedding provider took, by model and day (UTC), over all processes. Twin of the PostgreSQL step.
-- The price may change, so that what a call cost is noted with it: in USD, 0 where no price is known.
CREATE TABLE IF NOT EXISTS provider_usage (
    model  TEXT NOT NULL,
    day    TEXT NOT NULL,
    calls  BIGINT NOT NULL,
    texts  BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    cached BIGINT NOT NULL,
    cost   REAL NOT NULL,
    PRIMARY KEY (model, day)
);
