-- Regenerations: jobs that have many rows embedded again. Twin of the PostgreSQL step.
-- At most one is open: the others have no value in `open`, and the unique constraint passes over those. `holder` is
-- the process that feeds it, until `held_until`.
CREATE TABLE IF NOT EXISTS regenerations (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    scope       TEXT NOT NULL,
    priority    INTEGER NOT NULL,
    strategy    TEXT NOT NULL,
    origin      TEXT NOT NULL,
    model       TEXT NOT NULL,
    state       TEXT NOT NULL,
    open        INTEGER UNIQUE,
    last_id     INTEGER NOT NULL,
    end_id      INTEGER NOT NULL,
    walked      BOOLEAN NOT NULL,
    seen        INTEGER NOT NULL,
    total       INTEGER NOT NULL,
    done        INTEGER NOT NULL,
    failed      INTEGER NOT NULL,
    skipped     INTEGER NOT NULL,
    rate        REAL NOT NULL,
    holder      TEXT,
    held_until  TEXT,
    created_at  TEXT NOT NULL,
    finished_at TEXT,
    updated_at  TEXT NOT NULL
);
-- The window of the open one: rows whose task is in the ledger, or that wait for the row with the same text
-- (`leader`). No foreign key: a row that is deleted meanwhile must still be counted.
CREATE TABLE IF NOT EXISTS regeneration_items (
    recommendation_id INTEGER PRIMARY KEY,
    regeneration_id   INTEGER NOT NULL,
    content_version   INTEGER NOT NULL,
    hash              TEXT NOT NULL,
    leader            INTEGER,
    fed               BOOLEAN NOT NULL,
    fed_at            TEXT
);
CREATE INDEX IF NOT EXISTS regeneration_items_by_leader ON regeneration_items (leader) WHERE leader IS NOT NULL;
-- The texts that the open one has met, by hash, with the row that has each embedded for all: one call a text.
CREATE TABLE IF NOT EXISTS regeneration_texts (
    hash              TEXT PRIMARY KEY NOT NULL,
    recommendation_id INTEGER NOT NULL
) WITHOUT ROWID;
