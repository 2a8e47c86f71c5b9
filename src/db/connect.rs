//! Opens the database, brings its schema up to date and loads the vector index.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, Database, DatabaseConnection};
use tokio::sync::Notify;

use super::search::{VectorIndex, matrix::Matrix};
use super::writer::Writer;
use super::{Db, DbError, ModelSpec, migrate, sql};
use crate::config::sections::{DatabaseSettings, Synchronous};

/// How long a statement waits for SQLite's lock. There is one writer, so only another program's tool that
/// has the file open can make it wait at all.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

impl Db {
    /// Opens the database for the vectors of `model`, with its schema up to date.
    ///
    /// # Errors
    /// `Incompatible` when another process has the file, or when it holds vectors of another dimension.
    pub async fn open(settings: &DatabaseSettings, model: ModelSpec) -> Result<Self, DbError> {
        let lock = ProcessLock::take(&settings.url)?;
        let write = pool(settings, 1, false).await?;
        migrate::up(&write).await?;
        check_model(&write, &model).await?;
        let read = pool(settings, settings.read_connections, true).await?;
        let index: Arc<dyn VectorIndex> = Arc::new(Matrix::load(&read, &model).await?);
        let enqueued = Arc::new(Notify::new());
        let writer = Writer::start(write, index.clone(), enqueued.clone());
        Ok(Self { read, writer, index, model, enqueued, finishing: Arc::default(), _lock: Arc::new(lock) })
    }
}

/// `sqlite://data/mapx.db?mode=rwc` → `data/mapx.db`; `None` for a database in memory.
pub(super) fn file_of(url: &str) -> Option<PathBuf> {
    let path = url.trim_start_matches("sqlite:").trim_start_matches("//").split('?').next().unwrap_or("");
    (!path.is_empty() && path != ":memory:").then(|| PathBuf::from(path))
}

async fn pool(
    settings: &DatabaseSettings,
    connections: u32,
    read_only: bool,
) -> Result<DatabaseConnection, DbError> {
    let synchronous = match settings.synchronous {
        Synchronous::Full => SqliteSynchronous::Full,
        Synchronous::Normal => SqliteSynchronous::Normal,
    };
    let mut options = ConnectOptions::new(settings.url.clone());
    options
        .max_connections(connections)
        .min_connections(1)
        .sqlx_logging(false)
        // A SQLite connection can't break while it idles, and the test costs a statement a call.
        .test_before_acquire(false)
        .idle_timeout(None::<Duration>)
        .max_lifetime(None::<Duration>)
        .map_sqlx_sqlite_opts(move |sqlite| pragmas(sqlite, synchronous, read_only));
    Ok(Database::connect(options).await?)
}

fn pragmas(sqlite: SqliteConnectOptions, synchronous: SqliteSynchronous, read_only: bool) -> SqliteConnectOptions {
    let sqlite = sqlite
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // Pages kept in memory: 16 MiB for the writer, which has the index to keep, 4 MiB for a reader.
        .pragma("cache_size", if read_only { "-4096" } else { "-16384" })
        .pragma("temp_store", "memory")
        // FTS5 replaces rows by INSERT OR REPLACE inside triggers: their own triggers must run.
        .pragma("recursive_triggers", "ON");
    // A query that writes by mistake must fail here and not take the lock from the writer.
    if read_only { sqlite.pragma("query_only", "ON") } else { sqlite }
}

/// Remembers which model the vectors are of, and refuses what would mix.
async fn check_model(conn: &DatabaseConnection, model: &ModelSpec) -> Result<(), DbError> {
    let get = "SELECT value FROM service_state WHERE key = $1";
    let stored: Option<String> = sql::scalar(conn, get, ["embedding.dimensions".into()]).await?;
    let vectors = "SELECT EXISTS (SELECT 1 FROM recommendations WHERE embedding IS NOT NULL)";
    let has_vectors = sql::scalar::<bool>(conn, vectors, []).await?.unwrap_or(false);
    if let Some(stored) = stored.filter(|stored| has_vectors && *stored != model.dimensions.to_string()) {
        return Err(DbError::Incompatible(format!(
            "embedder.dimensions: the database holds vectors of {stored} components, {} makes {}; \
             configure the model they were made with, or start with a new database.url",
            model.id, model.dimensions
        )));
    }
    let put = "INSERT INTO service_state (key, value) VALUES ($1, $2) \
               ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    sql::execute(conn, put, ["embedding.dimensions".into(), model.dimensions.to_string().into()]).await?;
    sql::execute(conn, put, ["embedding.model".into(), model.id.to_string().into()]).await?;
    Ok(())
}

/// The lock of a SQLite file: a second process would search an index in memory that it doesn't keep up.
#[derive(Debug)]
pub(super) struct ProcessLock(#[allow(dead_code, reason = "held, not read")] Option<File>);

impl ProcessLock {
    fn take(url: &str) -> Result<Self, DbError> {
        let Some(path) = file_of(url) else { return Ok(Self(None)) };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| unusable(folder, &e))?;
        }
        let lock = PathBuf::from(format!("{}.lock", path.display()));
        let file = File::create(&lock).map_err(|e| unusable(&lock, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(Some(file))),
            Err(TryLockError::WouldBlock) => Err(DbError::Incompatible(format!(
                "database.url: {} is in use by another mapx-embeddings process",
                path.display()
            ))),
            Err(TryLockError::Error(e)) => Err(unusable(&lock, &e)),
        }
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> DbError {
    DbError::Incompatible(format!("database.url: can't use {}: {error}", path.display()))
}
