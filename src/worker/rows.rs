//! Which rows are in hand: none is in two calls of this process at once.
//!
//! An edit during a call brings a second task for its row. Started at once, it would be paid for although the
//! next edit may be on its way, and a copy that was published twice would be paid for twice. It is set aside
//! until the row is free and then goes back to its lane: of ten quick edits, the last.
//!
//! What came back of the version in hand is set aside, too: perhaps from the very batch that has the row, which has panicked
//! and is about to let go of it, or whose connection is lost and with it its acks.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::process::Job;
use crate::domain::task::Target;

type Key = (i64, Target);

#[derive(Default)]
pub(super) struct Rows(Mutex<HashMap<Key, InHand>>);

/// A row that is worked on.
struct InHand {
    version: i64,
    /// The newest task that came meanwhile.
    next: Option<Job>,
}

/// The rows of a batch, in hand for as long as this lives, a panic included.
pub(super) struct Taken<'r> {
    rows: &'r Rows,
    keys: Vec<Key>,
}

impl Rows {
    /// Takes the rows of `jobs` that are free. Returns their jobs, and those that a newer or an equal one makes
    /// superfluous; the rest is set aside.
    pub(super) fn take(&self, mut jobs: Vec<Job>) -> (Taken<'_>, Vec<Job>, Vec<Job>) {
        let mut taken = Taken { rows: self, keys: Vec::with_capacity(jobs.len()) };
        let (mut free, mut stale) = (Vec::with_capacity(jobs.len()), Vec::new());
        // The newest of a batch's own jobs for a row takes it.
        jobs.sort_by_key(|job| Reverse(job.task.content_version));
        let mut rows = self.lock();
        for job in jobs {
            let version = job.task.content_version;
            match rows.entry(key(&job)) {
                Entry::Vacant(row) => {
                    row.insert(InHand { version, next: None });
                    taken.keys.push(key(&job));
                    free.push(job);
                }
                Entry::Occupied(mut row) if row.get().is_outdone_by(&job) => {
                    stale.extend(row.get_mut().next.replace(job))
                }
                Entry::Occupied(_) => stale.push(job),
            }
        }
        (taken, free, stale)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, InHand>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InHand {
    fn is_outdone_by(&self, job: &Job) -> bool {
        let (version, newest) = (job.task.content_version, self.newest());
        version > newest || version == newest && job.delivery.returns > 0
    }

    fn newest(&self) -> i64 {
        self.next.as_ref().map_or(self.version, |job| job.task.content_version)
    }
}

impl Taken<'_> {
    /// Frees the rows of these jobs before the batch is done.
    pub(super) fn free(&mut self, jobs: &[Job]) {
        let (freed, kept) = self.keys.drain(..).partition(|taken| jobs.iter().any(|job| key(job) == *taken));
        self.keys = kept;
        self.rows.free(freed);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.rows.free(std::mem::take(&mut self.keys));
    }
}

impl Rows {
    /// What was set aside for these rows goes back to its lane.
    fn free(&self, keys: Vec<Key>) {
        let mut rows = self.lock();
        let next: Vec<Job> = keys.iter().filter_map(|key| rows.remove(key)?.next).collect();
        drop(rows);
        drop(next);
    }
}

fn key(job: &Job) -> Key {
    (job.task.recommendation_id, job.task.target)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::DateTime;

    use super::*;
    use crate::broker::{Delivery, Message, Receipt};
    use crate::domain::priority::Priority;
    use crate::domain::task::EmbedTask;

    /// Notes the versions that went back to their lane.
    struct Noted(i64, Arc<Mutex<Vec<i64>>>);

    impl Receipt for Noted {
        fn ack(self: Box<Self>) {}
    }

    impl Drop for Noted {
        fn drop(&mut self) {
            self.1.lock().expect("no panic").push(self.0);
        }
    }

    #[derive(Default)]
    struct Lane(Arc<Mutex<Vec<i64>>>);

    impl Lane {
        fn job(&self, recommendation_id: i64, content_version: i64) -> Job {
            self.after(0, recommendation_id, content_version)
        }

        fn after(&self, returns: u32, recommendation_id: i64, content_version: i64) -> Job {
            let task = EmbedTask { recommendation_id, content_version, target: Target::Current };
            let message = Message {
                id: task.to_string(),
                body: task.encode(),
                attempt: 0,
                published_at: DateTime::UNIX_EPOCH,
                trace: None,
            };
            let receipt = Box::new(Noted(content_version, self.0.clone()));
            Job::new(Delivery::new(message, Priority::High, returns, receipt), task)
        }

        fn returned(&self) -> Vec<i64> {
            self.0.lock().expect("no panic").clone()
        }
    }

    fn versions(jobs: &[Job]) -> Vec<i64> {
        jobs.iter().map(|job| job.task.content_version).collect()
    }

    #[test]
    fn of_what_comes_while_a_row_is_in_hand_the_newest_goes_back_when_it_is_free() {
        let (rows, lane) = (Rows::default(), Lane::default());
        let (first, jobs, _) = rows.take(vec![lane.job(1, 1)]);
        assert_eq!(versions(&jobs), [1]);
        for (version, superfluous) in [(2, vec![]), (4, vec![2]), (3, vec![3]), (4, vec![4]), (1, vec![1])] {
            let (_, jobs, stale) = rows.take(vec![lane.job(1, version)]);
            assert_eq!((versions(&jobs), versions(&stale)), (vec![], superfluous));
            std::mem::forget(stale);
        }
        assert!(lane.returned().is_empty());
        drop(first);
        assert_eq!(lane.returned(), [4]);
        let (_, jobs, _) = rows.take(vec![lane.job(1, 4)]);
        assert_eq!(versions(&jobs), [4]);
    }

    #[test]
    fn what_came_back_of_the_version_in_hand_outlives_it() {
        let (rows, lane) = (Rows::default(), Lane::default());
        let (first, jobs, _) = rows.take(vec![lane.job(1, 1)]);
        let (_, none, stale) = rows.take(vec![lane.after(1, 1, 1)]);
        assert_eq!((versions(&none), versions(&stale)), (vec![], vec![]));
        // As a panic does it.
        drop((jobs, first));
        assert_eq!(lane.returned(), [1, 1]);
        let (_first, _jobs, _) = rows.take(vec![lane.job(1, 2)]);
        let (_, _, stale) = rows.take(vec![lane.after(1, 1, 1)]);
        assert_eq!(versions(&stale), [1]);
    }

    #[test]
    fn the_newest_of_a_batch_takes_the_row() {
        let (rows, lane) = (Rows::default(), Lane::default());
        let (_taken, jobs, stale) = rows.take(vec![lane.job(1, 1), lane.job(2, 1), lane.job(1, 2), lane.job(1, 2)]);
        assert_eq!((versions(&jobs), versions(&stale)), (vec![2, 1], vec![2, 1]));
    }

    #[test]
    fn a_row_whose_job_proved_stale_is_free_at_once() {
        let (rows, lane) = (Rows::default(), Lane::default());
        let (mut taken, jobs, _) = rows.take(vec![lane.job(1, 1), lane.job(2, 1)]);
        taken.free(&jobs[..1]);
        let (_, free, _) = rows.take(vec![lane.job(1, 2), lane.job(2, 2)]);
        assert_eq!(free.iter().map(|job| job.task.recommendation_id).collect::<Vec<_>>(), [1]);
    }
}
