//! The embedded broker against a model, through random histories on a paused clock.

mod model;

use std::time::Duration;

use futures_util::FutureExt;
use mapx_embeddings::broker::embedded::EmbeddedBroker;
use mapx_embeddings::broker::topology::Topology;
use mapx_embeddings::broker::{Broker, Consumer, Delivery, Message, Outgoing, Route};
use mapx_embeddings::domain::backoff::Backoff;
use mapx_embeddings::domain::priority::Priority;
use proptest::prelude::*;
use proptest::sample::Index;

use model::{Model, Place};

/// The clock moves in whole ticks of a second. A rung of 0.9 ticks, and its jitter of at most a tenth,
/// ends before the next whole tick, so at each the model knows exactly what has come back.
const RUNG: Duration = Duration::from_millis(900);
const RUNG_TICKS: [u64; 3] = [1, 2, 4];

#[derive(Clone, Debug)]
enum Step {
    Publish {
        lane: Priority,
        count: usize,
    },
    Subscribe {
        prefetch: usize,
    },
    Unsubscribe(Index),
    Receive {
        consumer: Index,
        max: usize,
    },
    Ack(Index),
    Drop(Index),
    /// As a worker does it: the copy first, then the ack.
    Retry {
        held: Index,
        rung: usize,
    },
    GiveUp(Index),
    /// Takes one and drops it, again and again.
    Bounce {
        consumer: Index,
        times: usize,
    },
    Advance {
        ticks: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let lane = prop::sample::select(&Priority::ALL[..]);
    let index = any::<Index>;
    prop_oneof![
        4 => (lane, 1..6usize).prop_map(|(lane, count)| Step::Publish { lane, count }),
        1 => (0..6usize).prop_map(|prefetch| Step::Subscribe { prefetch }),
        1 => index().prop_map(Step::Unsubscribe),
        5 => (index(), 1..6usize).prop_map(|(consumer, max)| Step::Receive { consumer, max }),
        3 => index().prop_map(Step::Ack),
        3 => index().prop_map(Step::Drop),
        2 => (index(), 0..3usize).prop_map(|(held, rung)| Step::Retry { held, rung }),
        1 => index().prop_map(Step::GiveUp),
        1 => (index(), 1..30usize).prop_map(|(consumer, times)| Step::Bounce { consumer, times }),
        2 => (1..4u64).prop_map(|ticks| Step::Advance { ticks }),
    ]
}

struct Subscriber {
    number: usize,
    prefetch: usize,
    consumer: Box<dyn Consumer>,
}

struct History {
    broker: EmbeddedBroker,
    model: Model,
    subscribers: Vec<Subscriber>,
    subscriptions: usize,
    held: Vec<Delivery>,
}

impl History {
    fn new() -> Self {
        let broker = EmbeddedBroker::new(Topology::new("properties", &Backoff::new(RUNG, 4 * RUNG, 3)));
        Self { broker, model: Model::default(), subscribers: Vec::new(), subscriptions: 0, held: Vec::new() }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Publish { lane, count } => {
                for _ in 0..count {
                    let message = self.model.publish(lane);
                    self.publish(Route::Lane(lane), message).await;
                }
            }
            Step::Subscribe { prefetch } => self.subscribe(prefetch).await,
            Step::Unsubscribe(index) => drop(pick(&mut self.subscribers, index)),
            Step::Receive { consumer, max } => self.receive(self.one_of_subscribers(consumer), max).await,
            Step::Ack(index) => {
                if let Some(delivery) = pick(&mut self.held, index) {
                    self.ack(delivery);
                }
            }
            Step::Drop(index) => {
                if let Some(delivery) = pick(&mut self.held, index) {
                    self.model.take_back(&delivery.message.id);
                }
            }
            Step::Retry { held, rung } => self.retry(held, rung).await,
            Step::GiveUp(index) => self.give_up(index).await,
            Step::Bounce { consumer, times } => {
                for _ in 0..times {
                    self.receive(self.one_of_subscribers(consumer), 1).await;
                    self.drop_last();
                }
            }
            Step::Advance { ticks } => self.advance(ticks).await,
        }
    }

    fn one_of_subscribers(&self, index: Index) -> usize {
        index.index(self.subscribers.len().max(1))
    }

    async fn publish(&self, route: Route, message: Message) {
        let answers = self.broker.publish(vec![Outgoing { route, message }]).await;
        assert!(answers.len() == 1 && answers[0].is_ok());
    }

