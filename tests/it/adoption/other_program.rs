//! The other program goes on writing into its tables while the service runs.

use serde_json::{Value, json};

use super::*;
use crate::support::app::{eventually, found_ids};
use crate::support::data::server;
use crate::support::provider::Behaviour;

/// A service with nothing left to embed, and the other program's session, which has no rights beyond its own tables.
async fn beside() -> (Old, FakeProvider, TestApp, Other) {
    let old = Old::adopted().await;
    let provider = FakeProvider::start(DIMENSIONS).await;
    let app = old.serve(&provider).await;
    app.drained().await;
    let other = Other::of(&old).await;
    (old, provider, app, other)
}

struct Other {
    conn: DatabaseConnection,
    role: String,
}

impl Other {
    async fn of(old: &Old) -> Self {
        let role = old.data.name().replace("test", "other");
        old.does(&format!(
            "CREATE ROLE {role} LOGIN; GRANT ALL ON users, user_follows, categories, places, services, recommendations, \
             media TO {role}; GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}; \
             ALTER ROLE {role} SET search_path = ''"
        ))
        .await;
        let url = old.data.url().replace("postgres@", &format!("{role}@"));
        let conn = sea_orm::Database::connect(url).await.expect("the other program logs in");
        Self { conn, role }
    }

    async fn does(&self, statement: &str) {
        self.conn.execute_unprepared(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    async fn leaves(self, old: &Old) {
        self.conn.close().await.expect("closes");
        old.does(&format!("DROP OWNED BY {0}; DROP ROLE {0}", self.role)).await;
        assert!(!server("MAPX_TEST_POSTGRES_URL").is_empty());
    }
}

/// Waits until the row's vector is that of its newest text.
async fn settled(old: &Old, id: i64) -> i64 {
    let version = format!(
        "SELECT coalesce((SELECT content_version FROM recommendations r WHERE id = {id} AND embedded_version = \
         content_version AND embedding_model IS NOT NULL AND NOT EXISTS (SELECT 1 FROM embedding_tasks t WHERE \
         t.recommendation_id = r.id)), 0)"
    );
    eventually(&format!("{id} is embedded"), async || {
        Some(old.one::<i64>(&version).await).filter(|version| *version > 0)
    })
    .await
}

async fn by_words(app: &TestApp, query: &str) -> Vec<i64> {
    let body = json!({ "query": query, "mode": "keyword", "user_id": user(1) });
    let mut ids = found_ids(&app.search(&body).await);
    ids.sort_unstable();
    ids
}

const INSERT: &str = "INSERT INTO public.recommendations (user_id, content_type, description, visibility, embedding) VALUES \
    ('00000000-0000-4000-8000-000000000001', 'unclear', 'a heron at dawn', 'public', NULL), \
    ('00000000-0000-4000-8000-000000000001', 'unclear', 'a heron at dusk', 'public', NULL)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_new_rows_are_found_and_embedded_without_a_restart() {
    let (old, provider, app, other) = beside().await;
    let calls = provider.inputs().len();
    other.does(INSERT).await;
    assert_eq!(by_words(&app, "heron").await, [66, 67], "found in the same moment");
    for id in [66, 67] {
        assert_eq!(settled(&old, id).await, 1);
    }
    assert_eq!(provider.inputs().len(), calls + 2, "each paid for once");
    other.leaves(&old).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_edits_make_new_versions() {
    let (old, provider, app, other) = beside().await;
    other
        .does("UPDATE public.recommendations SET description = 'a heron ' || id, rating = 2 WHERE id IN (2, 41)")
        .await;
    assert_eq!(by_words(&app, "heron").await, [2, 41]);
    for id in [2, 41] {
        assert_eq!(settled(&old, id).await, 2);
    }
    let embedded = provider.inputs().into_iter().filter(|text| text.contains("a heron")).count();
    assert_eq!(embedded, 2);
    // What isn't embedded is no new text.
    let calls = provider.inputs().len();
    other.does("UPDATE public.recommendations SET visibility = 'public', question_id = 7 WHERE id = 2").await;
    other.does("UPDATE public.recommendations SET description = description WHERE id = 2").await;
    assert_eq!(settled(&old, 2).await, 2);
    for change in ["labels = '{calm}'", "metadata = '{\"a\": 1}'", "content_data = '{\"b\": 1}'", "title = 'T'"] {
        let before = settled(&old, 2).await;
        other.does(&format!("UPDATE public.recommendations SET {change} WHERE id = 2")).await;
        assert_eq!(settled(&old, 2).await, before + 1, "{change}");
    }
    assert_eq!(provider.inputs().len(), calls + 4);
    other.leaves(&old).await;
    app.stop().await;
}

/// An edit beside a call to the provider: the late vector of the old text isn't stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_edit_during_a_call_wins() {
    let (old, provider, app, other) = beside().await;
    let calls = provider.calls().len();
    provider.next(Behaviour::Hold);
    other.does("UPDATE public.recommendations SET description = 'first' WHERE id = 2").await;
    eventually("a call", async || (provider.calls().len() > calls).then_some(())).await;
    other.does("UPDATE public.recommendations SET description = 'second' WHERE id = 2").await;
    provider.release();
    assert_eq!(settled(&old, 2).await, 3);
    assert!(provider.inputs().last().expect("a text").contains("second"));
    other.leaves(&old).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_renames_is_embedded_again_where_it_is_shown() {
    let (old, provider, app, other) = beside().await;
    let calls = provider.inputs().len();
    other.does("UPDATE public.places SET name = 'Heronry' WHERE id = 1").await;
    let shown = old.one::<i64>("SELECT count(*) FROM recommendations WHERE place_id = 1").await;
    assert_eq!(by_words(&app, "heronry").await.len(), 10.min(shown as usize));
    app.drained().await;
    eventually("all are embedded again", async || {
        let current = "SELECT count(*) FROM recommendations WHERE place_id = 1 AND content_version = 2 AND embedded_version = 2";
        (old.one::<i64>(current).await == shown).then_some(())
    })
    .await;
    assert_eq!(provider.inputs().len(), calls + shown as usize);
    other.does("UPDATE public.places SET city_name = 'Porto', lat = 1, lng = 2 WHERE id = 1").await;
    other.does("UPDATE public.services SET name = 'Heron', phone_number = '+1' WHERE id = 1").await;
    assert_eq!(settled(&old, 63).await, 2);
    assert_eq!(provider.inputs().len(), calls + shown as usize + 1);
    other.leaves(&old).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_deletes_is_gone_and_what_it_restores_is_back() {
    let (old, provider, app, other) = beside().await;
    provider.always(Behaviour::Hold);
    other.does(INSERT).await;
    other.does("UPDATE public.recommendations SET deleted_at = now() WHERE id IN (2, 66)").await;
    assert_eq!(by_words(&app, "heron").await, [67]);
    app.get("/api/recommendations/2", Some(user(1))).await.refusal(404);
    let near = json!({ "query": "x", "mode": "keyword", "user_id": user(1) });
    assert!(!found_ids(&app.search(&near).await).contains(&2));
    assert_eq!(old.one::<i64>("SELECT count(*) FROM embedding_tasks WHERE recommendation_id = 66").await, 0);
    other.does("DELETE FROM public.recommendations WHERE id = 67").await;
    assert!(by_words(&app, "heron").await.is_empty());
    provider.behave();
    provider.release();
    other.does("UPDATE public.recommendations SET deleted_at = NULL WHERE id IN (2, 66)").await;
    settled(&old, 66).await;
    assert_eq!(settled(&old, 2).await, 1, "its text is the same");
    app.get("/api/recommendations/2", Some(user(1))).await.data(200);
    other.leaves(&old).await;
    app.stop().await;
}

/// A vector of nobody knows which model isn't searched, and doesn't pass for one of ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vectors_that_it_writes_itself_are_made_again() {
    let (old, provider, app, other) = beside().await;
    provider.when_contains("Description", Behaviour::Hold);
    let vector = "(SELECT pg_catalog.array_agg(0.5) FROM pg_catalog.generate_series(1, 1536))::public.vector";
    other.does(&format!("UPDATE public.recommendations SET embedding = {vector} WHERE id = 2")).await;
    other
        .does(&format!(
            "INSERT INTO public.recommendations (user_id, content_type, description, visibility, embedding) VALUES \
             ('00000000-0000-4000-8000-000000000001', 'unclear', 'a heron', 'public', {vector})"
        ))
        .await;
    let anything = json!({ "query": "x", "mode": "semantic", "threshold": -1.0, "limit": 100, "user_id": user(1) });
    let found = found_ids(&app.search(&anything).await);
    assert!(!found.contains(&2) && !found.contains(&66), "{found:?}");
    assert_eq!(found.len(), 62);
    provider.behave();
    provider.release();
    for id in [2, 66] {
        settled(&old, id).await;
    }
    assert_eq!(found_ids(&app.search(&anything).await).len(), 64);
    // A vector that it takes away is made again, though the text is the same.
    other.does("UPDATE public.recommendations SET embedding = NULL WHERE id = 2").await;
    settled(&old, 2).await;
    assert!(old.one::<bool>("SELECT embedding IS NOT NULL FROM recommendations WHERE id = 2").await);
    app.stop().await;
    // And no later start is refused for what it left behind.
    other.does(&format!("UPDATE public.recommendations SET embedding = {vector} WHERE id = 4")).await;
    let app = old.serve(&provider).await;
    settled(&old, 4).await;
    other.leaves(&old).await;
    app.stop().await;
}

/// Our own writes aren't taken for another's: nothing is enqueued twice or embedded for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_writes_cause_nothing_more() {
    let (old, provider, app, other) = beside().await;
    let calls = provider.inputs().len();
    let body =
        json!({ "user_id": user(1), "description": "ours", "google_place_id": "gp-1", "place_name": "Other" });
    let mut ready: Vec<Value> = Vec::new();
    let id = app.save(&body).await;
    app.drained().await;
    // The place was renamed by it, and each that shows it has one new version.
    let versions = "SELECT max(content_version) FROM recommendations WHERE place_id = 1";
    assert_eq!(old.one::<i64>(versions).await, 2);
    let shown = old.one::<i64>("SELECT count(*) FROM recommendations WHERE place_id = 1").await;
    settled(&old, id).await;
    assert_eq!(provider.inputs().len(), calls + shown as usize);
    let mut with_vector = body.clone();
    with_vector["embedding"] = json!(vec![0.25; DIMENSIONS]);
    with_vector["place_name"] = json!("Other");
    let answer = app.post("/api/recommendations/save", &with_vector).await;
    ready.push(answer.data(201)["embedding"]["status"].clone());
    let patch = json!({ "visibility": "public" });
    app.put(&format!("/api/recommendations/{id}"), Some(user(1)), &patch).await.data(200);
    assert_eq!(ready, ["ready"]);
    assert_eq!(old.one::<i64>("SELECT count(*) FROM embedding_tasks").await, 0);
    assert_eq!(provider.inputs().len(), calls + shown as usize);
    other.leaves(&old).await;
    app.stop().await;
}
