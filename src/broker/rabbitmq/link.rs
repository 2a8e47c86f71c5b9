//! Keeps one connection up: connects, declares the topology, watches, and starts again with back-off.
//!
//! lapin can recover connections by itself; a publish that was under way then hung for eleven seconds and
//! came back with an error all the same. Here everything that was under way fails at once, and the next
//! attempt finds a fresh connection or the reason why there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::{Stream, StreamExt};
use lapin::{Channel, Connection, Event};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::Unavailable;
use super::super::topology::Topology;
use super::connection::{Address, described};
use super::declare::declare;
use super::health::{Health, Purpose};

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// A connection that lasted this long was a good one: the next back-off starts afresh.
const PROVEN: Duration = Duration::from_secs(10);
/// For what the server answers at once.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// How often to look at a connection that says nothing.
const LOOK: Duration = Duration::from_secs(1);
/// For the goodbye.
const CLOSE: Duration = Duration::from_secs(2);

/// One of the process's two connections. Dropping it ends it.
pub(super) struct Link {
    state: watch::Receiver<State>,
    stop: CancellationToken,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone)]
enum State {
    /// The first attempt is under way.
    Starting,
    Up(Arc<Live>),
    Down(String),
}

/// A connection that is up, with its topology declared.
pub(super) struct Live {
    connection: Connection,
    topology: Arc<Topology>,
    /// False after something proved to be missing.
    declared: AtomicBool,
    declaring: Mutex<()>,
    /// Why the server takes no messages, while it doesn't.
    blocked: watch::Sender<Option<String>>,
    /// Channels with confirms that nobody uses at the moment.
    idle: std::sync::Mutex<Vec<Channel>>,
    /// For the depths.
    counting: Mutex<Option<Channel>>,
}

impl Link {
    /// Starts to connect; must be called on a tokio runtime.
    pub fn start(address: Arc<Address>, topology: Arc<Topology>, purpose: Purpose, health: Arc<Health>) -> Self {
        let (sender, state) = watch::channel(State::Starting);
        let stop = CancellationToken::new();
        let keeper = Keeper { address, topology, purpose, health, state: sender };
        let ended = stop.clone();
        let keeper = tokio::spawn(async move { keeper.run(ended).await });
        Self { state, stop, keeper: Mutex::new(Some(keeper)) }
    }

