-- Vectors that were paid for, by model and hash of their text, the longest unused going first. Twin of the SQLite step.
-- The vector as little-endian f32: exactly what the provider gave, of any dimension.
CREATE TABLE IF NOT EXISTS embedding_cache (
    model     TEXT NOT NULL,
    hash      TEXT NOT NULL,
    embedding BYTEA NOT NULL,
    parts     INTEGER NOT NULL,
    made_at   TIMESTAMPTZ NOT NULL,
    used_at   TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (model, hash)
);
-- Numbers hardly compress, and trying costs more than they save.
ALTER TABLE embedding_cache ALTER COLUMN embedding SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS embedding_cache_by_use ON embedding_cache (used_at);
