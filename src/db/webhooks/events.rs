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

/// That the regeneration's item `i` has given its row a task, and that nobody has given it another since, as a replay
/// does.
macro_rules! embedded_for {
    () => {
        "i.fed_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM embedding_tasks t \
         WHERE t.recommendation_id = i.recommendation_id AND t.target = 'current' \
         AND t.content_version = i.content_version AND t.enqueued_at > i.fed_at)"
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
