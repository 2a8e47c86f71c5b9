//! The database room: the rows, the ledger of tasks, and search. SQL lives here alone.
//!
//! Reads go to a pool; writes go through [`writer`], which commits together what waits together. What a
//! write changes in the vector index is applied after its commit, in the order of the commits.

pub mod changes;
mod combine;
mod connect;
pub mod embeddings;
mod entities;
pub mod lists;
pub mod migrate;
pub mod places;
pub mod recommendations;
pub mod search;
mod services;
mod sql;
pub mod stats;
pub mod tasks;
pub mod users;
pub mod workers;
mod writer;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sea_orm::{DatabaseConnection, DbErr};
use tokio::sync::Notify;

use combine::Combiner;
use embeddings::Finished;
use search::VectorIndex;
pub use writer::Tx;
use writer::Writer;

/// A failure of the database, named by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// Locked, full, unreachable, shutting down: the same call may work later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A statement that can't work: a bug of ours or a broken file.
    #[error("the database failed: {0}")]
    Failed(#[source] DbErr),
    /// What is stored can't be used with this program or these settings; the message says what to do.
    #[error("{0}")]
    Incompatible(String),
}

impl From<DbErr> for DbError {
    fn from(error: DbErr) -> Self {
        let text = error.to_string();
        // SQLite's transient conditions by their message, as sea-orm keeps no code: busy, locked, full, I/O.
        let transient = ["is locked", "is full", "disk I/O error", "unable to open database"];
        match error {
            DbErr::Conn(_) | DbErr::ConnectionAcquire(_) => Self::Unavailable(text),
            _ if transient.iter().any(|t| text.contains(t)) => Self::Unavailable(text),
            other => Self::Failed(other),
        }
    }
}

/// The model whose vectors this process stores and searches.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// [`crate::domain`]'s vectors of two ids never mix.
    pub id: Arc<str>,
    pub dimensions: usize,
}

/// A handle on the database; clones share everything.
#[derive(Clone)]
pub struct Db {
    read: DatabaseConnection,
    writer: Writer,
    index: Arc<dyn VectorIndex>,
    model: ModelSpec,
    enqueued: Arc<Notify>,
    finishing: Arc<Combiner<Finished, bool>>,
    // Held for as long as any clone lives: one process a SQLite file.
    _lock: Arc<connect::ProcessLock>,
}

impl Db {
    /// Runs `work` in a transaction of its own; an error rolls back what it did and nothing else.
    ///
    /// The caller may go away: what was handed in is done all the same.
    pub async fn write<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t Tx<'t>) -> BoxFuture<'t, Result<T, DbError>> + Send + 'static,
    {
        self.writer.run(work).await
    }

    pub fn model(&self) -> &ModelSpec {
        &self.model
    }

    pub fn index(&self) -> &dyn VectorIndex {
        self.index.as_ref()
    }

    /// Notified after a commit of this process that enqueued tasks. For one waiter, the relay.
    pub fn enqueued(&self) -> &Notify {
        &self.enqueued
    }

    fn finishing(&self) -> &Combiner<Finished, bool> {
        &self.finishing
    }

    pub(crate) fn read(&self) -> &DatabaseConnection {
        &self.read
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), DbError> {
        self.read.ping().await.map_err(DbError::from)
    }

    /// Finishes the writes that wait and closes the files, which also empties the write-ahead log.
    pub async fn close(&self) {
        self.writer.close().await;
        if let Err(error) = self.read.clone().close().await {
            tracing::warn!(%error, "closing the database failed");
        }
    }
}
