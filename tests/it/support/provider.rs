//! A fake of OpenAI's `/v1/embeddings` on a real listener, which does what a test tells it.
//!
//! ```ignore
//! let provider = FakeProvider::start(8).await;
//! provider.next(Behaviour::status(503, "down"));            // one call, in the order given
//! provider.when_contains("poison", Behaviour::status(400, "no")); // while a text of the call has the word
//! provider.always(Behaviour::Delay(Duration::from_millis(20)));   // everything else
//! assert_eq!(provider.calls()[0].inputs, ["text"]);
//! ```

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{DefaultBodyLimit, Json, State};
use axum::http::{HeaderMap, Response, Uri};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Router, serve};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[path = "meter.rs"]
pub mod meter;

use self::meter::Meter;

/// What the provider does with a call. Without a script it answers as it should.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// The right answer.
    Answer,
    /// The right answer, later.
    Delay(Duration),
    /// What [`FakeProvider::release`] says, once it is called.
    Hold,
    /// No answer, while the connection stays open.
    Never,
    /// Another status, with this body and these headers.
    Status { status: u16, body: String, headers: Vec<(&'static str, String)> },
    /// The vector of the last text is missing.
    WrongCount,
    /// The right vectors and indexes, the last text's first.
    ShuffledIndex,
    /// No vector says which text it belongs to.
    MissingIndex,
    /// Every vector claims to be the first text's.
    DuplicateIndex,
    /// The first vector's first number is this, as written: `NaN`, `null`, `1e39`.
    Number(&'static str),
    /// The first vector is all zeros.
    Zeros,
    /// The first vector claims to be this text's.
    Index(i64),
    /// Vectors as an int8 quantiser makes them.
    Integers,
    /// Every vector as base64 of its bytes, little-endian.
    Base64,
    /// Every vector is this text.
    Text(&'static str),
    /// The right answer under a header that calls it compressed.
    Compressed,
    /// The right answer with these headers.
    Headers(Vec<(&'static str, String)>),
    /// Vectors of another dimension.
    Dimensions(usize),
    /// 200 and a page for people.
    Html,
    /// 200 and this many bytes of white space.
    Huge(usize),
    /// 200 and white space without an end, slowly.
    Endless,
    /// The right status and length, but the connection breaks off in the middle of the body.
    Truncated,
    /// The connection is closed before any answer.
    Drop,
    /// 307 to this address.
    Redirect(String),
}

impl Behaviour {
    pub fn status(status: u16, body: &str) -> Self {
        Self::Status { status, body: body.into(), headers: Vec::new() }
    }

    /// A rate limit that lasts `retry_after`, as the header says it.
    pub fn rate_limited(retry_after: &str) -> Self {
        let headers = vec![("retry-after", retry_after.to_owned())];
        Self::Status { status: 429, body: "slow down".into(), headers }
    }
}

/// A call that came in.
#[derive(Clone, Debug)]
pub struct Call {
    pub inputs: Vec<String>,
    /// The whole JSON body.
    pub body: Value,
    pub authorization: Option<String>,
    pub headers: HeaderMap,
    pub path: String,
    pub at: Instant,
}

#[derive(Default)]
struct Script {
    next: VecDeque<Behaviour>,
    words: Vec<(String, Behaviour)>,
    always: Option<Behaviour>,
    calls: Vec<Call>,
    info: Option<Value>,
}

impl Script {
    fn behaviour(&mut self, inputs: &[String]) -> Behaviour {
        if let Some(next) = self.next.pop_front() {
            return next;
        }
        let mut words = self.words.iter();
        let by_word = words.find(|(word, _)| inputs.iter().any(|input| input.contains(word)));
        by_word.map(|(_, behaviour)| behaviour).or(self.always.as_ref()).cloned().unwrap_or(Behaviour::Answer)
    }
}

#[derive(Clone)]
struct Shared {
    script: Arc<Mutex<Script>>,
    /// The last release; a held call waits for the next.
    releases: watch::Sender<Behaviour>,
    running: Arc<Running>,
    meter: Meter,
    dimensions: usize,
}

/// Calls that are being answered, and the most there have been at once.
#[derive(Default)]
struct Running {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// One of them, until it is answered or its caller hangs up.
struct Counted(Arc<Running>);

impl Counted {
    fn new(running: Arc<Running>) -> Self {
        let now = running.now.fetch_add(1, Ordering::SeqCst) + 1;
        running.most.fetch_max(now, Ordering::SeqCst);
        Self(running)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves until it is dropped.
pub struct FakeProvider {
    address: SocketAddr,
    shared: Shared,
    server: JoinHandle<()>,
}

impl FakeProvider {
    /// A provider of vectors of `dimensions` numbers, on a free port of 127.0.0.1.
    pub async fn start(dimensions: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            script: Arc::default(),
            releases: watch::Sender::new(Behaviour::Answer),
            running: Arc::default(),
            meter: Meter::default(),
            dimensions,
        };
        let app = Router::new()
            .route("/v1/embeddings", post(embeddings))
            .route("/openai/deployments/{deployment}/embeddings", post(embeddings))
            .route("/v2/embed", post(embeddings))
            .route("/info", get(info))
            .layer(DefaultBodyLimit::disable())
            .with_state(shared.clone());
        let app = app.into_make_service_with_connect_info::<Connection>();
        let server = tokio::spawn(async move { serve(listener, app).await.unwrap() });
        Self { address, shared, server }
    }

    /// Up to and with `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The next call without a behaviour of its own gets this one; comes before words and `always`.
    pub fn next(&self, behaviour: Behaviour) {
        self.script().next.push_back(behaviour);
    }

    /// Calls with a text that contains `word` get this behaviour.
    pub fn when_contains(&self, word: &str, behaviour: Behaviour) {
        self.script().words.push((word.to_owned(), behaviour));
    }

    /// All other calls get this behaviour.
    pub fn always(&self, behaviour: Behaviour) {
        self.script().always = Some(behaviour);
    }

    /// From now on every call is answered as it should be.
    pub fn behave(&self) {
        let mut script = self.script();
        let (calls, info) = (std::mem::take(&mut script.calls), script.info.take());
        *script = Script { calls, info, ..Script::default() };
    }

    /// What `GET /info` answers from now on; 404 without it.
    pub fn tell_info(&self, info: Value) {
        self.script().info = Some(info);
    }

    /// Rate limits and the hidden limit of calls at once, which may change at any time.
    pub fn meter(&self) -> &Meter {
        &self.shared.meter
    }

    /// The address without a path.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The calls so far, in the order in which they came.
    pub fn calls(&self) -> Vec<Call> {
        self.script().calls.clone()
    }

    /// The texts of all calls so far, in order.
    pub fn inputs(&self) -> Vec<String> {
        self.calls().into_iter().flat_map(|call| call.inputs).collect()
    }

    /// Answers the calls that are held at the moment.
    pub fn release(&self) {
        self.release_as(Behaviour::Answer);
    }

    /// Treats the calls that are held at the moment in this way.
    pub fn release_as(&self, behaviour: Behaviour) {
        self.shared.releases.send_replace(behaviour);
    }

    /// Calls that wait for their answer.
    pub fn running(&self) -> usize {
        self.shared.running.now.load(Ordering::SeqCst)
    }

    /// The most calls that there have been at once.
    pub fn most_at_once(&self) -> usize {
        self.shared.running.most.load(Ordering::SeqCst)
    }

    /// Counts the most at once afresh, from those that wait at the moment.
    pub fn count_afresh(&self) {
        self.shared.running.most.store(self.running(), Ordering::SeqCst);
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.script.lock().unwrap()
    }
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The vector that the provider gives `text`: the same in every run, different for different texts.
pub fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    // FNV-1a, then a linear congruence: enough to tell texts apart.
    let mut state = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    };
    (0..dimensions).map(|_| number()).collect()
}

async fn embeddings(
    State(shared): State<Shared>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    uri: Uri,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response<Body> {
    let form = Form::of(&body);
    let list = if form == Form::Cohere { &body["texts"] } else { &body["input"] };
    let inputs: Vec<String> = serde_json::from_value(list.clone()).unwrap();
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let _running = Counted::new(shared.running.clone());
    // Subscribed before the call can be seen, so that no release is missed.
    let releases = shared.releases.subscribe();
    let behaviour = {
        let mut script = shared.script.lock().unwrap();
        let (path, at) = (uri.to_string(), Instant::now());
        script.calls.push(Call { inputs: inputs.clone(), body, authorization, headers, path, at });
        script.behaviour(&inputs)
    };
    let admitted = shared.meter.admit(&inputs);
    let limits = match admitted {
        Ok(limits) => limits,
        Err(refusal) => return *refusal,
    };
    let _place = match shared.meter.place().await {
        Ok(place) => place,
        Err(refusal) => return *refusal,
    };
    let behaviour = match behaviour {
        Behaviour::Hold => released(releases).await,
        other => other,
    };
    let mut response = respond(behaviour, &inputs, shared.dimensions, form, &connection).await;
    for (name, value) in limits {
        response.headers_mut().entry(name).or_insert(value.parse().unwrap());
    }
    response
}

/// What text-embeddings-inference tells of itself.
async fn info(State(shared): State<Shared>) -> Response<Body> {
    match shared.script.lock().unwrap().info.clone() {
        Some(info) => {
            response(200, &[("content-type", "application/json".to_owned())], Body::from(info.to_string()))
        }
        None => response(404, &[], Body::empty()),
    }
}

/// The shape of an answer, by what the request asks for.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Floats,
    Base64,
    Cohere,
}

impl Form {
    fn of(body: &Value) -> Self {
        let asked = |name: &str| body[name] == "base64";
        match body {
            _ if body["texts"].is_array() => Self::Cohere,
            _ if asked("encoding_format") || asked("embedding_type") => Self::Base64,
            _ => Self::Floats,
        }
    }
}

async fn released(mut releases: watch::Receiver<Behaviour>) -> Behaviour {
    // An error says that the provider is gone, and its calls with it.
    let _ = releases.changed().await;
    releases.borrow().clone()
}

async fn respond(
    behaviour: Behaviour,
    inputs: &[String],
    dimensions: usize,
    form: Form,
    connection: &Connection,
) -> Response<Body> {
    match behaviour {
        Behaviour::Delay(delay) => tokio::time::sleep(delay).await,
        Behaviour::Never => std::future::pending().await,
        Behaviour::Drop => connection.close(),
        _ => {}
    }
    let spaces = |bytes| Ok::<_, Infallible>(" ".repeat(bytes));
    match behaviour {
        Behaviour::Status { status, body, headers } => response(status, &headers, Body::from(body)),
        Behaviour::Redirect(to) => response(307, &[("location", to)], Body::empty()),
        Behaviour::Html => {
            let html = [("content-type", "text/html".to_owned())];
            response(200, &html, Body::from("<html><body>Please log in</body></html>"))
        }
        Behaviour::Huge(bytes) => {
            let chunks = stream::iter((0..bytes / 1_024).map(move |_| spaces(1_024)));
            response(200, &[], Body::from_stream(chunks))
        }
        Behaviour::Endless => {
            let drip = stream::repeat(()).then(move |()| async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                spaces(1)
            });
            response(200, &[], Body::from_stream(drip))
        }
        Behaviour::Truncated => {
            let text = answer(&Behaviour::Answer, inputs, dimensions, form);
            let half = text[..text.len() / 2].to_owned();
            let broken = stream::iter([Ok(half), Err(io::Error::other("the connection broke"))]);
            response(200, &[("content-length", text.len().to_string())], Body::from_stream(broken))
        }
        other => {
            let json = [("content-type", "application/json".to_owned())];
            let mut headers = json.to_vec();
            match &other {
                Behaviour::Headers(more) => headers.extend(more.iter().cloned()),
                Behaviour::Compressed => headers.push(("content-encoding", "gzip".to_owned())),
                _ => {}
            }
            response(200, &headers, Body::from(answer(&other, inputs, dimensions, form)))
        }
    }
}

pub(super) fn response(status: u16, headers: &[(&str, String)], body: Body) -> Response<Body> {
    let builder = headers.iter().fold(Response::builder().status(status), |b, (k, v)| b.header(*k, v));
    builder.body(body).unwrap()
}

/// The body of a 200, bent as `behaviour` says.
fn answer(behaviour: &Behaviour, inputs: &[String], dimensions: usize, form: Form) -> String {
    let dimensions = if let Behaviour::Dimensions(other) = behaviour { *other } else { dimensions };
    let item = |(index, text): (usize, &String)| json!({"object": "embedding", "index": index, "embedding": vector(text, dimensions)});
    let mut data: Vec<Value> = inputs.iter().enumerate().map(item).collect();
    match behaviour {
        Behaviour::WrongCount => drop(data.pop()),
        Behaviour::ShuffledIndex => data.reverse(),
        Behaviour::MissingIndex => {
            data.iter_mut().for_each(|item| drop(item.as_object_mut().unwrap().remove("index")))
        }
        Behaviour::DuplicateIndex => data.iter_mut().for_each(|item| item["index"] = json!(0)),
        Behaviour::Number(_) => data[0]["embedding"][0] = json!("THE NUMBER"),
        Behaviour::Zeros => data[0]["embedding"] = json!(vec![0.0; dimensions]),
        Behaviour::Index(index) => data[0]["index"] = json!(index),
        Behaviour::Integers => {
            data[0]["embedding"] = json!((0..dimensions).map(|n| n as i32 * 9 - 40).collect::<Vec<_>>())
        }
        Behaviour::Text(text) => data.iter_mut().for_each(|item| item["embedding"] = json!(text)),
        _ => {}
    }
    let bent = matches!(behaviour, Behaviour::Number(_) | Behaviour::Text(_) | Behaviour::Integers);
    if matches!(behaviour, Behaviour::Base64) || form == Form::Base64 && !bent {
        for item in &mut data {
            let numbers: Vec<f32> = serde_json::from_value(item["embedding"].clone()).unwrap();
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            item["embedding"] = json!(STANDARD.encode(bytes));
        }
    }
    let tokens: usize = inputs.iter().map(String::len).sum();
    if form == Form::Cohere {
        let float: Vec<Value> = data.into_iter().map(|mut item| item["embedding"].take()).collect();
        return json!({"id": "1", "embeddings": {"float": float}, "meta": {"billed_units": {"input_tokens": tokens}}})
            .to_string();
    }
    let text = json!({"object": "list", "data": data, "model": "fake", "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}).to_string();
    match behaviour {
        Behaviour::Number(number) => text.replace("\"THE NUMBER\"", number),
        _ => text,
    }
}

/// The socket of a call, so that it can be closed under the server's feet.
#[derive(Clone)]
struct Connection(Arc<std::net::TcpStream>);

impl Connected<IncomingStream<'_, TcpListener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(Arc::new(stream.io().as_fd().try_clone_to_owned().unwrap().into()))
    }
}

impl Connection {
    fn close(&self) {
        // Fails when the caller was faster, which is just as well.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
