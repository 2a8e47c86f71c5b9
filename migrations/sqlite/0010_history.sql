-- What was done when, and the events for whoever listens. Twin of the PostgreSQL step.
-- One row a measure and ten seconds (at: seconds since 1970, a multiple of ten), to which each process adds what it
-- did; of a measure that is a distribution one row a bucket. Kept for a day.
CREATE TABLE IF NOT EXISTS embedding_history (
    at      BIGINT NOT NULL,
    measure TEXT NOT NULL,
    bucket  SMALLINT NOT NULL,
    amount  REAL NOT NULL,
    PRIMARY KEY (at, measure, bucket)
) WITHOUT ROWID;
-- What became ready or was given up: some rows a second and process, each with all events since its last one, so that
-- listeners of any process learn of them without a column or an index that writing a vector back would have to keep.
-- The ids are in the order of the commits. Kept for ten minutes.
CREATE TABLE IF NOT EXISTS embedding_journal (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      TEXT NOT NULL,
    skipped BIGINT NOT NULL,
    events  TEXT NOT NULL
);
