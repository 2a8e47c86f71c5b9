//! Everything is killed while saves and edits come in: the API, the workers, RabbitMQ, PostgreSQL, and
//! RabbitMQ's memory. What was acknowledged is there at the end, with the vector of its last text.
//!
//! `MAPX_CHAOS_SEED` repeats a schedule; `MAPX_TEST_LOGS=1` shows what the processes say.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::sync::watch;

use crate::support::app::{eventually, install_cryptography};
use crate::support::data::TestData;
use crate::support::process::Process;
use crate::support::servers::Servers;
use crate::support::stored;
use crate::support::witness::{Row, Witness, verify};

const CLIENTS: usize = 6;
const WORKERS: usize = 3;
/// Between two requests of a client.
const PACE: Duration = Duration::from_millis(150);
/// Tasks that are with the broker when it loses them, at least.
const TO_LOSE: i64 = 30;
/// For all that is open to be embedded once nothing is killed any more.
const DRAIN: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillApi,
    KillWorker,
    KillRabbitMq,
    KillPostgres,
    /// Empties every queue, as an operator's slip would.
    PurgeQueues,
    /// The node comes back without its disk.
    LoseRabbitMq,
}

const SCHEDULE: [(Fault, usize); 6] = [
    (Fault::KillApi, 5),
    (Fault::KillWorker, 8),
    (Fault::KillRabbitMq, 3),
    (Fault::KillPostgres, 4),
    (Fault::PurgeQueues, 1),
    (Fault::LoseRabbitMq, 1),
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KillApi => "kills of the API",
            Self::KillWorker => "kills of a worker",
            Self::KillRabbitMq => "kills of RabbitMQ",
            Self::KillPostgres => "kills of PostgreSQL",
            Self::PurgeQueues => "purges of all queues",
            Self::LoseRabbitMq => "losses of RabbitMQ's disk",
        })
    }
}

/// Milliseconds; `MAPX_CHAOS_RECONCILE_MS=86400000` switches the reconciler off, to see the test fail.
fn reconcile_interval() -> String {
    std::env::var("MAPX_CHAOS_RECONCILE_MS").unwrap_or_else(|_| "2000".to_owned())
}

/// The stack under attack.
struct Stack {
    /// Before the servers: it ends by dropping its database.
    data: Arc<TestData>,
    servers: Servers,
    env: Vec<(&'static str, String)>,
    api: Option<Process>,
    workers: Vec<Process>,
    /// Where the API is to be found, once it is.
    address: watch::Sender<Option<String>>,
    random: StdRng,
}

impl Stack {
    async fn start(servers: Servers, data: Arc<TestData>, random: StdRng) -> Self {
        let env = vec![
            ("MAPX__DATABASE__URL", data.url()),
            ("MAPX__BROKER__URL", servers.address("MAPX_TEST_AMQP_URL").to_owned()),
            ("MAPX__BROKER__WINDOW", "200".to_owned()),
            // Slow, so that there are tasks in every state whenever something is killed.
            ("MAPX__QUEUE__MAX_CONCURRENT", "2".to_owned()),
            ("MAPX__QUEUE__BATCH_SIZE", "2".to_owned()),
            // A loss is noticed within the test.
            ("MAPX__QUEUE__RECONCILE_INTERVAL_MS", reconcile_interval()),
        ];
        let address = watch::Sender::new(None);
        let mut stack = Self { data, servers, env, api: None, workers: Vec::new(), address, random };
        stack.start_api().await;
        stack.start_workers().await;
        stack
    }

    async fn start_api(&mut self) {
        let api = Process::start("serve", &self.env).await;
        self.address.send_replace(api.base.clone());
        self.api = Some(api);
    }

