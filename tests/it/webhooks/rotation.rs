//! Another secret, without a moment in which a receiver that knows the old one refuses what it is told.

use serde_json::{Value, json};

use super::verifier::{NO_MATCH, verdict};
use super::{at, audit, register, service, webhook};
use crate::support::app::{TestApp, eventually};

async fn rotate(app: &TestApp, id: i64) -> Value {
    app.post(&at(format!("{id}/rotate-secret")), &json!({})).await.data(200).clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_they_overlap_both_secrets_sign() {
    let (_provider, app, receiver) = service(|_| {}).await;
    let hook = register(&app, &receiver, json!({})).await;
    let rotated = rotate(&app, hook.id).await;
    let new = rotated["secret"].as_str().expect("a secret");
    assert_ne!(new, hook.secret);
    let until =
        rotated["previous_secret_until"].as_str().expect("a moment").parse::<chrono::DateTime<chrono::Utc>>();
    let hours = (until.unwrap() - chrono::Utc::now()).num_minutes();
    assert!((24 * 60 - 2..=24 * 60).contains(&hours), "{hours} minutes");
    app.save_text("somewhere quiet").await;
    let told = receiver.has(1).await.remove(0);
    assert_eq!(told.header("webhook-signature").split(' ').count(), 2);
    assert_eq!(verdict(&hook.secret, &told).await, "ok");
    assert_eq!(verdict(new, &told).await, "ok");
    // A second rotation within the overlap ends the first secret's.
    let newest = rotate(&app, hook.id).await["secret"].as_str().expect("a secret").to_owned();
    app.save_text("somewhere else").await;
    let told = receiver.has(2).await.remove(1);
    assert_eq!(verdict(&hook.secret, &told).await, NO_MATCH);
    assert_eq!(verdict(new, &told).await, "ok");
    assert_eq!(verdict(&newest, &told).await, "ok");
    let lines = audit(&app).await;
    assert_eq!(lines[0]["action"], "webhook.rotate-secret");
    assert!(!json!(lines).to_string().contains("whsec_"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_overlap_the_new_one_signs_alone() {
    let (_provider, app, receiver) = service(|settings| settings.webhook.secret_overlap_ms = 300).await;
    let hook = register(&app, &receiver, json!({})).await;
    let new = rotate(&app, hook.id).await["secret"].as_str().expect("a secret").to_owned();
    eventually("the overlap is over", async || {
        webhook(&app, hook.id).await["previous_secret_until"].is_null().then_some(())
    })
    .await;
    app.save_text("somewhere quiet").await;
    let told = receiver.has(1).await.remove(0);
    assert_eq!(told.header("webhook-signature").split(' ').count(), 1);
    assert_eq!(verdict(&hook.secret, &told).await, NO_MATCH);
    assert_eq!(verdict(&new, &told).await, "ok");
    app.stop().await;
}
