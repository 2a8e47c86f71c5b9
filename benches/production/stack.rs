//! A database of its own on the server of `scripts/services`.

use std::future::Future;
use std::time::{Duration, Instant};

use mapx_embeddings::config::Settings;
use mapx_embeddings::config::secret::ServerUrl;
use sea_orm::{ConnectionTrait, Database};

/// The address of a test server.
pub fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: use scripts/bench production"))
}

async fn maintain(statement: &str) {
    let conn = Database::connect(server("MAPX_TEST_POSTGRES_URL")).await.expect("the server answers");
    conn.execute_unprepared(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    conn.close().await.expect("closes");
}

/// An empty database, dropped by [`Self::end`].
pub struct Data {
    pub name: String,
}

impl Data {
    pub async fn new() -> Self {
        let name = format!("mapx_bench_{}", uuid::Uuid::new_v4().simple());
        maintain(&format!("CREATE DATABASE {name}")).await;
        Self { name }
    }

    pub fn url(&self) -> String {
        let url = server("MAPX_TEST_POSTGRES_URL");
        let (server, _) = url.rsplit_once('/').expect("a URL with a database");
        format!("{server}/{}", self.name)
    }

    pub fn settings(&self) -> Settings {
        let mut settings = Settings::load(None, []).expect("the defaults are valid");
        settings.database.url = ServerUrl::new(self.url());
        settings
    }

    pub async fn end(self) {
        maintain(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)).await;
    }
}

/// How often a second `work` is done by `clients` at once, over `span`. Each gets its number and its turn's.
pub async fn rate<F: Future<Output = ()> + Send>(
    clients: usize,
    span: Duration,
    work: impl Fn(usize, usize) -> F + Clone + Send + 'static,
) -> f64 {
    let started = Instant::now();
    let running: Vec<_> = (0..clients)
        .map(|client| {
            let work = work.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while started.elapsed() < span {
                    work(client, done).await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for client in running {
        done += client.await.expect("no panic");
    }
    done as f64 / started.elapsed().as_secs_f64()
}

/// The middle of three.
pub fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
