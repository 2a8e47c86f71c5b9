//! Users and whom they follow. A user is known from the first moment it acts.

use futures_util::FutureExt;
use sea_orm::{ConnectionTrait, Value};
use uuid::Uuid;

use super::{Db, DbError, Tx, sql};

/// Parameters a statement takes at most; SQLite's own limit is 32,766.
const MAX_PARAMETERS: usize = 30_000;

/// Makes sure that the users exist.
pub(super) async fn ensure(tx: &Tx<'_>, ids: &[Uuid]) -> Result<(), DbError> {
    for ids in ids.chunks(MAX_PARAMETERS / 2) {
        let tuples = sql::tuples(ids.len(), 2);
        let insert = format!("INSERT INTO users (id, created_at) VALUES {tuples} ON CONFLICT (id) DO NOTHING");
        let now = sql::now();
        let values: Vec<Value> = ids.iter().flat_map(|id| [(*id).into(), now.into()]).collect();
        tx.conn().execute_raw(sql::bulk(tx.conn(), &insert, values)).await?;
    }
    Ok(())
}

impl Db {
    /// `follower` sees what `followed` keeps for friends from now on. Doing it twice changes nothing.
    pub async fn follow(&self, follower: Uuid, followed: Uuid) -> Result<(), DbError> {
        self.write(move |tx| {
            async move {
                ensure(tx, &[follower, followed]).await?;
                let insert = "INSERT INTO user_follows (follower_id, following_id, created_at) VALUES ($1, $2, $3) \
                              ON CONFLICT (follower_id, following_id) DO NOTHING";
                sql::execute(tx.conn(), insert, [follower.into(), followed.into(), sql::now().into()]).await?;
                Ok(())
            }
            .boxed()
        })
        .await
    }

    /// The end of following; it is no error when there was none.
    pub async fn unfollow(&self, follower: Uuid, followed: Uuid) -> Result<(), DbError> {
        let delete = "DELETE FROM user_follows WHERE follower_id = $1 AND following_id = $2";
        self.change(delete, [follower.into(), followed.into()]).await?;
        Ok(())
    }
}
