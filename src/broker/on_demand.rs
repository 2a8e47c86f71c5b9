//! A broker that is connected to when it is first needed: most services have no webhooks, and their servers no queues
//! for them.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Broker, Unavailable};

type Connect = dyn Fn() -> Result<Arc<dyn Broker>, Unavailable> + Send + Sync;

pub struct OnDemand {
    connect: Box<Connect>,
    broker: Mutex<Option<Arc<dyn Broker>>>,
}

impl OnDemand {
    pub fn new(connect: impl Fn() -> Result<Arc<dyn Broker>, Unavailable> + Send + Sync + 'static) -> Self {
        Self { connect: Box::new(connect), broker: Mutex::default() }
    }

    /// The broker; the first call begins to connect, on a tokio runtime.
    ///
    /// # Errors
    /// When it can't even be tried.
    pub fn get(&self) -> Result<Arc<dyn Broker>, Unavailable> {
        let mut broker = self.broker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(broker) = &*broker {
            return Ok(broker.clone());
        }
        Ok(broker.insert((self.connect)()?).clone())
    }

    /// Ends it in good order, if there is one.
    pub async fn close(&self) {
        let broker = self.broker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(broker) = broker {
            broker.close().await;
        }
    }
}
