-- Vectors that were paid for, by model and hash of their text, the longest unused going first. Twin of the PostgreSQL step.
-- The vector as little-endian f32: exactly what the provider gave, of any dimension.
CREATE TABLE IF NOT EXISTS embedding_cache (
    model     TEXT NOT NULL,
    hash      TEXT NOT NULL,
    embedding BLOB NOT NULL,
    parts     INTEGER NOT NULL,
    made_at   TEXT NOT NULL,
    used_at   TEXT NOT NULL,
    PRIMARY KEY (model, hash)
);
CREATE INDEX IF NOT EXISTS embedding_cache_by_use ON embedding_cache (used_at);
