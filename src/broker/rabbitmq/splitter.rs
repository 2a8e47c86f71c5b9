//! Takes the bundles among the dead letters apart: each task becomes a letter of its own, as it is replayed and removed
//! on its own, and only then is the bundle acked.
//!
//! A bundle in a lane stays one. What comes back stands in front of its lane, by which the reconciler tells a loss from
//! a backlog; what is handed over anew stands at its end.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::super::topology::Topology;
use super::super::{Outgoing, Route};
use super::bundle::singly;
use super::consumer::Inbox;
use super::lane::Arrival;
use super::link::Link;
use super::publisher::publish;

/// Letters that are handed over at once: so many are confirmed in time, or they would be handed over again.
const BATCH: usize = 200;
/// While the server takes nothing, the bundle is kept.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

pub(super) struct Splitter {
    publishing: Arc<Link>,
    topology: Arc<Topology>,
    tasks: TaskTracker,
}

impl Splitter {
    pub fn new(publishing: Arc<Link>, topology: Arc<Topology>, tasks: TaskTracker) -> Self {
        Self { publishing, topology, tasks }
    }

    /// Begins to take these apart, whole bundles of a subscription.
    pub fn split(self: &Arc<Self>, arrivals: Vec<Arrival>, inbox: &Arc<Inbox>) {
        if arrivals.is_empty() {
            return;
        }
        let (this, inbox) = (self.clone(), inbox.clone());
        self.tasks.spawn(async move {
            tracing::info!(tasks = arrivals.len(), "taking dead letters of several tasks apart");
            let mut arrivals = arrivals.into_iter().peekable();
            while arrivals.peek().is_some() {
                this.hand_over(arrivals.by_ref().take(BATCH).collect(), &inbox).await;
            }
        });
    }

    /// Until all are handed over or the subscription ends: what is left then comes again with its bundle.
    async fn hand_over(&self, mut left: Vec<Arrival>, inbox: &Inbox) {
        let patience =
            ExponentialBuilder::default().with_max_delay(LONGEST_DELAY).with_jitter().without_max_times();
        for delay in patience.build() {
            let singles = singly(left.iter().map(letter).collect());
            // Not given up half-way: what the server has taken would be there twice.
            let mut answers = publish(&self.publishing, &self.topology, &singles).await.into_iter();
            left.extract_if(.., |_| matches!(answers.next(), Some(Ok(())))).for_each(Arrival::ack);
            if left.is_empty() || timeout(delay, inbox.closed()).await.is_ok() {
                break;
            }
        }
        left.into_iter().for_each(Arrival::give_back);
    }
}

/// One task's own, with the reason of its bundle.
fn letter(Arrival { received, .. }: &Arrival) -> Outgoing {
    let reason = received.death.as_ref().map_or_else(|| "unknown".to_owned(), |death| death.reason.clone());
    Outgoing { route: Route::Dead { lane: received.lane, reason }, message: received.message.clone() }
}
