//! A database that another program made and goes on using: nothing of it is changed, everything in it is served.

mod migration;
mod other_program;
mod served;
mod snapshot;

use std::sync::Arc;

use mapx_embeddings::config::Settings;
use mapx_embeddings::config::embedder::Provider;
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement, TryGetable};
use uuid::Uuid;

use crate::support::app::TestApp;
use crate::support::data::TestData;
use crate::support::provider::FakeProvider;
use snapshot::Snapshot;

const MODEL: &str = "text-embedding-ada-002";
const DIMENSIONS: usize = 1_536;

/// A user of the old tables, 1 to 3.
fn user(n: u128) -> Uuid {
    Uuid::from_u128(0x4000_8000_0000_0000_0000 + n)
}

/// The other program's database, and a session of that program.
struct Old {
    data: Arc<TestData>,
    conn: DatabaseConnection,
}

impl Old {
    async fn new() -> Self {
        let data = TestData::postgres().await;
        let conn = data.connect().await;
        conn.execute_unprepared(include_str!("mapx.sql")).await.expect("the old tables");
        Self { data, conn }
    }

    /// Adopted by the model that made its vectors.
    async fn adopted() -> Self {
        let old = Self::new().await;
        old.migrate(&["--adopt-model", MODEL], 0).await;
        old
    }

    /// What the other program does.
    async fn does(&self, statement: &str) {
        self.conn.execute_unprepared(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    async fn one<T: TryGetable>(&self, select: &str) -> T {
        let statement = Statement::from_string(self.conn.get_database_backend(), select);
        let row = self.conn.query_one_raw(statement).await.unwrap_or_else(|error| panic!("{select}: {error}"));
        row.expect("a row").try_get_by_index(0).expect("a value")
    }

    /// `mapx-embeddings migrate …` with this exit code; returns what it prints.
    async fn migrate(&self, arguments: &[&str], code: i32) -> String {
        let output = self.program("migrate").args(arguments).output().await.expect("the program runs");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(if code == 0 { output.stdout } else { output.stderr }).expect("text")
    }

    fn program(&self, command: &str) -> tokio::process::Command {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"));
        program.arg(command).env("MAPX__DATABASE__URL", self.data.url()).env("MAPX__SERVER__BIND", "127.0.0.1:0");
        program
            .env("MAPX__EMBEDDER__PROVIDER", "openai")
            .env("MAPX__EMBEDDER__BASE_URL", "http://127.0.0.1:9/v1")
            .env("MAPX__EMBEDDER__MODEL", MODEL)
            .env("MAPX__EMBEDDER__DIMENSIONS", DIMENSIONS.to_string())
            .kill_on_drop(true);
        program
    }

    async fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.conn).await
    }

    /// The service over it, with a provider of the old model.
    async fn serve(&self, provider: &FakeProvider) -> TestApp {
        let url = provider.base_url();
        TestApp::over(self.data.clone(), |settings| asks(settings, url), None).await
    }
}

fn asks(settings: &mut Settings, base_url: String) {
    settings.embedder.provider = Provider::Openai;
    settings.embedder.base_url = base_url;
    settings.embedder.model = MODEL.into();
    settings.embedder.dimensions = DIMENSIONS;
}
