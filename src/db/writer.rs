//! One writer: what waits together is committed together.
//!
//! SQLite has one write lock, and a commit that survives a power cut costs a disk sync. Taking turns in a
//! queue instead of fighting for the lock, and sharing the sync, is what makes `synchronous = full`
//! affordable. Each piece of work has a savepoint of its own, so that one that fails undoes only itself.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::DbError;
use super::search::{IndexChange, VectorIndex};

/// Work that waits at most; further callers wait before they queue.
const QUEUE: usize = 1024;
/// Pieces of work in one commit: bounds how long the first waits for the last.
const GROUP: usize = 64;

/// A transaction as its work sees it.
pub struct Tx<'c> {
    conn: &'c DatabaseTransaction,
    changes: Mutex<Vec<IndexChange>>,
    enqueued: AtomicBool,
}

impl Tx<'_> {
    pub(super) fn conn(&self) -> &DatabaseTransaction {
        self.conn
    }

    /// Notes a change of the vector index, to be made once this transaction is committed.
    pub(super) fn on_commit(&self, change: IndexChange) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }

    /// Notes that there are new tasks: the relay of this process is woken after the commit.
    pub(super) fn wake_relay(&self) {
        self.enqueued.store(true, Ordering::Relaxed);
    }
}

impl Tx<'_> {
    fn into_effects(self) -> Effects {
        let changes = self.changes.into_inner().unwrap_or_else(PoisonError::into_inner);
        Effects { changes, enqueued: self.enqueued.into_inner() }
    }
}

#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
    /// `None` once it is closed.
    ended: Arc<tokio::sync::Mutex<Option<oneshot::Receiver<()>>>>,
}

impl Writer {
    pub(super) fn start(conn: DatabaseConnection, index: Arc<dyn VectorIndex>, enqueued: Arc<Notify>) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (done, ended) = oneshot::channel();
        tokio::spawn(async move {
            write(conn, index, enqueued, jobs).await;
            let _ = done.send(());
        });
        Self { queue, ended: Arc::new(tokio::sync::Mutex::new(Some(ended))) }
    }

    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t Tx<'t>) -> BoxFuture<'t, Result<T, DbError>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Work { work: Some(work), outcome: None, reply };
        let closed = || DbError::Unavailable("the writer has been closed".into());
        self.queue.send(Box::new(job)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Takes no more work, finishes what waits, closes the connection.
    pub(super) async fn close(&self) {
        // An empty job is the signal: clones of the sender may live on in idle handles.
        let _ = self.queue.send(Box::new(Close)).await;
        if let Some(ended) = self.ended.lock().await.take() {
            let _ = ended.await;
        }
    }
}

/// A piece of work whose type is forgotten.
trait Job: Send {
    fn run<'a>(&'a mut self, conn: &'a DatabaseTransaction) -> BoxFuture<'a, Attempt>;
    /// Tells the caller; `Err` says why the commit failed.
    fn settle(self: Box<Self>, committed: Result<(), String>);
    fn is_close(&self) -> bool {
        false
    }
}

/// What follows a commit.
#[derive(Default)]
struct Effects {
    changes: Vec<IndexChange>,
    enqueued: bool,
}

/// What a piece of work left behind.
enum Attempt {
    Commit(Effects),
    RollBack,
}

struct Close;

impl Job for Close {
    fn run<'a>(&'a mut self, _: &'a DatabaseTransaction) -> BoxFuture<'a, Attempt> {
        async { Attempt::RollBack }.boxed()
    }

    fn settle(self: Box<Self>, _: Result<(), String>) {}

    fn is_close(&self) -> bool {
        true
    }
}

struct Work<T, F> {
    work: Option<F>,
    outcome: Option<Result<T, DbError>>,
    reply: oneshot::Sender<Result<T, DbError>>,
}

impl<T, F> Job for Work<T, F>
where
    T: Send + 'static,
    F: for<'t> FnOnce(&'t Tx<'t>) -> BoxFuture<'t, Result<T, DbError>> + Send + 'static,
{
    fn run<'a>(&'a mut self, conn: &'a DatabaseTransaction) -> BoxFuture<'a, Attempt> {
        async move {
            let Some(work) = self.work.take() else { return Attempt::RollBack };
            let tx = Tx { conn, changes: Mutex::default(), enqueued: AtomicBool::new(false) };
            // A panic in one piece of work must not take the writer, and with it everybody's writes, down.
            let outcome = AssertUnwindSafe(async { work(&tx).await }).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|panic| Err(DbError::Failed(panicked(panic.as_ref()))));
            let attempt = match &outcome {
                Ok(_) => Attempt::Commit(tx.into_effects()),
                Err(_) => Attempt::RollBack,
            };
            self.outcome = Some(outcome);
            attempt
        }
        .boxed()
    }

    fn settle(self: Box<Self>, committed: Result<(), String>) {
        let outcome = match (committed, self.outcome) {
            (_, Some(Err(own))) => Err(own),
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Err(reason), _) => Err(DbError::Unavailable(reason)),
            (Ok(()), None) => Err(DbError::Unavailable("the work was not started".into())),
        };
        // The caller may have gone away; its work is done.
        let _ = self.reply.send(outcome);
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> DbErr {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    DbErr::Custom(format!("a write panicked: {text}"))
}

async fn write(
    conn: DatabaseConnection,
    index: Arc<dyn VectorIndex>,
    enqueued: Arc<Notify>,
    mut jobs: mpsc::Receiver<Box<dyn Job>>,
) {
    let mut group = Vec::with_capacity(GROUP);
    while jobs.recv_many(&mut group, GROUP).await > 0 {
        if group.iter().any(|job| job.is_close()) {
            jobs.close();
        }
        match commit_together(&conn, &mut group).await {
            Ok(effects) => {
                index.apply(effects.changes);
                if effects.enqueued {
                    // A permit is kept when nobody waits just now.
                    enqueued.notify_one();
                }
                group.drain(..).for_each(|job| job.settle(Ok(())));
            }
            Err(error) => {
                tracing::error!(%error, jobs = group.len(), "a commit failed; its work is undone");
                group.drain(..).for_each(|job| job.settle(Err(error.to_string())));
            }
        }
    }
    if let Err(error) = conn.close().await {
        tracing::warn!(%error, "closing the writer's connection failed");
    }
}

async fn commit_together(conn: &DatabaseConnection, group: &mut [Box<dyn Job>]) -> Result<Effects, DbErr> {
    // IMMEDIATE: a deferred transaction that reads first can't always become a writing one.
    let mode = Some(SqliteTransactionMode::Immediate);
    let tx =
        conn.begin_with_options(TransactionOptions { sqlite_transaction_mode: mode, ..Default::default() }).await?;
    let mut effects = Effects::default();
    if let [job] = group {
        // Alone, the transaction is its savepoint.
        return match job.run(&tx).await {
            Attempt::Commit(noted) => tx.commit().await.map(|()| noted),
            Attempt::RollBack => tx.rollback().await.map(|()| effects),
        };
    }
    for job in group.iter_mut() {
        let savepoint = tx.begin().await?;
        match job.run(&savepoint).await {
            Attempt::Commit(noted) => {
                savepoint.commit().await?;
                effects.changes.extend(noted.changes);
                effects.enqueued |= noted.enqueued;
            }
            Attempt::RollBack => savepoint.rollback().await?,
        }
    }
    tx.commit().await?;
    Ok(effects)
}
