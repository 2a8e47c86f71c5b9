//! Takes a bundle apart: each part is handed over anew, alone, and only then is the bundle acked.

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

/// A bundle that came back so often may have a task that ends every worker: alone, it takes no other along. A restart
/// or two are no reason, and what comes back goes first, which what is handed over anew doesn't.
const POISONOUS: u32 = 5;

/// While the server takes nothing, the bundle is kept.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Which bundles are taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Splitting {
    /// None: the caller is done with all parts together.
    Never,
    /// Those that came back again and again.
    Poisonous,
    /// All: each dead letter is replayed and removed on its own.
    Always,
}

pub(super) struct Splitter {
    splitting: Splitting,
    publishing: Arc<Link>,
    topology: Arc<Topology>,
    tasks: TaskTracker,
}

impl Splitter {
    pub fn new(splitting: Splitting, publishing: Arc<Link>, topology: Arc<Topology>, tasks: TaskTracker) -> Self {
        Self { splitting, publishing, topology, tasks }
    }

    pub fn splits(&self, arrival: &Arrival) -> bool {
        let due = match self.splitting {
            Splitting::Never => false,
            Splitting::Poisonous => arrival.received.returns >= POISONOUS,
            Splitting::Always => true,
        };
        arrival.parts > 1 && due
    }

    /// Begins to take these apart, whole bundles of a subscription.
    pub fn split(self: &Arc<Self>, arrivals: Vec<Arrival>, inbox: &Arc<Inbox>) {
        if arrivals.is_empty() {
            return;
        }
        let (this, inbox) = (self.clone(), inbox.clone());
        self.tasks.spawn(async move { this.hand_over(arrivals, &inbox).await });
    }

    /// Until all are handed over or the subscription ends: what is left then comes again with its bundle.
    async fn hand_over(&self, mut left: Vec<Arrival>, inbox: &Inbox) {
        tracing::info!(tasks = left.len(), "handing the tasks of bundles over singly");
        let patience =
            ExponentialBuilder::default().with_max_delay(LONGEST_DELAY).with_jitter().without_max_times();
        for delay in patience.build() {
            let singles = singly(left.iter().map(|arrival| self.alone(arrival)).collect());
            // Not given up half-way: what the server has taken would be there twice.
            let mut answers = publish(&self.publishing, &self.topology, &singles).await.into_iter();
            left.extract_if(.., |_| matches!(answers.next(), Some(Ok(())))).for_each(Arrival::ack);
            if left.is_empty() || timeout(delay, inbox.closed()).await.is_ok() {
                break;
            }
        }
        left.into_iter().for_each(Arrival::give_back);
    }

    /// To where it was delivered from.
    fn alone(&self, Arrival { received, .. }: &Arrival) -> Outgoing {
        let lane = received.lane;
        let reason = || received.death.as_ref().map_or_else(|| "unknown".to_owned(), |death| death.reason.clone());
        let route = match self.splitting {
            Splitting::Always => Route::Dead { lane, reason: reason() },
            Splitting::Never | Splitting::Poisonous => Route::Lane(lane),
        };
        Outgoing { route, message: received.message.clone() }
    }
}
