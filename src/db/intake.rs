//! What workers are to take: the lanes that are paused, in `service_state`, and the workers that are drained, in their
//! own rows. Each process looks for itself, so that it holds for those that start later, too.

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sea_orm::{ConnectionTrait, FromQueryResult};

use super::{Db, DbError, audit, sql, state};
use crate::domain::intake::{Intake, Pause, Pauses};
use crate::domain::priority::Priority;

fn key(lane: Priority) -> String {
    format!("paused.{lane}")
}

impl Db {
    /// The lanes that are paused at the moment.
    pub async fn pauses(&self) -> Result<Pauses, DbError> {
        read(self.read()).await
    }

    /// What the process with this id is to take.
    pub async fn intake(&self, process: &str) -> Result<Intake, DbError> {
        let drained = "SELECT EXISTS (SELECT 1 FROM workers WHERE id = $1 AND drain_since IS NOT NULL)";
        let last = sql::scalar::<bool>(self.read(), drained, [process.into()]).await? == Some(true);
        Ok(Intake::new(&self.pauses().await?, last))
    }

    /// Pauses lanes, with what is told of it, or resumes them; returns what is paused after it. A lane that is
    /// paused already keeps its account.
    pub async fn pause(&self, lanes: Vec<Priority>, pause: Option<Pause>, who: String) -> Result<Pauses, DbError> {
        self.write(move |tx| {
            let (lanes, pause, who) = (lanes.clone(), pause.clone(), who.clone());
            async move {
                let before = read(tx.conn()).await?;
                let changed: Vec<Priority> =
                    lanes.into_iter().filter(|lane| before.is_paused(*lane) != pause.is_some()).collect();
                for lane in &changed {
                    match &pause {
                        Some(pause) => {
                            let told = serde_json::to_string(pause).unwrap_or_default();
                            state::put(tx.conn(), &key(*lane), &told).await?;
                        }
                        None => state::forget(tx.conn(), &key(*lane)).await?,
                    }
                }
                let reason = pause.as_ref().and_then(|pause| pause.reason.clone());
                let about = serde_json::json!({ "lanes": changed, "reason": reason }).to_string();
                let action = if pause.is_some() { "pause" } else { "resume" };
                audit::note(tx, &who, action, &about, changed.len() as u64).await?;
                read(tx.conn()).await
            }
            .boxed()
        })
        .await
    }

    /// Lets a process take nothing more, or everything again. Returns since when it is drained; the outer `None`
    /// says that there is no such process.
    pub async fn drain(
        &self,
        id: String,
        drain: bool,
        who: String,
    ) -> Result<Option<Option<DateTime<Utc>>>, DbError> {
        self.write(move |tx| {
            let (id, who) = (id.clone(), who.clone());
            async move {
                let now = sql::now();
                let update = match drain {
                    true => "UPDATE workers SET drain_since = coalesce(drain_since, $2) WHERE id = $1 AND heartbeat_at > $3",
                    false => "UPDATE workers SET drain_since = NULL WHERE id = $1 AND $2 IS NOT NULL AND heartbeat_at > $3",
                };
                let heard = now - chrono::Duration::seconds(super::workers::STALE_SECONDS);
                let values = [id.clone().into(), now.into(), heard.into()];
                if sql::execute(tx.conn(), update, values).await?.rows_affected() == 0 {
                    return Ok(None);
                }
                let about = serde_json::json!({ "worker": id }).to_string();
                audit::note(tx, &who, if drain { "drain" } else { "undrain" }, &about, 1).await?;
                let since = "SELECT drain_since FROM workers WHERE id = $1";
                Ok(Some(sql::scalar::<Option<DateTime<Utc>>>(tx.conn(), since, [id.into()]).await?.flatten()))
            }
            .boxed()
        })
        .await
    }
}

async fn read(conn: &impl ConnectionTrait) -> Result<Pauses, DbError> {
    #[derive(FromQueryResult)]
    struct Stored {
        key: String,
        value: String,
    }
    let select =
        format!("SELECT key, value FROM service_state WHERE key IN {}", sql::tuple(1, Priority::ALL.len()));
    let stored: Vec<Stored> = sql::all(conn, &select, Priority::ALL.map(|lane| key(lane).into())).await?;
    let of = |lane: Priority| {
        let value = stored.iter().find(|stored| stored.key == key(lane)).map(|stored| &stored.value)?;
        // Whatever stands there, the lane is paused.
        let unknown = || Pause { since: DateTime::UNIX_EPOCH, reason: None, by: "unknown".to_owned() };
        Some(serde_json::from_str(value).unwrap_or_else(|_| unknown()))
    };
    Ok(Pauses(Priority::ALL.map(of)))
}
