//! What happened, written down for whoever wants to know, in the transaction in which it happens.

use std::collections::{HashMap, HashSet};

use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use serde_json::json;
use uuid::Uuid;

use crate::db::attempts::FailureClass;
use crate::db::regenerations::Regeneration;
use crate::db::{DbError, Tx, sql};
use crate::domain::task::EmbedTask;
use crate::domain::webhook::Event;

/// Deliveries in one statement: eleven parameters each.
const ROWS: usize = 500;

/// That the task of the regeneration's item `i` is the one that it was given by it. Not a task that was there already,
/// as of somebody's save, which the regeneration has only met; nor one that it was given since, as by a replay.
macro_rules! embedded_for {
    () => {
        "EXISTS (SELECT 1 FROM embedding_tasks t WHERE t.recommendation_id = i.recommendation_id \
         AND t.target = 'current' AND t.content_version = i.content_version AND t.enqueued_at = i.fed_at)"
    };
}

/// Steps of a write-back on PostgreSQL that tell of the rows of its step `stored` whose tasks its step `ended` has ended,
/// in its own statement: no round trip more, and no endpoint is missed that another process has just added. A message
/// that comes twice finds its task ended, and nothing is told twice. Without an endpoint that wants to be told, `told`
/// is empty before anything is read. The job is a scalar with LIMIT, which never becomes a join: without statistics, the
/// planner would read the tables from end to end. A macro of the parameters of model and moment, as the driver takes
/// only statements that are known to the compiler.
macro_rules! tell_stored {
    ($model:literal, $moment:literal) => {
        concat!(
            "told AS MATERIALIZED (SELECT s.id, s.version, \
             'msg_' || replace(CAST(gen_random_uuid() AS TEXT), '-', '') AS event_id, \
             (SELECT i.regeneration_id FROM regeneration_items i WHERE i.recommendation_id = s.id \
             AND i.content_version = s.version AND ",
            $crate::db::webhooks::events::embedded_for!(),
            " LIMIT 1) AS job FROM stored s JOIN ended ON ended.id = s.id AND ended.version = s.version WHERE EXISTS \
             (SELECT 1 FROM webhook_endpoints e WHERE e.on_ready AND e.disabled_at IS NULL)), \
             telling AS (INSERT INTO webhook_deliveries (endpoint_id, event_id, event, occurred_at, data, state, \
             attempts, failures, round, not_before, updated_at) SELECT e.id, told.event_id, 'embedding.ready', ",
            $moment,
            ", CAST(json_build_object('recommendation_id', told.id, 'content_version', told.version, \
             'status', 'ready', 'model', CAST(",
            $model,
            " AS TEXT), 'job_id', told.job) AS TEXT), 'pending', 0, 0, 0, ",
            $moment,
            ", ",
            $moment,
            " FROM told CROSS JOIN webhook_endpoints e WHERE e.on_ready AND e.disabled_at IS NULL \
             AND (e.include_regenerations OR told.job IS NULL))"
        )
    };
}

pub(in crate::db) use {embedded_for, tell_stored};

/// A row that has its vector.
pub(in crate::db) struct Ready {
    pub id: i64,
    pub content_version: i64,
}

/// A task that was given up.
pub(in crate::db) struct Dead {
    pub task: EmbedTask,
    pub attempts: i64,
    pub class: FailureClass,
}

/// Something that happened.
struct Happened {
    /// The row that it is about, and its version.
    about: Option<(i64, i64)>,
    data: serde_json::Map<String, serde_json::Value>,
}

#[derive(FromQueryResult)]
struct Listener {
    id: i64,
    include_regenerations: bool,
}

