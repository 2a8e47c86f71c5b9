//! The vectors' HNSW index: how it is made, at the start and by a regeneration.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, RuntimeErr};

use crate::config::sections::VectorIndexKind;
use crate::db::search::pgvector::{MAX_HALFVEC, MAX_VECTOR, STANDS_IN, indexed};
use crate::db::{DbError, ModelSpec, sql, state};

/// That of the vectors themselves.
pub(in crate::db) const NAME: &str = "recommendations_embedding_hnsw";
/// How many neighbours are weighed for each new vector. Of the ten nearest in a small group far from the rest, pgvector's
/// own 64 found five, 100 nine, at 1.2 times the cost of an insert at 256 dimensions; 200 found ten at 2.4 times.
const EF_CONSTRUCTION: u32 = 100;

/// Makes the vector index, unless there is one that can serve (an adopted table's ivfflat, say), or a regeneration has
/// taken it away and will build it.
pub(super) async fn ensure(
    conn: &DatabaseConnection,
    model: &ModelSpec,
    kind: VectorIndexKind,
) -> Result<(), DbError> {
    let there = "SELECT EXISTS (SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
        JOIN pg_am a ON a.oid = c.relam WHERE i.indrelid = 'recommendations'::regclass AND i.indisvalid \
        AND a.amname IN ('hnsw', 'ivfflat') AND pg_get_indexdef(i.indexrelid) LIKE '%(embedding%cosine_ops%')";
    if kind == VectorIndexKind::None || sql::scalar::<bool>(conn, there, []).await? == Some(true) {
        return Ok(());
    }
    let shadow = "SELECT EXISTS (SELECT 1 FROM regenerations WHERE phase IS NOT NULL)";
    if state::get(conn, STANDS_IN).await?.is_some() || sql::scalar::<bool>(conn, shadow, []).await? == Some(true) {
        return Ok(());
    }
    if model.dimensions > MAX_HALFVEC {
        tracing::warn!(
            dimensions = model.dimensions,
            "pgvector indexes at most {MAX_HALFVEC} dimensions: searches scan all vectors"
        );
        return Ok(());
    }
    tracing::info!("building the vector index; searches and saves go on meanwhile");
    build(conn, model, NAME, "recommendations", &indexed("embedding", model.dimensions)).await
}

/// Builds an index over an expression of vectors of the model's dimensions, in place of what a build that broke off has
/// left.
pub(in crate::db) async fn build(
    conn: &DatabaseConnection,
    model: &ModelSpec,
    name: &str,
    table: &str,
    expression: &str,
) -> Result<(), DbError> {
    let operators = if model.dimensions <= MAX_VECTOR { "vector_cosine_ops" } else { "halfvec_cosine_ops" };
    let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {name}");
    let create = format!(
        "CREATE INDEX CONCURRENTLY {name} ON {table} USING hnsw ({expression} {operators}) \
         WITH (ef_construction = {EF_CONSTRUCTION})"
    );
    conn.execute_unprepared(&drop).await?;
    let Err(error) = conn.execute_unprepared(&create).await else { return Ok(()) };
    if !is_out_of_resources(&error) {
        return Err(error.into());
    }
    // Several processes build it in shared memory, of which a container may have less than maintenance_work_mem; one
    // builds it in its own.
    tracing::warn!(
        index = name,
        %error,
        "PostgreSQL has too little shared memory to build the index with several processes (a container's shm_size); \
         one builds it"
    );
    conn.execute_unprepared(&drop).await?;
    conn.execute_unprepared("SET max_parallel_maintenance_workers = 0").await?;
    let created = conn.execute_unprepared(&create).await;
    conn.execute_unprepared("RESET max_parallel_maintenance_workers").await?;
    created?;
    Ok(())
}

/// By PostgreSQL's SQLSTATE, class 53: memory, disk, connections.
fn is_out_of_resources(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(cause)) | DbErr::Query(RuntimeErr::SqlxError(cause))) = error else {
        return false;
    };
    let state = cause.as_database_error().and_then(|error| error.code());
    state.is_some_and(|state| state.len() == 5 && state.starts_with("53"))
}
