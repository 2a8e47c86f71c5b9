//! A database of another program: what is refused until it is adopted, and how its vectors are taken over.

use sea_orm::{ConnectionTrait, DatabaseConnection};

use super::{DIMENSIONS, MODEL};
use crate::db::{DbError, ModelSpec, migrate, sql, state};

/// Rows taken over in one statement: nobody's write waits for long.
const BATCH: i64 = 5_000;

/// Takes rows over and lives as long as the session. The table's own triggers rest meanwhile: one that renews
/// `updated_at` would make every old row look new.
const FUNCTION: &str = r#"CREATE OR REPLACE FUNCTION pg_temp.mapx_adopt(model TEXT, batch BIGINT) RETURNS BIGINT
LANGUAGE plpgsql AS $$
DECLARE
    awake CONSTANT TEXT[] := ARRAY(SELECT tgname FROM pg_trigger WHERE tgrelid = 'recommendations'::regclass
        AND NOT tgisinternal AND tgenabled = 'O');
    asleep TEXT;
    adopted BIGINT;
BEGIN
    FOREACH asleep IN ARRAY awake LOOP
        EXECUTE format('ALTER TABLE recommendations DISABLE TRIGGER %I', asleep);
    END LOOP;
    UPDATE recommendations SET embedding_model = model, embedded_version = content_version, embedding_parts = 1,
        embedded_at = coalesce(updated_at, now())
        WHERE id IN (SELECT id FROM recommendations WHERE embedding IS NOT NULL AND embedding_model IS NULL LIMIT batch);
    GET DIAGNOSTICS adopted = ROW_COUNT;
    FOREACH asleep IN ARRAY awake LOOP
        EXECUTE format('ALTER TABLE recommendations ENABLE TRIGGER %I', asleep);
    END LOOP;
    RETURN adopted;
END $$"#;

/// What taking the vectors over would run.
pub(super) fn plan(model: &str) -> String {
    let model = model.replace('\'', "''");
    format!("{FUNCTION};\n-- Repeated until it answers 0.\nSELECT pg_temp.mapx_adopt('{model}', {BATCH});\n")
}

/// The vectors that are there and of no known model are those of their texts, made by `model`. Returns how many.
pub(super) async fn adopt(conn: &DatabaseConnection, model: &str) -> Result<u64, DbError> {
    if !has_unknown_vectors(conn).await? {
        return Ok(0);
    }
    conn.execute_unprepared(FUNCTION).await?;
    let mut adopted = 0;
    loop {
        let take = "SELECT pg_temp.mapx_adopt($1, $2)";
        match sql::scalar::<i64>(conn, take, [model.into(), BATCH.into()]).await? {
            Some(rows) if rows > 0 => adopted += rows.unsigned_abs(),
            _ => break,
        }
    }
    let dimensions = "SELECT vector_dims(embedding) FROM recommendations WHERE embedding_model = $1 \
                      AND embedding IS NOT NULL LIMIT 1";
    if let Some(dimensions) = sql::scalar::<i32>(conn, dimensions, [model.into()]).await? {
        state::put(conn, DIMENSIONS, &dimensions.to_string()).await?;
        state::put(conn, MODEL, model).await?;
    }
    Ok(adopted)
}

/// A database that has recommendations and no record of ours belongs to another program: nobody's start
/// should change its tables.
pub(super) async fn refuse_another_programs(conn: &DatabaseConnection) -> Result<(), DbError> {
    let there = "SELECT to_regclass('recommendations') IS NOT NULL";
    let ours = migrate::names();
    let known = migrate::applied(conn).await?.iter().any(|step| ours.contains(&step.as_str()));
    if known || sql::scalar::<bool>(conn, there, []).await? != Some(true) {
        return Ok(());
    }
    Err(DbError::Incompatible(
        "database.url: this database has recommendations of another program. `mapx-embeddings migrate --plan` prints \
         what would be added to it; `mapx-embeddings migrate --adopt-model MODEL` adds it and keeps the vectors that \
         are there, under the name of the model that made them"
            .into(),
    ))
}

/// Vectors of an unknown model would be embedded again, all of them, and paid for. Once it is known, those that
/// another program writes later are.
pub(super) async fn refuse_unknown_model(conn: &DatabaseConnection) -> Result<(), DbError> {
    if state::get(conn, MODEL).await?.is_some() || !has_unknown_vectors(conn).await? {
        return Ok(());
    }
    Err(DbError::Incompatible(
        "database.url: there are vectors of a model that isn't known; name it with \
         `mapx-embeddings migrate --adopt-model MODEL`"
            .into(),
    ))
}

async fn has_unknown_vectors(conn: &DatabaseConnection) -> Result<bool, DbError> {
    let unknown =
        "SELECT EXISTS (SELECT 1 FROM recommendations WHERE embedding IS NOT NULL AND embedding_model IS NULL)";
    Ok(sql::scalar::<bool>(conn, unknown, []).await? == Some(true))
}

/// The dimension that the column was given by another program; `None` when it is ours to choose.
pub(super) async fn refuse_other_dimensions(conn: &DatabaseConnection, model: &ModelSpec) -> Result<(), DbError> {
    let declared = declared_dimensions(conn).await?;
    if declared == Some(model.dimensions) || declared.is_none() || state::get(conn, COLUMN).await?.is_some() {
        return Ok(());
    }
    Err(DbError::Incompatible(format!(
        "embedder.dimensions: recommendations.embedding takes vectors of {} components, as another program made it; {} \
         makes {}. Configure a model that fits",
        declared.unwrap_or_default(),
        model.id,
        model.dimensions
    )))
}

/// Whether the program that made the tables keeps what it deletes; the first step of the schema has noted it.
pub(super) async fn marks_deleted(conn: &DatabaseConnection) -> Result<bool, DbError> {
    Ok(state::get(conn, "recommendations.deleted").await?.as_deref() == Some("marked"))
}

/// Key of `service_state`: the dimension that we gave the column.
pub(super) const COLUMN: &str = "embedding.column";

/// `VECTOR(1536)` → 1536; `VECTOR` → none.
pub(super) async fn declared_dimensions(conn: &DatabaseConnection) -> Result<Option<usize>, DbError> {
    let declared = "SELECT atttypmod FROM pg_attribute WHERE attrelid = 'recommendations'::regclass \
                    AND attname = 'embedding' AND NOT attisdropped";
    let declared: Option<i32> = sql::scalar(conn, declared, []).await?;
    Ok(declared.and_then(|dimensions| usize::try_from(dimensions).ok()))
}
