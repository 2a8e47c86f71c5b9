//! Neither a secret nor what a URL holds is in any log.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::receiver::{Receiver, Reply};
use super::{WEBHOOKS, at};
use crate::support::app::{eventually, install_cryptography};
use crate::support::data::TestData;

const KEY: &str = "key-in-the-url-77";
const LEVEL: &str = "trace,hyper=trace,hyper_util=trace,reqwest=trace,sqlx=trace,sea_orm=trace";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_tells_a_secret_or_a_url_whatever_becomes_of_the_request() {
    install_cryptography();
    let (data, receiver) = (TestData::sqlite(), Receiver::start().await);
    let env = [
        ("MAPX__SERVER__BIND", "127.0.0.1:0".to_owned()),
        ("MAPX__DATABASE__URL", data.url()),
        ("MAPX__LOG__FORMAT", "json".into()),
        ("MAPX__LOG__LEVEL", LEVEL.into()),
        ("MAPX__WEBHOOK__ALLOW_PRIVATE", "true".into()),
        ("MAPX__WEBHOOK__TIMEOUT_MS", "300".into()),
    ];
    let mut child = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
        .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let logs: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let kept = logs.clone();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            kept.lock().expect("no panic").push(line);
        }
    });
    let base = eventually("it serves", async || {
        let logs = logs.lock().expect("no panic");
        let mut entries = logs.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries
            .find(|entry| entry["message"] == "serving")
            .map(|e| format!("http://{}", e["addr"].as_str().unwrap()))
    })
    .await;
    let http = reqwest::Client::new();
    let post = async |path: String, body: Value| {
        let answer = http.post(format!("{base}{path}")).json(&body).send().await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")["data"].clone()
    };
    let (mut secrets, mut deliveries) = (vec![KEY.to_owned()], Vec::new());
    let nobody = format!("http://127.0.0.1:1/{KEY}");
    for (url, reply) in [
        (receiver.url(&format!("/{KEY}?a={KEY}")), Some(Reply::Status(200))),
        (receiver.url(&format!("/{KEY}")), Some(Reply::Text(500, format!("you sent {KEY}")))),
        (receiver.url(&format!("/{KEY}")), Some(Reply::Redirect(format!("http://127.0.0.1:1/{KEY}")))),
        (receiver.url(&format!("/{KEY}")), Some(Reply::Hold(200))),
        (nobody, None),
    ] {
        reply.into_iter().for_each(|reply| receiver.next(reply));
        let made = post(WEBHOOKS.into(), json!({ "url": url })).await;
        let rotated = post(at(format!("{}/rotate-secret", made["id"])), json!({})).await;
        for shown in [&made, &rotated] {
            secrets.push(shown["secret"].as_str().expect("a secret").trim_start_matches("whsec_").to_owned());
        }
        let test = post(at(format!("{}/test", made["id"])), json!({})).await;
        let path = at(format!("{}/deliveries/{}", made["id"], test["id"]));
        let ended = eventually("it has ended", async || {
            let answer = http.get(format!("{base}{path}")).send().await.ok()?;
            let delivery = answer.json::<Value>().await.ok()?["data"].clone();
            ["delivered", "failed"].contains(&delivery["state"].as_str()?).then_some(delivery)
        })
        .await;
        deliveries.push(ended);
    }
    for delivery in &deliveries {
        let error = delivery["last_attempt"]["error"].as_str().unwrap_or_default();
        assert!(!error.contains(KEY), "{error}");
    }
    post(WEBHOOKS.into(), json!({ "url": format!("ftp://example.com/{KEY}") })).await;
    child.kill().await.expect("killed");
    let logs = logs.lock().expect("no panic").clone();
    assert!(
        logs.iter().any(|line| line.contains("webhook given up")) && logs.iter().any(|line| line.contains("hyper"))
    );
    for secret in secrets {
        let found: Vec<&String> = logs.iter().filter(|line| line.contains(&secret)).collect();
        assert!(found.is_empty(), "{secret}: {found:#?}");
    }
}
