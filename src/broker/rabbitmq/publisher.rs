//! Publishes in batches: all messages sent, then all confirms awaited, as singly confirmed messages are
//! sixty times slower.

use std::collections::HashSet;
use std::future::poll_fn;
use std::iter::repeat_n;
use std::sync::PoisonError;
use std::task::Poll;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::maybe_done;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, PublisherConfirm};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::topology::Topology;
use super::super::{PublishError, Unavailable};
use super::bundle::Parcel;
use super::connection::described;
use super::link::{Link, Live, within};
use super::message;

/// For a whole batch. Less than the ten seconds after which a relay's claim counts as that of a dead one.
const CONFIRM: Duration = Duration::from_secs(8);
/// Channels kept for the next batch; a process publishes a handful at once.
const KEPT_CHANNELS: usize = 16;

/// What is known of a message so far.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    /// Nothing.
    Open,
    Taken,
    /// Not stored, in the server's words.
    Refused(String),
    /// The channel or the connection is gone.
    Lost(String),
}

/// One answer for each that was handed over, in order.
pub(super) async fn publish(link: &Link, topology: &Topology, parcels: &[Parcel]) -> Vec<Result<(), PublishError>> {
    let answers = answers(link, topology, parcels).await;
    let of_each = answers.into_iter().zip(parcels).flat_map(|(answer, parcel)| repeat_n(answer, parcel.parts));
    of_each.collect()
}

/// One answer for each parcel, in order.
async fn answers(link: &Link, topology: &Topology, parcels: &[Parcel]) -> Vec<Result<(), PublishError>> {
    let ready = async {
        let live = link.up().await?;
        let blocked = live.blocked();
        let alarm = blocked.borrow().clone();
        if let Some(reason) = alarm {
            return Err(Unavailable(reason));
        }
        live.ensure_declared().await?;
        let channel = channel(&live).await?;
        Ok((live, blocked, channel))
    };
    let (live, blocked, channel) = match ready.await {
        Ok(ready) => ready,
        Err(Unavailable(reason)) => return unconfirmed(parcels.len(), &reason),
    };
    let mut batch =
        Batch { topology, parcels, answers: vec![Answer::Open; parcels.len()], returned: HashSet::new() };
    let interrupted = tokio::select! {
        sent = timeout(CONFIRM, batch.send(&channel)) => {
            sent.err().map(|_| format!("no confirm within {} seconds", CONFIRM.as_secs()))
        }
        // The server reads nothing more until the alarm is over; what was sent may be taken then.
        reason = alarm(blocked) => Some(reason),
    };
    let healthy = interrupted.is_none() && channel.status().connected();
    let answers = batch.answers(interrupted.as_deref().unwrap_or("the channel was closed"));
    if answers.iter().any(Result::is_err) {
        // A queue or an exchange may be missing: declaring is idempotent, and done before the next batch.
        live.undeclare();
    }
    if healthy {
        put_back(&live, channel);
    }
    answers
}

fn unconfirmed(count: usize, reason: &str) -> Vec<Result<(), PublishError>> {
    (0..count).map(|_| Err(PublishError::Unconfirmed(reason.to_owned()))).collect()
}

/// Ends with the reason when the server begins to block.
async fn alarm(mut blocked: watch::Receiver<Option<String>>) -> String {
    let reason = blocked.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
    match reason {
        Some(reason) => reason,
        // The connection is gone; the confirms fail by themselves.
        None => std::future::pending().await,
    }
}

/// A channel for this batch alone: the server tells which messages it returned by a frame *before* a confirm,
/// and a confirm may be for several at once, so a return among two batches could be taken for the other's.
async fn channel(live: &Live) -> Result<Channel, Unavailable> {
    if let Some(channel) = idle_channel(live) {
        return Ok(channel);
    }
    let channel = live.channel().await?;
    within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}

fn idle_channel(live: &Live) -> Option<Channel> {
    let mut idle = live.idle().lock().unwrap_or_else(PoisonError::into_inner);
    idle.retain(|channel| channel.status().connected());
    idle.pop()
}

fn put_back(live: &Live, channel: Channel) {
    let mut idle = live.idle().lock().unwrap_or_else(PoisonError::into_inner);
    if idle.len() < KEPT_CHANNELS {
        idle.push(channel);
    }
}

