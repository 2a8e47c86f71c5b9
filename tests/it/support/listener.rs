//! Listens to live events.

use std::collections::VecDeque;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::Value;
use tokio::time::timeout;

use super::app::PATIENCE;

/// One message of the stream.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: String,
    pub event: String,
    pub data: Value,
}

pub struct Listener {
    body: BoxStream<'static, Vec<u8>>,
    buffer: String,
    messages: VecDeque<Message>,
}

impl Listener {
    /// Waits for the answer's head: what is done after that is told.
    pub async fn open(base: &str, last: Option<&str>) -> Self {
        let mut request =
            reqwest::Client::new().get(format!("{base}/api/recommendations/embedding-queue/events?queued=true"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        // An error is an end like any other.
        let body = response.bytes_stream().take_while(|chunk| std::future::ready(chunk.is_ok()));
        let body = body.map(|chunk| chunk.expect("taken").to_vec()).boxed();
        Self { body, buffer: String::new(), messages: VecDeque::new() }
    }

    /// The next message; `None` once the service has ended the stream.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Some(message);
            }
            let chunk = timeout(PATIENCE, self.body.next()).await.expect("something within the patience")?;
            self.buffer.push_str(&String::from_utf8(chunk).expect("text"));
            while let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                self.messages.extend(parse(&block));
            }
        }
    }

    /// The next message of this kind; others are passed over.
    pub async fn next_of(&mut self, event: &str) -> Message {
        loop {
            let message = self.next().await.expect("the stream goes on");
            if message.event == event {
                return message;
            }
        }
    }

    /// The next one about this recommendation.
    pub async fn about(&mut self, id: i64) -> Message {
        loop {
            let message = self.next().await.expect("the stream goes on");
            if message.data["recommendation_id"] == id {
                return message;
            }
        }
    }
}

fn parse(block: &str) -> Option<Message> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let data = serde_json::from_str(field("data:")?).expect("JSON");
    Some(Message { id: field("id:")?.to_owned(), event: field("event:")?.to_owned(), data })
}
