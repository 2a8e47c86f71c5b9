//! What is removed from the log in the background, and how much is in it.

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sea_orm::{FromQueryResult, Value};

use crate::db::{Db, DbError, sql};

/// Deliveries that are removed in one transaction.
const STEP: i64 = 500;

#[derive(FromQueryResult)]
struct Id {
    id: i64,
}

/// How many endpoints and open deliveries there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromQueryResult)]
pub struct WebhookCounts {
    pub endpoints: i64,
    pub disabled: i64,
    pub waiting: i64,
    pub published: i64,
}

impl Db {
    pub async fn webhook_counts(&self) -> Result<WebhookCounts, DbError> {
        let select = "SELECT (SELECT count(*) FROM webhook_endpoints) AS endpoints, \
            (SELECT count(*) FROM webhook_endpoints WHERE disabled_at IS NOT NULL) AS disabled, \
            (SELECT count(*) FROM webhook_deliveries WHERE state IN ('pending', 'retrying')) AS waiting, \
            (SELECT count(*) FROM webhook_deliveries WHERE state = 'published') AS published";
        Ok(sql::one(self.read(), select, []).await?.unwrap_or_default())
    }

    /// Removes a step of what ended before this moment, of what a disabled endpoint has not been told since then, and
    /// of what deleted endpoints have left. Returns whether there may be more.
    pub async fn forget_deliveries(&self, before: DateTime<Utc>) -> Result<bool, DbError> {
        let ended =
            "SELECT id FROM webhook_deliveries WHERE state IN ('delivered', 'failed') AND updated_at < $1 LIMIT $2";
        let values = || -> [Value; 2] { [before.into(), STEP.into()] };
        let mut ids: Vec<Id> = sql::all(self.read(), ended, values()).await?;
        if ids.is_empty() {
            let unsaid = "SELECT d.id FROM webhook_endpoints e JOIN webhook_deliveries d ON d.endpoint_id = e.id \
                AND d.state IN ('pending', 'retrying') WHERE e.disabled_at IS NOT NULL AND d.occurred_at < $1 LIMIT $2";
            ids = sql::all(self.read(), unsaid, values()).await?;
        }
        if ids.is_empty() {
            ids = self.of_deleted_endpoints().await?;
        }
        if ids.is_empty() {
            return Ok(false);
        }
        let ids: Vec<i64> = ids.into_iter().map(|row| row.id).collect();
        self.write(move |tx| {
            let ids = ids.clone();
            async move {
                // Looked at once more, as one may have been redelivered meanwhile; and before its attempts, so that
                // none comes to one that is gone.
                let (among, mut values) = sql::among(tx.conn(), "id", 1, &ids);
                values.push(before.into());
                let before = values.len();
                let delete = format!(
                    "DELETE FROM webhook_deliveries AS d WHERE {among} AND (NOT EXISTS \
                     (SELECT 1 FROM webhook_endpoints e WHERE e.id = d.endpoint_id) \
                     OR (state IN ('delivered', 'failed') AND updated_at < ${before}) \
                     OR (state IN ('pending', 'retrying') AND occurred_at < ${before} AND EXISTS \
                     (SELECT 1 FROM webhook_endpoints e WHERE e.id = d.endpoint_id AND e.disabled_at IS NOT NULL))) \
                     RETURNING id"
                );
                let gone: Vec<Id> = sql::all(tx.conn(), &delete, values).await?;
                let gone: Vec<i64> = gone.into_iter().map(|row| row.id).collect();
                if gone.is_empty() {
                    return Ok(());
                }
                let (among, values) = sql::among(tx.conn(), "delivery_id", 1, &gone);
                sql::execute(tx.conn(), &format!("DELETE FROM webhook_attempts WHERE {among}"), values).await?;
                Ok(())
            }
            .boxed()
        })
        .await?;
        Ok(true)
    }

    /// From one endpoint's deliveries to the next one's by the index: none of them is read that stays.
    async fn of_deleted_endpoints(&self) -> Result<Vec<Id>, DbError> {
        let mut after = 0i64;
        loop {
            let next = "SELECT endpoint_id AS id FROM webhook_deliveries WHERE endpoint_id > $1 ORDER BY endpoint_id LIMIT 1";
            let Some(Id { id }) = sql::one::<Id>(self.read(), next, [after.into()]).await? else {
                return Ok(Vec::new());
            };
            if self.webhook_endpoint(id).await?.is_none() {
                let left = "SELECT id FROM webhook_deliveries WHERE endpoint_id = $1 LIMIT $2";
                return sql::all(self.read(), left, [id.into(), STEP.into()]).await;
            }
            after = id;
        }
    }
}
