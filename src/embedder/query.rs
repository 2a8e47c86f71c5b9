//! Search queries: remembered, asked for once however many want the same, and never waited for long.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::{Instant, timeout_at};

use super::batch::{DocumentError, embed_texts};
use super::{EmbedError, Embedder, Purpose};
use crate::domain::embedding::Embedding;

type Answer = Result<Embedding, EmbedError>;

/// Embeds the queries of searches.
pub struct QueryEmbedder {
    embedder: Arc<dyn Embedder>,
    /// By normalised text. An error lies here only for the instant in which those who wait take it.
    cache: Cache<String, Answer>,
    timeout: Duration,
}

impl QueryEmbedder {
    /// Remembers about `capacity` queries and gives each call at most `timeout`.
    pub fn new(embedder: Arc<dyn Embedder>, capacity: usize, timeout: Duration) -> Self {
        Self { embedder, cache: Cache::new(capacity), timeout }
    }

    /// The vector of `query`, its white space squeezed. Equal queries at one time share one call and its
    /// outcome; only vectors are remembered. A query of which no vector can be made is
    /// [`EmbedError::Rejected`], one that takes longer than the timeout [`EmbedError::Transient`].
    pub async fn embed(&self, query: &str) -> Result<Embedding, EmbedError> {
        let key = query.split_whitespace().collect::<Vec<_>>().join(" ");
        let deadline = Instant::now() + self.timeout;
        // Also around the wait for another's call: that one may be cancelled, and ours begin late.
        timeout_at(deadline, self.shared(&key, deadline)).await.unwrap_or_else(|_| Err(self.late()))
    }

    /// The cached answer, that of a call under way, or that of a call of our own. A caller that is cancelled
    /// drops its guard, which passes the turn to the next in line.
    async fn shared(&self, key: &str, deadline: Instant) -> Answer {
        let guard = match self.cache.get_value_or_guard_async(key).await {
            Ok(answer) => return answer,
            Err(guard) => guard,
        };
        let answer = timeout_at(deadline, self.ask(key)).await.unwrap_or_else(|_| Err(self.late()));
        // Errors go through the cache too: without that, a hundred who wait for a dead provider would each
        // call it, one after the other.
        let _ = guard.insert(answer.clone());
        if answer.is_err() {
            self.cache.remove_if(key, |kept| kept.is_err());
        }
        answer
    }

    async fn ask(&self, query: &str) -> Answer {
        let answer = embed_texts(&*self.embedder, &[query.to_owned()], Purpose::Query).await.pop();
        match answer {
            Some(Ok(embedded)) => Ok(embedded.embedding),
            Some(Err(DocumentError::Call(error))) => Err(error),
            Some(Err(DocumentError::Unembeddable(reason))) => Err(EmbedError::Rejected(reason.0)),
            None => Err(EmbedError::Transient("the embedder was not asked".into())),
        }
    }

    fn late(&self) -> EmbedError {
        EmbedError::Transient(format!("the query's embedding did not come within {} ms", self.timeout.as_millis()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedder::scripted::{Scripted, vector};

    const TIMEOUT: Duration = Duration::from_millis(500);

    fn queries(scripted: Scripted) -> (Arc<Scripted>, Arc<QueryEmbedder>) {
        let scripted = Arc::new(scripted);
        (scripted.clone(), Arc::new(QueryEmbedder::new(scripted, 100, TIMEOUT)))
    }

    fn slow(ms: u64) -> Scripted {
        Scripted { delay: Duration::from_millis(ms), ..Scripted::default() }
    }

    #[tokio::test]
    async fn a_query_is_embedded_once_whatever_its_white_space() {
        let (scripted, queries) = queries(Scripted::default());
        for query in ["quiet cafe", " quiet  cafe\n", "quiet\tcafe"] {
            assert_eq!(queries.embed(query).await, Ok(vector("quiet cafe")));
        }
        assert_eq!(scripted.sizes(), [1]);
        queries.embed("Quiet cafe").await.unwrap();
        assert_eq!(scripted.sizes(), [1, 1]);
    }

    #[tokio::test]
    async fn errors_are_not_remembered() {
        let down = EmbedError::Transient("down".into());
        let (scripted, queries) = queries(Scripted { fail: Some((0, down.clone())), ..Scripted::default() });
        assert_eq!(queries.embed("cafe").await, Err(down));
        assert_eq!(queries.embed("cafe").await, Ok(vector("cafe")));
        assert_eq!(scripted.sizes(), [1, 1]);
        assert_eq!(queries.embed("  ").await, Err(EmbedError::Rejected("the text is blank".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn equal_queries_at_one_time_share_a_call_and_its_outcome() {
        let (scripted, ok) = queries(slow(100));
        let answers = futures_util::future::join_all((0..50).map(|_| ok.embed("cafe"))).await;
        assert!(answers.iter().all(|answer| *answer == Ok(vector("cafe"))));
        assert_eq!(scripted.sizes(), [1]);

        let down = EmbedError::Transient("down".into());
        let (scripted, failing) = queries(Scripted { fail: Some((0, down.clone())), ..slow(100) });
        let answers = futures_util::future::join_all((0..50).map(|_| failing.embed("cafe"))).await;
        assert!(answers.iter().all(|answer| *answer == Err(down.clone())));
        assert_eq!(scripted.sizes(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_provider_is_not_waited_for() {
        let (_, queries) = queries(slow(10_000));
        let begin = Instant::now();
        let error = queries.embed("cafe").await.unwrap_err();
        assert_eq!(error.to_string(), "the query's embedding did not come within 500 ms");
        assert!(matches!(error, EmbedError::Transient(_)));
        assert_eq!(begin.elapsed(), TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_for_a_slow_provider_do_not_call_it_one_after_the_other() {
        let (scripted, queries) = queries(slow(10_000));
        let answers = futures_util::future::join_all((0..50).map(|_| queries.embed("cafe"))).await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(EmbedError::Transient(_)))));
        assert_eq!(scripted.sizes(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_caller_harms_no_other() {
        let (scripted, queries) = queries(slow(100));
        let start = |q: &Arc<QueryEmbedder>| {
            let q = q.clone();
            tokio::spawn(async move { q.embed("cafe").await })
        };
        let first = start(&queries);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let second = start(&queries);
        tokio::time::sleep(Duration::from_millis(10)).await;
        first.abort();
        assert_eq!(second.await.unwrap(), Ok(vector("cafe")));
        assert_eq!(queries.embed("cafe").await, Ok(vector("cafe")));
        assert_eq!(scripted.sizes().len(), 2);
    }

    #[tokio::test]
    async fn a_long_query_is_embedded_in_parts() {
        let (scripted, queries) = queries(Scripted { max_input_tokens: 8, ..Scripted::default() });
        let mean = Embedding::mean(&[(vector("aaaaaaaa"), 8), (vector("bbb"), 3)]).unwrap();
        assert_eq!(queries.embed("aaaaaaaa bbb").await, Ok(mean));
        assert_eq!(scripted.sizes(), [2]);
    }
}
