//! No secret and no token is told by anything, whatever is sent.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::signing::hs256;
use super::{QUEUE, claims};
use crate::support::app::{eventually, user};

const JWT: &str = "jwt-secret-that-nobody-must-ever-see";
const TOKENS: [&str; 3] = ["operate-and-be-silent-1", "look-and-be-silent-22", "count-and-be-silent-333"];
const LEVEL: &str = "trace,hyper=trace,hyper_util=trace,h2=trace,reqwest=trace,sqlx=trace,sea_orm=trace";

#[tokio::test]
async fn no_token_and_no_secret_is_told_at_any_level_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let env = [
        ("MAPX__SERVER__BIND", "127.0.0.1:0".to_owned()),
        ("MAPX__DATABASE__URL", format!("sqlite://{}", folder.path().join("test.db").display())),
        ("MAPX__LOG__FORMAT", "json".into()),
        ("MAPX__LOG__LEVEL", LEVEL.into()),
        ("MAPX__AUTH__JWT_SECRET", JWT.into()),
        ("MAPX__AUTH__ADMIN_TOKEN", TOKENS[0].into()),
        ("MAPX__AUTH__READ_TOKEN", TOKENS[1].into()),
        ("MAPX__AUTH__METRICS_TOKEN", TOKENS[2].into()),
    ];
    let program = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"));
        command.envs(env.iter().map(|(name, value)| (*name, value.as_str()))).kill_on_drop(true);
        command
    };
    let mut told = String::new();
    for arguments in [&["config"][..], &["config", "--json"], &["status", "--help"]] {
        let output = program().args(arguments).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        told.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    assert!(told.contains("admin_token = \"***\""), "{told}");
    // A value that is refused isn't repeated either.
    for (name, value) in [("MAPX__AUTH__JWT_SECRET", &JWT[..9]), ("MAPX__AUTH__ADMIN_TOKEN", &TOKENS[0][..9])] {
        let output = program().arg("config").env(name, value).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!text.contains(value), "{text}");
    }

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
        let mut entries = logs.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let serving = entries.find(|entry| entry["message"] == "serving");
        serving.map(|entry| format!("http://{}", entry["addr"].as_str().unwrap()))
    })
    .await;
    let good = hs256(JWT, &claims(user(1)));
    let bad = hs256("another secret that is as long as this", &claims(user(1)));
    let http = reqwest::Client::new();
    let tokens = [good.as_str(), &bad, TOKENS[0], TOKENS[1], TOKENS[2], "garbage-that-came-as-a-token"];
    for token in tokens {
        for path in
            [&*format!("{QUEUE}/status"), &format!("{QUEUE}/audit"), "/metrics", "/health/ready", "/nowhere"]
        {
            let answer = http.get(format!("{base}{path}")).bearer_auth(token).send().await.unwrap();
            told.push_str(&format!("{:?}", answer.headers()));
            told.push_str(&answer.text().await.unwrap());
        }
        let pause = http.post(format!("{base}{QUEUE}/pause")).bearer_auth(token).body("{}").send().await.unwrap();
        told.push_str(&pause.text().await.unwrap());
    }
    child.kill().await.unwrap();
    told.push_str(&logs.lock().unwrap().join("\n"));
    assert!(told.contains("hyper") && told.contains("UNAUTHENTICATED"), "the logs and the refusals are among it");
    let signatures = [&good, &bad].map(|token| token.rsplit_once('.').unwrap().1);
    for secret in [JWT].into_iter().chain(tokens).chain(signatures) {
        let found: Vec<&str> = told.lines().filter(|line| line.contains(secret)).collect();
        assert!(found.is_empty(), "{secret}: {found:#?}");
    }
}
