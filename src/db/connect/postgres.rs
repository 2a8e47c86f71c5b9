//! PostgreSQL with pgvector: shared by all processes.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use sea_orm::sqlx::Executor;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr};
use tokio::sync::Notify;

use super::{DIMENSIONS, MODEL, check_model, remember};
use crate::config::sections::{DatabaseSettings, VectorIndexKind};
use crate::db::pooled::Pooled;
use crate::db::saver::Saver;
use crate::db::search::pgvector::{MAX_HALFVEC, MAX_VECTOR, PgVectorIndex, indexed};
use crate::db::{Db, DbError, ModelSpec, Writes, migrate as steps, sql};

/// How long a start waits for a server that can't be reached.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a statement waits for a free connection.
const ACQUIRE: Duration = Duration::from_secs(3);
/// The advisory lock that one process holds while it changes the schema: any number that is ours.
const SCHEMA_LOCK: i64 = 0x6d61_7078_656d_6264;
/// Rows taken over in one statement.
const ADOPTED: i64 = 5_000;

/// What every connection is told.
///
/// Iterative scans, as a filter after a plain scan leaves fewer rows than were asked for: with 1 % of the rows
/// let through, 0.4 of 10. And a process that is stopped in mid-transaction gives its locks back. The
/// program's name tells the triggers that what is written here needs no watching.
const SESSION: &str = "SET hnsw.iterative_scan = relaxed_order; SET hnsw.ef_search = 100; \
    SET ivfflat.iterative_scan = relaxed_order; SET ivfflat.probes = 10; \
    SET idle_in_transaction_session_timeout = '60s'; SET mapx.program = 'mapx-embeddings'; \
    SET client_min_messages = warning";

pub(super) async fn open(settings: &DatabaseSettings, model: ModelSpec) -> Result<Db, DbError> {
    let conn = connect(settings).await?;
    under_lock(settings, async |conn| {
        refuse_another_programs(conn).await?;
        extension(conn).await?;
        steps::up(conn).await?;
        refuse_unknown_model(conn).await?;
        check_model(conn, &model).await?;
        column(conn, &model).await?;
        index(conn, &model, settings.vector_index).await
    })
    .await?;
    let enqueued = Arc::new(Notify::new());
    let index = Arc::new(PgVectorIndex::new(conn.clone(), model.clone()));
    let pooled = Pooled::new(conn.clone(), enqueued.clone());
    let writes = Writes::SideBySide { saver: Saver::start(&pooled, &model), pooled };
    Ok(Db { read: conn, writes, index, model, enqueued, finishing: Arc::default(), _lock: None })
}

pub(super) async fn migrate(settings: &DatabaseSettings, adopted: Option<&str>) -> Result<u64, DbError> {
    under_lock(settings, async |conn| {
        extension(conn).await?;
        steps::up(conn).await?;
        match adopted {
            Some(model) => adopt(conn, model).await,
            None => Ok(0),
        }
    })
    .await
}

pub(super) async fn plan(settings: &DatabaseSettings, adopted: Option<&str>) -> Result<String, DbError> {
    let conn = connect(settings).await?;
    let mut plan = steps::pending_sql(&conn).await?;
    let has = "SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'vector')";
    if sql::scalar::<bool>(&conn, has, []).await? != Some(true) {
        plan = format!("{EXTENSION};\n\n{plan}");
    }
    if let Some(model) = adopted {
        let model = model.replace('\'', "''");
        let adopt = ADOPT.replace("$1", &format!("'{model}'")).replace("$2", &ADOPTED.to_string());
        plan.push_str(&format!("\n-- Repeated until it finds no more rows\n\n{adopt};\n"));
    }
    conn.close().await?;
    Ok(plan)
}

/// A pool of connections to a server that answers.
async fn connect(settings: &DatabaseSettings) -> Result<DatabaseConnection, DbError> {
    let waits = ExponentialBuilder::default().with_max_delay(Duration::from_secs(5)).with_jitter();
    let waits = waits.with_total_delay(Some(PATIENCE)).without_max_times();
    let mut told = false;
    let attempt = || async { Database::connect(options(settings)).await.map_err(unreachable) };
    let connected = attempt.retry(waits).when(|error| matches!(error, DbError::Unavailable(_)));
    let connected = connected.notify(|error, _| {
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%error, "waiting for the database");
        }
    });
    connected.await
}

