//! Control over the calls to a remote provider: a circuit breaker, rate limits that all processes share, and what
//! each call was like, for whoever decides how many run at once.
//!
//! Whose failure it is, decides a probe: a call with one harmless word. When the provider embeds that, a failed
//! call is its documents' affair and counts as an attempt; when it doesn't, the provider is away, and no
//! document's attempt is spent.

pub mod breaker;
pub mod quota;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use self::breaker::{Breaker, BreakerView, Cause, Refusal};
use self::quota::{Quota, SharedBudget};
use super::batch::contained;
use super::{Answer, EmbedError, Embedder, Limits, Purpose};
use crate::config::Settings;
use crate::domain::gradient::{Outcome, Sample};

/// What a probe asks for.
const PROBE: &str = "ping";
/// A probe's time limit is four times what calls usually take, within these bounds: one that hangs would hide that
/// the provider is back.
const PROBE_TIMEOUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// While nobody knows what calls take.
const FIRST_PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The share of a query's time after which this gives up, so that the failure is seen here and not only by a caller
/// who stops waiting.
const QUERY_SHARE: f64 = 0.95;

type Observer = Box<dyn Fn(Sample) + Send + Sync>;

/// A remote embedder under control. One a process, shared by the worker and search.
pub struct Guarded {
    core: Arc<Core>,
}

struct Core {
    inner: Arc<dyn Embedder>,
    quota: Quota,
    breaker: Mutex<Breaker>,
    /// Whether calls may be made.
    closed: watch::Sender<bool>,
    query_timeout: Duration,
    /// Documents' calls with the provider.
    running: AtomicUsize,
    observer: OnceLock<Observer>,
    /// What a call usually takes.
    usual: Mutex<Option<Duration>>,
    /// When the last probe of a judgement began, and whether it went well. Held while one runs: those who wait for
    /// it take its verdict.
    verdict: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

/// A document's call under way, a cancelled one included.
struct Running<'c>(&'c AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Guarded {
    pub fn new(inner: Arc<dyn Embedder>, shared: Arc<dyn SharedBudget>, settings: &Settings) -> Self {
        let core = Core {
            inner,
            quota: Quota::new(shared, &settings.embedder),
            breaker: Mutex::default(),
            closed: watch::Sender::new(true),
            query_timeout: Duration::from_millis(settings.search.embed_timeout_ms),
            running: AtomicUsize::new(0),
            observer: OnceLock::new(),
            usual: Mutex::default(),
            verdict: tokio::sync::Mutex::default(),
        };
        Self { core: Arc::new(core) }
    }

    /// Tells every document's call to `observer`, from the caller's own task. The first one is kept.
    pub fn observe(&self, observer: impl Fn(Sample) + Send + Sync + 'static) {
        let _ = self.core.observer.set(Box::new(observer));
    }

    /// Why no call may be made now, and for how long at least.
    pub fn refusal(&self) -> Option<Refusal> {
        self.core.breaker().refusal(Instant::now())
    }

    /// Waits until calls may be made.
    pub async fn available(&self) {
        // An error says that this is being dropped.
        let _ = self.core.closed.subscribe().wait_for(|closed| *closed).await;
    }

    pub fn view(&self) -> BreakerView {
        self.core.breaker().view(Instant::now())
    }
}

#[async_trait]
impl Embedder for Guarded {
    fn model(&self) -> &str {
        self.core.inner.model()
    }

    fn dimensions(&self) -> usize {
        self.core.inner.dimensions()
    }

    /// No text and no call is longer than a whole window's tokens, which it could never have.
    fn limits(&self) -> Limits {
        let limits = self.core.inner.limits();
        let Some(most) = self.core.quota.max_tokens() else { return limits };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Limits {
            max_input_tokens: limits.max_input_tokens.min(most),
            max_call_tokens: limits.max_call_tokens.min(most),
            ..limits
        }
    }

    fn tokens(&self, text: &str) -> usize {
        self.core.inner.tokens(text)
    }

