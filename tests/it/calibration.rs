//! The built-in model's threshold, measured on the sample.
//!
//! `judged-queries.json` holds realistic queries with those lines of the sample (from 1) that a person
//! judged to answer them, out of the ten nearest. `cargo test --test it calibration -- --nocapture` prints
//! the table that the README shows.

use mapx_embeddings::domain::body;
use mapx_embeddings::domain::embedding::Embedding;
use mapx_embeddings::domain::recommendation::Draft;
use mapx_embeddings::domain::text::Content;
use mapx_embeddings::embedder::Embedder;
use mapx_embeddings::embedder::batch::embed_documents;
use mapx_embeddings::embedder::local::LocalEmbedder;
use serde::Deserialize;

const SAMPLE: &str = include_str!("../../data/sample.ndjson");
const JUDGED: &str = include_str!("judged-queries.json");

#[derive(Deserialize)]
struct Judged {
    query: String,
    relevant: Vec<usize>,
}

/// What a threshold keeps.
struct Kept {
    relevant: f64,
    irrelevant: f64,
    rows_per_query: f64,
}

fn content(draft: Draft) -> Content {
    let place = draft.place.unwrap_or_default();
    let service = draft.service.unwrap_or_default();
    Content {
        content_type: draft.content_type,
        title: draft.title,
        description: draft.description,
        labels: draft.labels,
        rating: draft.rating,
        place_name: place.name,
        place_address: place.address,
        service_name: service.name,
        service_type: service.service_type,
        service_business_name: service.business_name,
        content_data: draft.content_data,
        metadata: draft.metadata,
    }
}

async fn embed(embedder: &dyn Embedder, texts: &[String]) -> Vec<Embedding> {
    let made = embed_documents(embedder, texts).await;
    made.into_iter().map(|made| made.expect("every text of the sample has a vector").embedding).collect()
}

/// `[query][row]`: the cosine, and whether the row answers the query.
async fn judged_cosines(embedder: &dyn Embedder) -> Vec<Vec<(f32, bool)>> {
    let lines = SAMPLE.lines().map(|line| serde_json::from_str(line).expect("the sample is JSON"));
    let texts = lines.map(|row| content(body::draft(row, None, embedder.dimensions()).expect("a body")).compose());
    let rows = embed(embedder, &texts.collect::<Vec<_>>()).await;
    let judged: Vec<Judged> = serde_json::from_str(JUDGED).expect("judgements");
    let queries = embed(embedder, &judged.iter().map(|j| j.query.clone()).collect::<Vec<_>>()).await;
    let cosine = |a: &Embedding, b: &Embedding| a.as_slice().iter().zip(b.as_slice()).map(|(x, y)| x * y).sum();
    let row = |query, relevant: &[usize]| -> Vec<(f32, bool)> {
        rows.iter().zip(1..).map(|(row, line)| (cosine(query, row), relevant.contains(&line))).collect()
    };
    queries.iter().zip(&judged).map(|(query, judged)| row(query, &judged.relevant)).collect()
}

fn kept(cosines: &[Vec<(f32, bool)>], threshold: f32) -> Kept {
    let all = || cosines.iter().flatten();
    let share = |wanted: bool| {
        let of = all().filter(|(_, relevant)| *relevant == wanted);
        of.clone().filter(|(cosine, _)| *cosine >= threshold).count() as f64 / of.count() as f64
    };
    let rows = all().filter(|(cosine, _)| *cosine >= threshold).count();
    Kept { relevant: share(true), irrelevant: share(false), rows_per_query: rows as f64 / cosines.len() as f64 }
}

#[tokio::test]
async fn the_threshold_keeps_the_answers_and_drops_the_rest() {
    let local = LocalEmbedder::builtin().expect("the built-in model");
    let cosines = judged_cosines(&local).await;
    println!("threshold  answers kept  others dropped  rows a query");
    for threshold in [0.18, 0.20, 0.22, 0.24, 0.26, 0.30, 0.70] {
        let kept = kept(&cosines, threshold);
        println!(
            "{threshold:<9.2}  {:>11.1} %  {:>13.1} %  {:>12.1}",
            kept.relevant * 100.0,
            (1.0 - kept.irrelevant) * 100.0,
            kept.rows_per_query
        );
    }
    let default = kept(&cosines, local.default_threshold());
    assert!(default.relevant >= 0.9, "keeps {:.3} of the answers", default.relevant);
    assert!(default.irrelevant <= 0.05, "keeps {:.3} of the others", default.irrelevant);
    assert!(kept(&cosines, 0.7).relevant < 0.1, "MapX's threshold of another model would do, and doesn't");
}
