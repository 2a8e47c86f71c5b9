//! What goes on beside the rows: the copy that searches look through, and the new index.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

use super::{MAX_BACKOFF, Regenerations, told};
use crate::domain::regeneration::JobState;

/// How often is looked whether there is something to do, and whether a copy is to be searched.
const LOOK: Duration = Duration::from_millis(250);

impl Regenerations {
    /// Until `shutdown`, which breaks off what is under way: whoever comes next does it anew.
    pub(super) async fn tend_shadows(&self, shutdown: &CancellationToken) {
        let patience =
            || ExponentialBuilder::default().with_max_delay(MAX_BACKOFF).with_jitter().without_max_times().build();
        let (mut delays, mut away) = (patience(), false);
        loop {
            let tended = tokio::select! {
                tended = self.db.tend_shadow() => tended,
                () = shutdown.cancelled() => return,
            };
            let wait = match tended {
                Ok(job) => {
                    (delays, away) = (patience(), false);
                    match job {
                        Some(job) => {
                            match (job.phase, job.state) {
                                (_, JobState::Completed) => told(&job),
                                (phase, _) => {
                                    tracing::info!(regeneration = job.id, ?phase, "the regeneration goes on")
                                }
                            }
                            Duration::ZERO
                        }
                        None => LOOK,
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::warn!(%error, "no regeneration's index can be seen to at the moment");
                    }
                    delays.next().unwrap_or(MAX_BACKOFF)
                }
            };
            if tokio::time::timeout(wait, shutdown.cancelled()).await.is_ok() {
                return;
            }
        }
    }
}
