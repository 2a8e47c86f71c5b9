//! PostgreSQL with pgvector: shared by all processes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection};
use tokio::sync::Notify;

use super::{Migrated, adopt, check_model, index, reach};
use crate::config::sections::DatabaseSettings;
use crate::db::cache::Bound;
use crate::db::combine::Combiner;
use crate::db::pooled::Pooled;
use crate::db::saver::Saver;
use crate::db::search::pgvector::PgVectorIndex;
use crate::db::shadow::Shadow;
use crate::db::webhooks::Listeners;
use crate::db::{Db, DbError, ModelSpec, Writes, migrate as steps, sql, state};

/// Batches of vectors that are written at once: while one waits for the disk, the next one is compared. With two, more
/// came together in a statement, of two megabytes at 1,536 dimensions, which cost PostgreSQL a tenth more for each row.
const FINISHING: usize = 4;
/// The advisory lock that one process holds while it changes the schema: any number that is ours.
const SCHEMA_LOCK: i64 = 0x6d61_7078_656d_6264;
/// The first version that has all that the schema uses.
const MIN_VERSION: i32 = 150_000;

pub(super) async fn open(settings: &DatabaseSettings, model: ModelSpec) -> Result<Db, DbError> {
    let conn = reach::pool(settings).await?;
    under_lock(settings, async |conn| {
        adopt::refuse_another_programs(conn).await?;
        prerequisites(conn).await?;
        steps::up(conn).await?;
        adopt::refuse_unknown_model(conn).await?;
        adopt::refuse_other_dimensions(conn, &model).await?;
        check_model(conn, &model).await?;
        column(conn, &model).await?;
        index::ensure(conn, &model, settings.vector_index).await
    })
    .await?;
    let marks_deleted = adopt::marks_deleted(&conn).await?;
    let (enqueued, listeners) = (Arc::new(Notify::new()), Listeners::new(true));
    let stands_in = Arc::new(AtomicBool::new(false));
    let shadow = Shadow::new(settings, model.clone(), stands_in.clone());
    let index = Arc::new(PgVectorIndex::new(conn.clone(), model.clone(), stands_in));
    let pooled = Pooled::new(conn.clone(), enqueued.clone());
    let writes = Writes::SideBySide { saver: Saver::start(&pooled, &model), pooled };
    shadow.look(&conn).await?;
    Ok(Db {
        read: conn,
        writes,
        index,
        model,
        marks_deleted,
        enqueued,
        finishing: Arc::new(Combiner::new(FINISHING)),
        counter: Arc::default(),
        coverage: Arc::default(),
        chronicle: Arc::default(),
        cache: Arc::new(Bound::new(settings.cached_vectors)),
        listeners,
        shadow: Some(Arc::new(shadow)),
        _lock: None,
    })
}

pub(super) async fn migrate(settings: &DatabaseSettings, adopted: Option<&str>) -> Result<Migrated, DbError> {
    reach::wait(settings).await?;
    under_lock(settings, async |conn| {
        prerequisites(conn).await?;
        let steps = steps::up(conn).await?;
        let vectors = match adopted {
            Some(model) => adopt::adopt(conn, model).await?,
            None => 0,
        };
        Ok(Migrated { steps, vectors })
    })
    .await
}

pub(super) async fn plan(settings: &DatabaseSettings, adopted: Option<&str>) -> Result<String, DbError> {
    reach::wait(settings).await?;
    let conn = reach::glance(settings).await?;
    let mut plan = steps::pending_sql(&conn).await?;
    let has = "SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'vector')";
    if sql::scalar::<bool>(&conn, has, []).await? != Some(true) {
        plan = format!("{EXTENSION};\n\n{plan}");
    }
    if let Some(model) = adopted {
        plan.push_str(&format!("\n{}", adopt::plan(model)));
    }
    conn.close().await?;
    Ok(plan)
}

/// Runs `change` on a connection of its own while no other process changes the schema.
///
/// The lock is tried again and again, not waited for: a session that waits for it would hold a snapshot, and
/// an index that is built concurrently waits for all snapshots.
async fn under_lock<T>(
    settings: &DatabaseSettings,
    change: impl AsyncFnOnce(&DatabaseConnection) -> Result<T, DbError>,
) -> Result<T, DbError> {
    let conn = reach::glance(settings).await?;
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

/// What the server must be before its schema is touched.
async fn prerequisites(conn: &DatabaseConnection) -> Result<(), DbError> {
    let version = "SELECT CAST(current_setting('server_version_num') AS INTEGER)";
    if sql::scalar::<i32>(conn, version, []).await? < Some(MIN_VERSION) {
        return Err(DbError::Incompatible("database.url: the server must be PostgreSQL 15 or later".into()));
    }
    let encoding: Option<String> = sql::scalar(conn, "SELECT current_setting('server_encoding')", []).await?;
    if encoding.as_deref() != Some("UTF8") {
        let encoding = encoding.unwrap_or_default();
        return Err(DbError::Incompatible(format!("database.url: the database is in {encoding}, must be in UTF8")));
    }
    extension(conn).await
}

/// Makes sure of pgvector, or says what to do.
async fn extension(conn: &DatabaseConnection) -> Result<(), DbError> {
    let has = "SELECT extversion FROM pg_extension WHERE extname = 'vector'";
    let mut version: Option<String> = sql::scalar(conn, has, []).await?;
    if version.is_none() {
        conn.execute_unprepared(EXTENSION).await.map_err(|error| {
            // The driver's own preamble tells a person nothing.
            let error = DbError::from(error).to_string();
            let reason = error.rsplit("database: ").next().unwrap_or(&error);
            DbError::Incompatible(format!(
                "database.url: the database lacks the extension pgvector ({reason}). Install it on the server (Debian: \
                 postgresql-NN-pgvector; Docker: the image pgvector/pgvector) and run CREATE EXTENSION vector in this \
                 database, as its owner or a superuser"
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

/// Gives the column the model's dimension, which its index needs. Vectors of another one were refused.
async fn column(conn: &DatabaseConnection, model: &ModelSpec) -> Result<(), DbError> {
    if adopt::declared_dimensions(conn).await? == Some(model.dimensions) {
        return Ok(());
    }
    conn.execute_unprepared(&format!("DROP INDEX IF EXISTS {}", index::NAME)).await?;
    let alter = format!("ALTER TABLE recommendations ALTER COLUMN embedding TYPE vector({})", model.dimensions);
    conn.execute_unprepared(&alter).await?;
    state::put(conn, adopt::COLUMN, &model.dimensions.to_string()).await
}
