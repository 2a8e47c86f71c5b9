//! Clients that remember what was acknowledged to them, and hold the database to it.

use std::collections::HashMap;
use std::time::Duration;

use mapx_embeddings::embedder::local::LocalEmbedder;
use mapx_embeddings::embedder::{Embedder, Purpose};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::app::user;
use super::data::TestData;
use super::stored::{self, Stored};

/// A client's time for one request: longer than the service's own, so that what is asked next is never
/// overtaken by what was asked before.
const TIMEOUT: Duration = Duration::from_secs(40);

const WORDS: [&str; 12] = [
    "quiet", "harbour", "violin", "bakery", "river", "mountain", "garden", "library", "market", "bicycle",
    "museum", "coffee",
];

/// A row as its client knows it.
pub struct Row {
    /// `None` while no answer to its save has come.
    id: Option<i64>,
    /// The last acknowledged text first, then those whose fate is unknown.
    texts: Vec<String>,
}

/// One client: saves rows and edits its own, and never trusts what was not acknowledged.
pub struct Witness {
    number: usize,
    random: StdRng,
    http: reqwest::Client,
    rows: Vec<Row>,
    /// Whether the database may be away: then a 503 is an answer like none.
    tolerant: bool,
}

impl Witness {
    pub fn new(number: usize, seed: u64, tolerant: bool) -> Self {
        let http = reqwest::Client::builder().timeout(TIMEOUT).build().expect("a client");
        Self { number, random: StdRng::seed_from_u64(seed + number as u64), http, rows: Vec::new(), tolerant }
    }

    /// Saves or edits a row.
    pub async fn act(&mut self, base: &str) {
        let words: Vec<&str> = (0..4).map(|_| WORDS[self.random.random_range(0..WORDS.len())]).collect();
        let text = format!("{} {} {}", words.join(" "), self.number, self.random.random::<u32>());
        let body = json!({ "user_id": user(self.number as u128), "description": text });
        let known: Vec<usize> = (0..self.rows.len()).filter(|at| self.rows[*at].id.is_some()).collect();
        if known.is_empty() || self.random.random_bool(0.5) {
            let request = self.http.post(format!("{base}/api/recommendations/save")).json(&body);
            let answer = self.acknowledged(request, 201).await;
            let id = answer.and_then(|data| data["recommendation_id"].as_i64());
            self.rows.push(Row { id, texts: vec![text] });
        } else {
            let at = known[self.random.random_range(0..known.len())];
            let id = self.rows[at].id.expect("known");
            let request = self.http.put(format!("{base}/api/recommendations/{id}")).json(&body);
            if self.acknowledged(request, 200).await.is_some() {
                self.rows[at].texts.clear();
            }
            self.rows[at].texts.push(text);
        }
    }

    /// The data of a success; `None` when there is no whole answer, as something was killed meanwhile.
    async fn acknowledged(&self, request: reqwest::RequestBuilder, expected: u16) -> Option<Value> {
        let response = request.send().await.ok()?;
        let status = response.status();
        if self.tolerant && status == StatusCode::SERVICE_UNAVAILABLE {
            return None;
        }
        assert_eq!(status.as_u16(), expected, "{:?}", response.text().await);
        let body: Value = response.json().await.ok()?;
        Some(body["data"].clone())
    }

    pub fn rows(self) -> Vec<Row> {
        self.rows
    }
}

/// Every row is one that a client knows, in the state that it was told or asked for last, with its vector.
pub async fn verify(data: &TestData, rows: Vec<Row>) {
    assert_eq!(stored::tasks(data, "%").await, 0, "open tasks");
    let stored = stored::rows(data).await;
    let lost = rows.iter().filter(|row| row.id.is_none() || row.texts.len() > 1).count();
    println!("{} rows stored; of {} asked for, {lost} with an answer that never came", stored.len(), rows.len());
    verify_vectors(&stored).await;
    let mut found: HashMap<i64, Stored> = stored.into_iter().map(|row| (row.id, row)).collect();
    for row in rows.iter().filter(|row| row.id.is_some()) {
        let stored = row.id.and_then(|id| found.remove(&id)).expect("an acknowledged save is there");
        assert!(row.texts.contains(&stored.description), "{:?} became {:?}", row.texts, stored.description);
    }
    // What is left are saves that were committed, and whose answers never came: at most one row each.
    let mut unknown: Vec<&String> = rows.iter().filter(|row| row.id.is_none()).flat_map(|row| &row.texts).collect();
    for row in found.into_values() {
        let at = unknown.iter().position(|text| **text == row.description);
        unknown.remove(at.unwrap_or_else(|| panic!("nobody saved {row:?}, or it was saved twice")));
    }
}

/// Every stored vector is that of the stored text.
async fn verify_vectors(stored: &[Stored]) {
    let texts: Vec<String> =
        stored.iter().map(|row| format!("Type: unclear. Description: {}", row.description)).collect();
    let model = LocalEmbedder::builtin().expect("the model");
    let limit = model.limits().max_inputs;
    for (rows, texts) in stored.chunks(limit).zip(texts.chunks(limit)) {
        let embeddings = model.embed(texts, Purpose::Document).await.expect("vectors").vectors;
        for (row, embedding) in rows.iter().zip(embeddings) {
            assert_eq!(row.embedded_version, Some(row.content_version), "{row:?}");
            assert!(row.holds(&embedding.expect("a vector")), "another text's vector: {}", row.description);
        }
    }
}