    /// The connection, or why there is none. Waits for the first attempt, and for no other.
    pub async fn up(&self) -> Result<Arc<Live>, Unavailable> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Starting)).await;
        match settled.as_deref() {
            Ok(State::Up(live)) if live.is_connected() => Ok(live.clone()),
            Ok(State::Up(_)) => Err(Unavailable("the connection has just been lost".into())),
            Ok(State::Down(reason)) => Err(Unavailable(reason.clone())),
            _ => Err(Unavailable("it has been closed".into())),
        }
    }

    /// Ends the connection in good order.
    pub async fn close(&self) {
        self.stop.cancel();
        if let Some(keeper) = self.keeper.lock().await.take() {
            let _ = keeper.await;
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Live {
    pub fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// A new channel, within a time.
    pub async fn channel(&self) -> Result<Channel, Unavailable> {
        within(self.connection.create_channel()).await
    }

    /// Something that was declared is missing: declare again before the next use.
    pub fn undeclare(&self) {
        self.declared.store(false, Ordering::Release);
    }

    /// Declares again what somebody has deleted.
    pub async fn ensure_declared(&self) -> Result<(), Unavailable> {
        if self.declared.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one = self.declaring.lock().await;
        if self.declared.load(Ordering::Acquire) {
            return Ok(());
        }
        declare_within(&self.connection, &self.topology).await.map_err(Unavailable)?;
        self.declared.store(true, Ordering::Release);
        Ok(())
    }

    pub fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.blocked.subscribe()
    }

    pub fn counting(&self) -> &Mutex<Option<Channel>> {
        &self.counting
    }

    pub fn idle(&self) -> &std::sync::Mutex<Vec<Channel>> {
        &self.idle
    }
}

/// What the server answers at once, or an error.
pub(super) async fn within<T>(asking: impl Future<Output = lapin::Result<T>>) -> Result<T, Unavailable> {
    match timeout(ANSWER, asking).await {
        Ok(answer) => answer.map_err(|error| Unavailable(described(&error))),
        Err(_) => Err(Unavailable(format!("no answer within {} seconds", ANSWER.as_secs()))),
    }
}

async fn declare_within(connection: &Connection, topology: &Topology) -> Result<(), String> {
    // Each queue of a cluster is an election and a sync to disk.
    match timeout(ANSWER * 4, declare(connection, topology)).await {
        Ok(declared) => declared,
        Err(_) => Err("the server doesn't finish declaring the queues".to_owned()),
    }
}

struct Keeper {
    address: Arc<Address>,
    topology: Arc<Topology>,
    purpose: Purpose,
    health: Arc<Health>,
    state: watch::Sender<State>,
}

impl Keeper {
    async fn run(self, stop: CancellationToken) {
        let patience = || {
            let delays = ExponentialBuilder::default().with_min_delay(FIRST_DELAY).with_max_delay(LONGEST_DELAY);
            delays.with_jitter().without_max_times().build()
        };
        let mut delays = patience();
        while !stop.is_cancelled() {
            let started = Instant::now();
            let reason = tokio::select! {
                reason = self.one_connection() => reason,
                () = stop.cancelled() => break,
            };
            if started.elapsed() >= PROVEN {
                delays = patience();
            }
            self.health.set(self.purpose, Some(reason.clone()));
            self.state.send_replace(State::Down(reason));
            let delay = delays.next().unwrap_or(LONGEST_DELAY);
            let _ = timeout(delay, stop.cancelled()).await;
        }
        let last = self.state.send_replace(State::Down("it has been closed".into()));
        if let State::Up(live) = last {
            let _ = timeout(CLOSE, live.connection.close(200, "OK".into())).await;
        }
    }

    /// Connects and stays until the connection is lost; returns why.
    async fn one_connection(&self) -> String {
        let connection = match self.address.connect(self.purpose.name()).await {
            Ok(connection) => connection,
            Err(reason) => return reason,
        };
        // Listened to before anything is asked, so that no event is missed.
        let events = connection.events_listener();
        if let Err(reason) = declare_within(&connection, &self.topology).await {
            let _ = timeout(CLOSE, connection.close(200, "OK".into())).await;
            return reason;
        }
        let live = Arc::new(Live {
            connection,
            topology: self.topology.clone(),
            declared: AtomicBool::new(true),
            declaring: Mutex::default(),
            blocked: watch::Sender::new(None),
            idle: std::sync::Mutex::default(),
            counting: Mutex::default(),
        });
        self.health.set(self.purpose, None);
        self.state.send_replace(State::Up(live.clone()));
        self.watch(&live, events).await
    }

    async fn watch(&self, live: &Live, events: impl Stream<Item = Event>) -> String {
        let mut events = std::pin::pin!(events);
        loop {
            // A look now and then, should the end of a connection ever be no event.
            let event = tokio::select! {
                event = events.next() => event,
                () = sleep(LOOK), if live.is_connected() => continue,
            };
            match event {
                Some(Event::ConnectionBlocked(alarm)) => {
                    let reason = format!("the broker blocks publishers (memory or disk alarm): {alarm}");
                    self.health.set(self.purpose, Some(reason.clone()));
                    live.blocked.send_replace(Some(reason));
                }
                Some(Event::ConnectionUnblocked) => {
                    live.blocked.send_replace(None);
                    self.health.set(self.purpose, None);
                }
                Some(Event::Error(error)) if !live.is_connected() => {
                    return format!("the connection was lost: {}", described(&error));
                }
                _ if !live.is_connected() => return "the connection was lost".to_owned(),
                None => return "the connection was lost".to_owned(),
                Some(_) => {}
            }
        }
    }
}
