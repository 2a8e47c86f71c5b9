//! Which exchanges, queues and bindings there are, as plain data: RabbitMQ declares exactly this, and the
//! embedded broker follows the same ladder and the same delivery limit.
//!
//! Arguments never change under one name: RabbitMQ refuses a declare that differs from the existing queue.

use std::time::Duration;

use super::Route;
use crate::domain::backoff::Backoff;
use crate::domain::priority::Priority;

/// How often a message may come back unacked; one return more and it is a dead letter.
pub const DELIVERY_LIMIT: u32 = 20;

/// After so many returns, a message may be what ends the workers that take it. Fewer have other causes: a restart of
/// the broker, a worker that was stopped.
pub const SUSPICIOUS_RETURNS: u32 = 3;

/// The reason of such a dead letter, in RabbitMQ's own word.
pub const DELIVERY_LIMIT_REASON: &str = "delivery_limit";

/// The rung when the back-off has none: an outage parks tasks even where failures are never retried.
const ONLY_RUNG: Duration = Duration::from_secs(5);

/// Notices that wait at most. When nobody takes them, they must not fill the disk nor hold up the dead letters.
const KEPT_NOTICES: i64 = 100_000;

/// RabbitMQ takes an `x-message-ttl` below 2³² ms (49 days).
const LONGEST_TTL_MS: u128 = u32::MAX as u128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// To the queues bound with exactly the message's routing key.
    Direct,
    /// To every bound queue, so the routing key is free to carry the lane.
    Fanout,
}

/// Durable, never auto-deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    pub name: String,
    pub kind: ExchangeKind,
}

/// Durable, never exclusive, never auto-deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    pub name: String,
    pub arguments: Vec<(&'static str, Argument)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    Text(String),
    Number(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub exchange: String,
    pub queue: String,
    pub routing_key: &'static str,
}

/// One delay of the retry ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// Whole milliseconds.
    pub delay: Duration,
    /// `PREFIX.retry.MS`: its fanout exchange and its queue.
    pub name: String,
}

/// All names under one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    tasks: String,
    lanes: [String; 3],
    /// Shortest first, at least one.
    rungs: Vec<Rung>,
    dead: String,
    unrecorded: String,
}

impl Topology {
    pub fn new(prefix: &str, backoff: &Backoff) -> Self {
        let mut delays: Vec<_> = backoff.rungs().into_iter().map(whole_millis).collect();
        if delays.is_empty() {
            delays.push(ONLY_RUNG);
        }
        delays.dedup();
        let rung = |delay: Duration| Rung { delay, name: format!("{prefix}.retry.{}", delay.as_millis()) };
        Self {
            tasks: format!("{prefix}.tasks"),
            lanes: Priority::ALL.map(|lane| format!("{prefix}.tasks.{lane}")),
            rungs: delays.into_iter().map(rung).collect(),
            dead: format!("{prefix}.dead"),
            unrecorded: format!("{prefix}.dead.unrecorded"),
        }
    }

    /// The queue of a lane.
    pub fn lane_queue(&self, lane: Priority) -> &str {
        &self.lanes[lane as usize]
    }

    /// The retry ladder, shortest delay first.
    pub fn rungs(&self) -> &[Rung] {
        &self.rungs
    }

    /// The queue of the dead letters.
    pub fn dead_queue(&self) -> &str {
        &self.dead
    }

    /// The queue with a copy of each dead letter until the ledger has it: what the broker itself gives up is
    /// learnt from here, while the queue of the dead letters is never touched. Looking into that one would
    /// mean to take them and put them back.
    pub fn notice_queue(&self) -> &str {
        &self.unrecorded
    }

    /// `delay` rounded up to a rung; beyond the last rung, the last.
    pub fn rung_for(&self, delay: Duration) -> Duration {
        self.rung(delay).map_or(delay, |rung| rung.delay)
    }

    /// Where a message of this route is published. The routing key is always the lane: the rungs and the
    /// dead letters take any, and it is how a message still knows its lane when it leaves them.
    pub fn exchange_and_key(&self, route: &Route) -> (&str, &'static str) {
        match route {
            Route::Lane(lane) => (&self.tasks, lane.name()),
            Route::Retry { lane, delay } => (self.rung(*delay).map_or(&self.tasks, |rung| &rung.name), lane.name()),
            Route::Dead { lane, .. } => (&self.dead, lane.name()),
        }
    }

