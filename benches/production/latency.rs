//! From a save to its vector being searchable, through RabbitMQ, on an idle stack.

use std::time::{Duration, Instant};

use mapx_embeddings::app::App;
use mapx_embeddings::config::Role;
use mapx_embeddings::config::secret::ServerUrl;
use mapx_embeddings::domain::status::EmbeddingStatus;
use tokio_util::sync::CancellationToken;

use crate::saves::draft;
use crate::stack::{Data, server};

pub async fn run() {
    println!("\n## From the start of a save to its vector being searchable, idle, through RabbitMQ\n");
    let data = Data::new().await;
    let mut settings = data.settings();
    settings.broker.url = ServerUrl::new(server("MAPX_TEST_AMQP_URL"));
    settings.broker.prefix = data.name.clone();
    settings.server.bind = "127.0.0.1:0".parse().expect("an address");
    let app = App::build(settings, Role::All).await.expect("builds");
    let db = app.db().clone();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(app.run_until(shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut times = Vec::new();
    for n in 0..300 {
        let started = Instant::now();
        let id = db.save(draft(1, n, false)).await.expect("saved").id;
        while db.embedding_state(id).await.expect("a state").expect("a row").status != EmbeddingStatus::Ready {
            assert!(started.elapsed() < Duration::from_secs(30), "not embedded");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(started.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("p50 {:.1} ms, p99 {:.1} ms (n = {})", at(0.5), at(0.99), times.len());
    shutdown.cancel();
    running.await.expect("no panic").expect("ends well");
    crate::drain::delete_queues(&data.name).await;
    data.end().await;
}
