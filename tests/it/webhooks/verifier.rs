//! Signatures as another code base sees them: the `standardwebhooks` of the Python registry.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::receiver::Received;

/// As `scripts/test` has it.
const PACKAGE: &str = "standardwebhooks==1.1.0";

/// Reads the secret, the headers and the body; says `ok`, or why not.
const VERIFY: &str = r#"
import json, sys
from standardwebhooks import Webhook, WebhookVerificationError
given = json.load(sys.stdin)
try:
    Webhook(given["secret"]).verify(given["body"], given["headers"])
    print("ok")
except WebhookVerificationError as error:
    print(error)
"#;

/// Where `scripts/test` puts it; installed where it is missing.
async fn package() -> &'static Path {
    static PACKAGE_FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    PACKAGE_FOLDER
        .get_or_init(async || {
            let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
            let folder = target.join("tools/webhooks");
            if !folder.join("standardwebhooks").is_dir() {
                let install =
                    ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", PACKAGE, "--target"];
                let status =
                    Command::new("python3").args(install).arg(&folder).status().await.expect("python3 runs");
                assert!(status.success(), "{PACKAGE} can't be installed");
            }
            folder
        })
        .await
}

/// What the reference implementation says of a request.
pub async fn verdict(secret: &str, request: &Received) -> String {
    let headers: serde_json::Map<String, serde_json::Value> = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").into()))
        .collect();
    let given = serde_json::json!({ "secret": secret, "headers": headers, "body": request.body });
    let mut python = Command::new("python3")
        .args(["-c", VERIFY])
        .env("PYTHONPATH", package().await)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut stdin = python.stdin.take().expect("piped");
    stdin.write_all(given.to_string().as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = python.wait_with_output().await.expect("it ends");
    assert!(output.status.success(), "it fails");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

pub const NO_MATCH: &str = "No matching signature found";