    /// To be declared before the queues that dead-letter into them.
    pub fn exchanges(&self) -> Vec<Exchange> {
        let fanout = |name: &String| Exchange { name: name.clone(), kind: ExchangeKind::Fanout };
        let tasks = Exchange { name: self.tasks.clone(), kind: ExchangeKind::Direct };
        let rungs = self.rungs.iter().map(|rung| fanout(&rung.name));
        std::iter::once(tasks).chain(rungs).chain([fanout(&self.dead)]).collect()
    }

    pub fn queues(&self) -> Vec<Queue> {
        let lanes = self.lanes.iter().map(|name| self.lane(name));
        let rungs = self.rungs.iter().map(|rung| self.retry(rung));
        lanes.chain(rungs).chain([self.dead_letters(), self.notices()]).collect()
    }

    pub fn bindings(&self) -> Vec<Binding> {
        let lanes = Priority::ALL.into_iter().map(|lane| Binding {
            exchange: self.tasks.clone(),
            queue: self.lane_queue(lane).to_owned(),
            routing_key: lane.name(),
        });
        let fanout = |exchange: &String, queue: &String| Binding {
            exchange: exchange.clone(),
            queue: queue.clone(),
            routing_key: "",
        };
        let rungs = self.rungs.iter().map(|rung| fanout(&rung.name, &rung.name));
        let dead = [&self.dead, &self.unrecorded].map(|queue| fanout(&self.dead, queue));
        lanes.chain(rungs).chain(dead).collect()
    }

    fn rung(&self, delay: Duration) -> Option<&Rung> {
        self.rungs.iter().find(|rung| rung.delay >= delay).or(self.rungs.last())
    }

    fn lane(&self, name: &str) -> Queue {
        let mut arguments = vec![
            quorum(),
            // A message that kills its worker must not come back for ever. With a limit, RabbitMQ also puts
            // a returned message near the front; without one it goes to the end.
            ("x-delivery-limit", Argument::Number(i64::from(DELIVERY_LIMIT))),
        ];
        arguments.extend(dead_lettered_to(&self.dead));
        Queue { name: name.to_owned(), arguments }
    }

    fn retry(&self, rung: &Rung) -> Queue {
        let mut arguments = vec![
            quorum(),
            // The queue's own and the same for all: only the head of a queue expires, so with a TTL a
            // message a long one would hold up the short ones behind it.
            ("x-message-ttl", Argument::Number(i64::try_from(rung.delay.as_millis()).unwrap_or(i64::MAX))),
        ];
        arguments.extend(dead_lettered_to(&self.tasks));
        Queue { name: rung.name.clone(), arguments }
    }

    fn dead_letters(&self) -> Queue {
        Queue { name: self.dead.clone(), arguments: vec![quorum(), unlimited_returns()] }
    }

    fn notices(&self) -> Queue {
        // Without an overflow of its own it drops the oldest; to refuse would refuse the dead letter, too.
        let longest = ("x-max-length", Argument::Number(KEPT_NOTICES));
        Queue { name: self.unrecorded.clone(), arguments: vec![quorum(), unlimited_returns(), longest] }
    }
}

/// RabbitMQ 4 gives a queue that says nothing a limit of 20, which a person who looks at the dead letters, or
/// a database that is away, would use up. Its "none", −1, is refused by 3.x.
fn unlimited_returns() -> (&'static str, Argument) {
    ("x-delivery-limit", Argument::Number(i64::from(i32::MAX)))
}

/// Replicated, and synced to disk before it confirms: classic queues confirm first.
fn quorum() -> (&'static str, Argument) {
    ("x-queue-type", Argument::Text("quorum".to_owned()))
}

