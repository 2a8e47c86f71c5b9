//! Users and whom they follow. A user is known from the first moment it acts.

use futures_util::FutureExt;
use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use uuid::Uuid;

use super::search::Viewer;
use super::{Db, DbError, Tx, sql};

/// Parameters a statement takes at most; SQLite's own limit is 32,766.
const MAX_PARAMETERS: usize = 30_000;

#[derive(FromQueryResult)]
struct Followed {
    following_id: Uuid,
}

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
    /// Who `id` is and whom it follows; `None` is the anonymous viewer.
    pub async fn viewer(&self, id: Option<Uuid>) -> Result<Viewer, DbError> {
        let Some(user) = id else { return Ok(Viewer::default()) };
        let select = "SELECT following_id FROM user_follows WHERE follower_id = $1";
        let followed: Vec<Followed> = sql::all(self.read(), select, [user.into()]).await?;
        Ok(Viewer { id, following: followed.into_iter().map(|f| f.following_id).collect() })
    }

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
        self.write(move |tx| {
            async move {
                let delete = "DELETE FROM user_follows WHERE follower_id = $1 AND following_id = $2";
                sql::execute(tx.conn(), delete, [follower.into(), followed.into()]).await?;
                Ok(())
            }
            .boxed()
        })
        .await
    }
}
