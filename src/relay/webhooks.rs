//! Hands deliveries of webhooks from the ledger to their broker, and keeps their log short.
//!
//! Of each endpoint only as many are with the broker as may be sent to it at once: the others wait in the ledger, and
//! what is slow or away holds up nobody else. So do the long waits between attempts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::ExponentialBackoff;
use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::{MAX_BACKOFF, RelayError, patience};
use crate::broker::on_demand::OnDemand;
use crate::broker::{Durability, Message, Outgoing, Route};
use crate::config::Settings;
use crate::db::webhooks::Claimed;
use crate::db::{Db, DbError};
use crate::domain::priority::Priority;

/// While endpoints are busy, how soon to look again whether they have made room.
const BUSY_POLL: Duration = Duration::from_millis(20);
/// While the broker has messages, what isn't heard of may only wait its turn: it is lost after this.
const LOST_IN_A_QUEUE: Duration = Duration::from_secs(10 * 60);
/// Steps of removing what has been kept for long enough before something else has its turn.
const FORGET_STEPS: usize = 20;

/// What a pass found; the last one counts most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pass {
    /// Nothing is due.
    Idle,
    /// What is due is for endpoints that have their hands full.
    Full,
    HandedOver,
}

pub struct WebhookRelay {
    db: Db,
    broker: Arc<OnDemand>,
    /// Deliveries of an endpoint with the broker at most.
    at_once: usize,
    poll: Duration,
    /// How often to look for deliveries that the broker has lost, and for what has been kept for long enough.
    reconcile_every: Duration,
    /// With an empty broker, what isn't heard of is lost after this.
    lost_after: Duration,
    retention: Duration,
    durability: Durability,
}

impl WebhookRelay {
    pub fn new(db: Db, broker: Arc<OnDemand>, settings: &Settings) -> Self {
        Self {
            db,
            broker,
            at_once: settings.webhook.max_concurrent_per_endpoint,
            poll: Duration::from_millis(settings.queue.poll_interval_ms),
            reconcile_every: Duration::from_millis(settings.queue.reconcile_interval_ms),
            // A worker has several rounds of requests in hand, each of which may take its whole time.
            lost_after: Duration::from_millis(settings.queue.reconcile_interval_ms)
                + settings.webhook.timeout() * 5,
            retention: settings.webhook.retention(),
            durability: if settings.broker.is_embedded() { Durability::Process } else { Durability::Disk },
        }
    }

    /// At boot, before anything is handed over: what a broker without a memory held waits again.
    pub async fn recover(&self) -> Result<(), DbError> {
        if self.durability == Durability::Process {
            let released = self.db.release_deliveries(Utc::now() + Duration::from_secs(60)).await?;
            if released > 0 {
                tracing::info!(deliveries = released, "took webhooks of the last run up again");
            }
        }
        Ok(())
    }

