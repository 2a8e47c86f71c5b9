-- A database as another program made it: written for these tests from a description of such tables.

CREATE EXTENSION vector;

CREATE TABLE users (
    id           UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    google_id    VARCHAR(255) NOT NULL UNIQUE,
    email        VARCHAR(255) NOT NULL UNIQUE,
    display_name VARCHAR(255) NOT NULL,
    username     VARCHAR(60) UNIQUE,
    picture      TEXT,
    created_at   TIMESTAMPTZ DEFAULT now(),
    updated_at   TIMESTAMPTZ DEFAULT now()
);

CREATE TABLE user_follows (
    follower_id  UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    following_id UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at   TIMESTAMPTZ DEFAULT now(),
    PRIMARY KEY (follower_id, following_id),
    CONSTRAINT nobody_follows_themselves CHECK (follower_id <> following_id)
);

CREATE TABLE categories (
    id   SERIAL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE places (
    id              SERIAL PRIMARY KEY,
    google_place_id TEXT UNIQUE,
    name            TEXT NOT NULL,
    address         TEXT,
    category_id     INTEGER REFERENCES categories (id),
    lat             DOUBLE PRECISION,
    lng             DOUBLE PRECISION,
    metadata        JSONB DEFAULT '{}',
    city_name       TEXT,
    created_at      TIMESTAMPTZ DEFAULT now(),
    updated_at      TIMESTAMPTZ DEFAULT now(),
    deleted_at      TIMESTAMPTZ,
    CONSTRAINT both_coordinates CHECK ((lat IS NULL) = (lng IS NULL))
);
CREATE INDEX places_city ON places (city_name) WHERE deleted_at IS NULL;

CREATE TABLE services (
    id            SERIAL PRIMARY KEY,
    phone_number  VARCHAR(40) UNIQUE,
    email         VARCHAR(255) UNIQUE,
    name          VARCHAR(255) NOT NULL,
    service_type  VARCHAR(100),
    business_name VARCHAR(255),
    address       TEXT,
    metadata      JSONB DEFAULT '{}',
    created_at    TIMESTAMPTZ DEFAULT now(),
    updated_at    TIMESTAMPTZ DEFAULT now(),
    deleted_at    TIMESTAMPTZ,
    CONSTRAINT can_be_reached CHECK (phone_number IS NOT NULL OR email IS NOT NULL)
);

CREATE TABLE recommendations (
    id           SERIAL PRIMARY KEY,
    user_id      UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    content_type TEXT NOT NULL CHECK (content_type IN ('place', 'service', 'tip', 'contact', 'unclear')),
    place_id     INTEGER REFERENCES places (id),
    service_id   INTEGER REFERENCES services (id),
    title        TEXT,
    description  TEXT NOT NULL,
    content_data JSONB DEFAULT '{}',
    rating       SMALLINT CHECK (rating BETWEEN 1 AND 5),
    visibility   TEXT DEFAULT 'friends',
    labels       TEXT[],
    metadata     JSONB,
    embedding    VECTOR(1536),
    question_id  INTEGER,
    created_at   TIMESTAMPTZ DEFAULT now(),
    updated_at   TIMESTAMPTZ DEFAULT now(),
    deleted_at   TIMESTAMPTZ,
    CONSTRAINT place_has_its_place CHECK ((content_type = 'place') = (place_id IS NOT NULL)),
    CONSTRAINT service_has_its_service CHECK ((content_type = 'service') = (service_id IS NOT NULL))
);
CREATE INDEX recommendations_near ON recommendations USING ivfflat (embedding vector_cosine_ops) WITH (lists = 5)
    WHERE embedding IS NOT NULL;
CREATE INDEX recommendations_of ON recommendations (user_id);

-- Other tables lean on these.
CREATE TABLE media (
    id                SERIAL PRIMARY KEY,
    recommendation_id INTEGER NOT NULL REFERENCES recommendations (id),
    url               TEXT NOT NULL
);
CREATE TABLE friend_groups (
    id       SERIAL PRIMARY KEY,
    owner_id UUID NOT NULL REFERENCES users (id),
    name     TEXT NOT NULL
);
CREATE TABLE friend_group_members (
    group_id INTEGER NOT NULL REFERENCES friend_groups (id) ON DELETE CASCADE,
    user_id  UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    PRIMARY KEY (group_id, user_id)
);
CREATE TABLE annotations (
    id                SERIAL PRIMARY KEY,
    recommendation_id INTEGER REFERENCES recommendations (id) ON DELETE SET NULL,
    body              JSONB NOT NULL DEFAULT '{}'
);

CREATE FUNCTION touch() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER recommendations_touch BEFORE UPDATE ON recommendations FOR EACH ROW EXECUTE FUNCTION touch();

CREATE FUNCTION no_shouting() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.description = upper(NEW.description) AND NEW.description ~ '[A-Z]{8}' THEN
        RAISE EXCEPTION 'descriptions must not shout';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER recommendations_quiet BEFORE INSERT OR UPDATE ON recommendations
    FOR EACH ROW EXECUTE FUNCTION no_shouting();
CREATE TRIGGER recommendations_resting BEFORE DELETE ON recommendations FOR EACH ROW EXECUTE FUNCTION no_shouting();
ALTER TABLE recommendations DISABLE TRIGGER recommendations_resting;

-- What is in them. Users 1 to 3; 2 follows 1.
INSERT INTO users (id, google_id, email, display_name, username) VALUES
    ('00000000-0000-4000-8000-000000000001', 'g-1', 'zoe@example.com', 'Zoë "Zo" O''Hara', 'zoe'),
    ('00000000-0000-4000-8000-000000000002', 'g-2', 'bo@example.com', 'Bo 🌊', NULL),
    ('00000000-0000-4000-8000-000000000003', 'g-3', 'ed@example.com', 'Ed', 'ed');
INSERT INTO user_follows (follower_id, following_id) VALUES
    ('00000000-0000-4000-8000-000000000002', '00000000-0000-4000-8000-000000000001');
INSERT INTO categories (name) VALUES ('Library'), ('Bakery');
INSERT INTO places (google_place_id, name, address, category_id, lat, lng, metadata, city_name) VALUES
    ('gp-1', 'Biblioteca d''Água', 'Rua 1', 1, 38.7, -9.1, '{"wifi": true, "tags": ["a", "b"]}', 'Lisboa'),
    (NULL, 'Twice', 'Quay 2', NULL, NULL, NULL, NULL, NULL),
    (NULL, 'Twice', 'Quay 2', NULL, NULL, NULL, '{}', NULL);
INSERT INTO services (phone_number, email, name, service_type, business_name) VALUES
    ('+351 1', NULL, 'Ana', 'Plumber', NULL),
    (NULL, 'ana@example.com', 'Ana', 'Plumber', NULL);

-- 1 to 40 have vectors, each nearest to itself; 41 to 60 have none.
INSERT INTO recommendations (user_id, content_type, place_id, description, rating, visibility, labels, embedding,
    created_at, updated_at)
    SELECT '00000000-0000-4000-8000-000000000001', 'place', 1 + n % 3, 'old text number ' || n, 1 + n % 5,
        CASE WHEN n % 2 = 0 THEN 'public' END, CASE WHEN n % 3 = 0 THEN ARRAY['calm', 'l''eau ☕'] END,
        CASE WHEN n <= 40 THEN (SELECT array_agg(CASE WHEN i = n THEN 1.0 ELSE 0.001 END ORDER BY i)
            FROM generate_series(1, 1536) AS i)::vector END,
        CASE WHEN n % 7 <> 0 THEN TIMESTAMPTZ '2023-01-01' + n * INTERVAL '1 hour' END,
        CASE WHEN n % 11 <> 0 THEN TIMESTAMPTZ '2023-02-01' + n * INTERVAL '1 hour' END
    FROM generate_series(1, 60) AS n;
-- 61 to 65: kinds of their own, and a deleted one without and one with a vector.
INSERT INTO recommendations (user_id, content_type, service_id, description, visibility, deleted_at, embedding) VALUES
    ('00000000-0000-4000-8000-000000000001', 'tip', NULL, 'a tip: "bring coins", ça va 🪙', 'public', NULL, NULL),
    ('00000000-0000-4000-8000-000000000001', 'contact', NULL, 'a contact', NULL, NULL, NULL),
    ('00000000-0000-4000-8000-000000000001', 'service', 1, 'fixed the tap', 'public', NULL, NULL),
    ('00000000-0000-4000-8000-000000000001', 'unclear', NULL, 'deleted without a vector', 'public', now(), NULL),
    ('00000000-0000-4000-8000-000000000001', 'unclear', NULL, 'deleted with a vector', 'public', now(),
        array_fill(0.1, ARRAY[1536])::vector);
INSERT INTO media (recommendation_id, url) VALUES (1, 'https://example.com/1.jpg'), (41, 'https://example.com/41.jpg');
INSERT INTO friend_groups (owner_id, name) VALUES ('00000000-0000-4000-8000-000000000001', 'Friends');
INSERT INTO friend_group_members VALUES (1, '00000000-0000-4000-8000-000000000002');
INSERT INTO annotations (recommendation_id) VALUES (1), (2);
