//! One batch from its deliveries to its acks.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::Context;
use super::batching::Turn;
use super::outcome::{self, Failure};
use crate::broker::Delivery;
use crate::db::DbError;
use crate::db::cache::Kept;
use crate::db::embeddings::{Finished, Made};
use crate::db::loaded::Loaded;
use crate::db::regenerations::Mark;
use crate::domain::status::TaskState;
use crate::domain::task::{EmbedTask, Target};
use crate::domain::text::content_hash;
use crate::domain::usage::Usage;
use crate::embedder::batch::{DocumentError, embed_documents};
use crate::traces::{Kind, Span, Traces};

/// A delivery whose body has been read.
pub(super) struct Job {
    pub delivery: Delivery,
    pub task: EmbedTask,
    /// Attempts that failed before this one, as the ledger counts them: a copy's own count may be of before
    /// an edit that started the task afresh.
    pub attempts: u32,
    /// When the ledger's task was enqueued, and whether by a regeneration.
    pub enqueued_at: Option<DateTime<Utc>>,
    pub regenerated: bool,
    /// Of this attempt, from its delivery to its ack.
    pub span: Span,
}

impl Job {
    pub fn new(delivery: Delivery, task: EmbedTask) -> Self {
        Self { delivery, task, attempts: 0, enqueued_at: None, regenerated: false, span: Span::default() }
    }

    /// With its span, where whoever saved it is traced.
    fn traced(self, traces: &Traces) -> Self {
        let message = &self.delivery.message;
        let mut span = traces.follow(Kind::Consumer, "embed", message.trace);
        span.set("messaging.message.id", || message.id.clone());
        span.set("messaging.destination.name", || self.delivery.lane.name());
        span.set("mapx.recommendation_id", || self.task.recommendation_id);
        span.set("mapx.attempt", || i64::from(message.attempt) + 1);
        Self { span, ..self }
    }
}

/// A job with the text that is to be embedded.
struct Document {
    job: Job,
    text: String,
    hash: String,
    mark: Option<Mark>,
}

/// What the rows say of a batch.
#[derive(Default)]
struct Sorted {
    /// Deleted, edited meanwhile, or done before: nothing to do.
    stale: Vec<Job>,
    /// The stored vector is that of this text and model: no call.
    unchanged: Vec<Job>,
    documents: Vec<Document>,
}

/// What becomes of a batch.
#[derive(Default)]
struct Ended {
    finished: Vec<(Job, Made)>,
    failed: Vec<(Job, Failure)>,
    /// What calls have made, by the hashes of the texts.
    paid: Vec<(String, Kept)>,
}

/// Works through one batch. Whatever is dropped on the way without an ack goes back to its lane.
pub(super) async fn process(context: Arc<Context>, batch: Vec<Delivery>, turn: Turn) {
    let began = Instant::now();
    let _in_flight = context.tally.hold(&batch);
    let mut jobs = Vec::with_capacity(batch.len());
    for delivery in batch {
        match EmbedTask::decode(&delivery.message.body) {
            Ok(task) => jobs.push(Job::new(delivery, task).traced(&context.meter.measures().traces)),
            Err(error) => outcome::refuse(&context, delivery, error.to_string()).await,
        }
    }
    // Before they are loaded: what is in another batch's hands may change until it is done.
    let (mut taken, jobs, superfluous) = context.rows.take(jobs);
    outcome::drop_stale(superfluous);
    let ids: Vec<i64> = jobs.iter().map(|job| job.task.recommendation_id).collect();
    let loading = context.storing.begin();
    let Some(rows) = context.patiently("load", || context.db.load_for_embedding(&ids)).await else { return };
    let sorted = sort(jobs, rows, context.db.model().id.as_ref());
    measure_wait(&context, &sorted.documents);
    taken.free(&sorted.stale);
    outcome::drop_stale(sorted.stale);
    let finished = sorted.unchanged.into_iter().map(|job| (job, Made::Unchanged)).collect();
    let mut ended = Ended { finished, ..Ended::default() };
    let documents = recall(&context, sorted.documents, &mut ended).await;
    drop(loading);
    let permit = match documents.is_empty() {
        true => None,
        false => match turn.come().await {
            Some(permit) => Some(permit),
            None => return,
        },
    };
    for documents in groups(&context, documents) {
        embed(&context, documents, &mut ended).await;
    }
    // The provider is free for the next batch while this one is written back.
    let _storing = context.storing.begin();
    drop(permit);
    keep(&context, ended.paid).await;
    outcome::finish(&context, ended.finished).await;
    outcome::fail(&context, ended.failed, began).await;
}

