//! Documents of any number and length through an embedder: split, packed into calls, put together again.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::{EmbedError, Embedder, Limits, Purpose, Unembeddable, panic_message};
use crate::domain::embedding::Embedding;
use crate::domain::text::split;

/// The vector of one document.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    pub embedding: Embedding,
    /// The parts of which it is the mean: 1 unless the text was longer than the model takes. Parts without a
    /// known word aren't counted.
    pub parts: usize,
}

/// Why one document got no vector.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DocumentError {
    /// Its text can't be embedded, whoever tries again.
    #[error(transparent)]
    Unembeddable(#[from] Unembeddable),
    /// A call that it needed failed, or wasn't made since one before it failed.
    #[error(transparent)]
    Call(#[from] EmbedError),
}

/// What became of one part.
#[derive(Clone)]
enum Part {
    Done(Embedding),
    /// It says nothing to the model; the text's other parts may.
    Empty(Unembeddable),
    /// The provider refuses it. Leaving it out would hide that a piece of the text is missing.
    Refused(Unembeddable),
    Failed(EmbedError),
}

/// Embeds `texts`, of any number and length: one answer a text, in order.
///
/// Equal texts are asked for once. A call that is refused is split in halves until the guilty text stands
/// alone (2·log₂ n more calls). After any other failed call no more calls are made: its texts and those still
/// to come get the error, those done before keep their vectors, so that nothing is paid for twice.
pub async fn embed_documents(embedder: &dyn Embedder, texts: &[String]) -> Vec<Result<Embedded, DocumentError>> {
    embed_texts(embedder, texts, Purpose::Document).await
}

/// As [`embed_documents`], for any purpose.
pub(super) async fn embed_texts(
    embedder: &dyn Embedder,
    texts: &[String],
    purpose: Purpose,
) -> Vec<Result<Embedded, DocumentError>> {
    let limits = embedder.limits();
    let (plan, answers) = planned(embedder, texts, purpose).await;
    // A server may tell its limits at the first call only, which then was not made.
    let learnt = embedder.limits().max_input_tokens < limits.max_input_tokens;
    let (plan, answers) = match learnt && answers.iter().all(|part| matches!(part, Part::Failed(_))) {
        true => planned(embedder, texts, purpose).await,
        false => (plan, answers),
    };
    plan.texts.iter().map(|parts| assemble(parts, &plan.parts, &answers)).collect()
}

async fn planned(embedder: &dyn Embedder, texts: &[String], purpose: Purpose) -> (Plan, Vec<Part>) {
    let plan = Plan::new(texts, embedder);
    let answers = ask(embedder, &plan, purpose).await;
    (plan, answers)
}

/// Which parts to ask for, and which of them make up each text.
struct Plan {
    /// Without duplicates.
    parts: Vec<String>,
    /// Of each part.
    tokens: Vec<usize>,
    /// For each text the indexes into `parts`; none when it is blank.
    texts: Vec<Vec<usize>>,
}

impl Plan {
    fn new(texts: &[String], embedder: &dyn Embedder) -> Self {
        let Limits { max_input_tokens, max_call_tokens, .. } = embedder.limits();
        // A part that no call may carry would be of no use.
        let max_tokens = max_input_tokens.min(max_call_tokens);
        let mut known: HashMap<&str, usize> = HashMap::new();
        let mut parts = Vec::new();
        let mut intern = |part| {
            *known.entry(part).or_insert_with(|| {
                parts.push(String::from(part));
                parts.len() - 1
            })
        };
        let texts = texts.iter().map(|text| {
            let parts = split(text, max_tokens, |part| embedder.tokens(part)).into_iter();
            parts.filter(|part| !part.is_empty()).map(&mut intern).collect()
        });
        let texts = texts.collect();
        let tokens = parts.iter().map(|part| embedder.tokens(part)).collect();
        Self { parts, tokens, texts }
    }
}

/// One answer a part. Ranges still to ask for lie on a stack, the next on top; what of it exceeds a call goes back
/// on the stack, and a refused range in halves.
async fn ask(embedder: &dyn Embedder, plan: &Plan, purpose: Purpose) -> Vec<Part> {
    let parts = &plan.parts;
    let mut answers: Vec<Option<Part>> = vec![None; parts.len()];
    let mut stack = Vec::from_iter((!parts.is_empty()).then_some(0..parts.len()));
    while let Some(range) = stack.pop() {
        let start = range.start;
        let end = start + carried(&plan.tokens[range.clone()], embedder.limits());
        if end < range.end {
            stack.push(end..range.end);
        }
        match contained(embedder, &parts[start..end], purpose).await {
            Ok(vectors) if vectors.len() == end - start => {
                for (answer, vector) in answers[start..end].iter_mut().zip(vectors) {
                    *answer = Some(vector.map_or_else(Part::Empty, Part::Done));
                }
            }
            Ok(vectors) => {
                let reason = format!("the embedder answered {} vectors for {} texts", vectors.len(), end - start);
                return fail_rest(answers, EmbedError::Transient(reason));
            }
            Err(EmbedError::Rejected(reason)) if end - start == 1 => {
                answers[start] = Some(Part::Refused(Unembeddable(reason)));
            }
            Err(EmbedError::Rejected(_)) => {
                let middle = start + (end - start) / 2;
                stack.extend([middle..end, start..middle]);
            }
            Err(error) => return fail_rest(answers, error),
        }
    }
    // Nothing is left open here; were it, it would have to be tried again.
    fail_rest(answers, EmbedError::Transient("the embedder was not asked".into()))
}

/// A call whose panic is a refusal, so that the guilty text is found and the others get their vectors.
pub(super) async fn contained(
    embedder: &dyn Embedder,
    texts: &[String],
    purpose: Purpose,
) -> Result<Vec<Result<Embedding, Unembeddable>>, EmbedError> {
    let call = AssertUnwindSafe(embedder.embed(texts, purpose)).catch_unwind().await;
    call.map(|answer| answer.map(|answer| answer.vectors)).unwrap_or_else(|panic| {
        Err(EmbedError::Rejected(format!("the embedder panicked: {}", panic_message(&*panic))))
    })
}

/// How many of the parts with these tokens the next call carries: at least one, as it fits no better later.
fn carried(tokens: &[usize], limits: Limits) -> usize {
    let mut total = 0_usize;
    let fitting = tokens.iter().take(limits.max_inputs.max(1)).take_while(|tokens| {
        total = total.saturating_add(**tokens);
        total <= limits.max_call_tokens
    });
    fitting.count().max(1)
}

fn fail_rest(answers: Vec<Option<Part>>, error: EmbedError) -> Vec<Part> {
    answers.into_iter().map(|answer| answer.unwrap_or_else(|| Part::Failed(error.clone()))).collect()
}

/// The vector of one text of the answers of its parts (indexes into `parts` and `answers`).
fn assemble(indexes: &[usize], parts: &[String], answers: &[Part]) -> Result<Embedded, DocumentError> {
    let mut done = Vec::new();
    let mut empty = None;
    for &index in indexes {
        match &answers[index] {
            Part::Done(embedding) => done.push((embedding.clone(), parts[index].len())),
            Part::Empty(reason) => empty = Some(reason.clone()),
            Part::Refused(reason) => return Err(reason.clone().into()),
            Part::Failed(error) => return Err(error.clone().into()),
        }
    }
    let unembeddable = |reason: &str| DocumentError::from(Unembeddable(reason.into()));
    match (done.len(), empty) {
        (0, Some(reason)) => Err(reason.into()),
        (0, None) => Err(unembeddable("the text is blank")),
        // As it came: the mean of one would only lose precision.
        (1, _) => Ok(Embedded { embedding: done.remove(0).0, parts: 1 }),
        (parts, _) => match Embedding::mean(&done) {
            Some(embedding) => Ok(Embedded { embedding, parts }),
            None => Err(unembeddable("the parts of the text cancel each other out")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedder::scripted::{Scripted, vector};
    use std::time::Duration;

    fn numbered(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("text {n}")).collect()
    }

    fn reason(answer: &Result<Embedded, DocumentError>) -> String {
        answer.as_ref().unwrap_err().to_string()
    }

    #[tokio::test]
    async fn texts_are_packed_into_calls_and_answered_in_order() {
        let embedder = Scripted { max_inputs: 4, ..Scripted::default() };
        let texts = numbered(10);
        let answers = embed_documents(&embedder, &texts).await;
        assert_eq!(embedder.sizes(), [4, 4, 2]);
        for (text, answer) in texts.iter().zip(answers) {
            assert_eq!(answer, Ok(Embedded { embedding: vector(text), parts: 1 }));
        }
        assert_eq!(embed_documents(&embedder, &[]).await, []);
    }

    #[tokio::test]
    async fn equal_texts_are_asked_for_once() {
        let embedder = Scripted::default();
        let texts = ["a", "b", " a ", "a"].map(String::from);
        let answers = embed_documents(&embedder, &texts).await;
        assert_eq!(embedder.sizes(), [2]);
        assert_eq!(answers[0], answers[3]);
        assert_eq!(answers[0], answers[2]);
        assert_ne!(answers[0], answers[1]);
    }

    #[tokio::test]
    async fn blank_texts_cost_no_call() {
        let embedder = Scripted::default();
        let answers = embed_documents(&embedder, &["".into(), " \n\u{2003}".into()]).await;
        assert_eq!(answers.iter().map(reason).collect::<Vec<_>>(), ["the text is blank"; 2]);
        assert!(embedder.sizes().is_empty());
    }

    #[tokio::test]
    async fn a_long_text_is_the_mean_of_its_parts_by_length() {
        let embedder = Scripted { max_input_tokens: 8, ..Scripted::default() };
        let answers = embed_documents(&embedder, &["aaaaaaaa bbb".into(), "short".into()]).await;
        let mean = Embedding::mean(&[(vector("aaaaaaaa"), 8), (vector("bbb"), 3)]).unwrap();
        assert_eq!(answers[0], Ok(Embedded { embedding: mean, parts: 2 }));
        assert_eq!(answers[1], Ok(Embedded { embedding: vector("short"), parts: 1 }));
        assert_eq!(embedder.sizes(), [3]);
    }

    #[tokio::test]
    async fn empty_parts_are_left_out_and_refused_ones_refuse_the_text() {
        let embedder = Scripted { max_input_tokens: 8, empty: "🎻", poison: "poison", ..Scripted::default() };
        let texts = ["aaaaaaaa 🎻 ", "🎻🎻 🎻", "aaaaaaaa poison", "fine"].map(String::from);
        let answers = embed_documents(&embedder, &texts).await;
        assert_eq!(answers[0], Ok(Embedded { embedding: vector("aaaaaaaa"), parts: 1 }));
        assert_eq!(reason(&answers[1]), "no word is known");
        assert_eq!(reason(&answers[2]), "refused: poison");
        assert!(matches!(answers[2], Err(DocumentError::Unembeddable(_))));
        assert_eq!(answers[3].as_ref().unwrap().embedding, vector("fine"));
    }

    #[tokio::test]
    async fn one_poison_in_a_thousand_is_found_in_few_calls() {
        for guilty in [0, 1, 499, 500, 777, 999] {
            let embedder = Scripted { poison: "poison", ..Scripted::default() };
            let mut texts = numbered(1_000);
            texts[guilty] = "poison".into();
            let answers = embed_documents(&embedder, &texts).await;
            let failed: Vec<usize> = (0..1_000).filter(|n| answers[*n].is_err()).collect();
            assert_eq!(failed, [guilty]);
            assert_eq!(reason(&answers[guilty]), "refused: poison");
            assert!(embedder.sizes().len() < 30, "{} calls", embedder.sizes().len());
        }
    }

    #[tokio::test]
    async fn a_failed_call_keeps_what_was_won_and_ends_the_asking() {
        let wait = EmbedError::Wait { after: Duration::from_secs(7), reason: "slow down".into() };
        let errors = [wait, EmbedError::Transient("down".into()), EmbedError::Misconfigured("key".into())];
        for error in errors {
            let embedder = Scripted { max_inputs: 2, fail: Some((1, error.clone())), ..Scripted::default() };
            let answers = embed_documents(&embedder, &numbered(6)).await;
            assert_eq!(embedder.sizes(), [2, 2]);
            assert!(answers[..2].iter().all(Result::is_ok));
            assert!(answers[2..].iter().all(|a| *a == Err(DocumentError::Call(error.clone()))));
        }
    }

    #[tokio::test]
    async fn an_embedder_that_miscounts_gives_nothing() {
        let embedder = Scripted { lose_one: true, ..Scripted::default() };
        let answers = embed_documents(&embedder, &numbered(3)).await;
        assert!(answers.iter().all(|a| reason(a) == "the embedder answered 2 vectors for 3 texts"));
    }

    #[tokio::test]
    async fn calls_are_packed_by_tokens_too() {
        // Bytes are tokens here: three texts of 6 in a call of 20, then one of 18 alone.
        let embedder = Scripted { max_call_tokens: 20, ..Scripted::default() };
        let mut texts = numbered(4);
        texts.push("x".repeat(18));
        let answers = embed_documents(&embedder, &texts).await;
        assert_eq!(embedder.sizes(), [3, 1, 1]);
        assert!(answers.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn a_text_beyond_what_a_call_may_carry_is_split() {
        let embedder = Scripted { max_call_tokens: 8, ..Scripted::default() };
        let answers = embed_documents(&embedder, &["aaaaaaaa bbb".into()]).await;
        assert_eq!(answers[0].as_ref().unwrap().parts, 2);
        assert_eq!(embedder.sizes(), [1, 1]);
    }
}