    fn is_paid(&self) -> bool {
        self.core.inner.is_paid()
    }

    fn price(&self) -> Option<f64> {
        self.core.inner.price()
    }

    fn default_threshold(&self) -> f32 {
        self.core.inner.default_threshold()
    }

    async fn embed(&self, texts: &[String], purpose: Purpose) -> Result<Answer, EmbedError> {
        let core = &self.core;
        core.check()?;
        let tokens: u64 = texts.iter().map(|text| core.inner.tokens(text) as u64).sum();
        if let Some(most) = core.quota.max_tokens()
            && tokens > most
            && texts.len() > 1
        {
            return Err(EmbedError::Rejected(format!("{tokens} tokens are more than the rate limit's {most}")));
        }
        match purpose {
            Purpose::Document => core.document(texts, tokens).await,
            Purpose::Query => core.query(texts, tokens).await,
        }
    }
}

impl Core {
    async fn document(self: &Arc<Self>, texts: &[String], tokens: u64) -> Result<Answer, EmbedError> {
        self.quota.take(tokens, Purpose::Document, None).await?;
        // The wait may have been long.
        self.check()?;
        let in_flight = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        let running = Running(&self.running);
        let begun = Instant::now();
        let answer = self.inner.embed(texts, Purpose::Document).await;
        let took = begun.elapsed();
        drop(running);
        self.observe(Sample { took, in_flight, outcome: outcome(&answer) });
        match answer {
            Ok(answer) => {
                self.went_well(took);
                self.quota.settle(tokens, &answer);
                Ok(answer)
            }
            Err(EmbedError::Transient(reason)) => Err(self.judge(reason).await),
            Err(EmbedError::Wait { after, reason }) => {
                self.quota.block(after);
                Err(EmbedError::Wait { after, reason })
            }
            Err(EmbedError::Misconfigured(reason)) => {
                self.open(Cause::Misconfigured, reason.clone());
                Err(self.check().err().unwrap_or(EmbedError::Misconfigured(reason)))
            }
            Err(EmbedError::Rejected(reason)) => {
                self.breaker().answered();
                Err(EmbedError::Rejected(reason))
            }
        }
    }

    async fn query(self: &Arc<Self>, texts: &[String], tokens: u64) -> Result<Answer, EmbedError> {
        let deadline = Instant::now() + self.query_timeout.mul_f64(QUERY_SHARE);
        self.quota.take(tokens, Purpose::Query, Some(deadline)).await?;
        let begun = Instant::now();
        let answer = tokio::time::timeout_at(deadline, self.inner.embed(texts, Purpose::Query)).await;
        let answer = answer.unwrap_or_else(|_| {
            let ms = self.query_timeout.as_millis();
            Err(EmbedError::Transient(format!("the query's embedding did not come within {ms} ms")))
        });
        match &answer {
            Ok(answer) => {
                self.went_well(begun.elapsed());
                self.quota.settle(tokens, answer);
            }
            Err(EmbedError::Transient(reason)) => {
                let outage = self.breaker().query_failed();
                if outage {
                    self.open(Cause::Outage, reason.clone());
                }
            }
            Err(EmbedError::Misconfigured(reason)) => self.open(Cause::Misconfigured, reason.clone()),
            Err(EmbedError::Wait { after, .. }) => self.quota.block(*after),
            Err(EmbedError::Rejected(_)) => self.breaker().answered(),
        }
        answer
    }

    /// Whose failure it was: the documents' own, or the provider's, which counts for none of them.
    async fn judge(self: &Arc<Self>, reason: String) -> EmbedError {
        let failed = Instant::now();
        let mut verdict = self.verdict.lock().await;
        if let Err(wait) = self.check() {
            return wait;
        }
        if verdict.is_some_and(|(begun, well)| begun >= failed && well) {
            return EmbedError::Transient(reason);
        }
        let begun = Instant::now();
        let probe = self.probe().await;
        *verdict = Some((begun, probe.is_ok()));
        match probe {
            Ok(()) => EmbedError::Transient(reason),
            Err(Probe::Limited(wait)) => wait,
            Err(Probe::Failed(cause, why)) => {
                // What the call itself met says more than what the probe did.
                self.open(cause, if cause == Cause::Outage { reason } else { why });
                self.check()
                    .err()
                    .unwrap_or(EmbedError::Wait { after: PROBE_TIMEOUT.0, reason: "an outage".into() })
            }
        }
    }

