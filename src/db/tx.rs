//! A transaction as its work sees it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;
use sea_orm::DatabaseTransaction;

use super::DbError;
use super::search::IndexChange;

/// What is done in one transaction. It may be run again from the start, when the transaction lost a
/// deadlock, so it takes what it was made with by reference.
pub trait Work<T>: for<'t> Fn(&'t Tx<'t>) -> BoxFuture<'t, Result<T, DbError>> + Send + Sync + 'static {}

impl<T, F> Work<T> for F where F: for<'t> Fn(&'t Tx<'t>) -> BoxFuture<'t, Result<T, DbError>> + Send + Sync + 'static
{}

/// A transaction, and what follows its commit.
pub struct Tx<'c> {
    conn: &'c DatabaseTransaction,
    changes: Mutex<Vec<IndexChange>>,
    enqueued: AtomicBool,
}

/// What follows a commit.
#[derive(Default)]
pub(super) struct Effects {
    pub changes: Vec<IndexChange>,
    /// There are new tasks.
    pub enqueued: bool,
}

impl<'c> Tx<'c> {
    pub(super) fn new(conn: &'c DatabaseTransaction) -> Self {
        Self { conn, changes: Mutex::default(), enqueued: AtomicBool::new(false) }
    }

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

    pub(super) fn into_effects(self) -> Effects {
        let changes = self.changes.into_inner().unwrap_or_else(PoisonError::into_inner);
        Effects { changes, enqueued: self.enqueued.into_inner() }
    }
}
