//! One writer: what waits together is committed together.
//!
//! SQLite has one write lock, and a commit that survives a power cut costs a disk sync. Taking turns in a
//! queue instead of fighting for the lock, and sharing the sync, is what makes `synchronous = full`
//! affordable. Each piece of work has a savepoint of its own, so that one that fails undoes only itself.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::DbError;
use super::search::VectorIndex;
use super::tx::{Effects, Tx, Work as Piece};

/// Work that waits at most; further callers wait before they queue.
const QUEUE: usize = 1024;
/// Pieces of work in one commit: bounds how long the first waits for the last.
const GROUP: usize = 64;

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

    pub(super) async fn run<T: Send + 'static>(&self, work: impl Piece<T>) -> Result<T, DbError> {
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

impl<T: Send + 'static, F: Piece<T>> Job for Work<T, F> {
    fn run<'a>(&'a mut self, conn: &'a DatabaseTransaction) -> BoxFuture<'a, Attempt> {
        async move {
            let Some(work) = self.work.take() else { return Attempt::RollBack };
            let tx = Tx::new(conn);
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

pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> DbErr {
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::config::Settings;
    use crate::config::secret::ServerUrl;
    use crate::config::sections::Synchronous;
    use crate::db::{Db, ModelSpec, sql};

    async fn open() -> (tempfile::TempDir, Db) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("sqlite://{}", folder.path().join("test.db").display());
        let mut settings = Settings::load(None, []).expect("the defaults are valid").database;
        settings.url = ServerUrl::new(url);
        settings.synchronous = Synchronous::Normal;
        let db = Db::open(&settings, ModelSpec { id: "none".into(), dimensions: 2 }).await.expect("opens");
        (folder, db)
    }

    /// How a piece of work ends after it has written its row.
    #[derive(Clone, Copy, PartialEq)]
    enum End {
        Well,
        Badly,
        InPanic,
    }

    async fn put(db: &Db, key: &'static str, end: End) -> Result<(), DbError> {
        db.write(move |tx| {
            async move {
                let insert = "INSERT INTO service_state (key, value) VALUES ($1, 'here')";
                sql::execute(tx.conn(), insert, [key.into()]).await?;
                tx.wake_relay();
                match end {
                    End::Well => Ok(()),
                    End::Badly => sql::execute(tx.conn(), "INSERT INTO nowhere VALUES (1)", []).await.map(|_| ()),
                    End::InPanic => panic!("a bug in {key}"),
                }
            }
            .boxed()
        })
        .await
    }

    async fn is_there(db: &Db, key: &str) -> bool {
        let select = "SELECT EXISTS (SELECT 1 FROM service_state WHERE key = $1)";
        sql::scalar(db.read(), select, [key.into()]).await.expect("a row").unwrap_or(false)
    }

    /// Keeps the writer busy until it is told to go on, so that what is handed in meanwhile forms a group.
    async fn hold(db: &Db) -> oneshot::Sender<()> {
        let (go_on, wait) = oneshot::channel();
        let (began, begun) = oneshot::channel();
        let db = db.clone();
        tokio::spawn(async move {
            let ends = Mutex::new(Some((began, wait)));
            let held = db.write(move |_| {
                let ends = ends.lock().expect("no panic").take();
                async move {
                    let (began, wait) = ends.expect("it runs once");
                    let _ = began.send(());
                    let _ = wait.await;
                    Ok(())
                }
                .boxed()
            });
            held.await
        });
        begun.await.expect("the writer runs");
        go_on
    }

    #[tokio::test]
    async fn a_write_that_fails_or_panics_undoes_itself_and_no_other_of_its_group() {
        let (_folder, db) = open().await;
        let go_on = hold(&db).await;
        let group = async {
            tokio::join!(
                put(&db, "first", End::Well),
                put(&db, "failing", End::Badly),
                put(&db, "second", End::Well),
                put(&db, "panicking", End::InPanic),
                put(&db, "third", End::Well),
            )
        };
        let release = async {
            tokio::task::yield_now().await;
            let _ = go_on.send(());
        };
        let ((first, failing, second, panicking, third), ()) = tokio::join!(group, release);
        assert!(first.is_ok() && second.is_ok() && third.is_ok());
        assert!(matches!(&failing, Err(DbError::Failed(error)) if error.to_string().contains("nowhere")));
        assert!(
            matches!(&panicking, Err(DbError::Failed(error)) if error.to_string().contains("a bug in panicking"))
        );
        for key in ["first", "second", "third"] {
            assert!(is_there(&db, key).await, "{key}");
        }
        for key in ["failing", "panicking"] {
            assert!(!is_there(&db, key).await, "{key}");
        }
        put(&db, "later", End::Well).await.expect("the writer goes on");
    }

    #[tokio::test]
    async fn a_write_that_fails_wakes_nobody() {
        let (_folder, db) = open().await;
        assert!(put(&db, "failing", End::Badly).await.is_err());
        assert!(db.enqueued().notified().now_or_never().is_none());
        put(&db, "good", End::Well).await.expect("written");
        assert!(db.enqueued().notified().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_write_whose_caller_went_away_is_done_all_the_same() {
        let (_folder, db) = open().await;
        let go_on = hold(&db).await;
        assert!(put(&db, "abandoned", End::Well).now_or_never().is_none());
        let _ = go_on.send(());
        put(&db, "after", End::Well).await.expect("written");
        assert!(is_there(&db, "abandoned").await);
    }

    #[tokio::test]
    async fn closing_finishes_what_waits_and_takes_no_more() {
        let (_folder, db) = open().await;
        let go_on = hold(&db).await;
        let waiting = put(&db, "waiting", End::Well);
        let close = async {
            tokio::task::yield_now().await;
            let _ = go_on.send(());
            db.close_writer().await;
        };
        let (waiting, ()) = tokio::join!(waiting, close);
        waiting.expect("it was handed in before the end");
        assert!(is_there(&db, "waiting").await);
        assert!(matches!(put(&db, "too late", End::Well).await, Err(DbError::Unavailable(_))));
    }
}