fn sort(jobs: Vec<Job>, rows: Vec<Loaded>, model: &str) -> Sorted {
    let rows: HashMap<i64, Loaded> = rows.into_iter().map(|row| (row.id, row)).collect();
    let mut sorted = Sorted::default();
    for mut job in jobs {
        let current = rows
            .get(&job.task.recommendation_id)
            .filter(|row| row.content_version == job.task.content_version && job.task.target == Target::Current);
        let Some(row) = current else {
            sorted.stale.push(job);
            continue;
        };
        if is_outlived(&job.delivery, row) {
            sorted.stale.push(job);
            continue;
        }
        (job.enqueued_at, job.regenerated) = (row.enqueued_at, row.mark.is_some());
        let same_model = row.embedding_model.as_deref() == Some(model);
        if same_model && row.embedded_version == Some(row.content_version) && row.mark.is_none() {
            // Delivered twice: ending a task that is gone is harmless, and one that is left ends here.
            sorted.unchanged.push(job);
            continue;
        }
        // A person moved it back from the dead letters: a fresh start.
        job.attempts = if job.delivery.death.is_some() { 0 } else { row.attempts };
        let text = row.content.compose();
        let hash = content_hash(&text);
        let anew = row.mark.is_some_and(|mark| mark.anew);
        if same_model && row.embedded_hash.as_deref() == Some(hash.as_str()) && !anew {
            sorted.unchanged.push(job);
        } else {
            sorted.documents.push(Document { job, text, hash, mark: row.mark });
        }
    }
    sorted
}

/// Whether a message came back although the ledger has gone on without it: with its bundle, or as its worker ended
/// between what it wrote down and the ack. What is to be tried again is on its way as another message; tried at once and
/// again then, it would spend its retries twice as fast, and what was given up would be paid for once more. Where the
/// worker ended before it had sent that message, the reconciler finds a retry lost, and a dead letter is in the ledger
/// alone. One that a person moved back from the dead letters counts, whatever the ledger says.
fn is_outlived(delivery: &Delivery, row: &Loaded) -> bool {
    delivery.returns > 0
        && delivery.death.is_none()
        && has_gone_on(row.state, row.attempts, delivery.message.attempt)
}

/// Whether the ledger, with this task and so many failed attempts, waits for another message than one of before
/// `attempt`, or for none. A pending task is handed over once more, so one of before its failure is not needed; one of after
/// it is, as the next may have come already and have been acked for a copy of this one.
fn has_gone_on(task: Option<TaskState>, attempts: u32, attempt: u32) -> bool {
    match task {
        None | Some(TaskState::Dead) => true,
        Some(TaskState::Retrying | TaskState::Pending) => attempt < attempts,
        Some(TaskState::Published) => false,
    }
}

/// How long those that are taken up for the first time have waited.
fn measure_wait(context: &Context, documents: &[Document]) {
    let now = Utc::now();
    for Document { job, .. } in documents.iter().filter(|document| document.job.attempts == 0) {
        if let Some(since) = job.enqueued_at {
            let waited = (now - since).to_std().unwrap_or_default();
            context.meter.measures().queue_wait[job.delivery.lane as usize].took(waited);
        }
    }
}

/// Those of which no vector is kept. Without the cache, which only saves money, all of them are.
async fn recall(context: &Context, documents: Vec<Document>, ended: &mut Ended) -> Vec<Document> {
    if documents.is_empty() || !context.embedder.is_paid() {
        return documents;
    }
    let kept = kept(context, &documents).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the kept vectors can't be read; the provider is asked");
        HashMap::new()
    });
    context.meter.add(Usage { cached: kept.len() as u64, ..Usage::default() });
    let mut left = Vec::new();
    for document in documents {
        match kept.get(&document.hash) {
            Some(Kept { embedding, parts }) => {
                let (embedding, parts) = (embedding.clone(), *parts);
                ended.finished.push((document.job, Made::Vector { embedding, hash: document.hash, parts }));
            }
            None => left.push(document),
        }
    }
    left
}

