//! How many messages wait where, by passive declares: a tenth of a millisecond each, always fresh, and
//! without the management plugin. They tell what is ready; what is unacked, each process knows of itself.

use std::sync::Arc;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, ErrorKind};
use tokio::time::timeout;

use super::super::topology::Topology;
use super::super::{Depths, Unavailable};
use super::connection::described;
use super::link::{ANSWER, Live};
use crate::domain::priority::Priority;

const NOT_FOUND: u16 = 404;

/// `unacked` is left to the caller.
pub(super) async fn depths(live: &Arc<Live>, topology: &Topology) -> Result<Depths, Unavailable> {
    live.ensure_declared().await?;
    let mut kept = live.counting().lock().await;
    let channel = match kept.take().filter(|channel| channel.status().connected()) {
        Some(channel) => channel,
        None => live.channel().await?,
    };
    // Kept only when all went well: a refusal ends the channel.
    match timeout(ANSWER, count_all(&channel, topology)).await {
        Ok(Ok(depths)) => {
            *kept = Some(channel);
            Ok(depths)
        }
        Ok(Err(error)) => {
            if matches!(error.kind(), ErrorKind::ProtocolError(said) if said.get_id() == NOT_FOUND) {
                live.undeclare();
            }
            Err(Unavailable(described(&error)))
        }
        Err(_) => Err(Unavailable(format!("no answer within {} seconds", ANSWER.as_secs()))),
    }
}

async fn count_all(channel: &Channel, topology: &Topology) -> lapin::Result<Depths> {
    let mut depths = Depths::default();
    for lane in Priority::ALL {
        depths.ready[lane as usize] = count(channel, topology.lane_queue(lane)).await?;
    }
    for rung in topology.rungs() {
        depths.retrying += count(channel, &rung.name).await?;
    }
    depths.dead = count(channel, topology.dead_queue()).await?;
    Ok(depths)
}

async fn count(channel: &Channel, queue: &str) -> lapin::Result<u64> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(queue.message_count().into())
}