/// As [`tell_stored`] does, before the tasks are ended.
pub(in crate::db) async fn tell_ready(tx: &Tx<'_>, model: &str, ready: &[Ready]) -> Result<(), DbError> {
    let open = open_tasks(tx, ready).await?;
    let told = ready.iter().filter(|row| open.contains(&(row.id, row.content_version)));
    let happened = told.map(|Ready { id, content_version }| Happened {
        about: Some((*id, *content_version)),
        data: object(json!({
            "recommendation_id": id, "content_version": content_version, "status": "ready", "model": model,
        })),
    });
    tell(tx, Event::Ready, happened.collect()).await
}

#[derive(FromQueryResult)]
struct OpenTask {
    id: i64,
    version: i64,
}

/// Those that there is a task for.
async fn open_tasks(tx: &Tx<'_>, ready: &[Ready]) -> Result<HashSet<(i64, i64)>, DbError> {
    let mut open = HashSet::new();
    for rows in ready.chunks(ROWS) {
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let (among, values) = sql::among(tx.conn(), "recommendation_id", 1, &ids);
        let select = format!(
            "SELECT recommendation_id AS id, content_version AS version FROM embedding_tasks \
             WHERE target = 'current' AND {among}"
        );
        let found: Vec<OpenTask> = sql::all(tx.conn(), &select, values).await?;
        open.extend(found.into_iter().map(|task| (task.id, task.version)));
    }
    Ok(open)
}

/// Without the error: a provider's may quote a user's text.
pub(in crate::db) async fn tell_dead(tx: &Tx<'_>, dead: &[Dead]) -> Result<(), DbError> {
    let happened = dead.iter().map(|Dead { task, attempts, class }| Happened {
        about: Some((task.recommendation_id, task.content_version)),
        data: object(json!({
            "recommendation_id": task.recommendation_id, "content_version": task.content_version,
            "status": "failed", "attempts": attempts, "class": class.as_str(),
        })),
    });
    tell(tx, Event::Failed, happened.collect()).await
}

/// Completed, or cancelled.
pub(in crate::db) async fn tell_finished(tx: &Tx<'_>, job: &Regeneration) -> Result<(), DbError> {
    let data = object(json!({
        "job_id": job.id, "status": job.state.as_str(), "scope": job.scope.as_str(), "model": job.model,
        "total": job.total, "done": job.done, "failed": job.failed, "skipped": job.skipped,
        "created_at": job.created_at, "finished_at": job.finished_at,
    }));
    tell(tx, Event::Finished, vec![Happened { about: None, data }]).await
}

fn object(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    match value {
        serde_json::Value::Object(map) => map,
        _ => serde_json::Map::new(),
    }
}

async fn tell(tx: &Tx<'_>, event: Event, mut happened: Vec<Happened>) -> Result<(), DbError> {
    if happened.is_empty() {
        return Ok(());
    }
    let column = match event {
        Event::Ready => "on_ready",
        Event::Failed => "on_failed",
        Event::Finished | Event::Test => "on_finished",
    };
    let select = format!(
        "SELECT id, include_regenerations FROM webhook_endpoints WHERE disabled_at IS NULL AND {column} ORDER BY id"
    );
    let listeners: Vec<Listener> = sql::all(tx.conn(), &select, []).await?;
    if listeners.is_empty() {
        return Ok(());
    }
    let jobs = jobs(tx, &happened).await?;
    let mut deliveries: Vec<[Value; 2]> = Vec::new();
    let mut endpoints: Vec<i64> = Vec::new();
    for Happened { about, data } in &mut happened {
        let job = about.and_then(|about| jobs.get(&about));
        if about.is_some() {
            data.insert("job_id".into(), json!(job));
        }
        let (id, text) = (new_event_id(), serde_json::Value::Object(std::mem::take(data)).to_string());
        for listener in listeners.iter().filter(|listener| listener.include_regenerations || job.is_none()) {
            endpoints.push(listener.id);
            deliveries.push([id.clone().into(), text.clone().into()]);
        }
    }
    insert(tx, event, &endpoints, &deliveries).await
}

/// A name that no other event has: the header `webhook-id`, by which a receiver knows one that comes twice.
pub(super) fn new_event_id() -> String {
    format!("msg_{}", Uuid::new_v4().simple())
}

