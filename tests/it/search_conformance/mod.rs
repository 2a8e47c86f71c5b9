//! What search must do on every back end, checked through [`Db`] alone, with vectors made by hand.
//!
//! A back end joins with one module that calls [`conformance_suite!`] with the name of an async function to a
//! fresh database. PostgreSQL always runs, whatever `MAPX_TEST_STACK` says, and fails without a server.

mod edits;
mod meaning;
mod models;
mod pgvector;
mod visibility;
mod words;

use std::sync::Arc;

use mapx_embeddings::db::embeddings::{Finished, Made};
use mapx_embeddings::db::search::{ByMeaning, ByWords, Found, Match, Scope};
use mapx_embeddings::db::{Db, ModelSpec};
use mapx_embeddings::domain::embedding::Embedding;
use mapx_embeddings::domain::keywords::content_words;
use mapx_embeddings::domain::priority::Priority;
use mapx_embeddings::domain::recommendation::{ContentType, Draft, Patch, Visibility};
use mapx_embeddings::domain::task::{EmbedTask, Target};
use sea_orm::ConnectionTrait;
use uuid::Uuid;

use crate::support::app::user;
use crate::support::data::TestData;

/// Every case as a test of its own against `$fresh`.
macro_rules! conformance_suite {
    ($fresh:path) => {
        conformance_suite! { $fresh:
            meaning::the_nearest_come_first_with_their_exact_cosines,
            meaning::nothing_under_the_floor_is_found,
            meaning::at_most_k_are_found,
            meaning::equally_near_rows_come_by_id,
            meaning::only_the_content_type_that_was_asked_for,
            meaning::a_filter_that_lets_a_hundredth_through_still_gives_k_of_k,
            meaning::thousands_of_rows_lose_hardly_a_neighbour,
            meaning::nothing_is_found_where_nothing_is,
            meaning::both_at_once_find_what_each_finds_alone,
            visibility::everybody_finds_what_they_may_see,
            visibility::a_viewer_who_follows_nobody_or_many,
            words::a_row_without_a_vector_is_found_by_its_words,
            words::all_or_any,
            words::other_forms_of_an_english_word,
            words::accents_count_neither_here_nor_there,
            words::case_does_not_count,
            words::stop_words_alone_are_words,
            words::operators_and_quotes_are_plain_words,
            words::a_very_long_list_of_words,
            words::a_very_long_word,
            words::a_very_long_text_is_stored_and_found,
            words::scripts_other_than_latin,
            words::addresses_numbers_and_hyphens,
            words::title_labels_and_subject_outrank_the_description,
            words::at_most_k_of_them,
            words::nothing_is_found_without_a_word,
            words::scores_are_above_zero_and_fall,
            words::those_found_by_words_have_their_cosines,
            edits::an_edited_row_is_found_by_its_new_words_and_vector,
            edits::a_deleted_row_is_found_no_more,
            edits::a_renamed_place_is_found_by_its_new_name,
            edits::a_renamed_service_is_found_by_its_new_name,
            edits::a_row_moves_to_another_place,
            edits::a_late_vector_of_an_old_text_is_not_found,
            models::vectors_of_another_model_are_not_searched,
            models::a_database_opened_again_finds_the_same,
        }
    };
    ($fresh:path: $($file:ident::$case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$file::$case(super::Shelf::over($fresh().await).await).await;
            }
        )*
    };
}

mod on_sqlite {
    use super::*;

    async fn fresh() -> Arc<TestData> {
        TestData::sqlite()
    }

    conformance_suite!(fresh);
}

mod on_postgres {
    use super::*;

    conformance_suite!(TestData::postgres);
}

/// Components of a vector, unless a case says otherwise.
const DIMENSIONS: usize = 4;

/// What rounding to f32 may cost.
const EPSILON: f32 = 1e-5;

/// An opened database with the few calls that the cases make.
pub struct Shelf {
    db: Db,
    data: Arc<TestData>,
}

impl Shelf {
    async fn over(data: Arc<TestData>) -> Self {
        Self::of(data, "model-a", DIMENSIONS).await
    }

    async fn of(data: Arc<TestData>, model: &str, dimensions: usize) -> Self {
        let model = ModelSpec { id: model.into(), dimensions };
        let db = Db::open(&data.settings().database, model).await.expect("the database opens");
        Self { db, data }
    }

    /// Closes the database and opens it for this model.
    async fn reopened(self, model: &str) -> Self {
        self.db.close().await;
        let data = self.data.clone();
        drop(self);
        Self::of(data, model, DIMENSIONS).await
    }

    async fn save(&self, draft: Draft) -> i64 {
        self.db.save(draft).await.expect("saved").id
    }

