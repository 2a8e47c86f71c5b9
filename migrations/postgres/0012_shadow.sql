-- How a regeneration's vectors come into the index, why so, and what it is at besides its rows (none once it has ended,
-- and in place). Twin of the SQLite step.
ALTER TABLE regenerations ADD COLUMN strategy_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE regenerations ADD COLUMN phase TEXT;
-- What searches look through while the vectors' own column has no index, because a regeneration fills it: a copy of the
-- vectors that were there. Empty otherwise.
CREATE TABLE IF NOT EXISTS embedding_stand_ins (
    recommendation_id BIGINT PRIMARY KEY,
    content_version   BIGINT NOT NULL,
    model             TEXT,
    embedding         VECTOR
);
-- A vector of another text than the copy's is found at once; that of the same text comes with the new index. As a
-- trigger, so that it holds for every program and every process, and only while there is a copy.
CREATE OR REPLACE FUNCTION mapx_stand_in() RETURNS TRIGGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$ BEGIN
    IF NEW.embedding IS NOT NULL AND NEW.embedded_version IS NOT NULL THEN
        INSERT INTO embedding_stand_ins AS s (recommendation_id, content_version, model, embedding)
            VALUES (NEW.id, NEW.embedded_version, NEW.embedding_model, NEW.embedding)
            ON CONFLICT (recommendation_id) DO UPDATE SET content_version = excluded.content_version,
                model = excluded.model, embedding = excluded.embedding
            WHERE s.content_version <> excluded.content_version;
    END IF;
    RETURN NULL;
END $$;