    async fn subscribe(&mut self, prefetch: usize) {
        let consumer = self.broker.consume(prefetch).await.expect("available");
        self.subscribers.push(Subscriber { number: self.subscriptions, prefetch: prefetch.max(1), consumer });
        self.subscriptions += 1;
    }

    /// Exactly as many as are ready, wanted and allowed, or as many as stand before a suspect and that; none means that
    /// the future waits, and it is cancelled.
    async fn receive(&mut self, subscriber: usize, max: usize) {
        let Some(Subscriber { number, prefetch, consumer }) = self.subscribers.get_mut(subscriber) else {
            return;
        };
        let expected = max.min(*prefetch - self.model.held_by(*number)).min(self.model.ready());
        if expected == 0 {
            assert!(consumer.receive(max).now_or_never().is_none(), "something came from nothing");
            return;
        }
        let deliveries = consumer.receive(max).await.expect("available");
        let (last, others) = deliveries.split_last().expect("something");
        assert!(deliveries.len() == expected || deliveries.len() < expected && last.is_suspect());
        assert!(!others.iter().any(Delivery::is_suspect), "something came behind a suspect");
        deliveries.iter().for_each(|delivery| self.model.deliver(delivery, *number));
        self.held.extend(deliveries);
    }

    fn ack(&mut self, delivery: Delivery) {
        self.model.move_to(&delivery.message.id, Place::Acked);
        delivery.ack();
    }

    async fn retry(&mut self, index: Index, rung: usize) {
        let Some(delivery) = pick(&mut self.held, index) else { return };
        let message = Message { attempt: delivery.message.attempt + 1, ..delivery.message.clone() };
        let delay = RUNG * 2u32.pow(u32::try_from(rung).expect("small"));
        self.publish(Route::Retry { lane: delivery.lane, delay }, message).await;
        self.model.retry(&delivery.message.id, RUNG_TICKS[rung]);
        delivery.ack();
    }

    async fn give_up(&mut self, index: Index) {
        let Some(delivery) = pick(&mut self.held, index) else { return };
        let route = Route::Dead { lane: delivery.lane, reason: "given up".to_owned() };
        self.publish(route, delivery.message.clone()).await;
        self.model.bury(&delivery.message.id);
        delivery.ack();
    }

    fn drop_last(&mut self) {
        if let Some(delivery) = self.held.pop() {
            self.model.take_back(&delivery.message.id);
        }
    }

    async fn advance(&mut self, ticks: u64) {
        tokio::time::advance(Duration::from_secs(ticks)).await;
        (0..ticks).for_each(|_| self.model.advance_one_tick());
    }

    async fn check(&self) {
        assert_eq!(self.broker.depths().await.expect("available"), self.model.depths());
        // Taken and put back: to be told again and again changes nothing.
        let mut notices = self.broker.consume_dead_letters(usize::MAX).await.expect("available");
        let told =
            notices.receive(usize::MAX).now_or_never().map_or_else(Vec::new, |told| told.expect("available"));
        assert_eq!(told.iter().map(|notice| notice.message.id.clone()).collect::<Vec<_>>(), self.model.dead);
        // Each goes to the front.
        told.into_iter().rev().for_each(drop);
    }

    /// Whatever the history was, all that is neither acked nor dead can still be had, once.
    async fn drain(mut self) {
        self.subscribers.clear();
        while !self.held.is_empty() {
            self.drop_last();
        }
        self.advance(4).await;
        self.check().await;
        self.subscribe(usize::MAX).await;
        while self.model.ready() > 0 {
            self.receive(0, usize::MAX).await;
        }
        while let Some(delivery) = self.held.pop() {
            self.ack(delivery);
        }
        self.check().await;
        let open = self.model.count(|message| !matches!(message.place, Place::Acked | Place::Dead));
        assert_eq!(open, 0);
    }
}

fn pick<T>(from: &mut Vec<T>, index: Index) -> Option<T> {
    (!from.is_empty()).then(|| from.remove(index.index(from.len())))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_embedded_broker_does_what_the_model_does(steps in prop::collection::vec(step(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let mut history = History::new();
            for step in steps {
                // A fresh budget: without it tokio may make a future wait that has something.
                tokio::task::yield_now().await;
                history.take(step).await;
                history.check().await;
            }
            history.drain().await;
        });
    }
}
