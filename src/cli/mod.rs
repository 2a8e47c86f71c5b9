//! The command line.

mod client;
mod dead_letters;
mod demo;
mod healthcheck;
mod import;
mod intake;
mod out;
mod regenerate;
mod search;
mod service;
mod sparkline;
mod status;
mod table;
mod target;
mod webhooks;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use uuid::Uuid;

use target::Target;

use crate::app::App;
use crate::config::{DEFAULTS, Role, Settings, SettingsError};
use crate::domain::priority::Priority;
use crate::domain::regeneration::Scope;
use crate::{broker, db, embedder, http, shutdown, telemetry};

/// Keeps the vector embeddings of recommendations fresh and finds them by meaning.
///
/// Without a command it serves the API and embeds in the background, all in one process.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong arguments or configuration, \
    3 done but lines of an import were refused."
)]
pub struct Cli {
    /// A TOML file with the settings that differ from the defaults; the environment (MAPX__SECTION__KEY) wins
    #[arg(long, global = true, env = "MAPX_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API and embed, in one process (the default)
    All,
    /// Serve the API only; needs a broker that other processes can reach
    Serve,
    /// Embed only; needs a broker that other processes can reach
    Worker,
    /// Bring the database's schema up to date and exit
    ///
    /// In an existing MapX database, only what is missing is added: no row, vector, table or column that is
    /// there is changed.
    Migrate(MigrateArgs),
    /// Import recommendations, one JSON object a line
    ///
    /// Through the running service, or, when none runs, through one of its own that ends once everything
    /// is embedded.
    Import(ImportArgs),
    /// Find recommendations by meaning and by words
    Search(SearchArgs),
    /// Show what waits, what runs and what failed
    Status(StatusArgs),
    /// See what was given up and why; start it afresh or let it be
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Let no worker take from a lane, or from any; saves and searches go on
    Pause(intake::PauseArgs),
    /// Serve a paused lane again, or all of them
    Resume(intake::ResumeArgs),
    /// Let a worker finish what it holds and take nothing new, so that it can be stopped
    Drain(intake::DrainArgs),
    /// Have many rows embedded again, as a job of the running service
    Regenerate(RegenerateArgs),
    /// List, show, pause, resume or cancel regenerations
    Regenerations(RegenerationsArgs),
    /// Register, change, try out and delete webhooks; see what they were told and how they answered
    Webhooks(webhooks::WebhooksArgs),
    /// Print the settings in force, secrets hidden
    Config(ConfigArgs),
    /// Ask a running service or worker whether it is ready; exit code 0 if it is, for supervisors and containers
    Healthcheck(HealthcheckArgs),
    /// See everything work: import the sample, embed it, search it, then serve
    Demo(DemoArgs),
    /// Print the description of the API, OpenAPI 3.1 in JSON
    Openapi,
}

