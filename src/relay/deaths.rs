//! Writes down what the broker itself gave up.

use tokio_util::sync::CancellationToken;

use super::{MAX_BACKOFF, Relay, RelayError, patience};
use crate::broker::{Consumer, Delivery};
use crate::db::tasks::BrokerDeath;
use crate::domain::task::EmbedTask;

/// Notices in one statement.
const NOTICES: usize = 500;

impl Relay {
    /// A worker records what it gives up before it tells the broker. A message that nobody ever acks, as it
    /// ends every process that takes it, is given up by the broker: without the notice, the ledger would
    /// believe it queued, and the reconciler would start it all over again.
    pub(super) async fn record_deaths(&self, shutdown: &CancellationToken) {
        let mut delays = patience();
        while !shutdown.is_cancelled() {
            if let Ok(mut notices) = self.broker.consume_dead_letters(NOTICES).await {
                delays = patience();
                tokio::select! {
                    ended = self.record(notices.as_mut()) => {
                        if let Err(error) = ended {
                            tracing::debug!(%error, "dead letters are not recorded at the moment");
                        }
                    }
                    () = shutdown.cancelled() => return,
                }
            }
            let delay = delays.next().unwrap_or(MAX_BACKOFF);
            let _ = tokio::time::timeout(delay, shutdown.cancelled()).await;
        }
    }

    /// Until something fails; notices that are not recorded go back.
    async fn record(&self, notices: &mut dyn Consumer) -> Result<(), RelayError> {
        loop {
            let taken = notices.receive(NOTICES).await?;
            let deaths: Vec<BrokerDeath> = taken.iter().filter_map(death).collect();
            let tasks: Vec<EmbedTask> = deaths.iter().map(|death| death.task).collect();
            let recorded = self.db.record_broker_dead(deaths).await?;
            for (task, _) in tasks.iter().zip(recorded).filter(|(_, recorded)| *recorded) {
                tracing::error!(
                    id = task.recommendation_id,
                    "dead-lettered by the broker: no worker could finish it"
                );
            }
            taken.into_iter().for_each(Delivery::ack);
        }
    }
}

/// `None` for what is no task: nobody waits for it.
fn death(notice: &Delivery) -> Option<BrokerDeath> {
    let task = EmbedTask::decode(&notice.message.body).ok()?;
    let reason = notice.death.as_ref().map_or("unknown", |death| death.reason.as_str()).to_owned();
    let (published_at, attempt) = (notice.message.published_at, notice.message.attempt);
    Some(BrokerDeath { task, reason, published_at, attempt })
}
