//! A client below HTTP: sends the bytes it is given, at its own pace.

use std::io::ErrorKind;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::app::{PATIENCE, TestApp};

pub struct Raw(TcpStream);

/// What the service said before it closed the connection.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: String,
}

impl Raw {
    pub async fn open(app: &TestApp) -> Self {
        let address = app.base.trim_start_matches("http://");
        Self(TcpStream::connect(address).await.expect("a connection"))
    }

    /// The service may have hung up by now: whoever sends on learns that from the answer.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = timeout(PATIENCE, self.0.write_all(bytes.as_ref())).await.expect("the service reads");
    }

    /// Sends no more, and still listens.
    pub async fn finish(&mut self) {
        let _ = self.0.shutdown().await;
    }

    /// Whether the service has closed the connection; what it said before is lost.
    pub fn is_closed(&self) -> bool {
        let mut byte = [0];
        !matches!(self.0.try_read(&mut byte), Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    /// Everything until the service closes the connection, which it must do.
    pub async fn until_closed(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        // A reset is an end like any other.
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut all)).await.expect("the service closes the connection");
        all
    }

    /// The only answer on this connection; `None` when it was closed without one.
    pub async fn reply(self) -> Option<Reply> {
        let all = String::from_utf8(self.until_closed().await).expect("text");
        let (head, body) = all.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Reply { status, body: body.to_owned() })
    }
}

impl Reply {
    /// The code of an error in the envelope.
    #[track_caller]
    pub fn error(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert_eq!(body["success"], false, "{self:?}");
        assert!(body["message"].is_string(), "{self:?}");
        body["error"].as_str().expect("a code").to_owned()
    }
}

/// The head of a request after which the service closes the connection.
pub fn head(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{more}\r\n")
}

/// Sends a whole request and takes its answer.
pub async fn exchange(app: &TestApp, bytes: impl AsRef<[u8]>) -> Reply {
    let mut raw = Raw::open(app).await;
    raw.send(bytes).await;
    raw.reply().await.expect("an answer")
}
