//! `webhooks`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::client::Client;
use super::table::{rows, text};
use super::{Target, out, table};
use crate::config::Settings;

const WEBHOOKS: &str = "/api/webhooks";
/// Characters of a cell.
const WIDEST: usize = 60;
/// How often to look whether a test was answered, and for how long beyond the time that a request may take.
const LOOK: Duration = Duration::from_millis(100);
const BEYOND: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct WebhooksArgs {
    #[command(subcommand)]
    command: WebhooksCommand,
    #[command(flatten)]
    target: Target,
    /// Print JSON for scripts
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum WebhooksCommand {
    /// List them
    List,
    /// Register one; its secret is printed once
    Create {
        /// Where requests are sent to
        endpoint: String,
        #[command(flatten)]
        what: What,
        /// For people
        #[arg(long)]
        description: Option<String>,
    },
    /// Show one
    Show { id: i64 },
    /// Change which events one is told of
    Filter {
        id: i64,
        #[command(flatten)]
        what: What,
        /// Not to tell of each row of a regeneration any more
        #[arg(long, conflicts_with = "include_regenerations")]
        exclude_regenerations: bool,
    },
    /// Tell one again, that was disabled
    Enable { id: i64 },
    /// Tell one nothing until it is enabled again
    Disable { id: i64 },
    /// Delete one with its log
    Delete {
        id: i64,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Send a webhook.test and wait for the answer; exit code 0 if it is taken
    Test { id: i64 },
    /// List what one was told, the newest first
    Deliveries {
        id: i64,
        /// pending, published, retrying, delivered or failed
        #[arg(long)]
        state: Option<String>,
        /// Deliveries at most, 1 to 100
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100))]
        limit: u64,
        /// Go on after a page before, whose end says how
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Show a delivery with every request and answer
    Delivery { id: i64, delivery: i64 },
    /// Send what was delivered or given up once more, under the same webhook-id
    Redeliver { id: i64, delivery: i64 },
    /// Give one another secret, printed once; the old one goes on to sign for webhook.secret_overlap_ms
    Rotate { id: i64 },
}

#[derive(Debug, Args)]
struct What {
    /// embedding.ready, embedding.failed or regeneration.finished; may be given several times
    #[arg(long = "event", value_name = "EVENT")]
    events: Vec<String>,
    /// Tell of each row that a regeneration embeds, too
    #[arg(long)]
    include_regenerations: bool,
}

impl What {
    fn fields(self) -> Map<String, Value> {
        let mut fields = Map::new();
        if !self.events.is_empty() {
            fields.insert("events".into(), json!(self.events));
        }
        if self.include_regenerations {
            fields.insert("include_regenerations".into(), json!(true));
        }
        fields
    }
}

pub async fn run(settings: &Settings, args: WebhooksArgs) -> anyhow::Result<ExitCode> {
    let client = args.target.client(settings)?;
    let print = Print { json: args.json };
    match args.command {
        WebhooksCommand::List => print.of(&client.get(WEBHOOKS).await?, list),
        WebhooksCommand::Create { endpoint, what, description } => {
            let mut body = what.fields();
            body.insert("url".into(), json!(endpoint));
            body.extend(description.map(|text| ("description".into(), json!(text))));
            print.of(&client.post(WEBHOOKS, &Value::Object(body), None).await?, with_secret)
        }
        WebhooksCommand::Show { id } => print.of(&client.get(&at(id)).await?, one),
        WebhooksCommand::Filter { id, what, exclude_regenerations } => {
            let mut body = what.fields();
            if exclude_regenerations {
                body.insert("include_regenerations".into(), json!(false));
            }
            if body.is_empty() {
                bail!("what is to change? Name --event, --include-regenerations or --exclude-regenerations");
            }
            print.of(&client.patch(&at(id), &Value::Object(body)).await?, one)
        }
        WebhooksCommand::Enable { id } => {
            print.of(&client.patch(&at(id), &json!({ "enabled": true })).await?, |_| format!("{id} is enabled"))
        }
        WebhooksCommand::Disable { id } => {
            print.of(&client.patch(&at(id), &json!({ "enabled": false })).await?, |_| format!("{id} is disabled"))
        }
        WebhooksCommand::Delete { id, yes } => delete(&client, print, id, yes).await,
        WebhooksCommand::Test { id } => test(settings, &client, print, id).await,
        WebhooksCommand::Deliveries { id, state, limit, cursor } => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("limit", &limit.to_string());
            query.extend_pairs(state.map(|state| ("state", state)));
            query.extend_pairs(cursor.map(|cursor| ("cursor", cursor)));
            print.of(&client.get(&format!("{}/deliveries?{}", at(id), query.finish())).await?, deliveries)
        }
        WebhooksCommand::Delivery { id, delivery } => {
            print.of(&client.get(&format!("{}/deliveries/{delivery}", at(id))).await?, delivery_of)
        }
        WebhooksCommand::Redeliver { id, delivery } => {
            let path = format!("{}/deliveries/{delivery}/redeliver", at(id));
            let done = client.post(&path, &json!({}), None).await?;
            print.of(&done, |_| {
                format!("delivery {delivery} is sent once more; see `webhooks delivery {id} {delivery}`")
            })
        }
        WebhooksCommand::Rotate { id } => {
            print.of(&client.post(&format!("{}/rotate-secret", at(id)), &json!({}), None).await?, with_secret)
        }
    }
}