    async fn save_all(&self, drafts: Vec<Draft>) -> Vec<i64> {
        let mut ids = Vec::new();
        for drafts in drafts.chunks(1_000) {
            let saved = self.db.save_all(drafts.to_vec(), Priority::Low).await.expect("saved");
            ids.extend(saved.iter().map(|saved| saved.id));
        }
        ids
    }

    async fn update(&self, id: i64, patch: Patch) {
        let changed = self.db.update(id, owner(), patch).await.expect("updated");
        assert!(matches!(changed, mapx_embeddings::db::changes::Changed::Done(_)), "{changed:?}");
    }

    /// As a worker does it; whether the version was still the row's.
    async fn finish(&self, id: i64, version: i64, embedding: Embedding) -> bool {
        let task = EmbedTask { recommendation_id: id, content_version: version, target: Target::Current };
        let made = Made::Vector { embedding, hash: format!("hash of {id}"), parts: 1 };
        self.db
            .finish(vec![Finished { task, made, enqueued_at: None, regenerated: false }])
            .await
            .expect("finished")[0]
    }

    /// A statement beside the program.
    async fn execute(&self, statement: &str) {
        let conn = self.data.connect().await;
        conn.execute_unprepared(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        conn.close().await.expect("closes");
    }

    async fn find(&self, query: Option<&Embedding>, floor: f32, words: &[String], scope: Scope) -> Found {
        let meaning = query.map(|query| ByMeaning { query, floor });
        let words = Some(ByWords { words, wanted: Match::All });
        self.db.find(meaning, words, scope).await.expect("an answer")
    }

    async fn by_meaning(&self, floor: f32, scope: Scope) -> Vec<(i64, f32)> {
        let found = self.find(Some(&east()), floor, &[], scope).await;
        assert!(found.by_words.is_empty() && found.cosines.is_empty(), "{found:?}");
        found.by_meaning
    }

    /// As a query of a user's is taken apart.
    async fn by_words(&self, query: &str, wanted: Match, scope: Scope) -> Vec<i64> {
        self.by_these(&content_words(query), wanted, scope).await
    }

    async fn by_these(&self, words: &[String], wanted: Match, scope: Scope) -> Vec<i64> {
        let by_words = ByWords { words, wanted };
        let found = self.db.find(None, Some(by_words), scope).await.expect("an answer");
        assert!(found.by_meaning.is_empty() && found.cosines.is_empty(), "{found:?}");
        found.by_words.into_iter().map(|(id, _)| id).collect()
    }

    /// Ids with all of the query's words, for everybody, the smallest first.
    async fn with_words(&self, query: &str) -> Vec<i64> {
        let mut ids = self.by_words(query, Match::All, anyone(100)).await;
        ids.sort_unstable();
        ids
    }
}

fn owner() -> Uuid {
    user(1)
}

fn anyone(k: usize) -> Scope {
    Scope { viewer: None, content_type: None, k }
}

/// The direction of all queries.
fn east() -> Embedding {
    at(1.0)
}

/// A vector with this cosine to [`east`].
fn at(cosine: f32) -> Embedding {
    leaning(cosine, 1.0, 0.0)
}

/// One of many vectors with the same cosine to [`east`].
fn leaning(cosine: f32, north: f32, up: f32) -> Embedding {
    let sine = (1.0 - cosine * cosine).max(0.0).sqrt() / north.hypot(up);
    Embedding::new(vec![cosine, sine * north, sine * up, 0.0], DIMENSIONS).expect("a direction")
}

/// A public text of the owner's, without a vector.
fn text(description: &str) -> Draft {
    Draft {
        user_id: owner(),
        content_type: ContentType::Unclear,
        title: None,
        description: description.into(),
        content_data: None,
        labels: Vec::new(),
        metadata: None,
        rating: None,
        visibility: Visibility::Public,
        place: None,
        service: None,
        embedding: None,
        priority: None,
    }
}

/// The same with a vector of this cosine to every query.
fn near(description: &str, cosine: f32) -> Draft {
    Draft { embedding: Some(at(cosine)), ..text(description) }
}

fn for_friends(draft: Draft) -> Draft {
    Draft { visibility: Visibility::Friends, ..draft }
}

fn ids(hits: &[(i64, f32)]) -> Vec<i64> {
    hits.iter().map(|(id, _)| *id).collect()
}

#[track_caller]
fn assert_cosines(hits: &[(i64, f32)], expected: &[(i64, f32)]) {
    assert_eq!(ids(hits), ids(expected), "{hits:?}");
    for ((_, cosine), (_, expected)) in hits.iter().zip(expected) {
        assert!((cosine - expected).abs() < EPSILON, "{hits:?} should be {expected:?}");
    }
}
