//! What every broker must do, checked through the trait alone: real time, bounded waits, and no more
//! promptness or order than a broker behind a network can give.
//!
//! A broker joins with one module that calls [`conformance_suite!`] with the name of an async function from
//! its retry ladder to a fresh, isolated `Arc<dyn Broker>`.

mod dead_letters;
mod depths;
mod intake;
mod lanes;
mod load;
mod receiving;
mod retries;
mod returns;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use mapx_embeddings::broker::{Broker, Consumer, Delivery, Depths, Message, Outgoing, Route};
use mapx_embeddings::domain::backoff::Backoff;
use mapx_embeddings::domain::priority::Priority;
use tokio::time::{Instant, sleep, timeout};

/// How long anything that must happen may take before the case fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a case watches that something does *not* happen.
const QUIET: Duration = Duration::from_millis(150);

/// The ladder of every case: rungs of 100, 200 and 400 ms.
pub fn ladder() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_millis(400), 3)
}

/// Every case as a test of its own against `$fresh`.
macro_rules! conformance_suite {
    ($fresh:path) => {
        conformance_suite! { $fresh:
            receiving::a_message_arrives_as_it_was_published,
            receiving::publishing_answers_every_message,
            receiving::an_empty_broker_keeps_a_consumer_waiting_until_a_publish_wakes_it,
            receiving::a_cancelled_receive_loses_nothing,
            receiving::never_more_than_the_prefetch_is_held,
            receiving::at_most_max_is_taken,
            receiving::the_prefetch_changes_without_a_return,
            lanes::a_lane_is_first_in_first_out,
            lanes::full_lanes_are_served_in_weighted_rounds,
            lanes::low_is_served_in_every_round_of_constant_highs,
            lanes::an_empty_lane_wastes_no_turn,
            lanes::a_high_overtakes_a_thousand_lows,
            returns::dropped_deliveries_come_back_in_order,
            returns::a_return_wakes_another_consumer,
            returns::what_a_dropped_consumer_held_comes_back,
            returns::a_held_delivery_outlives_its_consumer,
            returns::nothing_comes_behind_what_came_back_again_and_again,
            returns::a_message_that_always_comes_back_ends_in_the_dead_letters,
            retries::a_retry_arrives_after_its_delay_in_its_lane,
            retries::a_delay_is_rounded_up_to_a_rung,
            retries::a_long_delay_does_not_block_a_short_one,
            dead_letters::a_dead_letter_is_told_with_its_reason_and_stays,
            dead_letters::a_notice_is_told_until_it_is_acked,
            dead_letters::those_that_are_looked_through_stay_unless_they_are_acked,
            intake::a_closed_lane_waits_and_nothing_of_it_is_returned,
            intake::a_lane_that_is_closed_from_the_start_is_not_sent,
            intake::the_last_of_a_subscription_is_handed_out_and_then_nothing,
            depths::depths_are_true_at_every_step,
            load::two_consumers_get_disjoint_deliveries,
            load::nothing_is_lost_or_doubled_under_load,
        }
    };
    ($fresh:path: $($file:ident::$case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$file::$case($fresh(super::ladder()).await).await;
            }
        )*
    };
}

mod embedded {
    use super::*;
    use mapx_embeddings::broker::embedded::EmbeddedBroker;
    use mapx_embeddings::broker::topology::Topology;

    async fn fresh(ladder: Backoff) -> Arc<dyn Broker> {
        Arc::new(EmbeddedBroker::new(Topology::new("conformance", &ladder)))
    }

    conformance_suite!(fresh);
}

mod rabbitmq {
    use super::*;
    use crate::support::rabbit;

    async fn fresh(ladder: Backoff) -> Arc<dyn Broker> {
        Arc::new(rabbit::TestBroker::connect(&ladder).await)
    }

    conformance_suite!(fresh);
}

/// With several tasks in a message, wherever sixteen are handed over at once.
mod rabbitmq_bundling {
    use super::*;
    use crate::support::rabbit;

    async fn fresh(ladder: Backoff) -> Arc<dyn Broker> {
        Arc::new(rabbit::TestBroker::connect(&ladder).await.bundling(2))
    }

    conformance_suite!(fresh);
}

type AnyConsumer = Box<dyn Consumer>;

/// To the millisecond, which is what a broker's header carries.
fn message(id: impl ToString) -> Message {
    let id = id.to_string();
    let published_at = DateTime::from_timestamp_millis(Utc::now().timestamp_millis()).expect("a valid time");
    Message { body: format!("\"body of {id}\"").into_bytes(), id, attempt: 0, published_at, trace: None }
}

fn to_lane(lane: Priority, id: impl ToString) -> Outgoing {
    Outgoing { route: Route::Lane(lane), message: message(id) }
}

fn to_rung(lane: Priority, delay: Duration, message: Message) -> Outgoing {
    Outgoing { route: Route::Retry { lane, delay }, message }
}

/// As a relay hands over what it has claimed: all of it at one moment.
async fn publish(broker: &Arc<dyn Broker>, mut messages: Vec<Outgoing>) {
    if let Some(at) = messages.first().map(|first| first.message.published_at) {
        messages.iter_mut().for_each(|outgoing| outgoing.message.published_at = at);
    }
    for answer in broker.publish(messages).await {
        answer.expect("published");
    }
}

async fn consume(broker: &Arc<dyn Broker>, prefetch: usize) -> AnyConsumer {
    broker.consume(prefetch).await.expect("subscribed")
}

async fn receive(consumer: &mut AnyConsumer, max: usize) -> Vec<Delivery> {
    let deliveries = timeout(PATIENCE, consumer.receive(max)).await.expect("nothing arrived").expect("available");
    assert!((1..=max).contains(&deliveries.len()), "asked for {max}, got {}", deliveries.len());
    deliveries
}

/// As many calls as it takes to hold exactly `count`.
async fn receive_exactly(consumer: &mut AnyConsumer, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        deliveries.extend(receive(consumer, count - deliveries.len()).await);
    }
    deliveries
}

async fn assert_nothing_arrives(consumer: &mut AnyConsumer) {
    if let Ok(deliveries) = timeout(QUIET, consumer.receive(100)).await {
        panic!("unexpected: {:?}", ids(&deliveries.expect("available")));
    }
}

fn ids(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| delivery.message.id.clone()).collect()
}

fn ack_all(deliveries: Vec<Delivery>) {
    deliveries.into_iter().for_each(Delivery::ack);
}

async fn settles_at(broker: &Arc<dyn Broker>, expected: Depths) {
    settles(broker, |depths| *depths == expected).await;
}

/// Waits until the depths are as told: acks and returns need no confirmation, so they may take a moment.
async fn settles(broker: &Arc<dyn Broker>, as_told: impl Fn(&Depths) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let depths = broker.depths().await.expect("available");
        if as_told(&depths) {
            return;
        }
        assert!(Instant::now() < deadline, "the depths stay {depths:?}");
        sleep(Duration::from_millis(5)).await;
    }
}
