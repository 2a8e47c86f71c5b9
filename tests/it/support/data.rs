//! A database of a test's own: a SQLite file, or a database on the PostgreSQL server of `scripts/services`.
//!
//! Which of them, says the environment: with `MAPX_TEST_STACK=full` the same tests run over PostgreSQL and
//! RabbitMQ, and fail where these are missing.

use std::path::Path;
use std::sync::Arc;

use mapx_embeddings::config::Settings;
use mapx_embeddings::config::secret::ServerUrl;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use tempfile::TempDir;
use uuid::Uuid;

use super::rabbit::Vhost;

/// Whether the servers of production are used.
pub fn full_stack() -> bool {
    match std::env::var("MAPX_TEST_STACK").as_deref() {
        Err(_) | Ok("embedded") => false,
        Ok("full") => true,
        Ok(other) => panic!("MAPX_TEST_STACK={other:?}: must be \"embedded\" or \"full\""),
    }
}

/// The address of a test server; a test that needs one that isn't there fails.
pub fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run scripts/services, see its `env`"))
}

/// What outlives one app of a test and ends with the last.
pub struct TestData {
    folder: TempDir,
    database: Option<PostgresDatabase>,
    /// On RabbitMQ.
    vhost: Option<Vhost>,
}

struct PostgresDatabase {
    /// A URL of the server, of another database.
    server: String,
    name: String,
}

impl TestData {
    /// Empty; the stack is that of the environment.
    pub async fn new() -> Arc<Self> {
        if full_stack() { Self::full().await } else { Self::sqlite() }
    }

    /// On PostgreSQL, with a virtual host of RabbitMQ.
    pub async fn full() -> Arc<Self> {
        Self::servers(&server("MAPX_TEST_POSTGRES_URL"), Some(Vhost::new().await)).await
    }

    pub fn sqlite() -> Arc<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Arc::new(Self { folder, database: None, vhost: None })
    }

    /// On the PostgreSQL server for tests, with the embedded broker.
    pub async fn postgres() -> Arc<Self> {
        Self::postgres_on(&server("MAPX_TEST_POSTGRES_URL")).await
    }

    /// On the PostgreSQL server that this URL of a database leads to, with the embedded broker.
    pub async fn postgres_on(url: &str) -> Arc<Self> {
        Self::servers(url, None).await
    }

    async fn servers(url: &str, vhost: Option<Vhost>) -> Arc<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let name = format!("mapx_test_{}", Uuid::new_v4().simple());
        maintain(url, &format!("CREATE DATABASE {name}")).await;
        let database = Some(PostgresDatabase { server: url.to_owned(), name });
        Arc::new(Self { folder, database, vhost })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn is_postgres(&self) -> bool {
        self.database.is_some()
    }

    /// Of the database on PostgreSQL.
    pub fn name(&self) -> &str {
        &self.database.as_ref().expect("on PostgreSQL").name
    }

    pub fn url(&self) -> String {
        match &self.database {
            Some(database) => database.url(),
            None => format!("sqlite://{}", self.path().join("test.db").display()),
        }
    }

    /// The defaults on a free port over this database, with quick retries.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::load(None, []).expect("the defaults are valid");
        settings.server.bind = "127.0.0.1:0".parse().expect("an address");
        settings.database.url = ServerUrl::new(self.url());
        settings.database.max_connections = 8;
        if let Some(vhost) = &self.vhost {
            settings.broker.url = ServerUrl::new(vhost.url());
        }
        settings.queue.retry_delay_ms = 50;
        settings.queue.poll_interval_ms = 50;
        // Most tests count calls: the number at once changes by itself only where that is what is tested.
        settings.queue.max_concurrent_limit = 0;
        settings
    }

    /// Of its virtual host, on the full stack.
    pub fn vhost_url(&self) -> String {
        self.vhost.as_ref().expect("on RabbitMQ").url()
    }

    /// A connection beside those of the service.
    pub async fn connect(&self) -> DatabaseConnection {
        Database::connect(self.url()).await.expect("the database opens")
    }
}

impl Drop for TestData {
    fn drop(&mut self) {
        let Some(PostgresDatabase { server, name }) = self.database.take() else { return };
        // On a thread of its own: this one may be in a runtime, where nothing can be waited for.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            runtime.block_on(maintain(&server, &drop));
        });
        let _ = dropped.join();
    }
}

impl PostgresDatabase {
    fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').expect("a URL with a database");
        format!("{server}/{}", self.name)
    }
}

async fn maintain(server: &str, statement: &str) {
    let conn = Database::connect(server).await.expect("the test server answers");
    conn.execute_unprepared(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    conn.close().await.expect("closes");
}
