//! What rate limits leave for a call, as all processes share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::config::embedder::EmbedderSettings;
use crate::embedder::{Allowance, Answer, EmbedError, Purpose, Quota as Said};

/// The longest that a document's call waits here; what must wait longer goes back to the ledger.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The budget that all processes share; the database keeps it.
#[async_trait]
pub trait SharedBudget: Send + Sync + 'static {
    /// Takes a request and its tokens, both or neither; returns how long to wait before asking again, or `None`
    /// when they have been taken.
    async fn take(&self, tokens: u64, purpose: Purpose) -> Option<Duration>;

    /// Gives back tokens that weren't used (negative: takes those that were, too), and notes what an answer said.
    async fn settle(&self, give_back: i64, allowance: Allowance);

    /// The provider asked to wait: no process should send it documents before.
    async fn block(&self, after: Duration);
}

pub(super) struct Quota {
    shared: Arc<dyn SharedBudget>,
    /// Whether there is any limit to keep; without one no call asks the database.
    limited: AtomicBool,
    /// Tokens in a window, as configured and as told; 0 is unknown.
    configured: (u64, u64),
    told_tokens: AtomicU64,
    /// One document's call at a time asks and waits, in the order in which they came.
    turn: Mutex<()>,
}

impl Quota {
    pub fn new(shared: Arc<dyn SharedBudget>, settings: &EmbedderSettings) -> Self {
        let configured = (settings.requests_per_minute, settings.tokens_per_minute);
        Self {
            shared,
            limited: AtomicBool::new(configured != (0, 0)),
            configured,
            told_tokens: AtomicU64::new(0),
            turn: Mutex::default(),
        }
    }

    /// Tokens that one call may carry: those of a whole window, where that is known.
    pub fn max_tokens(&self) -> Option<u64> {
        let known = [self.configured.1, self.told_tokens.load(Ordering::Relaxed)];
        known.into_iter().filter(|limit| *limit > 0).min()
    }

    /// Waits for the budget of a call, a query until `deadline`.
    ///
    /// # Errors
    /// [`EmbedError::Wait`] when it would take too long.
    pub async fn take(&self, tokens: u64, purpose: Purpose, deadline: Option<Instant>) -> Result<(), EmbedError> {
        if !self.limited.load(Ordering::Relaxed) {
            return Ok(());
        }
        let deadline = deadline.unwrap_or_else(|| Instant::now() + LONGEST_WAIT);
        let _turn = match purpose {
            Purpose::Document => Some(self.turn.lock().await),
            Purpose::Query => None,
        };
        while let Some(after) = self.shared.take(tokens, purpose).await {
            if Instant::now() + after > deadline {
                return Err(EmbedError::Wait { after, reason: "its rate limit is used up".into() });
            }
            sleep(after).await;
        }
        Ok(())
    }

    /// Settles a call that was estimated at `tokens`, in the background: its vectors needn't wait for it.
    pub fn settle(&self, tokens: u64, answer: &Answer) {
        let allowance = self.within(answer.allowance);
        if allowance.requests.limit.is_some() || allowance.tokens.limit.is_some() {
            self.limited.store(true, Ordering::Relaxed);
        }
        if let Some(limit) = allowance.tokens.limit {
            self.told_tokens.store(limit, Ordering::Relaxed);
        }
        if !self.limited.load(Ordering::Relaxed) {
            return;
        }
        let used = answer.tokens.unwrap_or(tokens);
        let give_back = i64::try_from(tokens).unwrap_or(i64::MAX) - i64::try_from(used).unwrap_or(i64::MAX);
        let shared = self.shared.clone();
        tokio::spawn(async move { shared.settle(give_back, allowance).await });
    }

    pub fn block(&self, after: Duration) {
        let shared = self.shared.clone();
        tokio::spawn(async move { shared.block(after).await });
    }

    /// A configured limit may be lower than the provider's, never higher.
    fn within(&self, told: Allowance) -> Allowance {
        let lower = |said: Said, configured: u64| {
            let limit = said.limit.filter(|limit| *limit > 0);
            Said { limit: limit.map(|l| if configured > 0 { l.min(configured) } else { l }), ..said }
        };
        Allowance {
            requests: lower(told.requests, self.configured.0),
            tokens: lower(told.tokens, self.configured.1),
        }
    }
}