/// What all of these end with, where each ends soon after those before it. The last one is waited for first: what it
/// brings to an end, too, needs no wake-up of its own.
async fn begun_in_order<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|future| Box::pin(maybe_done(future))).collect();
    poll_fn(|context| {
        futures.iter_mut().for_each(|future| _ = future.poll_unpin(context));
        Poll::Ready(())
    })
    .await;
    for future in futures.iter_mut().rev() {
        future.await;
    }
    futures.iter_mut().filter_map(|future| future.as_mut().take_output()).collect()
}

/// Exchange, routing key and id.
type Identity = (String, String, String);

struct Batch<'m> {
    topology: &'m Topology,
    parcels: &'m [Parcel],
    answers: Vec<Answer>,
    /// Of the messages that came back, with the server's words.
    returned: HashSet<(Identity, String)>,
}

impl Batch<'_> {
    async fn send(&mut self, channel: &Channel) {
        let now = Utc::now();
        let written = self.parcels.iter().map(|parcel| self.write(channel, parcel, now));
        // Each future ends when lapin's own thread has written its frames: awaited one by one, each message costs a
        // turn of that thread and a packet of its own, here and at the server. Polled in order, all are queued first.
        let mut confirms = Vec::with_capacity(self.parcels.len());
        for (n, written) in begun_in_order(written).await.into_iter().enumerate() {
            match written {
                Ok(confirm) => confirms.push((n, confirm)),
                Err(error) => self.answers[n] = Answer::Lost(described(&error)),
            }
        }
        // The last one first: when it comes, most others are there, and need no wake-up of their own.
        while let Some((n, confirm)) = confirms.pop() {
            self.answers[n] = match confirm.await {
                Ok(Confirmation::Ack(returned)) => {
                    self.note(returned);
                    Answer::Taken
                }
                Ok(Confirmation::Nack(returned)) => {
                    self.note(returned);
                    Answer::Refused("negatively acknowledged".into())
                }
                Ok(Confirmation::NotRequested) => Answer::Lost("the channel has no confirms".into()),
                Err(error) => Answer::Lost(described(&error)),
            };
        }
    }

    /// Queues a message when it is first polled, and ends when it has been written.
    async fn write(
        &self,
        channel: &Channel,
        parcel: &Parcel,
        now: DateTime<Utc>,
    ) -> lapin::Result<PublisherConfirm> {
        // Mandatory: without it, a message for which there is no queue is confirmed and gone.
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = self.topology.exchange_and_key(&parcel.outgoing.route);
        let properties = message::properties(parcel, self.topology, now);
        let body = &parcel.outgoing.message.body;
        channel.basic_publish(exchange.into(), key.into(), options, body, properties).await
    }

    fn note(&mut self, returned: Option<BasicReturnMessage>) {
        let Some(returned) = returned else { return };
        let id = returned.delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
        let identity = (returned.delivery.exchange.to_string(), returned.delivery.routing_key.to_string(), id);
        self.returned.insert((identity, returned.reply_text.to_string()));
    }

    /// A message that came back has been acked, too, perhaps in one frame with others: lapin then hands it to
    /// any of them. So it is told by what it is and not by the confirm that it came with.
    fn answers(self, unanswered: &str) -> Vec<Result<(), PublishError>> {
        let came_back = |Parcel { outgoing, .. }: &Parcel| {
            let (exchange, key) = self.topology.exchange_and_key(&outgoing.route);
            let same = |(e, k, id): &Identity| e == exchange && k == key && *id == outgoing.message.id;
            self.returned.iter().find(|(identity, _)| same(identity)).map(|(_, text)| text.clone())
        };
        let any = !self.returned.is_empty();
        let answers = self.parcels.iter().zip(&self.answers).map(|(parcel, answer)| match answer {
            Answer::Taken => match came_back(parcel).filter(|_| any) {
                None => Ok(()),
                Some(text) => Err(PublishError::Refused(format!("no queue takes it ({text})"))),
            },
            Answer::Refused(text) => Err(PublishError::Refused(text.clone())),
            Answer::Lost(text) => Err(PublishError::Unconfirmed(text.clone())),
            Answer::Open => Err(PublishError::Unconfirmed(unanswered.to_owned())),
        });
        answers.collect()
    }
}