/// No `x-dead-letter-routing-key`: a message keeps its own, which is its lane.
fn dead_lettered_to(exchange: &str) -> [(&'static str, Argument); 3] {
    let text = |word: &str| Argument::Text(word.to_owned());
    [
        ("x-dead-letter-exchange", text(exchange)),
        // The default, at-most-once, loses what the target doesn't take.
        ("x-dead-letter-strategy", text("at-least-once")),
        // At-least-once is ignored without a word under the default drop-head.
        ("x-overflow", text("reject-publish")),
    ]
}

/// Rounded up, as a retry may be late but not early, and within what RabbitMQ takes.
fn whole_millis(delay: Duration) -> Duration {
    let millis = delay.as_nanos().div_ceil(1_000_000).min(LONGEST_TTL_MS);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn ladder(base: Duration, cap: Duration, max_retries: u32) -> Topology {
        Topology::new("mapx", &Backoff::new(base, cap, max_retries))
    }

    fn five_ten_fifteen() -> Topology {
        ladder(ms(5000), ms(15_000), 3)
    }

    fn queue_lines(topology: &Topology) -> Vec<String> {
        let argument = |(key, value): &(&str, Argument)| match value {
            Argument::Text(word) => format!(" {key}={word}"),
            Argument::Number(n) => format!(" {key}={n}"),
        };
        let line = |queue: Queue| queue.name + &queue.arguments.iter().map(argument).collect::<String>();
        topology.queues().into_iter().map(line).collect()
    }

    #[test]
    fn the_queues_are_fixed() {
        let to = |exchange: &str| {
            format!(
                "x-dead-letter-exchange={exchange} x-dead-letter-strategy=at-least-once x-overflow=reject-publish"
            )
        };
        let lane =
            |name: &str| format!("mapx.tasks.{name} x-queue-type=quorum x-delivery-limit=20 {}", to("mapx.dead"));
        let retry =
            |ms: u32| format!("mapx.retry.{ms} x-queue-type=quorum x-message-ttl={ms} {}", to("mapx.tasks"));
        let expected = [
            lane("high"),
            lane("normal"),
            lane("low"),
            retry(5000),
            retry(10_000),
            retry(15_000),
            "mapx.dead x-queue-type=quorum x-delivery-limit=2147483647".to_owned(),
            "mapx.dead.unrecorded x-queue-type=quorum x-delivery-limit=2147483647 x-max-length=100000".to_owned(),
        ];
        assert_eq!(queue_lines(&five_ten_fifteen()), expected);
    }

    #[test]
    fn the_exchanges_and_bindings_are_fixed() {
        let exchanges = five_ten_fifteen().exchanges();
        let exchanges: Vec<_> = exchanges.iter().map(|e| (e.name.as_str(), e.kind)).collect();
        let (direct, fanout) = (ExchangeKind::Direct, ExchangeKind::Fanout);
        let expected = [
            ("mapx.tasks", direct),
            ("mapx.retry.5000", fanout),
            ("mapx.retry.10000", fanout),
            ("mapx.retry.15000", fanout),
            ("mapx.dead", fanout),
        ];
        assert_eq!(exchanges, expected);

        let bindings = five_ten_fifteen().bindings();
        let bindings: Vec<_> =
            bindings.iter().map(|b| (b.exchange.as_str(), b.routing_key, b.queue.as_str())).collect();
        let expected = [
            ("mapx.tasks", "high", "mapx.tasks.high"),
            ("mapx.tasks", "normal", "mapx.tasks.normal"),
            ("mapx.tasks", "low", "mapx.tasks.low"),
            ("mapx.retry.5000", "", "mapx.retry.5000"),
            ("mapx.retry.10000", "", "mapx.retry.10000"),
            ("mapx.retry.15000", "", "mapx.retry.15000"),
            ("mapx.dead", "", "mapx.dead"),
            ("mapx.dead", "", "mapx.dead.unrecorded"),
        ];
        assert_eq!(bindings, expected);
    }

    #[test]
    fn a_route_keeps_the_lane_as_its_routing_key() {
        let topology = five_ten_fifteen();
        let lane = Priority::Low;
        assert_eq!(topology.exchange_and_key(&Route::Lane(lane)), ("mapx.tasks", "low"));
        let retry = Route::Retry { lane, delay: ms(5001) };
        assert_eq!(topology.exchange_and_key(&retry), ("mapx.retry.10000", "low"));
        let dead = Route::Dead { lane, reason: "empty text".to_owned() };
        assert_eq!(topology.exchange_and_key(&dead), ("mapx.dead", "low"));
    }

    #[test]
    fn a_delay_is_rounded_up_to_the_next_rung() {
        let topology = five_ten_fifteen();
        let rungs = [0, 5000, 5001, 15_000, 3_600_000].map(|n| topology.rung_for(ms(n)));
        assert_eq!(rungs, [5000, 5000, 10_000, 15_000, 15_000].map(ms));
    }

    #[test]
    fn rungs_are_whole_milliseconds_that_rabbitmq_takes() {
        let delays = |topology: Topology| topology.rungs().iter().map(|r| r.delay).collect::<Vec<_>>();
        let micros = Duration::from_micros;
        assert_eq!(delays(ladder(micros(250), micros(2000), 4)), [ms(1), ms(2)]);
        let year = Duration::from_secs(365 * 86_400);
        assert_eq!(delays(ladder(year, year, 1)), [ms(u64::from(u32::MAX))]);
        assert_eq!(delays(ladder(ms(5000), ms(15_000), 0)), [ONLY_RUNG]);
    }
}
