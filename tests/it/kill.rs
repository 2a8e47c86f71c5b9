//! The real program, killed again and again while saves and edits come in: nothing acknowledged is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::sync::watch;

use crate::support::app::{eventually, install_cryptography};
use crate::support::data::TestData;
use crate::support::process::Process;
use crate::support::witness::{Row, Witness, verify};

const OPERATIONS: usize = 2_000;
const CLIENTS: usize = 8;
const KILLS: usize = 8;

async fn start(data: &TestData) -> Process {
    let settings = [
        ("MAPX__DATABASE__URL", data.url()),
        // Slow, so that there are tasks in every state whenever the kill comes.
        ("MAPX__QUEUE__MAX_CONCURRENT", "2".into()),
        ("MAPX__QUEUE__BATCH_SIZE", "2".into()),
        ("MAPX__BROKER__WINDOW", "50".into()),
    ];
    Process::start("all", &settings).await
}

async fn client(
    number: usize,
    seed: u64,
    started: Arc<AtomicUsize>,
    mut server: watch::Receiver<Option<String>>,
) -> Vec<Row> {
    let mut witness = Witness::new(number, seed, false);
    while started.fetch_add(1, Ordering::SeqCst) < OPERATIONS {
        let base = server.wait_for(Option::is_some).await.expect("the test lives").clone().expect("is some");
        witness.act(&base).await;
    }
    witness.rows()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_survives_being_killed() {
    install_cryptography();
    let seed: u64 = rand::random::<u32>().into();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let data = TestData::sqlite();
    let started = Arc::new(AtomicUsize::new(0));
    let (address, addresses) = watch::channel(None);
    let clients: Vec<_> =
        (0..CLIENTS).map(|n| tokio::spawn(client(n, seed, started.clone(), addresses.clone()))).collect();
    let mut server = start(&data).await;
    for kill in 0..KILLS {
        address.send_replace(server.base.clone());
        let share = OPERATIONS / KILLS;
        let at = kill * share + random.random_range(share / 4..share);
        let reached = async || (started.load(Ordering::SeqCst) >= at).then_some(());
        eventually(&format!("{at} operations"), reached).await;
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        // Nobody calls the dead one a second time.
        address.send_replace(None);
        server.kill().await;
        server = start(&data).await;
    }
    address.send_replace(server.base.clone());
    let mut rows = Vec::new();
    for client in clients {
        rows.extend(client.await.expect("no panic"));
    }
    drained(server.base()).await;
    server.kill().await;
    verify(&data, rows).await;
}

async fn drained(base: &str) {
    eventually("every task is done", async || {
        let answer = reqwest::get(format!("{base}/api/recommendations/embedding-queue/status")).await.ok()?;
        let queue = answer.json::<Value>().await.ok()?["data"].clone();
        assert_eq!(queue["deadLettered"], 0, "{queue}");
        (queue["isProcessing"] == false && queue["retrying"] == 0).then_some(())
    })
    .await;
}
