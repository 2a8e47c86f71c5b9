//! How fast a backlog drains with an embedder that costs nothing, beside what the servers alone do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use mapx_embeddings::app::App;
use mapx_embeddings::config::Role;
use mapx_embeddings::config::secret::ServerUrl;
use mapx_embeddings::config::sections::VectorIndexKind;
use mapx_embeddings::domain::embedding::Embedding;
use mapx_embeddings::domain::priority::Priority;
use mapx_embeddings::embedder::{Answer, EmbedError, Embedder, Limits, Purpose, Unembeddable};
use sea_orm::prelude::PgVector;
use sea_orm::sqlx;
use tokio_util::sync::CancellationToken;

use crate::cpu::{PerTask, Spent};
use crate::saves::draft;
use crate::stack::{Data, median, server};

/// Texts in a call of the free embedder, and rows in a raw UPDATE.
const BATCH: usize = 250;

/// A direction out of the text's length and last bytes: free, finite and not zero.
struct Free {
    dimensions: usize,
}

fn vector(seed: usize, dimensions: usize) -> Vec<f32> {
    (0..dimensions).map(|n| ((seed.wrapping_mul(31).wrapping_add(n * n)) % 97) as f32 + 1.0).collect()
}

#[async_trait]
impl Embedder for Free {
    fn model(&self) -> &str {
        "free"
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn limits(&self) -> Limits {
        Limits {
            max_inputs: BATCH,
            max_input_tokens: 100_000,
            max_call_tokens: usize::MAX,
            worthwhile_inputs: BATCH,
        }
    }

    /// As with the built-in model, so that no vector is kept for later.
    fn is_paid(&self) -> bool {
        false
    }

    fn default_threshold(&self) -> f32 {
        0.5
    }

    async fn embed(&self, texts: &[String], _purpose: Purpose) -> Result<Answer, EmbedError> {
        let made = texts.iter().map(|text| {
            let seed = text.bytes().fold(0, |sum: usize, byte| sum.wrapping_mul(131).wrapping_add(byte.into()));
            Embedding::new(vector(seed, self.dimensions), self.dimensions).map_err(|e| Unembeddable(e.to_string()))
        });
        Ok(Answer::of(made))
    }
}

/// Tasks a second from a ledger full of them to an empty one, and whose processor time each takes. With up to `bundle`
/// tasks in a message, or as many as by default.
async fn pipeline(
    dimensions: usize,
    index: VectorIndexKind,
    tasks: usize,
    bundle: Option<usize>,
) -> (f64, PerTask) {
    let data = Data::new().await;
    let mut settings = data.settings();
    settings.broker.bundle = bundle.unwrap_or(settings.broker.bundle);
    settings.database.vector_index = index;
    settings.broker.url = ServerUrl::new(server("MAPX_TEST_AMQP_URL"));
    settings.broker.prefix = data.name.clone();
    settings.server.bind = "127.0.0.1:0".parse().expect("an address");
    let embedder = Arc::new(Free { dimensions });
    let app = App::build_with(settings, Role::All, embedder).await.expect("builds");
    let db = app.db().clone();
    for start in (0..tasks).step_by(1000) {
        let drafts = (start..(start + 1000).min(tasks)).map(|n| draft(1, n, false)).collect();
        db.save_all(drafts, Priority::Normal).await.expect("saved");
    }
    let pool = sqlx::PgPool::connect(&data.url()).await.expect("connects");
    // What the server does on the side for tables that were filled a moment ago is no part of a drain: in some runs it
    // took a twentieth of both cores, in others it came later.
    sqlx::raw_sql("VACUUM ANALYZE").execute(&pool).await.expect("vacuumed");
    let shutdown = CancellationToken::new();
    let (before, started) = (Spent::now(), Instant::now());
    let running = tokio::spawn(app.run_until(shutdown.clone()));
    let limit = Duration::from_secs(300);
    let open = "SELECT EXISTS (SELECT 1 FROM embedding_tasks)";
    while sqlx::query_scalar::<_, bool>(open).fetch_one(&pool).await.expect("an answer") {
        assert!(started.elapsed() < limit, "not drained within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rate = tasks as f64 / started.elapsed().as_secs_f64();
    let spent = Spent::now().per_task(before, tasks);
    pool.close().await;
    shutdown.cancel();
    running.await.expect("no panic").expect("ends well");
    delete_queues(&data.name).await;
    data.end().await;
    (rate, spent)
}

pub async fn delete_queues(prefix: &str) {
    let api = server("MAPX_TEST_RABBITMQ_API");
    let http = reqwest::Client::new();
    let queues = http.get(format!("{api}/api/queues/%2F?columns=name")).send().await.expect("an answer");
    for queue in queues.json::<Vec<serde_json::Value>>().await.expect("JSON") {
        let name = queue["name"].as_str().unwrap_or_default();
        if name.starts_with(prefix) {
            let _ = http.delete(format!("{api}/api/queues/%2F/{name}")).send().await;
        }
    }
}

/// How the messages of a batch are handed to lapin.
#[derive(Clone, Copy)]
enum Publishing {
    /// Each when the one before is written, as in its examples.
    InTurn,
    /// All before the first is written, as our publisher does.
    AtOnce,
}

/// Messages a second through one quorum queue with the arguments of a lane: published with confirms in batches of 500
/// while a consumer acks in runs of 32.
async fn raw_broker(messages: usize, publishing: Publishing) -> f64 {
    let url = server("MAPX_TEST_AMQP_URL");
    let connect = || Connection::connect(&url, ConnectionProperties::default());
    let (sender, receiver) = (connect().await.expect("connects"), connect().await.expect("connects"));
    let (out, back) =
        (sender.create_channel().await.expect("a channel"), receiver.create_channel().await.expect("a channel"));
    let name = format!("raw-{}", uuid::Uuid::new_v4().simple());
    // Those of a lane.
    let mut arguments = FieldTable::default();
    for (key, value) in [
        ("x-queue-type", "quorum"),
        ("x-overflow", "reject-publish"),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-dead-letter-exchange", "amq.fanout"),
    ] {
        arguments.insert(key.into(), AMQPValue::LongString(value.into()));
    }
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(20));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    out.queue_declare(name.clone().into(), durable, arguments).await.expect("declared");
    out.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    back.basic_qos(1_000, BasicQosOptions::default()).await.expect("a prefetch");
    let mut deliveries = back
        .basic_consume(name.clone().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .expect("consumes");
    let body = [b'x'; 120];
    let started = Instant::now();
    let publish = async {
        for start in (0..messages).step_by(500) {
            let batch = (start..(start + 500).min(messages)).map(|_| {
                let properties = BasicProperties::default().with_delivery_mode(2);
                let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                out.basic_publish("".into(), name.clone().into(), options, &body, properties)
            });
            let confirms = match publishing {
                Publishing::InTurn => stream::iter(batch).then(|sending| sending).collect().await,
                Publishing::AtOnce => join_all(batch).await,
            };
            let confirms: Vec<_> = confirms.into_iter().map(|sent| sent.expect("sent")).collect();
            for confirm in confirms.into_iter().rev() {
                confirm.await.expect("confirmed");
            }
        }
    };
    let consume = async {
        for n in 1..=messages {
            let delivery = deliveries.next().await.expect("a delivery").expect("a delivery");
            if n % 32 == 0 || n == messages {
                delivery.acker.ack(BasicAckOptions { multiple: true }).await.expect("acked");
            }
        }
    };
    tokio::join!(publish, consume);
    let rate = messages as f64 / started.elapsed().as_secs_f64();
    out.queue_delete(name.into(), QueueDeleteOptions::default()).await.expect("deleted");
    sender.close(200, "done".into()).await.expect("closes");
    receiver.close(200, "done".into()).await.expect("closes");
    rate
}

/// Rows a second by `UPDATE … FROM unnest` on a table with nothing but a key and the vector.
async fn raw_update(dimensions: usize, index: VectorIndexKind, rows: usize) -> f64 {
    let data = Data::new().await;
    let pool = sqlx::PgPool::connect(&data.url()).await.expect("connects");
    let hnsw = match index {
        VectorIndexKind::Hnsw => {
            "CREATE INDEX ON raw USING hnsw (embedding vector_cosine_ops) WITH (ef_construction = 100);"
        }
        VectorIndexKind::None => "",
    };
    let table = format!(
        "CREATE EXTENSION IF NOT EXISTS vector; CREATE TABLE raw (id BIGINT PRIMARY KEY, embedding VECTOR({dimensions})); \
         INSERT INTO raw (id) SELECT n FROM generate_series(1, {rows}) n; {hnsw}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(table)).execute(&pool).await.expect("a table");
    let update = "UPDATE raw SET embedding = made.embedding FROM unnest($1::bigint[], $2::vector[]) AS made (id, embedding) \
                  WHERE raw.id = made.id";
    let started = Instant::now();
    for start in (1..=rows).step_by(BATCH) {
        let ids: Vec<i64> = (start..(start + BATCH).min(rows + 1)).map(|id| id as i64).collect();
        let vectors: Vec<PgVector> =
            ids.iter().map(|id| PgVector::from(vector(*id as usize, dimensions))).collect();
        sqlx::query(update).bind(&ids).bind(&vectors).execute(&pool).await.expect("updated");
    }
    let rate = rows as f64 / started.elapsed().as_secs_f64();
    pool.close().await;
    data.end().await;
    rate
}

pub async fn run(named: &[String]) {
    println!("\n## Drain with a free embedder, beside the raw rates of both servers (medians of three)\n");
    // Enough to take some seconds: connecting and declaring take a quarter of one.
    let kinds = [
        (256, VectorIndexKind::None, "256-none", 120_000),
        (256, VectorIndexKind::Hnsw, "256-hnsw", 12_000),
        (1536, VectorIndexKind::None, "1536-none", 60_000),
        (1536, VectorIndexKind::Hnsw, "1536-hnsw", 4_000),
    ];
    let all = !kinds.iter().any(|(.., name, _)| named.iter().any(|wanted| wanted == name));
    for (dimensions, index, name, tasks) in kinds {
        if !all && !named.iter().any(|wanted| wanted == name) {
            continue;
        }
        let (mut ours, mut in_turn, mut at_once, mut update) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut spent, mut singly) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            in_turn.push(raw_broker(tasks.max(10_000), Publishing::InTurn).await);
            at_once.push(raw_broker(tasks.max(10_000), Publishing::AtOnce).await);
            update.push(raw_update(dimensions, index, tasks).await);
            let (rate, of_each) = pipeline(dimensions, index, tasks, None).await;
            ours.push(rate);
            spent.push(of_each);
            singly.push(pipeline(dimensions, index, tasks, Some(1)).await.0);
        }
        let [ours, singly, in_turn, at_once, update] = [ours, singly, in_turn, at_once, update].map(median);
        println!("{name}: raw broker {in_turn:.0}/s ({at_once:.0}/s at once), raw unnest {update:.0}/s");
        for (how, rate) in [("", ours), (", each in a message of its own", singly)] {
            println!(
                "    {rate:.0} tasks/s{how}: {:.2} of the slower ({:.2})",
                rate / in_turn.min(update),
                rate / at_once.min(update)
            );
        }
        spent.iter().for_each(|of_each| println!("    a task: {of_each}"));
    }
}
