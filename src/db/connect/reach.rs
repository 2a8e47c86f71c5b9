//! Reaching a PostgreSQL server: who it is, who we are, and what stands in the way.

use std::str::FromStr;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use sea_orm::sqlx::postgres::{PgConnectOptions, PgConnection};
use sea_orm::sqlx::{ConnectOptions as _, Connection, Error, Executor};
use sea_orm::{ConnectOptions, Database, DatabaseConnection};

use crate::config::sections::DatabaseSettings;
use crate::db::DbError;

/// How long a start waits for a server that can't be reached.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long a statement waits for a free connection, and an attempt for the server. A save may wait for another one
/// that waits, and is still answered within five seconds.
const ACQUIRE: Duration = Duration::from_secs(2);

/// What every connection is told.
///
/// Iterative scans, as a filter after a plain scan leaves fewer rows than were asked for: with 1 % of the rows
/// let through, 0.4 of 10. And a process that is stopped in mid-transaction gives its locks back. The
/// program's name tells the triggers that what is written here needs no watching.
const SESSION: &str = "SET hnsw.iterative_scan = relaxed_order; SET hnsw.ef_search = 100; \
    SET ivfflat.iterative_scan = relaxed_order; SET ivfflat.probes = 10; \
    SET idle_in_transaction_session_timeout = '60s'; SET mapx.program = 'mapx-embeddings'; \
    SET client_min_messages = warning";

/// The pool of a service, once the server answers.
pub(super) async fn pool(settings: &DatabaseSettings) -> Result<DatabaseConnection, DbError> {
    wait(settings).await?;
    connect(settings, settings.max_connections).await
}

/// One connection, at once or not at all.
pub(in crate::db) async fn glance(settings: &DatabaseSettings) -> Result<DatabaseConnection, DbError> {
    look(&login(settings)?).await?;
    connect(settings, 1).await
}

/// Waits for a server that doesn't answer: it may be starting at the same time.
pub(super) async fn wait(settings: &DatabaseSettings) -> Result<(), DbError> {
    let login = login(settings)?;
    let started = Instant::now();
    let pauses = ExponentialBuilder::default().with_min_delay(Duration::from_millis(100));
    let mut pauses = pauses.with_max_delay(MAX_PAUSE).without_max_times().with_jitter().build();
    let mut told = false;
    loop {
        match look(&login).await {
            Err(DbError::Unavailable(error)) if started.elapsed() < PATIENCE => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(error, "waiting for the database");
                }
                tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
            }
            outcome => return outcome,
        }
    }
}

/// Logs in once. The pool would try again until its time is up and then know no reason.
async fn look(login: &PgConnectOptions) -> Result<(), DbError> {
    match tokio::time::timeout(ACQUIRE, PgConnection::connect_with(login)).await {
        Ok(Ok(connection)) => {
            // It has served its purpose; the server notices by itself when this fails.
            let _ = connection.close().await;
            Ok(())
        }
        Ok(Err(error)) => Err(obstacle(login, error)),
        Err(_) => Err(DbError::Unavailable(format!("database.url: {} does not answer", server(login)))),
    }
}

/// Host and port, or the socket.
fn server(login: &PgConnectOptions) -> String {
    match login.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", login.get_host(), login.get_port()),
    }
}

/// Tells what doesn't mend itself from what may.
fn obstacle(login: &PgConnectOptions, error: Error) -> DbError {
    let (at, user) = (server(login), login.get_username());
    let cause = match error {
        Error::Database(cause) => cause,
        Error::Tls(cause) => return DbError::Incompatible(format!("database.url: TLS with {at}: {cause}")),
        Error::Configuration(cause) => return DbError::Incompatible(format!("database.url: {cause}")),
        Error::Io(cause) => {
            return DbError::Unavailable(format!("database.url: {at} does not answer: {cause}"));
        }
        other => return DbError::Unavailable(format!("database.url: {at} does not answer as PostgreSQL: {other}")),
    };
    let (state, message) = (cause.code().unwrap_or_default().into_owned(), cause.message());
    match (state.as_str(), state.get(..2).unwrap_or_default()) {
        (_, "28") => DbError::Incompatible(format!(
            "database.url: {at} refuses the login of {user}: {message}; check the user, database.password and the \
             server's pg_hba.conf"
        )),
        ("3D000", _) => DbError::Incompatible(format!(
            "database.url: {message} at {at}; create it (CREATE DATABASE) or name another"
        )),
        // Connections, resources, an operator's intervention, the system itself.
        (_, "08" | "53" | "57" | "58") => DbError::Unavailable(format!("database.url: {at}: {message}")),
        _ => DbError::Incompatible(format!("database.url: {at} refuses {user}: {message}")),
    }
}

/// From the URL, without what it says in a message of the driver's: a password may be part of that.
fn login(settings: &DatabaseSettings) -> Result<PgConnectOptions, DbError> {
    let parsed = PgConnectOptions::from_str(settings.url.expose());
    let login = parsed.map_err(|error| {
        let reason = match error {
            Error::Configuration(cause) => cause.to_string(),
            _ => "it can't be read".into(),
        };
        DbError::Incompatible(format!("database.url: is no PostgreSQL address: {reason}"))
    })?;
    Ok(named(login, settings).disable_statement_logging())
}

fn named(mut login: PgConnectOptions, settings: &DatabaseSettings) -> PgConnectOptions {
    if !settings.password.is_empty() {
        login = login.password(settings.password.expose());
    }
    // As the server's own views show it; a deeper name is the operator's to give in the URL.
    match login.get_application_name() {
        Some(_) => login,
        None => login.application_name("mapx-embeddings"),
    }
}

async fn connect(settings: &DatabaseSettings, connections: u32) -> Result<DatabaseConnection, DbError> {
    let mut options = ConnectOptions::new(settings.url.expose().to_owned());
    let settings = settings.clone();
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(ACQUIRE)
        .sqlx_logging(false)
        .map_sqlx_postgres_opts(move |login| named(login, &settings))
        .map_sqlx_postgres_pool_opts(move |pool| {
            // A session that stands for something, as for an advisory lock, must not be exchanged for another one.
            let pool = if connections > 1 { pool } else { pool.max_lifetime(None).idle_timeout(None) };
            pool.after_connect(|conn, _| Box::pin(async move { conn.execute(SESSION).await.map(|_| ()) }))
        });
    Ok(Database::connect(options).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::config::secret::ServerUrl;

    #[test]
    fn no_message_about_an_address_shows_its_password() {
        let mut settings = Settings::load(None, []).expect("the defaults are valid").database;
        for url in
            ["postgres://u:s3cret@h:port/db", "postgres://u:s3cret@[::1/db", "postgres://u:s3cret@h/d?sslmode=x"]
        {
            settings.url = ServerUrl::new(url);
            let error = login(&settings).expect_err("no address");
            assert!(matches!(error, DbError::Incompatible(_)), "{error:?}");
            let text = format!("{error} {error:?}");
            assert!(text.starts_with("database.url: ") && !text.contains("s3cret"), "{text}");
        }
    }
}
