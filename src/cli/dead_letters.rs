//! `dead-letters`.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::client::Client;
use super::status::number;
use super::table::{rows, text};
use super::{Output, Target, out, table};
use crate::config::Settings;

const DEAD_LETTERS: &str = "/api/recommendations/embedding-queue/dead-letters";
/// Characters of a cell.
const WIDEST: usize = 60;

#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// List them, the last one to die first
    List {
        #[command(flatten)]
        filter: Filter,
        /// Dead letters at most, 1 to 100
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100))]
        limit: u64,
        /// Go on after a page before, whose end says how
        #[arg(long)]
        cursor: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Count them by their error
    Groups {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        common: Common,
    },
    /// Show one with all its attempts
    Show {
        /// The recommendation's id
        id: i64,
        #[command(flatten)]
        common: Common,
    },
    /// Start some afresh, at low priority unless told otherwise
    Replay {
        #[command(flatten)]
        which: Which,
        /// The lane they go to: high, normal or low
        #[arg(long)]
        priority: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Leave some without a vector until somebody edits them
    Discard {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

/// All that meet every condition.
#[derive(Debug, Args)]
struct Filter {
    /// Part of the error, or of its group's name
    #[arg(long)]
    error: Option<String>,
    /// high, normal or low
    #[arg(long)]
    lane: Option<String>,
    /// Died before: a duration ago (90s, 15m, 2h, 7d) or a moment (RFC 3339)
    #[arg(long, value_name = "AGE")]
    older_than: Option<String>,
    /// Died since
    #[arg(long, value_name = "AGE")]
    newer_than: Option<String>,
}

#[derive(Debug, Args)]
struct Which {
    /// One recommendation; may be given several times
    #[arg(long, value_name = "ID", conflicts_with_all = ["error", "lane", "older_than", "newer_than", "all"])]
    id: Vec<i64>,
    /// All there are
    #[arg(long, conflicts_with_all = ["error", "lane", "older_than", "newer_than"])]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

impl Filter {
    fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let fields = [
            ("error", &self.error),
            ("lane", &self.lane),
            ("older_than", &self.older_than),
            ("newer_than", &self.newer_than),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    fn query(&self) -> form_urlencoded::Serializer<'static, String> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.fields());
        query
    }
}

impl Which {
    /// The body that names them.
    fn body(&self) -> anyhow::Result<Map<String, Value>> {
        let fields: Map<String, Value> =
            self.filter.fields().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        let body = match (self.id.is_empty(), fields.is_empty() && !self.all) {
            (false, _) => json!({ "ids": self.id }),
            (true, false) => json!({ "filter": fields }),
            (true, true) => bail!("which ones? Name --id, --error, --lane, --older-than, --newer-than or --all"),
        };
        Ok(body.as_object().cloned().unwrap_or_default())
    }

    /// How many that may be, for the question.
    async fn count(&self, client: &Client) -> anyhow::Result<u64> {
        if !self.id.is_empty() {
            return Ok(self.id.len() as u64);
        }
        let groups: Value = client.get(&format!("{DEAD_LETTERS}/groups?{}", self.filter.query().finish())).await?;
        Ok(number(&groups["total"]))
    }
}

pub async fn run(settings: &Settings, args: DeadLettersArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        DeadLettersCommand::List { filter, limit, cursor, common } => {
            let mut query = filter.query();
            query.append_pair("limit", &limit.to_string());
            query.extend_pairs(cursor.map(|cursor| ("cursor", cursor)));
            show(settings, &common, &format!("{DEAD_LETTERS}?{}", query.finish()), list).await
        }
        DeadLettersCommand::Groups { filter, common } => {
            show(settings, &common, &format!("{DEAD_LETTERS}/groups?{}", filter.query().finish()), groups).await
        }
        DeadLettersCommand::Show { id, common } => {
            show(settings, &common, &format!("{DEAD_LETTERS}/{id}"), one).await
        }
        DeadLettersCommand::Replay { which, priority, common } => {
            let more = priority.map(|lane| ("priority".to_owned(), json!(lane)));
            order(settings, &common, "replay", which, more).await
        }
        DeadLettersCommand::Discard { which, common } => order(settings, &common, "discard", which, None).await,
    }
}

async fn show(
    settings: &Settings,
    common: &Common,
    path: &str,
    describe: impl Fn(&Value) -> String,
) -> anyhow::Result<ExitCode> {
    let data: Value = common.target.client(settings)?.get(path).await?;
    out::line(if common.output.json { serde_json::to_string_pretty(&data)? } else { describe(&data) })?;
    Ok(ExitCode::SUCCESS)
}

async fn order(
    settings: &Settings,
    common: &Common,
    action: &str,
    which: Which,
    more: Option<(String, Value)>,
) -> anyhow::Result<ExitCode> {
    let mut body = which.body()?;
    body.extend(more);
    let client = common.target.client(settings)?;
    if !which.yes && !out::agreed(&format!("{action} {} dead letters", which.count(&client).await?))? {
        out::line("Nothing is done.")?;
        return Ok(ExitCode::SUCCESS);
    }
    let done: Value = client.post(&format!("{DEAD_LETTERS}/{action}"), &Value::Object(body), None).await?;
    let count = number(&done["count"]);
    match common.output.json {
        true => out::line(done)?,
        false if action == "replay" => out::line(format_args!("{count} replayed"))?,
        false => out::line(format_args!("{count} discarded"))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(data: &Value) -> String {
    let head = ["id", "lane", "attempts", "failed at", "error", "text"];
    let fields = ["recommendation_id", "lane", "attempts", "failed_at", "error", "excerpt"];
    let table = table::render(&head, &rows(&data["items"], &fields), WIDEST);
    match data["next_cursor"].as_str() {
        Some(cursor) => format!("{table}\nmore: --cursor {cursor}"),
        None => table,
    }
}

fn groups(data: &Value) -> String {
    let head = ["count", "first seen", "last seen", "example", "error"];
    let fields = ["count", "first_seen", "last_seen", "example_id", "error"];
    let table = table::render(&head, &rows(&data["groups"], &fields), WIDEST);
    format!("{table}\n{} in all", number(&data["total"]))
}

fn one(data: &Value) -> String {
    let mut lines: Vec<String> = ["recommendation_id", "lane", "attempts", "error", "failed_at", "enqueued_at"]
        .into_iter()
        .chain(["content_version", "discarded_at", "title", "excerpt"])
        .map(|field| format!("{field:<18} {}", text(&data[field])))
        .collect();
    let head = ["attempt", "at", "class", "ms", "worker", "error"];
    let fields = ["attempt", "at", "class", "duration_ms", "worker", "error"];
    lines.push(table::render(&head, &rows(&data["history"], &fields), WIDEST));
    lines.join("\n")
}
