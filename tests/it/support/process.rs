//! The real program as a child process.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::app::PATIENCE;

/// A running process of the program.
pub struct Process {
    child: Child,
    /// Where its API listens; `None` for a worker.
    pub base: Option<String>,
}

impl Process {
    /// Starts a role with these variables and waits until it says that it serves or works.
    pub async fn start(role: &str, env: &[(&str, String)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
            .arg(role)
            .env("MAPX__SERVER__BIND", "127.0.0.1:0")
            .env("MAPX__LOG__FORMAT", "json")
            .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let told = async {
            let mut all = Vec::new();
            while let Some(line) = lines.next_line().await.expect("text") {
                let entry: Value = serde_json::from_str(&line).unwrap_or_default();
                match entry["message"].as_str() {
                    Some("serving") => return entry["addr"].as_str().map(|addr| format!("http://{addr}")),
                    Some("working") => return None,
                    _ => all.push(line),
                }
            }
            panic!("{role} ended before it served: {all:#?}");
        };
        let base = tokio::time::timeout(PATIENCE * 3, told).await.expect("starts in time");
        // Read on, or the program would block on a full pipe.
        let loud = std::env::var_os("MAPX_TEST_LOGS").is_some();
        let name = format!("{role} {}", child.id().unwrap_or_default());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if loud {
                    eprintln!("{name}: {line}");
                }
            }
        });
        Self { child, base }
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// The most memory it has had, in MiB.
    pub fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
    }

    pub fn base(&self) -> &str {
        self.base.as_deref().expect("it has an API")
    }

    /// SIGKILL: nothing is finished, nothing is flushed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }
}