fn options(settings: &DatabaseSettings) -> ConnectOptions {
    let mut options = ConnectOptions::new(settings.url.expose().to_owned());
    let password = settings.password.clone();
    options
        .max_connections(settings.max_connections)
        .min_connections(1)
        .acquire_timeout(ACQUIRE)
        .sqlx_logging(false)
        .map_sqlx_postgres_opts(move |mut postgres| {
            if !password.is_empty() {
                postgres = postgres.password(password.expose());
            }
            // As the server's own views show it; a deeper name is the operator's to give in the URL.
            match postgres.get_application_name() {
                Some(_) => postgres,
                None => postgres.application_name("mapx-embeddings"),
            }
        })
        .map_sqlx_postgres_pool_opts(|pool| {
            pool.after_connect(|conn, _| Box::pin(async move { conn.execute(SESSION).await.map(|_| ()) }))
        });
    options
}

/// Which failures to connect are the configuration's: they don't mend themselves.
fn unreachable(error: DbErr) -> DbError {
    let text = error.to_string();
    let text = text.trim_start_matches("Connection Error: ");
    let told =
        ["password authentication failed", "does not exist", "no pg_hba.conf entry", "no password", "invalid"];
    if told.iter().any(|cause| text.contains(cause)) {
        return DbError::Incompatible(format!("database.url: {text}"));
    }
    DbError::Unavailable(format!("database.url: {text}"))
}

/// Runs `change` on a connection of its own while no other process changes the schema.
///
/// The lock is tried again and again, not waited for: a session that waits for it would hold a snapshot, and
/// an index that is built concurrently waits for all snapshots.
async fn under_lock<T>(
    settings: &DatabaseSettings,
    change: impl AsyncFnOnce(&DatabaseConnection) -> Result<T, DbError>,
) -> Result<T, DbError> {
    let mut options = options(settings);
    options.max_connections(1);
    let conn = Database::connect(options).await.map_err(unreachable)?;
    let lock = "SELECT pg_try_advisory_lock($1)";
    while sql::scalar::<bool>(&conn, lock, [SCHEMA_LOCK.into()]).await? != Some(true) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let outcome = change(&conn).await;
    // With the connection goes the lock.
    conn.close().await?;
    outcome
}

const EXTENSION: &str = "CREATE EXTENSION IF NOT EXISTS vector";

/// Makes sure of pgvector, or says what to do.
async fn extension(conn: &DatabaseConnection) -> Result<(), DbError> {
    let has = "SELECT extversion FROM pg_extension WHERE extname = 'vector'";
    let mut version: Option<String> = sql::scalar(conn, has, []).await?;
    if version.is_none() {
        conn.execute_unprepared(EXTENSION).await.map_err(|error| {
            DbError::Incompatible(format!(
                "database.url: the server lacks the extension pgvector ({error}). Install it on the server (Debian: \
                 postgresql-NN-pgvector; Docker: the image pgvector/pgvector), then, as a superuser, run \
                 CREATE EXTENSION vector in this database"
            ))
        })?;
        version = sql::scalar(conn, has, []).await?;
    }
    let version = version.unwrap_or_default();
    if version.starts_with("0.") && version.split('.').nth(1).and_then(|n| n.parse().ok()) < Some(8) {
        tracing::warn!(
            version,
            "this pgvector has no iterative scans: filtered searches may find too few; use 0.8 or later"
        );
    }
    Ok(())
}

/// A database that has recommendations and no record of ours belongs to another program: nobody's start
/// should change its tables.
async fn refuse_another_programs(conn: &DatabaseConnection) -> Result<(), DbError> {
    let there = "SELECT to_regclass('recommendations') IS NOT NULL";
    if sql::scalar::<bool>(conn, there, []).await? != Some(true) || !steps::applied(conn).await?.is_empty() {
        return Ok(());
    }
    Err(DbError::Incompatible(
        "database.url: this database has recommendations of another program. `mapx-embeddings migrate --plan` prints \
         what would be added to it; `mapx-embeddings migrate --adopt-model MODEL` adds it and keeps the vectors that \
         are there, under the name of the model that made them"
            .into(),
    ))
}