#[derive(Debug, Args)]
struct Output {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct MigrateArgs {
    /// Print the SQL that would run, and run nothing
    #[arg(long)]
    plan: bool,
    /// Keep the vectors of an existing MapX database, under the name of the model that made them
    #[arg(long, value_name = "MODEL")]
    adopt_model: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// The file, or - for standard input
    file: PathBuf,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SearchMode {
    Hybrid,
    Semantic,
    Keyword,
}

#[derive(Debug, Args)]
struct SearchArgs {
    /// What to look for, in your own words
    #[arg(required = true, num_args = 1..)]
    query: Vec<String>,
    /// Recommendations at most, 1 to 100
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100))]
    limit: u64,
    /// Least similarity of a match, -1 to 1; by default the model's own
    #[arg(long, allow_negative_numbers = true)]
    threshold: Option<f32>,
    #[arg(long, value_enum, default_value = "hybrid")]
    mode: SearchMode,
    /// Who searches: sees what the user and those it follows keep for friends
    #[arg(long, value_name = "UUID")]
    user: Option<Uuid>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Keep showing it, once a second, until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct RegenerateArgs {
    /// all (each distinct text is paid for once more), missing (no vector), stale (of another model or text) or
    /// failed (given up)
    #[arg(long, default_value = "missing", value_parser = str::parse::<Scope>)]
    scope: Scope,
    /// Only tell what it would take: rows, texts, tokens, money and time
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    /// The lane: high, normal or low, which is the default
    #[arg(long, value_parser = str::parse::<Priority>)]
    priority: Option<Priority>,
    /// Follow it to its end; Ctrl-C stops looking, not the job
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct RegenerationsArgs {
    #[command(subcommand)]
    command: RegenerationsCommand,
    #[command(flatten)]
    target: Target,
    /// Print JSON for scripts
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum RegenerationsCommand {
    /// All of them, the newest first
    List,
    /// How far one is
    Show {
        job: i64,
        /// Follow it to its end
        #[arg(long)]
        watch: bool,
    },
    /// Begin nothing more until it is resumed
    Pause { job: i64 },
    /// Go on, after a cancel too, while no other has begun
    Resume { job: i64 },
    /// End it; the vectors that are there stay
    Cancel { job: i64 },
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Print the annotated defaults instead
    #[arg(long)]
    defaults: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct HealthcheckArgs {
    /// The service's address, such as http://127.0.0.1:3000
    #[arg(required_unless_present = "worker")]
    url: Option<String>,
    /// Ask for the worker on this host, which has no address: it tells the database every few seconds how it is
    #[arg(long, conflicts_with = "url")]
    worker: bool,
    /// Seconds to wait for the answer
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Exit when everything has been shown, instead of serving on
    #[arg(long)]
    once: bool,
    /// Folder of the demo's own database, demo.db
    #[arg(long, default_value = "data", value_name = "DIR")]
    data: PathBuf,
}

impl Cli {
    /// Runs the command to its end.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let settings = Settings::load(self.config.as_deref(), environment())?;
        match self.command.unwrap_or(Command::All) {
            Command::All => serve(settings, Role::All).await,
            Command::Serve => serve(settings, Role::Serve).await,
            Command::Worker => serve(settings, Role::Worker).await,
            Command::Migrate(args) => migrate(settings, &args).await,
            Command::Import(args) => import::run(quiet(settings), args).await,
            Command::Search(args) => search::run(quiet(settings), args).await,
            Command::Status(args) => status::run(settings, args).await,
            Command::DeadLetters(args) => dead_letters::run(&settings, args).await,
            Command::Pause(args) => intake::pause(&settings, args).await,
            Command::Resume(args) => intake::resume(&settings, args).await,
            Command::Drain(args) => intake::drain(&settings, args).await,
            Command::Regenerate(args) => regenerate::run(settings, args).await,
            Command::Regenerations(args) => regenerate::jobs(settings, args).await,
            Command::Webhooks(args) => webhooks::run(&settings, args).await,
            Command::Config(args) => print_settings(&settings, &args),
            Command::Healthcheck(args) => healthcheck::run(settings, args).await,
            Command::Demo(args) => demo::run(quiet(settings), args).await,
            Command::Openapi => {
                out::line(http::openapi().to_pretty_json()?)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// Says what went wrong, unless nobody reads what was printed. Exit code 2 is for what the user can mend in
/// the configuration, 1 for everything else.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if out::nobody_reads(error) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error:#}");
    let database = matches!(error.downcast_ref(), Some(db::DbError::Incompatible(_)));
    let settings = database
        || error.is::<SettingsError>()
        || error.is::<embedder::BuildError>()
        || error.is::<broker::rabbitmq::BuildError>();
    ExitCode::from(if settings { 2 } else { 1 })
}

/// The process's variables; one that isn't Unicode can't be ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// A command that prints for a person shows warnings only, unless the user asked for more.
fn quiet(mut settings: Settings) -> Settings {
    if settings.log.level == "info" {
        settings.log.level = "warn".into();
    }
    telemetry::init(&settings.log);
    settings
}

async fn serve(settings: Settings, role: Role) -> anyhow::Result<ExitCode> {
    telemetry::init(&settings.log);
    let shutdown = shutdown::on_signal()?;
    App::build(settings, role).await?.run_until(shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

async fn migrate(settings: Settings, args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    let settings = quiet(settings);
    let adopted = args.adopt_model.as_deref();
    if args.plan {
        let plan = db::Db::plan(&settings.database, adopted).await?;
        out::line(if plan.is_empty() { "-- Nothing to do: the schema is up to date." } else { plan.trim_end() })?;
        return Ok(ExitCode::SUCCESS);
    }
    let done = db::Db::migrate(&settings.database, adopted).await?;
    let url = &settings.database.url;
    if args.output.json {
        out::line(serde_json::json!({ "database": url, "steps": done.steps, "adopted_vectors": done.vectors }))?;
        return Ok(ExitCode::SUCCESS);
    }
    match done.steps.as_slice() {
        [] => out::line(format_args!("{url} was up to date: nothing to do"))?,
        steps => out::line(format_args!("{url} is up to date: {}", steps.join(", ")))?,
    }
    if let Some(model) = adopted {
        let which = if done.vectors == 0 {
            "no vector was of an unknown model".into()
        } else {
            format!("{} vectors are now those of {model}", done.vectors)
        };
        out::line(which)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_settings(settings: &Settings, args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    if args.defaults {
        out::line(DEFAULTS.trim_end())?;
    } else if args.output.json {
        out::line(serde_json::to_string_pretty(settings)?)?;
    } else {
        out::line(settings.to_toml().trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }
}
