//! Whoever is told: a server that remembers each request and answers as the test says.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Response, Uri};
use axum::{Router, serve};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::app::eventually;

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Received {
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
    pub at: Instant,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().expect("text")
    }

    /// The header `webhook-id`.
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// The event's type.
    pub fn event(&self) -> String {
        self.json()["type"].as_str().expect("a type").to_owned()
    }
}

/// How a request is answered; with 200 where nothing is said.
#[derive(Clone, Debug)]
pub enum Reply {
    Status(u16),
    Text(u16, String),
    Redirect(String),
    /// With this status, once [`Receiver::release`] is called.
    Hold(u16),
}

#[derive(Default)]
struct Script {
    next: VecDeque<Reply>,
    always: Option<Reply>,
    received: Vec<Received>,
}

struct Shared {
    script: Mutex<Script>,
    released: watch::Sender<bool>,
    now: AtomicUsize,
    most: AtomicUsize,
}

pub struct Receiver {
    addr: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        let shared = Arc::new(Shared {
            script: Mutex::default(),
            released: watch::Sender::new(false),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let serving = tokio::spawn(async move { serve(listener, router).await.expect("it serves") });
        Self { addr, shared, serving }
    }

    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.script.lock().expect("no panic")
    }

    /// Answers one request, in the order given.
    pub fn next(&self, reply: Reply) {
        self.script().next.push_back(reply);
    }

    /// Answers everything else.
    pub fn always(&self, reply: Reply) {
        self.script().always = Some(reply);
    }

    /// Lets the requests go that are held, now and later.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    pub fn received(&self) -> Vec<Received> {
        self.script().received.clone()
    }

    /// Requests at the same time, at most so far.
    pub fn most_at_once(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// Waits for so many requests, and returns all that came.
    pub async fn has(&self, count: usize) -> Vec<Received> {
        eventually(&format!("{count} requests"), async || {
            let received = self.received();
            (received.len() >= count).then_some(received)
        })
        .await
    }

    /// Waits for so many requests about this event, and returns them.
    pub async fn has_of(&self, event: &str, count: usize) -> Vec<Received> {
        eventually(&format!("{count} of {event}"), async || {
            let received = self.received();
            let of: Vec<Received> = received.into_iter().filter(|request| request.event() == event).collect();
            (of.len() >= count).then_some(of)
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<String> {
    let now = shared.now.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most.fetch_max(now, Ordering::SeqCst);
    let reply = {
        let mut script = shared.script.lock().expect("no panic");
        let body = String::from_utf8(body.to_vec()).expect("text");
        script.received.push(Received { path: uri.to_string(), headers, body, at: Instant::now() });
        let always = script.always.clone();
        script.next.pop_front().or(always).unwrap_or(Reply::Status(200))
    };
    let respond = |status: u16, text: String| Response::builder().status(status).body(text).expect("a response");
    let response = match reply {
        Reply::Status(status) => respond(status, String::new()),
        Reply::Text(status, text) => respond(status, text),
        Reply::Redirect(to) => {
            Response::builder().status(307).header("location", to).body(String::new()).expect("a response")
        }
        Reply::Hold(status) => {
            let mut released = shared.released.subscribe();
            released.wait_for(|released| *released).await.expect("the test lives");
            respond(status, String::new())
        }
    };
    shared.now.fetch_sub(1, Ordering::SeqCst);
    response
}