#[derive(FromQueryResult)]
struct Job {
    id: i64,
    version: i64,
    job: i64,
}

/// The regenerations that the rows belong to.
async fn jobs(tx: &Tx<'_>, happened: &[Happened]) -> Result<HashMap<(i64, i64), i64>, DbError> {
    let mut jobs = HashMap::new();
    let about: Vec<(i64, i64)> = happened.iter().filter_map(|happened| happened.about).collect();
    for about in about.chunks(ROWS) {
        let ids: Vec<i64> = about.iter().map(|(id, _)| *id).collect();
        let (among, values) = sql::among(tx.conn(), "i.recommendation_id", 1, &ids);
        let select = format!(
            "SELECT i.recommendation_id AS id, i.content_version AS version, i.regeneration_id AS job \
             FROM regeneration_items i WHERE {among} AND {}",
            embedded_for!()
        );
        let found: Vec<Job> = sql::all(tx.conn(), &select, values).await?;
        jobs.extend(found.into_iter().map(|row| ((row.id, row.version), row.job)));
    }
    Ok(jobs)
}

async fn insert(tx: &Tx<'_>, event: Event, endpoints: &[i64], deliveries: &[[Value; 2]]) -> Result<(), DbError> {
    let now = sql::now();
    for (endpoints, deliveries) in endpoints.chunks(ROWS).zip(deliveries.chunks(ROWS)) {
        let insert = format!(
            "INSERT INTO webhook_deliveries (endpoint_id, event_id, data, event, occurred_at, not_before, updated_at, \
             state, attempts, failures, round) VALUES {}",
            sql::tuples(endpoints.len(), 11)
        );
        let values = endpoints.iter().zip(deliveries).flat_map(|(endpoint, [id, data])| -> [Value; 11] {
            [
                (*endpoint).into(),
                id.clone(),
                data.clone(),
                event.as_str().into(),
                now.into(),
                now.into(),
                now.into(),
                "pending".into(),
                0i32.into(),
                0i32.into(),
                0i64.into(),
            ]
        });
        tx.conn().execute_raw(sql::bulk(tx.conn(), &insert, values.collect())).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use crate::config::Settings;
    use crate::config::secret::{Secret, ServerUrl};
    use crate::db::attempts::FailureClass;
    use crate::db::embeddings::{Finished, Made};
    use crate::db::tasks::{AttemptMade, FailedAttempt};
    use crate::db::webhooks::{Created, DeliveryRow};
    use crate::db::{Db, ModelSpec, sql};
    use crate::domain::embedding::Embedding;
    use crate::domain::status::TaskState;
    use crate::domain::task::{EmbedTask, Target};
    use crate::domain::webhook::request::{Chosen, NewEndpoint};

    const TASK: EmbedTask = EmbedTask { recommendation_id: 1, content_version: 1, target: Target::Current };

    /// With a row and its task.
    async fn open() -> (tempfile::TempDir, Db) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut settings = Settings::load(None, []).expect("the defaults are valid").database;
        settings.url = ServerUrl::new(format!("sqlite://{}", folder.path().join("test.db").display()));
        let db = Db::open(&settings, ModelSpec { id: "none".into(), dimensions: 2 }).await.expect("opens");
        let user = "INSERT INTO users (id, created_at) VALUES (x'00000000000000000000000000000001', '2026-01-01T00:00:00Z')";
        let row = "INSERT INTO recommendations (user_id, content_type, description, visibility, created_at, updated_at) \
            VALUES (x'00000000000000000000000000000001', 'unclear', 'somewhere', 'public', '2026-01-01T00:00:00Z', \
            '2026-01-01T00:00:00Z')";
        for statement in [user, row] {
            db.change(statement, []).await.expect("written");
        }
        (folder, db)
    }

    async fn enqueue(db: &Db) {
        let insert = "INSERT INTO embedding_tasks (recommendation_id, target, content_version, priority, state, attempts, \
            enqueued_at, not_before, updated_at) VALUES (1, 'current', 1, 1, 'published', 0, $1, $1, $1) \
            ON CONFLICT (recommendation_id, target) DO UPDATE SET state = 'published'";
        db.change(insert, [sql::now().into()]).await.expect("written");
    }

    async fn register(db: &Db) -> i64 {
        let url = "https://example.com/".to_owned();
        let new = NewEndpoint { url, description: None, chosen: Chosen::ALL, include_regenerations: false };
        match db.create_webhook(new, Secret::new("whsec_AAAA"), "test".into()).await.expect("written") {
            Created::New(endpoint) => endpoint.id,
            Created::TooMany => panic!("it is the first one"),
        }
    }

    async fn fail(db: &Db, state: TaskState) {
        let made = AttemptMade { class: FailureClass::Transient, worker: "w".into(), duration: Default::default() };
        let (error, not_before) = ("somewhere is too long".to_owned(), sql::now());
        let failure = FailedAttempt { task: TASK, attempts: 4, error, state, not_before, made: Some(made) };
        assert_eq!(db.record_failures(vec![failure]).await.expect("written"), [true]);
    }

    async fn finish(db: &Db) -> bool {
        let embedding = Embedding::new(vec![1.0, 0.0], 2).expect("a direction");
        let made = Made::Vector { embedding, hash: "h".into(), parts: 1 };
        db.finish(vec![Finished { task: TASK, made, enqueued_at: None, regenerated: false }])
            .await
            .expect("written")[0]
    }

    async fn told(db: &Db, endpoint: i64) -> Vec<DeliveryRow> {
        db.webhook_deliveries(endpoint, None, 100, None).await.expect("read")
    }

    #[tokio::test]
    async fn a_death_is_told_once_however_often_it_is_recorded_and_again_after_a_replay() {
        let (_folder, db) = open().await;
        let endpoint = register(&db).await;
        enqueue(&db).await;
        fail(&db, TaskState::Retrying).await;
        assert!(told(&db, endpoint).await.is_empty());
        for _ in 0..2 {
            fail(&db, TaskState::Dead).await;
            let told = told(&db, endpoint).await;
            assert_eq!((told.len(), told[0].event.as_str()), (1, "embedding.failed"));
            assert!(told[0].data.contains("transient") && !told[0].data.contains("somewhere"), "{}", told[0].data);
        }
        enqueue(&db).await;
        fail(&db, TaskState::Dead).await;
        let told = told(&db, endpoint).await;
        assert_eq!(told.len(), 2);
        assert_ne!(told[0].event_id, told[1].event_id);
    }

    #[tokio::test]
    async fn a_vector_is_told_once_however_often_it_is_written_back() {
        let (_folder, db) = open().await;
        let endpoint = register(&db).await;
        enqueue(&db).await;
        assert!(finish(&db).await && finish(&db).await);
        let told = told(&db, endpoint).await;
        assert_eq!((told.len(), told[0].event.as_str()), (1, "embedding.ready"));
    }

    #[tokio::test]
    async fn what_is_rolled_back_is_told_to_nobody() {
        let (_folder, db) = open().await;
        let endpoint = register(&db).await;
        enqueue(&db).await;
        let undone = db.write(|tx| {
            async move {
                super::tell_ready(tx, "none", &[super::Ready { id: 1, content_version: 1 }]).await?;
                sql::execute(tx.conn(), "INSERT INTO nowhere VALUES (1)", []).await.map(drop)
            }
            .boxed()
        });
        assert!(undone.await.is_err());
        assert!(told(&db, endpoint).await.is_empty());
    }

    #[tokio::test]
    async fn without_a_listener_nothing_is_looked_for() {
        let (_folder, db) = open().await;
        assert!(!db.listeners.may_be());
        enqueue(&db).await;
        assert!(finish(&db).await);
        register(&db).await;
        assert!(db.listeners.may_be());
    }
}
