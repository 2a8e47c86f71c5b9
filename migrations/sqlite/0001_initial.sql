-- The schema on SQLite. Twin of migrations/postgres/0001_initial.sql: same tables, same columns.
-- UUIDs are 16-byte blobs, timestamps RFC 3339 in UTC, JSON is text, vectors are little-endian f32 blobs.

CREATE TABLE users (
    id           BLOB PRIMARY KEY NOT NULL,
    display_name TEXT,
    created_at   TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE user_follows (
    follower_id  BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    following_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at   TEXT NOT NULL,
    PRIMARY KEY (follower_id, following_id)
) WITHOUT ROWID;

CREATE TABLE places (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    google_place_id TEXT UNIQUE,
    name            TEXT,
    address         TEXT,
    lat             REAL,
    lng             REAL,
    category_name   TEXT,
    metadata        TEXT,
    created_at      TEXT NOT NULL,
    updated_at      TEXT NOT NULL,
    deleted_at      TEXT
);
-- A place without a Google id is the same place when name and address are.
CREATE UNIQUE INDEX places_by_name ON places (coalesce(name, ''), coalesce(address, ''))
    WHERE google_place_id IS NULL;

CREATE TABLE services (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT,
    service_type  TEXT,
    business_name TEXT,
    address       TEXT,
    metadata      TEXT,
    created_at    TEXT NOT NULL,
    updated_at    TEXT NOT NULL
);
CREATE UNIQUE INDEX services_by_name ON services
    (coalesce(name, ''), coalesce(service_type, ''), coalesce(business_name, ''));

-- AUTOINCREMENT: an id is never used again, so a late message about a deleted row can't meet a new one.
-- deleted_at is set by programs that keep what they delete: nobody finds, sees or embeds such a row.
-- The vector is last: what comes before it is read without its overflow page.
CREATE TABLE recommendations (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id          BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    content_type     TEXT NOT NULL,
    title            TEXT,
    description      TEXT NOT NULL,
    content_data     TEXT,
    labels           TEXT NOT NULL DEFAULT '[]',
    metadata         TEXT,
    rating           INTEGER CHECK (rating BETWEEN 1 AND 5),
    visibility       TEXT NOT NULL DEFAULT 'friends' CHECK (visibility IN ('friends', 'public')),
    place_id         INTEGER REFERENCES places (id) ON DELETE SET NULL,
    service_id       INTEGER REFERENCES services (id) ON DELETE SET NULL,
    content_version  INTEGER NOT NULL DEFAULT 1,
    created_at       TEXT NOT NULL,
    updated_at       TEXT NOT NULL,
    deleted_at       TEXT,
    embedded_version INTEGER,
    embedded_hash    TEXT,
    embedding_model  TEXT,
    embedding_parts  INTEGER,
    embedded_at      TEXT,
    embedding        BLOB
);
CREATE INDEX recommendations_by_user ON recommendations (user_id, created_at DESC, id DESC);
CREATE INDEX recommendations_by_place ON recommendations (place_id, created_at DESC, id DESC)
    WHERE place_id IS NOT NULL;
CREATE INDEX recommendations_by_service ON recommendations (service_id) WHERE service_id IS NOT NULL;

-- The ledger: outbox and truth. One row a recommendation and target; a finished task has none.
-- not_before is the moment the task was enqueued or, after that, the earliest moment for its next attempt:
-- the order in which a lane's tasks are handed to the broker.
CREATE TABLE embedding_tasks (
    recommendation_id INTEGER NOT NULL REFERENCES recommendations (id) ON DELETE CASCADE,
    target            TEXT NOT NULL CHECK (target IN ('current', 'next')),
    content_version   INTEGER NOT NULL,
    priority          INTEGER NOT NULL,
    state             TEXT NOT NULL CHECK (state IN ('pending', 'publishing', 'published', 'retrying', 'dead')),
    attempts          INTEGER NOT NULL DEFAULT 0,
    last_error        TEXT,
    enqueued_at       TEXT NOT NULL,
    not_before        TEXT NOT NULL,
    claim             TEXT,
    claimed_at        TEXT,
    published_at      TEXT,
    updated_at        TEXT NOT NULL,
    PRIMARY KEY (recommendation_id, target)
);
CREATE INDEX embedding_tasks_due ON embedding_tasks (state, priority, not_before, recommendation_id);

-- One row a process, renewed every second: what other processes know of it.
CREATE TABLE workers (
    id              TEXT PRIMARY KEY NOT NULL,
    role            TEXT NOT NULL,
    host            TEXT NOT NULL,
    pid             INTEGER NOT NULL,
    started_at      TEXT NOT NULL,
    heartbeat_at    TEXT NOT NULL,
    in_flight       INTEGER NOT NULL,
    max_concurrent  INTEGER NOT NULL,
    batch_size      INTEGER NOT NULL,
    ready_total     INTEGER NOT NULL,
    failed_total    INTEGER NOT NULL,
    ready_per_second REAL NOT NULL,
    broker_error    TEXT,
    provider_error  TEXT,
    served_high     TEXT,
    served_normal   TEXT,
    served_low      TEXT
) WITHOUT ROWID;

-- What the vectors in this database were made with.
CREATE TABLE service_state (
    key   TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The keyword index holds only the index, no second copy of the texts. Triggers keep it, so that no path
-- into the tables can forget it.
CREATE VIRTUAL TABLE recommendations_fts USING fts5 (
    title, description, labels, subject,
    content = '', contentless_delete = 1, tokenize = 'porter unicode61 remove_diacritics 2'
);

CREATE VIEW recommendation_keywords AS
    SELECT r.id, r.title, r.description, r.labels, r.place_id, r.service_id,
           concat_ws(' ', p.name, p.address, p.category_name, s.name, s.service_type, s.business_name, s.address)
               AS subject
    FROM recommendations r
    LEFT JOIN places p ON p.id = r.place_id
    LEFT JOIN services s ON s.id = r.service_id;

CREATE TRIGGER recommendations_fts_insert AFTER INSERT ON recommendations BEGIN
    INSERT INTO recommendations_fts (rowid, title, description, labels, subject)
    SELECT id, title, description, labels, subject FROM recommendation_keywords WHERE id = new.id;
END;

CREATE TRIGGER recommendations_fts_delete AFTER DELETE ON recommendations BEGIN
    DELETE FROM recommendations_fts WHERE rowid = old.id;
END;

CREATE TRIGGER recommendations_fts_update
AFTER UPDATE OF title, description, labels, place_id, service_id ON recommendations BEGIN
    INSERT OR REPLACE INTO recommendations_fts (rowid, title, description, labels, subject)
    SELECT id, title, description, labels, subject FROM recommendation_keywords WHERE id = new.id;
END;

CREATE TRIGGER places_fts_update AFTER UPDATE OF name, address, category_name ON places BEGIN
    INSERT OR REPLACE INTO recommendations_fts (rowid, title, description, labels, subject)
    SELECT id, title, description, labels, subject FROM recommendation_keywords WHERE place_id = new.id;
END;

CREATE TRIGGER services_fts_update AFTER UPDATE OF name, service_type, business_name, address ON services BEGIN
    INSERT OR REPLACE INTO recommendations_fts (rowid, title, description, labels, subject)
    SELECT id, title, description, labels, subject FROM recommendation_keywords WHERE service_id = new.id;
END;