async fn refuse_unknown_model(conn: &DatabaseConnection) -> Result<(), DbError> {
    let unknown =
        "SELECT EXISTS (SELECT 1 FROM recommendations WHERE embedding IS NOT NULL AND embedding_model IS NULL)";
    if sql::scalar::<bool>(conn, unknown, []).await? != Some(true) {
        return Ok(());
    }
    Err(DbError::Incompatible(
        "database.url: there are vectors of a model that isn't known; name it with \
         `mapx-embeddings migrate --adopt-model MODEL`"
            .into(),
    ))
}

const ADOPT: &str = "UPDATE recommendations SET embedding_model = $1, embedded_version = content_version, \
    embedding_parts = 1, embedded_at = coalesce(updated_at, now()) WHERE id IN (SELECT id FROM recommendations \
    WHERE embedding IS NOT NULL AND embedding_model IS NULL LIMIT $2)";

/// The vectors that are there are those of their texts, made by `model`. A few thousand at a time, so that
/// nobody's write waits for long.
async fn adopt(conn: &DatabaseConnection, model: &str) -> Result<u64, DbError> {
    let mut adopted = 0;
    loop {
        let rows = sql::execute(conn, ADOPT, [model.into(), ADOPTED.into()]).await?.rows_affected();
        adopted += rows;
        if rows == 0 {
            break;
        }
    }
    let dimensions = "SELECT vector_dims(embedding) FROM recommendations WHERE embedding_model = $1 LIMIT 1";
    if let Some(dimensions) = sql::scalar::<i32>(conn, dimensions, [model.into()]).await? {
        remember(conn, DIMENSIONS, &dimensions.to_string()).await?;
        remember(conn, MODEL, model).await?;
    }
    Ok(adopted)
}

/// Gives the column the model's dimension, which its index needs. Vectors of another one were refused.
async fn column(conn: &DatabaseConnection, model: &ModelSpec) -> Result<(), DbError> {
    let declared = "SELECT atttypmod FROM pg_attribute WHERE attrelid = 'recommendations'::regclass \
                    AND attname = 'embedding' AND NOT attisdropped";
    let declared: Option<i32> = sql::scalar(conn, declared, []).await?;
    if declared == i32::try_from(model.dimensions).ok() {
        return Ok(());
    }
    let index = "DROP INDEX IF EXISTS recommendations_embedding_hnsw";
    conn.execute_unprepared(index).await?;
    let alter = format!("ALTER TABLE recommendations ALTER COLUMN embedding TYPE vector({})", model.dimensions);
    conn.execute_unprepared(&alter).await?;
    Ok(())
}

/// Makes the vector index, unless there is one that can serve (an adopted table's ivfflat, say).
async fn index(conn: &DatabaseConnection, model: &ModelSpec, kind: VectorIndexKind) -> Result<(), DbError> {
    let there = "SELECT EXISTS (SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
        JOIN pg_am a ON a.oid = c.relam WHERE i.indrelid = 'recommendations'::regclass AND i.indisvalid \
        AND a.amname IN ('hnsw', 'ivfflat') AND pg_get_indexdef(i.indexrelid) LIKE '%(embedding%cosine_ops%')";
    if kind == VectorIndexKind::None || sql::scalar::<bool>(conn, there, []).await? == Some(true) {
        return Ok(());
    }
    if model.dimensions > MAX_HALFVEC {
        tracing::warn!(
            dimensions = model.dimensions,
            "pgvector indexes at most {MAX_HALFVEC} dimensions: searches scan all vectors"
        );
        return Ok(());
    }
    // One that broke off while it was built.
    conn.execute_unprepared("DROP INDEX IF EXISTS recommendations_embedding_hnsw").await?;
    let operators = if model.dimensions <= MAX_VECTOR { "vector_cosine_ops" } else { "halfvec_cosine_ops" };
    let column = indexed("embedding", model.dimensions);
    tracing::info!("building the vector index; searches and saves go on meanwhile");
    conn.execute_unprepared(&format!(
        "CREATE INDEX CONCURRENTLY recommendations_embedding_hnsw ON recommendations \
         USING hnsw ({column} {operators})"
    ))
    .await?;
    Ok(())
}
