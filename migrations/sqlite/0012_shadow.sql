-- How a regeneration's vectors come into the index, why so, and what it is at besides its rows (none once it has ended,
-- and in place). Twin of the PostgreSQL step.
ALTER TABLE regenerations ADD COLUMN strategy_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE regenerations ADD COLUMN phase TEXT;
-- Always empty here, where no index has to be kept while vectors are written.
CREATE TABLE IF NOT EXISTS embedding_stand_ins (
    recommendation_id INTEGER PRIMARY KEY,
    content_version   INTEGER NOT NULL,
    model             TEXT,
    embedding         BLOB
);
