//! Connections that are lost.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mapx_embeddings::broker::{Broker, Delivery, Depths};
use mapx_embeddings::domain::priority::Priority;
use reqwest::Method;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{broker, publish_patiently, service, to_lane};
use crate::support::app::{PATIENCE, eventually, user};
use crate::support::rabbit::{self, Vhost};

/// The names of the vhost's connections, and what the program calls them.
async fn connections(vhost: &Vhost) -> Vec<(String, String)> {
    let (_, list) = rabbit::api(Method::GET, &format!("/vhosts/{}/connections", vhost.name), None).await;
    let list = list.as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    list.iter().map(|c| (text(&c["name"]), text(&c["client_properties"]["connection_name"]))).collect()
}

pub async fn close_all(vhost: &Vhost) -> usize {
    let all = connections(vhost).await;
    for (name, _) in &all {
        let name = name.replace(' ', "%20").replace('>', "%3E");
        rabbit::api(Method::DELETE, &format!("/connections/{name}"), None).await;
    }
    all.len()
}

#[tokio::test]
async fn a_connection_says_whose_it_is() {
    let vhost = Vhost::new().await;
    let (_provider, app) = service(&vhost, |_| {}).await;
    let names = eventually("both connections are listed", async || {
        let names: Vec<String> = connections(&vhost).await.into_iter().map(|(_, called)| called).collect();
        (names.len() == 2).then_some(names)
    })
    .await;
    for purpose in ["publish", "consume"] {
        let (start, end) = (format!("mapx-embeddings all {purpose} @"), format!(" pid {}", std::process::id()));
        assert!(names.iter().any(|name| name.starts_with(&start) && name.ends_with(&end)), "{names:?}");
    }
    app.stop().await;
    eventually("they are gone", async || connections(&vhost).await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_closed_under_load_lose_nothing() {
    const CLOSED: usize = 6;
    let vhost = Vhost::new().await;
    let broker = broker(&vhost.url());
    publish_patiently(broker.as_ref(), to_lane(Priority::High, "first")).await;
    let (seen, mut arrivals) = mpsc::unbounded_channel();
    let consuming = tokio::spawn(consume(broker.clone(), seen));
    let enough = CancellationToken::new();
    let publishing = tokio::spawn(publish_until(broker.clone(), enough.clone()));
    let (mut closed, started) = (0, Instant::now());
    while closed < CLOSED {
        assert!(started.elapsed() < 2 * PATIENCE, "only {closed} connections could be closed");
        closed += close_all(&vhost).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    enough.cancel();
    let published = publishing.await.expect("all was published");
    let mut missing: HashSet<String> = (0..published).map(|n| n.to_string()).collect();
    while !missing.is_empty() {
        let id = timeout(PATIENCE, arrivals.recv()).await;
        let id = id.unwrap_or_else(|_| panic!("{} of {published} are lost", missing.len()));
        missing.remove(&id.expect("the consumer runs"));
    }
    eventually("what came twice is acked, too", async || {
        (broker.depths().await.ok()? == Depths::default()).then_some(())
    })
    .await;
    consuming.abort();
    let _ = consuming.await;
    broker.close().await;
}

/// Publishes batch after batch, each until all of it was taken; returns how many messages there were.
async fn publish_until(broker: Arc<dyn Broker>, enough: CancellationToken) -> usize {
    let mut published = 0;
    while !enough.is_cancelled() {
        let mut open: Vec<usize> = (published..published + 200).collect();
        published += open.len();
        let started = Instant::now();
        while !open.is_empty() {
            assert!(started.elapsed() < PATIENCE, "the broker stays away");
            let batch = open.iter().map(|&n| to_lane(Priority::ALL[n % 3], n)).collect();
            let answers = broker.publish(batch).await;
            open = open.into_iter().zip(answers).filter(|(_, answer)| answer.is_err()).map(|(n, _)| n).collect();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    published
}

/// As a worker does: subscribes again whenever the subscription ends.
async fn consume(broker: Arc<dyn Broker>, seen: mpsc::UnboundedSender<String>) {
    loop {
        if let Ok(mut consumer) = broker.consume(64).await {
            while let Ok(deliveries) = consumer.receive(16).await {
                for delivery in &deliveries {
                    seen.send(delivery.message.id.clone()).expect("the test listens");
                }
                deliveries.into_iter().for_each(Delivery::ack);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_outlives_its_connections() {
    let vhost = Vhost::new().await;
    let (_provider, app) = service(&vhost, |_| {}).await;
    let mut ids = Vec::new();
    for round in 0..4 {
        for n in 0..25 {
            ids.push(app.save_text(&format!("text {n} of round {round}")).await);
        }
        close_all(&vhost).await;
    }
    app.drained().await;
    for id in ids {
        assert_eq!(app.embedding(id).await["status"], "ready");
    }
    let listed = app.get(&format!("/api/recommendations/user/{}", user(1)), None).await;
    assert_eq!(listed.body["pagination"]["total"], 100);
    app.stop().await;
}
