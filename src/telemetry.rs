//! Logs: pretty on a terminal, JSON otherwise, always on standard error, as standard output belongs to what
//! a command prints.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::sections::{LogFormat, LogSettings};

/// Libraries whose information is noise at our levels. lapin logs every failed attempt, and returned messages
/// with their bodies; what matters of it, the broker's room says once.
const QUIET: &str =
    "sqlx=warn,sea_orm=warn,sea_orm_migration=warn,hyper=warn,reqwest=warn,model2vec_rs=warn,lapin=off";

/// Starts logging, once a process; a second call changes nothing.
pub fn init(settings: &LogSettings) {
    // What the user says stands last and wins.
    let filter = EnvFilter::new(format!("{QUIET},{}", settings.level));
    let json = match settings.format {
        LogFormat::Auto => !stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Pretty => false,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let format = tracing_subscriber::fmt::layer().with_writer(stderr);
    let _ = if json {
        registry.with(format.json().flatten_event(true)).try_init()
    } else {
        registry.with(format.with_ansi(stderr().is_terminal()).with_target(false)).try_init()
    };
}
