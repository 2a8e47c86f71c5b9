//! The embedded database: a file of one process.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbBackend};
use tokio::sync::Notify;

use super::{Migrated, check_model};
use crate::config::sections::{DatabaseSettings, Synchronous};
use crate::db::cache::Bound;
use crate::db::combine::Combiner;
use crate::db::search::{VectorIndex, matrix::Matrix, sqlite::SqliteIndex};
use crate::db::webhooks::Listeners;
use crate::db::writer::Writer;
use crate::db::{Db, DbError, ModelSpec, Writes, migrate};

/// How long a statement waits for SQLite's lock. There is one writer, so only another program's tool that
/// has the file open can make it wait at all.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn open(settings: &DatabaseSettings, model: ModelSpec) -> Result<Db, DbError> {
    let lock = ProcessLock::take(settings.url.expose())?;
    let write = pool(settings, 1, false).await?;
    migrate::up(&write).await?;
    check_model(&write, &model).await?;
    let read = pool(settings, settings.read_connections, true).await?;
    let matrix = Matrix::load(&read, &model).await?;
    let index: Arc<dyn VectorIndex> = Arc::new(SqliteIndex::new(matrix, read.clone()));
    let (enqueued, listeners) = (Arc::new(Notify::new()), Listeners::look(&read).await?);
    let writes = Writes::InTurn(Writer::start(write, index.clone(), enqueued.clone()));
    let lock = Some(Arc::new(lock));
    Ok(Db {
        read,
        writes,
        index,
        model,
        marks_deleted: false,
        enqueued,
        finishing: Arc::new(Combiner::new(1)),
        counter: Arc::default(),
        coverage: Arc::default(),
        chronicle: Arc::default(),
        cache: Arc::new(Bound::new(settings.cached_vectors)),
        listeners,
        shadow: None,
        _lock: lock,
    })
}

pub(super) async fn migrate(settings: &DatabaseSettings) -> Result<Migrated, DbError> {
    let _lock = ProcessLock::take(settings.url.expose())?;
    let conn = pool(settings, 1, false).await?;
    let steps = migrate::up(&conn).await?;
    conn.close().await?;
    Ok(Migrated { steps, vectors: 0 })
}

pub(super) async fn plan(settings: &DatabaseSettings) -> Result<String, DbError> {
    // A file that isn't there must not be made by looking at it.
    if file_of(settings.url.expose()).is_none_or(|path| !path.exists()) {
        return Ok(migrate::all_sql(DbBackend::Sqlite));
    }
    let conn = pool(settings, 1, true).await?;
    let pending = migrate::pending_sql(&conn).await?;
    conn.close().await?;
    Ok(pending)
}

/// `sqlite://data/mapx.db?mode=rwc` → `data/mapx.db`; `None` for a database in memory.
fn file_of(url: &str) -> Option<PathBuf> {
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
    let mut options = ConnectOptions::new(settings.url.expose().to_owned());
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

/// The lock of a SQLite file: a second process would search an index in memory that it doesn't keep up.
#[derive(Debug)]
pub(in crate::db) struct ProcessLock(#[allow(dead_code, reason = "held, not read")] Option<File>);

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
