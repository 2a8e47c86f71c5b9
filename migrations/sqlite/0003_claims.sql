-- What relays are handing to the broker: one row a batch, gone once the broker has confirmed it. Twin of the PostgreSQL
-- step. A task names its batch in `claim`; `claimed_at` and the state `publishing` are no longer written.
CREATE TABLE IF NOT EXISTS claims (
    token      TEXT PRIMARY KEY,
    claimed_at TEXT NOT NULL
);
UPDATE embedding_tasks SET state = 'pending', claim = NULL, claimed_at = NULL WHERE state = 'publishing';