    async fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::KillApi => {
                self.address.send_replace(None);
                self.api.take().expect("it runs").kill().await;
                self.start_api().await;
            }
            Fault::KillWorker => {
                let at = self.random.random_range(0..self.workers.len());
                self.workers.swap_remove(at).kill().await;
                self.workers.push(Process::start("worker", &self.env).await);
            }
            Fault::KillRabbitMq => {
                self.servers.run(&["kill", "rabbitmq"]).await;
                self.servers.run(&["start", "rabbitmq"]).await;
            }
            Fault::KillPostgres => {
                self.servers.run(&["kill", "postgres"]).await;
                self.servers.run(&["start", "postgres"]).await;
            }
            Fault::PurgeQueues => {
                self.fill_queues().await;
                self.purge().await;
                self.start_workers().await;
            }
            Fault::LoseRabbitMq => {
                self.fill_queues().await;
                self.servers.run(&["kill", "rabbitmq"]).await;
                self.servers.run(&["wipe", "rabbitmq"]).await;
                self.servers.run(&["start", "rabbitmq"]).await;
                self.start_workers().await;
            }
        }
    }

    /// Kills all workers and waits until there is something in the queues to be lost. With workers that keep up,
    /// the test passed with the reconciler switched off.
    async fn fill_queues(&mut self) {
        for worker in self.workers.drain(..) {
            worker.kill().await;
        }
        eventually("tasks wait in the queues", async || {
            (stored::handed_over(&self.data).await >= TO_LOSE).then_some(())
        })
        .await;
    }

    async fn start_workers(&mut self) {
        while self.workers.len() < WORKERS {
            self.workers.push(Process::start("worker", &self.env).await);
        }
    }

    async fn purge(&self) {
        let api = self.servers.address("MAPX_TEST_RABBITMQ_API");
        let http = reqwest::Client::new();
        let queues = http.get(format!("{api}/api/queues/%2F")).send().await.expect("the management answers");
        let queues: Vec<Value> = queues.json().await.expect("JSON");
        assert!(queues.len() > 3, "{queues:?}");
        for queue in queues {
            let name = queue["name"].as_str().expect("a name");
            let purge = http.delete(format!("{api}/api/queues/%2F/{name}/contents")).send().await;
            assert!(purge.expect("an answer").status().is_success(), "{name}");
        }
    }

    /// Waits until nothing is open any more.
    async fn drained(&self) {
        let base = self.api.as_ref().expect("it runs").base();
        let started = Instant::now();
        loop {
            let status = reqwest::get(format!("{base}/api/recommendations/embedding-queue/status")).await;
            let queue = status.expect("an answer").json::<Value>().await.expect("JSON")["data"].clone();
            if queue["isProcessing"] == false && queue["retrying"] == 0 {
                assert_eq!(queue["deadLettered"], 0, "{queue}");
                println!("drained within {:.1} s", started.elapsed().as_secs_f64());
                return;
            }
            assert!(started.elapsed() < DRAIN, "still open after {DRAIN:?}: {queue:#}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Saves and edits at a steady pace until it is told to stop.
async fn client(
    number: usize,
    seed: u64,
    mut address: watch::Receiver<Option<String>>,
    stop: watch::Receiver<bool>,
) -> Vec<Row> {
    let mut witness = Witness::new(number, seed, true);
    while !*stop.borrow() {
        let base = address.wait_for(Option::is_some).await.expect("the test lives").clone().expect("is some");
        witness.act(&base).await;
        tokio::time::sleep(PACE).await;
    }
    witness.rows()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_dies_nothing_acknowledged_is_lost() {
    install_cryptography();
    let seed = std::env::var("MAPX_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| rand::random::<u32>().into());
    println!("MAPX_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults: Vec<Fault> =
        SCHEDULE.iter().flat_map(|(fault, times)| std::iter::repeat_n(*fault, *times)).collect();
    faults.shuffle(&mut random);
    let pauses: Vec<Duration> =
        faults.iter().map(|_| Duration::from_millis(random.random_range(500..5_000))).collect();

    let servers = Servers::start().await;
    let data = TestData::postgres_on(servers.address("MAPX_TEST_POSTGRES_URL")).await;
    let mut stack = Stack::start(servers, data, random).await;
    let (stop, stopped) = watch::channel(false);
    let address = stack.address.clone();
    let clients: Vec<_> =
        (0..CLIENTS).map(|n| tokio::spawn(client(n, seed, address.subscribe(), stopped.clone()))).collect();
    let started = Instant::now();
    for (fault, pause) in faults.into_iter().zip(pauses) {
        tokio::time::sleep(pause).await;
        println!("{:6.1} s: {fault:?}", started.elapsed().as_secs_f64());
        stack.suffer(fault).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.send_replace(true);
    let mut rows = Vec::new();
    for client in clients {
        rows.extend(client.await.expect("no panic"));
    }
    stack.drained().await;
    for (fault, times) in SCHEDULE {
        println!("survived {times} {fault}");
    }
    verify(&stack.data, rows).await;
}