fn at(id: i64) -> String {
    format!("{WEBHOOKS}/{id}")
}

/// For a person or for a script.
#[derive(Clone, Copy)]
struct Print {
    json: bool,
}

impl Print {
    fn of(self, data: &Value, describe: impl Fn(&Value) -> String) -> anyhow::Result<ExitCode> {
        out::line(if self.json { serde_json::to_string_pretty(data)? } else { describe(data) })?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn delete(client: &Client, print: Print, id: i64, yes: bool) -> anyhow::Result<ExitCode> {
    if !yes
        && !out::agreed(&format!(
            "delete webhook {id} ({}) and its log",
            text(&client.get::<Value>(&at(id)).await?["url"])
        ))?
    {
        out::line("Nothing is done.")?;
        return Ok(ExitCode::SUCCESS);
    }
    print.of(&client.delete(&at(id)).await?, |_| format!("{id} is deleted"))
}

async fn test(settings: &Settings, client: &Client, print: Print, id: i64) -> anyhow::Result<ExitCode> {
    let sent: Value = client.post(&format!("{}/test", at(id)), &json!({}), None).await?;
    let path = format!("{}/deliveries/{}", at(id), text(&sent["id"]));
    let until = Instant::now() + settings.webhook.timeout() + BEYOND;
    loop {
        let delivery: Value = client.get(&path).await?;
        let state = delivery["state"].as_str().unwrap_or_default();
        if ["delivered", "failed"].contains(&state) {
            print.of(&delivery, delivery_of)?;
            return Ok(if state == "delivered" { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if Instant::now() >= until {
            bail!("the test is still {state}; see `webhooks delivery {id} {}`", text(&sent["id"]));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn lines(data: &Value, fields: &[&str]) -> String {
    fields.iter().map(|field| format!("{field:<22} {}", text(&data[*field]))).collect::<Vec<_>>().join("\n")
}

fn list(data: &Value) -> String {
    let head = ["id", "enabled", "failing since", "events", "url"];
    table::render(&head, &rows(data, &["id", "enabled", "failing_since", "events", "url"]), WIDEST)
}

fn one(data: &Value) -> String {
    let fields = ["id", "url", "description", "events", "include_regenerations", "enabled", "disabled_at"];
    let more = ["disabled_reason", "failing_since", "previous_secret_until", "created_at", "updated_at"];
    format!("{}\n{}", lines(data, &fields), lines(data, &more))
}

fn with_secret(data: &Value) -> String {
    let note = "Keep the secret: it is not shown again.";
    format!("{}\n{}\n{note}", lines(data, &["secret"]), one(data))
}

fn deliveries(data: &Value) -> String {
    let head = ["id", "event", "state", "attempts", "created at", "status", "ms", "error"];
    let fields = ["id", "event", "state", "attempts", "created_at"];
    let last = ["last_attempt/status", "last_attempt/duration_ms", "last_attempt/error"];
    let table = table::render(&head, &rows(&data["items"], &[&fields[..], &last].concat()), WIDEST);
    match data["next_cursor"].as_str() {
        Some(cursor) => format!("{table}\nmore: --cursor {cursor}"),
        None => table,
    }
}

fn delivery_of(data: &Value) -> String {
    let fields = ["id", "event", "event_id", "state", "attempts", "next_attempt_at", "created_at", "payload"];
    let head = ["attempt", "at", "status", "ms", "error", "response"];
    let history = rows(&data["history"], &["attempt", "at", "status", "duration_ms", "error", "response"]);
    format!("{}\n{}", lines(data, &fields), table::render(&head, &history, WIDEST))
}
