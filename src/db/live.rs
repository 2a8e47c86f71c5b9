//! The settings that hold in all processes, in `service_state`: each process looks for itself, so that a change
//! reaches those that start later, too.

use futures_util::FutureExt;
use sea_orm::{ConnectionTrait, FromQueryResult};

use super::{Db, DbError, audit, sql, state};
use crate::config::live::{LiveChange, LiveKey, LiveQueue};

#[derive(FromQueryResult)]
struct Stored {
    key: String,
    value: String,
}

impl Db {
    /// The values that hold at the moment.
    pub async fn live_queue(&self) -> Result<LiveQueue, DbError> {
        read(self.read()).await
    }

    /// Makes a change as `who` has it, all of it or nothing, and returns what holds after it.
    pub async fn change_live_queue(&self, change: LiveChange, who: String) -> Result<LiveQueue, DbError> {
        self.write(move |tx| {
            let (change, who) = (change.clone(), who.clone());
            async move {
                for (key, value) in change.changes() {
                    match value {
                        Some(value) => state::put(tx.conn(), key.stored_as(), &value.to_string()).await?,
                        None => state::forget(tx.conn(), key.stored_as()).await?,
                    }
                }
                let named =
                    change.changes().iter().map(|(key, value)| (key.name().to_owned(), serde_json::json!(value)));
                let about = serde_json::Value::Object(named.collect()).to_string();
                audit::note(tx, &who, "configure", &about, change.changes().len() as u64).await?;
                read(tx.conn()).await
            }
            .boxed()
        })
        .await
    }
}

async fn read(conn: &impl ConnectionTrait) -> Result<LiveQueue, DbError> {
    let names = sql::tuple(1, LiveKey::ALL.len());
    let select = format!("SELECT key, value FROM service_state WHERE key IN {names}");
    let stored: Vec<Stored> = sql::all(conn, &select, LiveKey::ALL.map(|key| key.stored_as().into())).await?;
    Ok(stored.into_iter().fold(LiveQueue::default(), |live, Stored { key, value }| {
        let key = LiveKey::ALL.into_iter().find(|known| known.stored_as() == key);
        key.map_or(live, |key| live.with_stored(key, &value))
    }))
}
