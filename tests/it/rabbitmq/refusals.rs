//! What can be wrong with the server or the settings: it is named, nothing hangs, nobody gives up, and it heals.

use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use mapx_embeddings::broker::rabbitmq::{BuildError, RabbitBroker};
use mapx_embeddings::broker::topology::Topology;
use mapx_embeddings::broker::{Broker, PublishError};
use mapx_embeddings::domain::priority::Priority;
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;

use super::{broker, ladder, publish_one, publish_patiently, raw, service, to_lane, trouble_is};
use crate::support::app::{eventually, install_cryptography};
use crate::support::data;
use crate::support::rabbit::{self, Vhost};

/// Everything that is asked is answered at once, and soon with all these words; so is what the health says.
async fn is_refused(broker: &dyn Broker, words: &[&str]) {
    let told = |text: &str| {
        assert!(!text.contains("hidden"), "{text}");
        words.iter().all(|word| text.contains(word))
    };
    // Each connection has a back-off of its own.
    eventually(&format!("{words:?}"), async || {
        let started = Instant::now();
        let publishing = match publish_one(broker, to_lane(Priority::High, "a")).await {
            Err(PublishError::Unconfirmed(reason)) => reason,
            other => panic!("{other:?}"),
        };
        let consuming = broker.consume(1).await.err().expect("refused").to_string();
        let counting = broker.depths().await.expect_err("refused").to_string();
        let answered = [publishing, consuming, counting].iter().all(|text| told(text));
        // The very first questions wait for the first attempt.
        assert!(!answered || started.elapsed() < Duration::from_secs(1), "after {:?}", started.elapsed());
        answered.then_some(())
    })
    .await;
    trouble_is(broker, &format!("{words:?}"), |trouble| trouble.is_some_and(told)).await;
}

async fn heals(broker: &dyn Broker) {
    publish_patiently(broker, to_lane(Priority::High, "a")).await;
    trouble_is(broker, "well", |trouble| trouble.is_none()).await;
    assert_eq!(broker.depths().await.expect("available").ready, [1, 0, 0]);
    broker.close().await;
}

#[tokio::test]
async fn a_wrong_password_is_told_and_may_become_right() {
    let vhost = Vhost::new().await;
    let login = format!("user:{}-hidden@", vhost.name);
    let broker = broker(&vhost.url().replace("guest:guest@", &login));
    is_refused(broker.as_ref(), &["broker.url", "refuses the user \"user\"", "ACCESS_REFUSED", "broker.password"])
        .await;
    // `user` is this test's alone.
    let user = json!({ "password": format!("{}-hidden", vhost.name), "tags": "" });
    assert!(rabbit::api(Method::PUT, "/users/user", Some(user)).await.0.is_success());
    is_refused(broker.as_ref(), &["broker.url", &vhost.name, "\"user\" may use"]).await;
    let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
    let path = format!("/permissions/{}/user", vhost.name);
    assert!(rabbit::api(Method::PUT, &path, Some(all)).await.0.is_success());
    heals(broker.as_ref()).await;
    rabbit::api(Method::DELETE, "/users/user", None).await;
}

#[tokio::test]
async fn a_missing_vhost_is_told_and_may_be_made() {
    let vhost = Vhost::missing();
    let broker = broker(&vhost.url());
    is_refused(broker.as_ref(), &["broker.url", "has no vhost", &vhost.name]).await;
    vhost.create().await;
    heals(broker.as_ref()).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let broker = broker(&format!("amqp://guest:hidden@{free}"));
    is_refused(broker.as_ref(), &["broker.url", "can't reach", &free.to_string(), "refused"]).await;
    let unknown = super::broker("amqp://guest:hidden@broker.invalid");
    is_refused(unknown.as_ref(), &["broker.url", "can't reach broker.invalid:5672"]).await;
    broker.close().await;
}

#[tokio::test]
async fn what_is_no_rabbitmq_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.writable().await;
            let _ = stream.try_write(answer);
        }
    });
    let broker = broker(&format!("amqp://guest:hidden@{address}"));
    is_refused(broker.as_ref(), &["broker.url", &address.to_string(), "handshake"]).await;
    serving.abort();
}

#[tokio::test]
async fn tls_trusts_the_authority_that_is_named_and_no_other() {
    install_cryptography();
    let url = data::server("MAPX_TEST_AMQPS_URL");
    let authority = data::server("MAPX_TEST_AMQPS_CA");
    let vhost = Vhost::new().await;
    let connect = |ca_file: &str| {
        let server = rabbit::server(&format!("{url}/{}", vhost.name));
        RabbitBroker::new(server, ca_file, Topology::new("mapx", &ladder()), "test", "localhost")
    };
    let trusting = connect(&authority).expect("the authority can be read");
    heals(&trusting).await;

    let folder = tempfile::tempdir().expect("a temporary folder");
    let no_certificate = folder.path().join("none.pem").display().to_string();
    std::fs::write(&no_certificate, "nothing").expect("written");
    for path in [no_certificate.as_str(), "missing.pem"] {
        match connect(path) {
            Err(error @ BuildError::CaFile { .. }) => {
                let error = error.to_string();
                assert!(error.contains("broker.ca_file") && error.contains(path), "{error}");
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{path} is no certificate"),
        }
    }
    // The system's authorities, where there are any, didn't sign for the tests' server.
    match connect("") {
        Ok(untrusting) => is_refused(&untrusting, &["broker.url", "no TLS", "certificate", "broker.ca_file"]).await,
        Err(error) => assert!(error.to_string().contains("broker.ca_file"), "{error}"),
    }
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_named_with_the_way_out() {
    let vhost = Vhost::new().await;
    let raw = raw(&vhost).await;
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    raw.channel.queue_declare("mapx.tasks.normal".into(), options, FieldTable::default()).await.expect("declared");
    let broker = broker(&vhost.url());
    let words = [
        "queue mapx.tasks.normal exists with other arguments",
        "inequivalent arg",
        "management UI",
        "broker.prefix",
    ];
    is_refused(broker.as_ref(), &words).await;
    raw.delete("mapx.tasks.normal").await;
    heals(broker.as_ref()).await;
}

#[tokio::test]
async fn without_the_broker_saves_work_and_the_status_says_what_is_missing() {
    let vhost = Vhost::missing();
    let (_provider, app) = service(&vhost, |_| {}).await;
    let id = app.save_text("saved meanwhile").await;
    let ready = eventually("the broker's trouble is told", async || {
        let ready = app.get("/health/ready", None).await.data(200).clone();
        (ready["broker"]["ok"] == false).then_some(ready)
    })
    .await;
    assert_eq!((&ready["status"], &ready["broker"]["kind"]), (&json!("ready"), &json!("rabbitmq")));
    let error = ready["broker"]["error"].as_str().expect("a reason").to_owned();
    assert!(error.contains("broker.url") && error.contains(&vhost.name) && !error.contains("guest:"), "{error}");
    assert_eq!(app.queue().await["broker"]["error"], json!(error));
    assert_eq!(app.embedding(id).await["status"], "pending");
    vhost.create().await;
    app.embedding_is(id, "ready").await;
    eventually("all is well", async || {
        (app.get("/health/ready", None).await.data(200)["broker"]["ok"] == true).then_some(())
    })
    .await;
    app.stop().await;
}
