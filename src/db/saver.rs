//! Saves that arrive together are written together, on PostgreSQL.
//!
//! A save alone costs a round trip and a disk sync, or some round trips more when it names a place; those that
//! wait cost the same together. Whoever finds nothing under way is saved at once; who comes while others are
//! being saved goes with those that come in the meantime.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::pooled::Pooled;
use super::recommendations::{Saved, save_in, save_plain};
use super::{DbError, ModelSpec};
use crate::busy::Busy;
use crate::domain::priority::Priority;
use crate::domain::recommendation::Draft;

/// Statements at once: while one waits for the disk, or for a row that an import has locked, the other goes on.
/// Measured at 16 connections: two save 0.56 to 0.72 of the rows that bare inserts do, one 0.48 to 0.64, four 0.52,
/// eight 0.39, as the groups get smaller.
const SAVERS: usize = 2;
/// A group that is worth a statement beside another. Of one row a statement costs the server 0.7 ms, of each
/// further row 0.1 ms; without waiting for so many, 16 connections came in groups of five.
const WORTHWHILE: usize = 8;
/// The longest that a smaller group waits for the statement under way, which may itself wait for a locked row.
const GATHER: Duration = Duration::from_millis(2);
/// Saves in one transaction.
const GROUP: usize = 64;
/// Saves that wait at most; further callers wait before they queue.
const QUEUE: usize = 1024;

struct Job {
    draft: Draft,
    reply: oneshot::Sender<Result<Saved, DbError>>,
}

/// Hands single saves to tasks that write them in groups; the tasks end with the last clone.
#[derive(Clone)]
pub(super) struct Saver(mpsc::Sender<Job>);

impl Saver {
    pub(super) fn start(pooled: &Pooled, model: &ModelSpec) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (jobs, busy) = (Arc::new(Mutex::new(jobs)), Busy::default());
        for _ in 0..SAVERS {
            tokio::spawn(save_groups(pooled.clone(), model.clone(), jobs.clone(), busy.clone()));
        }
        Self(queue)
    }

    /// The caller may go away: what was handed in is done all the same.
    pub(super) async fn save(&self, draft: Draft) -> Result<Saved, DbError> {
        let (reply, answer) = oneshot::channel();
        let ended = || DbError::Unavailable("the savers have ended".into());
        self.0.send(Job { draft, reply }).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

async fn save_groups(pooled: Pooled, model: ModelSpec, jobs: Arc<Mutex<mpsc::Receiver<Job>>>, busy: Busy) {
    loop {
        let group = gather(&mut *jobs.lock().await, &busy).await;
        if group.is_empty() {
            return;
        }
        let _under_way = busy.begin();
        let (plain, others): (Vec<Job>, Vec<Job>) = group.into_iter().partition(|job| is_plain(&job.draft));
        tokio::join!(save_together(&pooled, &model, plain, true), save_together(&pooled, &model, others, false));
    }
}

/// The next group; empty once there will be no more.
async fn gather(jobs: &mut mpsc::Receiver<Job>, busy: &Busy) -> Vec<Job> {
    let mut group = Vec::with_capacity(GROUP);
    let mut open = jobs.recv_many(&mut group, GROUP).await > 0;
    let until = Instant::now() + GATHER;
    while open && group.len() < WORTHWHILE {
        let room = GROUP - group.len();
        tokio::select! {
            biased;
            more = jobs.recv_many(&mut group, room) => open = more > 0,
            () = busy.quiet() => break,
            () = sleep_until(until) => break,
        }
    }
    group
}

/// Such a draft needs one statement, the others a transaction.
fn is_plain(draft: &Draft) -> bool {
    draft.place.is_none() && draft.service.is_none() && draft.embedding.is_none()
}

/// One transaction for all; when the tables refuse it, one each, so that the guilty save fails alone.
async fn save_together(pooled: &Pooled, model: &ModelSpec, mut group: Vec<Job>, plain: bool) {
    if group.is_empty() {
        return;
    }
    match save(pooled, model, &group, plain).await {
        Ok(saved) => group.into_iter().zip(saved).for_each(|(job, saved)| job.answer(Ok(saved))),
        Err(DbError::Unavailable(reason)) => {
            group.into_iter().for_each(|job| job.answer(Err(DbError::Unavailable(reason.clone()))));
        }
        Err(error) if group.len() == 1 => group.remove(0).answer(Err(error)),
        Err(_) => {
            for job in group {
                let alone = save(pooled, model, std::slice::from_ref(&job), plain).await;
                job.answer(alone.and_then(only));
            }
        }
    }
}

/// The answer about the only draft.
pub(super) fn only(mut saved: Vec<Saved>) -> Result<Saved, DbError> {
    saved.pop().ok_or_else(|| DbError::Unavailable("the save answered nothing".into()))
}

impl Job {
    fn answer(self, outcome: Result<Saved, DbError>) {
        // The caller may have gone away; its row is there.
        let _ = self.reply.send(outcome);
    }
}

async fn save(pooled: &Pooled, model: &ModelSpec, jobs: &[Job], plain: bool) -> Result<Vec<Saved>, DbError> {
    if plain {
        return save_plain(pooled, jobs.iter().map(|job| &job.draft)).await;
    }
    let (model, drafts) = (model.clone(), jobs.iter().map(|job| job.draft.clone()).collect::<Vec<_>>());
    pooled.run(move |tx| save_in(tx, drafts.clone(), Priority::Normal, model.clone()).boxed()).await
}
