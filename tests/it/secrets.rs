//! The key, the headers' values and the proxy's password are nowhere to be read, whatever the provider says.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::app::{eventually, user};
use crate::support::provider::{Behaviour, FakeProvider};

const KEY: &str = "sk-very-secret-key";
const HEADER: &str = "tenant-secret-77";
const LEVEL: &str = "trace,hyper=trace,hyper_util=trace,h2=trace,reqwest=trace,sqlx=trace,sea_orm=trace";

#[tokio::test]
async fn no_secret_is_told_whatever_the_provider_echoes() {
    let provider = FakeProvider::start(8).await;
    let folder = tempfile::tempdir().unwrap();
    let env = [
        ("MAPX__SERVER__BIND", "127.0.0.1:0".to_owned()),
        ("MAPX__DATABASE__URL", format!("sqlite://{}", folder.path().join("test.db").display())),
        ("MAPX__LOG__FORMAT", "json".into()),
        ("MAPX__LOG__LEVEL", LEVEL.into()),
        ("MAPX__QUEUE__RETRY_DELAY_MS", "50".into()),
        ("MAPX__QUEUE__MAX_RETRIES", "1".into()),
        ("MAPX__EMBEDDER__PRESET", "openai:text-embedding-3-small".into()),
        ("MAPX__EMBEDDER__BASE_URL", provider.base_url()),
        ("MAPX__EMBEDDER__DIMENSIONS", "8".into()),
        ("OPENAI_API_KEY", KEY.into()),
        ("MAPX__EMBEDDER__HEADERS__X_TENANT", HEADER.into()),
    ];
    let program = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"));
        command.envs(env.iter().map(|(name, value)| (*name, value.as_str()))).kill_on_drop(true);
        command
    };
    let mut told = String::new();
    for arguments in [&["config"][..], &["config", "--json"]] {
        let output = program().args(arguments).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        told.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    assert!(told.contains("x-tenant") && told.contains("***"), "{told}");

    let mut child = program().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let logs: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let kept = logs.clone();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            kept.lock().unwrap().push(line);
        }
    });
    let base = eventually("it serves", async || {
        let logs = logs.lock().unwrap();
        let mut entries = logs.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        entries
            .find(|entry| entry["message"] == "serving")
            .map(|e| format!("http://{}", e["addr"].as_str().unwrap()))
    })
    .await;

    let echo = format!("you sent {KEY} and {HEADER}");
    provider.when_contains("wrong key", Behaviour::status(401, &json!({"error": {"message": echo}}).to_string()));
    provider.when_contains("a page", Behaviour::status(502, &format!("<html><p>{echo}</p></html>")));
    provider.when_contains("a bad text", Behaviour::status(400, &json!({"detail": echo}).to_string()));
    provider.when_contains("a redirect", Behaviour::Redirect(format!("http://elsewhere/{KEY}?{HEADER}")));
    provider.when_contains("a strange answer", Behaviour::Text("sk-very-secret-key tenant-secret-77"));
    let http = reqwest::Client::new();
    let get = async |path: String| {
        http.get(format!("{base}{path}"))
            .header("x-user-id", user(1).to_string())
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    };
    // The refused text first: a provider that refuses the key stops its lane.
    for text in ["a bad text", "a page", "a strange answer", "a redirect", "wrong key"] {
        let body = json!({"user_id": user(1), "description": text}).to_string();
        let saved = http.post(format!("{base}/api/recommendations/save")).body(body).send().await.unwrap();
        told.push_str(&saved.text().await.unwrap());
        eventually(text, async || provider.inputs().iter().any(|input| input.contains(text)).then_some(())).await;
    }
    let failed = eventually("the refused text fails", async || {
        let status = get("/api/recommendations/1/embedding".into()).await;
        status.contains("\"failed\"").then_some(status)
    })
    .await;
    assert!(failed.contains("you sent *** and ***"), "{failed}");
    told.push_str(&failed);
    eventually("the status tells of the key", async || {
        let ready = get("/health/ready".into()).await;
        ready.contains("***").then_some(())
    })
    .await;
    for id in 2..=5 {
        told.push_str(&get(format!("/api/recommendations/{id}/embedding")).await);
    }
    for path in ["/health/ready", "/api/recommendations/embedding-queue/status", "/metrics"] {
        told.push_str(&get(path.into()).await);
    }
    let search = http.post(format!("{base}/api/recommendations/search")).body(r#"{"query": "wrong key"}"#);
    told.push_str(&search.send().await.unwrap().text().await.unwrap());
    child.kill().await.unwrap();
    told.push_str(&logs.lock().unwrap().join("\n"));
    assert!(told.contains("hyper"), "the libraries' logs are among it");
    for secret in [KEY, HEADER] {
        let found: Vec<&str> = told.lines().filter(|line| line.contains(secret)).collect();
        assert!(found.is_empty(), "{secret}: {found:#?}");
    }
}