/// The vectors that are there for these texts, by hash: kept ones, and those of rows that a regeneration has had
/// embedded for all that have the same text. One that regenerates all takes none that is older than it.
async fn kept(context: &Context, documents: &[Document]) -> Result<HashMap<String, Kept>, DbError> {
    let since = |document: &Document| document.mark.filter(|mark| mark.anew).map(|mark| mark.since);
    let (anew, mut others): (Vec<&Document>, Vec<&Document>) = documents.iter().partition(|d| since(d).is_some());
    others.retain(|other| !anew.iter().any(|document| document.hash == other.hash));
    let mut kept = HashMap::new();
    for group in [anew, others] {
        let Some(since) = group.iter().map(|d| since(d)).min() else { continue };
        let hashes: Vec<&str> = group.iter().map(|document| document.hash.as_str()).collect();
        kept.extend(context.db.kept_vectors(&hashes, since).await?);
    }
    let led = documents.iter().filter(|document| !kept.contains_key(&document.hash));
    let leaders: HashMap<i64, &str> =
        led.filter_map(|document| Some((document.mark?.leader?, document.hash.as_str()))).collect();
    let stored = context.db.vectors_of(&Vec::from_iter(leaders.keys().copied())).await?;
    // A leader that was edited since has the vector of another text.
    kept.extend(
        stored
            .into_iter()
            .filter(|(id, hash, _)| leaders.get(id) == Some(&hash.as_str()))
            .map(|(_, hash, kept)| (hash, kept)),
    );
    Ok(kept)
}

/// Keeps what a call has made before it is written back: what dies in between is not paid for again.
async fn keep(context: &Context, made: Vec<(String, Kept)>) {
    if !made.is_empty()
        && context.embedder.is_paid()
        && let Err(error) = context.db.keep_vectors(&made).await
    {
        tracing::warn!(%error, "vectors could not be kept; their texts would be paid for again");
    }
}

/// The documents that go into a call together: all, but for those on their last attempt, which stand alone,
/// so that none is given up for what another one in its batch did to the provider.
fn groups(context: &Context, documents: Vec<Document>) -> Vec<Vec<Document>> {
    let (last, together): (Vec<_>, Vec<_>) =
        documents.into_iter().partition(|d| d.job.attempts > 0 && context.backoff.is_last(d.job.attempts));
    let mut groups = Vec::with_capacity(last.len() + 1);
    if !together.is_empty() {
        groups.push(together);
    }
    groups.extend(last.into_iter().map(|document| vec![document]));
    groups
}

async fn embed(context: &Context, documents: Vec<Document>, ended: &mut Ended) {
    if let Some(failure) = outcome::held_back(context) {
        ended.failed.extend(documents.into_iter().map(|document| (document.job, failure.clone())));
        return;
    }
    let ids: Vec<i64> = documents.iter().map(|d| d.job.task.recommendation_id).collect();
    tracing::info!(tasks = ids.len(), ?ids, "started");
    let texts: Vec<String> = documents.iter().map(|d| d.text.clone()).collect();
    let calls = context.spans("call the provider", documents.iter().map(|document| &document.job));
    let answers = embed_documents(context.embedder.as_ref(), &texts).await;
    drop(calls);
    if answers.iter().any(Result::is_ok) {
        outcome::succeeded_call(context);
    }
    for (document, answer) in documents.into_iter().zip(answers) {
        let Document { job, hash, .. } = document;
        match answer {
            Ok(made) => {
                ended.paid.push((hash.clone(), Kept { embedding: made.embedding.clone(), parts: made.parts }));
                let made = Made::Vector { embedding: made.embedding, hash, parts: made.parts };
                ended.finished.push((job, made));
            }
            Err(DocumentError::Unembeddable(reason)) => {
                ended.failed.push((job, Failure::Permanent(reason.to_string())));
            }
            Err(DocumentError::Call(error)) => ended.failed.push((job, outcome::failed_call(context, error))),
        }
    }
}

impl From<&(Job, Made)> for Finished {
    fn from((job, made): &(Job, Made)) -> Self {
        let Job { task, enqueued_at, regenerated, .. } = *job;
        Self { task, made: made.clone(), enqueued_at, regenerated }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_counts_as_long_as_the_ledger_waits_for_it() {
        use TaskState::{Dead, Pending, Published, Retrying};
        for (task, attempts, attempt, expected) in [
            (Some(Published), 0, 0, false),
            // Of a claim that was refused, or after an outage: the count goes up with a failure only.
            (Some(Published), 1, 0, false),
            (Some(Retrying), 1, 0, true),
            (Some(Retrying), 1, 1, false),
            (Some(Pending), 0, 0, false),
            (Some(Pending), 1, 0, true),
            (Some(Dead), 4, 3, true),
            // Done, or taken back.
            (None, 0, 0, true),
        ] {
            assert_eq!(has_gone_on(task, attempts, attempt), expected, "{task:?} {attempts} {attempt}");
        }
    }
}