    /// Relays until `shutdown`. Errors are waited out with back-off.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut delays = patience();
        let (mut checked, mut failing, mut soon) = (Instant::now(), false, BUSY_POLL);
        while !shutdown.is_cancelled() {
            let wait = match self.turn(&mut checked).await {
                Ok(pass) => {
                    delays = patience();
                    if std::mem::take(&mut failing) {
                        tracing::info!("webhooks are handed to the broker again");
                    }
                    // One that hangs is looked at less and less.
                    soon = if pass == Pass::Full { (soon * 2).min(self.poll) } else { BUSY_POLL };
                    if pass == Pass::Idle { self.poll } else { soon.min(self.poll) }
                }
                Err(error) => self.told(&error, &mut failing, &mut delays),
            };
            let _ = tokio::time::timeout(wait, shutdown.cancelled()).await;
        }
    }

    /// Logs a failure when it begins; returns how long to wait.
    fn told(&self, error: &RelayError, failing: &mut bool, delays: &mut ExponentialBackoff) -> Duration {
        if !std::mem::replace(failing, true) {
            tracing::warn!(%error, "webhooks can't be handed to the broker; they wait in the ledger");
        }
        delays.next().unwrap_or(MAX_BACKOFF)
    }

    async fn turn(&self, checked: &mut Instant) -> Result<Pass, RelayError> {
        if checked.elapsed() >= self.reconcile_every {
            *checked = Instant::now();
            self.forget().await?;
            self.release_lost().await?;
        }
        let mut pass = Pass::Idle;
        for endpoint in self.db.webhooks_due().await? {
            if endpoint.under_way >= self.at_once as i64 {
                pass = pass.max(Pass::Full);
                continue;
            }
            // Before anything is claimed for it.
            self.broker.get()?;
            let claimed = self.db.claim_deliveries(endpoint.id, self.at_once).await?;
            pass = pass.max(if claimed.is_empty() { Pass::Full } else { Pass::HandedOver });
            self.publish(claimed).await?;
        }
        Ok(pass)
    }

    async fn publish(&self, claimed: Vec<Claimed>) -> Result<(), RelayError> {
        if claimed.is_empty() {
            return Ok(());
        }
        let answers = self.broker.get()?.publish(claimed.iter().map(outgoing).collect()).await;
        let mut reason = String::new();
        let mut refused = Vec::new();
        for (claimed, answer) in claimed.iter().zip(answers) {
            if let Err(error) = answer {
                reason = error.to_string();
                refused.push(claimed.handover);
            }
        }
        let count = refused.len();
        self.db.give_back_deliveries(refused).await?;
        if count == claimed.len() { Err(RelayError::Refused(count, reason)) } else { Ok(()) }
    }

    /// A purged queue, a broker that lost its disk, a relay that died between the ledger and the broker.
    async fn release_lost(&self) -> Result<(), RelayError> {
        // Nothing is asked of a broker that nothing was handed to.
        let published = self.db.published_deliveries().await?;
        if published == 0 {
            return Ok(());
        }
        let depths = self.broker.get()?.depths().await?;
        let held = depths.ready.iter().sum::<u64>() + depths.retrying;
        // All of them wait, for a worker perhaps: handed over again, there would only be more.
        if held >= published {
            return Ok(());
        }
        let lost_after = if held == 0 { self.lost_after } else { self.lost_after.max(LOST_IN_A_QUEUE) };
        let released = self.db.release_deliveries(Utc::now() - lost_after).await?;
        if released > 0 {
            tracing::warn!(deliveries = released, "webhooks that are not heard of are handed over again");
        }
        Ok(())
    }

    async fn forget(&self) -> Result<(), DbError> {
        let before = Utc::now() - self.retention;
        for _ in 0..FORGET_STEPS {
            if !self.db.forget_deliveries(before).await? {
                break;
            }
        }
        Ok(())
    }
}

/// What somebody waits for goes first, what is tried again last: an endpoint that is away gives way to the others.
fn outgoing(claimed: &Claimed) -> Outgoing {
    let lane = match (claimed.urgent, claimed.failures) {
        (true, _) => Priority::High,
        (false, 0) => Priority::Normal,
        (false, _) => Priority::Low,
    };
    let message = Message {
        id: claimed.handover.to_string(),
        body: claimed.handover.encode(),
        attempt: claimed.failures,
        published_at: claimed.at,
        trace: None,
    };
    Outgoing { route: Route::Lane(lane), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::webhook::handover::Handover;

    #[test]
    fn what_is_tried_again_gives_way() {
        let lane = |urgent, failures| {
            let handover = Handover { delivery_id: 1, round: 1 };
            outgoing(&Claimed { handover, failures, urgent, at: Utc::now() }).route
        };
        assert_eq!(lane(true, 3), Route::Lane(Priority::High));
        assert_eq!(lane(false, 0), Route::Lane(Priority::Normal));
        assert_eq!(lane(false, 1), Route::Lane(Priority::Low));
    }
}
