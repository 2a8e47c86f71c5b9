//! The database room: the rows, the ledger of tasks, and search. SQL lives here alone.
//!
//! Two back ends. On SQLite, reads go to a pool and writes through [`writer`], which commits together what
//! waits together; what a write changes in the vector index is applied after its commit, in the order of the
//! commits. On PostgreSQL, both go to one pool ([`pooled`]), and the server keeps the index.

pub mod attempts;
pub mod audit;
pub mod cache;
pub mod changes;
pub mod chronicle;
pub mod claims;
mod combine;
mod connect;
pub mod counts;
pub mod coverage;
pub mod dead_letters;
pub mod dead_orders;
pub mod embeddings;
mod entities;
mod error;
pub mod history;
pub mod intake;
pub mod journal;
pub mod lists;
pub mod live;
pub mod loaded;
pub mod migrate;
pub mod places;
mod pooled;
pub mod provider;
pub mod recommendations;
pub mod regenerations;
mod rows;
mod saver;
pub mod search;
mod services;
mod shadow;
mod sql;
mod state;
pub mod stats;
pub mod tasks;
mod tx;
pub mod usage;
pub mod users;
pub mod webhooks;
pub mod workers;
mod write_back;
mod writer;

use std::sync::Arc;

use futures_util::FutureExt;
use sea_orm::{DatabaseConnection, FromQueryResult, Value};
use tokio::sync::Notify;

use chronicle::Chronicle;
use combine::Combiner;
pub use connect::Migrated;
use counts::Counter;
use coverage::CoverageCount;
use embeddings::Finished;
pub use error::DbError;
use pooled::{Pooled, Races};
use saver::Saver;
use search::VectorIndex;
pub use tx::{Tx, Work};
use writer::Writer;

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
    writes: Writes,
    index: Arc<dyn VectorIndex>,
    model: ModelSpec,
    /// Whether a deleted row stays and is marked, as another program does it in its tables.
    marks_deleted: bool,
    enqueued: Arc<Notify>,
    finishing: Arc<Combiner<Finished, bool>>,
    counter: Arc<Counter>,
    coverage: Arc<CoverageCount>,
    chronicle: Arc<Chronicle>,
    cache: Arc<cache::Bound>,
    listeners: webhooks::Listeners,
    /// On PostgreSQL.
    shadow: Option<Arc<shadow::Shadow>>,
    // Held for as long as any clone lives: one process a SQLite file.
    _lock: Option<Arc<connect::ProcessLock>>,
}

/// How writes reach the database.
#[derive(Clone)]
enum Writes {
    InTurn(Writer),
    SideBySide { pooled: Pooled, saver: Saver },
}

impl Db {
    /// Runs `work` in a transaction of its own; an error rolls back what it did and nothing else.
    ///
    /// The caller may go away: what was handed in is done all the same.
    pub async fn write<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, DbError> {
        match &self.writes {
            Writes::InTurn(writer) => writer.run(work).await,
            Writes::SideBySide { pooled, .. } => pooled.run(work).await,
        }
    }

    /// Runs one statement by itself, without the round trips of a transaction where the back end can;
    /// returns how many rows it changed.
    async fn change(
        &self,
        statement: impl Into<String>,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<u64, DbError> {
        let (statement, values) = (Arc::<str>::from(statement.into()), Vec::from_iter(values));
        match &self.writes {
            Writes::SideBySide { pooled, .. } => {
                let mut races = Races::default();
                loop {
                    match sql::execute(pooled.conn(), &statement, values.clone()).await {
                        Ok(done) => return Ok(done.rows_affected()),
                        Err(error) => races.again(error).await?,
                    }
                }
            }
            Writes::InTurn(writer) => {
                let done = writer.run(move |tx| {
                    let (statement, values) = (statement.clone(), values.clone());
                    async move { sql::execute(tx.conn(), &statement, values).await }.boxed()
                });
                Ok(done.await?.rows_affected())
            }
        }
    }

    /// As [`Db::change`], for a statement that returns rows.
    async fn change_returning<T: FromQueryResult + Send + 'static>(
        &self,
        statement: impl Into<String>,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<T>, DbError> {
        let (statement, values) = (Arc::<str>::from(statement.into()), Vec::from_iter(values));
        match &self.writes {
            Writes::SideBySide { pooled, .. } => {
                let mut races = Races::default();
                loop {
                    match sql::all(pooled.conn(), &statement, values.clone()).await {
                        Err(error) => races.again(error).await?,
                        rows => return rows,
                    }
                }
            }
            Writes::InTurn(writer) => {
                let rows = writer.run(move |tx| {
                    let (statement, values) = (statement.clone(), values.clone());
                    async move { sql::all(tx.conn(), &statement, values).await }.boxed()
                });
                rows.await
            }
        }
    }

    #[cfg(test)]
    async fn close_writer(&self) {
        if let Writes::InTurn(writer) = &self.writes {
            writer.close().await;
        }
    }

    fn is_postgres(&self) -> bool {
        sql::is_postgres(&self.read)
    }

    pub fn model(&self) -> &ModelSpec {
        &self.model
    }

    /// Notified after a commit of this process that enqueued tasks. For one waiter, the relay.
    pub fn enqueued(&self) -> &Notify {
        &self.enqueued
    }

    fn finishing(&self) -> &Combiner<Finished, bool> {
        &self.finishing
    }

    /// What this process has done and not yet written down.
    pub fn chronicle(&self) -> &Chronicle {
        &self.chronicle
    }

    pub(crate) fn read(&self) -> &DatabaseConnection {
        &self.read
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), DbError> {
        self.read.ping().await.map_err(DbError::from)
    }

    /// Finishes the writes that wait and closes the connections; on SQLite this also empties the write-ahead
    /// log.
    pub async fn close(&self) {
        if let Writes::InTurn(writer) = &self.writes {
            writer.close().await;
        }
        if let Err(error) = self.read.clone().close().await {
            tracing::warn!(%error, "closing the database failed");
        }
    }
}
