//! The embedded broker behind a hand that can be held over its mouth.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use mapx_embeddings::broker::embedded::EmbeddedBroker;
use mapx_embeddings::broker::topology::Topology;
use mapx_embeddings::broker::{
    Broker, Consumer, Depths, Durability, InHand, Outgoing, PublishError, Route, Unavailable,
};
use mapx_embeddings::config::Settings;
use mapx_embeddings::domain::intake::Intake;
use tokio::sync::watch;

/// How the broker is at the moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    Well,
    /// Refuses everything.
    Down,
    /// Answers nothing.
    Hanging,
    /// Takes what goes to a lane and forgets it.
    Forgetful,
}

pub struct MoodyBroker {
    inner: EmbeddedBroker,
    mood: watch::Sender<Mood>,
    /// Ids of all messages published to a lane.
    published: Mutex<Vec<String>>,
}

impl MoodyBroker {
    pub fn new(settings: &Settings, mood: Mood) -> Arc<Self> {
        let topology = Topology::new(&settings.broker.prefix, &settings.queue.backoff());
        let inner = EmbeddedBroker::new(topology);
        Arc::new(Self { inner, mood: watch::Sender::new(mood), published: Mutex::default() })
    }

    pub fn become_(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub fn published(&self) -> Vec<String> {
        self.published.lock().expect("no panic").clone()
    }

    /// Waits out a hanging; the mood after it.
    async fn mood(&self) -> Mood {
        let mut mood = self.mood.subscribe();
        *mood.wait_for(|mood| *mood != Mood::Hanging).await.expect("the sender lives")
    }

    async fn up(&self) -> Result<(), Unavailable> {
        match self.mood().await {
            Mood::Down => Err(Unavailable("it is down".into())),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Broker for MoodyBroker {
    async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Result<(), PublishError>> {
        let mood = self.mood().await;
        if mood == Mood::Down {
            return messages.iter().map(|_| Err(PublishError::Refused("it is down".into()))).collect();
        }
        let lanes = messages.iter().filter(|message| matches!(message.route, Route::Lane(_)));
        self.published.lock().expect("no panic").extend(lanes.map(|m| m.message.id.clone()));
        if mood == Mood::Forgetful {
            return messages.iter().map(|_| Ok(())).collect();
        }
        self.inner.publish(messages).await
    }

    async fn consume_from(&self, prefetch: usize, intake: Intake) -> Result<Box<dyn Consumer>, Unavailable> {
        self.up().await?;
        self.inner.consume_from(prefetch, intake).await
    }

    async fn review_dead_letters(&self, prefetch: usize) -> Result<Box<dyn Consumer>, Unavailable> {
        self.up().await?;
        self.inner.review_dead_letters(prefetch).await
    }

    async fn depths(&self) -> Result<Depths, Unavailable> {
        self.up().await?;
        self.inner.depths().await
    }

    async fn consume_dead_letters(&self, prefetch: usize) -> Result<Box<dyn Consumer>, Unavailable> {
        self.up().await?;
        self.inner.consume_dead_letters(prefetch).await
    }

    fn in_hand(&self) -> [InHand; 3] {
        self.inner.in_hand()
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }
}