    /// Asks for one word. A refusal of it is an answer, too.
    async fn probe(&self) -> Result<(), Probe> {
        let usual = *lock(&self.usual);
        let limit = usual.map_or(FIRST_PROBE_TIMEOUT, |usual| (usual * 4).clamp(PROBE_TIMEOUT.0, PROBE_TIMEOUT.1));
        let word = [PROBE.to_owned()];
        // A panic must not end the one who probes: nobody else would ever close the breaker.
        match timeout(limit, contained(&*self.inner, &word, Purpose::Document)).await {
            Ok(Ok(_) | Err(EmbedError::Rejected(_))) => Ok(()),
            Ok(Err(EmbedError::Transient(reason))) => Err(Probe::Failed(Cause::Outage, reason)),
            Ok(Err(EmbedError::Misconfigured(reason))) => Err(Probe::Failed(Cause::Misconfigured, reason)),
            Ok(Err(wait @ EmbedError::Wait { .. })) => Err(Probe::Limited(wait)),
            Err(_) => {
                let reason = format!("the provider did not answer a probe within {} ms", limit.as_millis());
                Err(Probe::Failed(Cause::Outage, reason))
            }
        }
    }

    fn open(self: &Arc<Self>, cause: Cause, reason: String) {
        let was_closed = self.breaker().open(cause, reason.clone(), Instant::now());
        if was_closed {
            tracing::warn!(?cause, reason, "no more calls to the provider until a probe goes well");
            self.closed.send_replace(false);
            tokio::spawn(probe_until_closed(Arc::downgrade(self)));
        }
    }

    fn went_well(&self, took: Duration) {
        self.breaker().answered();
        let mut usual = lock(&self.usual);
        *usual = Some(usual.map_or(took, |usual| usual.mul_f64(0.9) + took.mul_f64(0.1)));
    }

    /// # Errors
    /// [`EmbedError::Wait`] while no call may be made.
    fn check(&self) -> Result<(), EmbedError> {
        match self.breaker().refusal(Instant::now()) {
            None => Ok(()),
            Some(Refusal { after, reason }) => Err(EmbedError::Wait { after, reason }),
        }
    }

    fn observe(&self, sample: Sample) {
        if let Some(observer) = self.observer.get() {
            observer(sample);
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        lock(&self.breaker)
    }
}

/// Why a probe brought nothing.
enum Probe {
    Failed(Cause, String),
    /// A rate limit: the provider lives.
    Limited(EmbedError),
}

/// The only one who calls while the breaker is open.
async fn probe_until_closed(core: std::sync::Weak<Core>) {
    loop {
        let Some(at) = core.upgrade().and_then(|core| core.breaker().probe_at()) else { return };
        sleep_until(at).await;
        let Some(core) = core.upgrade() else { return };
        core.breaker().probe_begins();
        match core.probe().await {
            Err(Probe::Failed(cause, reason)) => core.breaker().stay_open(cause, reason, Instant::now()),
            Ok(()) | Err(Probe::Limited(_)) => {
                core.breaker().close();
                core.closed.send_replace(true);
                tracing::info!("the provider can be called again");
                return;
            }
        }
    }
}

fn outcome(answer: &Result<Answer, EmbedError>) -> Outcome {
    match answer {
        Ok(_) | Err(EmbedError::Rejected(_)) => Outcome::Answered,
        Err(EmbedError::Wait { .. }) => Outcome::Refused,
        Err(EmbedError::Transient(_)) => Outcome::Failed,
        Err(EmbedError::Misconfigured(_)) => Outcome::Other,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
