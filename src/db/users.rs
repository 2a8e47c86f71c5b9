//! Users and whom they follow. A user is known from the first moment it acts.

use futures_util::FutureExt;
use sea_orm::{ConnectionTrait, Value};
use uuid::Uuid;

use super::{Db, DbError, Tx, sql};

/// Parameters a statement takes at most; SQLite's own limit is 32,766.
const MAX_PARAMETERS: usize = 30_000;

/// Makes sure that the users exist.
///
/// # Errors
/// `Refused` for a user that isn't there, in an adopted table that wants to know more of one than an id.
pub(super) async fn ensure(tx: &Tx<'_>, ids: &[Uuid]) -> Result<(), DbError> {
    let mut ids = ids.to_vec();
    // In the order of the ids, as everybody's: two that wait for each other would be a deadlock.
    ids.sort_unstable();
    ids.dedup();
    if sql::is_postgres(tx.conn()) {
        let insert = "INSERT INTO users (id, created_at) SELECT new.id, $2 FROM unnest($1::uuid[]) AS new (id) \
                      WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.id = new.id) ORDER BY new.id \
                      ON CONFLICT (id) DO NOTHING";
        sql::execute(tx.conn(), insert, [ids.into(), sql::now().into()]).await.map_err(unknown)?;
        return Ok(());
    }
    for ids in ids.chunks(MAX_PARAMETERS / 2) {
        let tuples = sql::tuples(ids.len(), 2);
        let insert = format!("INSERT INTO users (id, created_at) VALUES {tuples} ON CONFLICT (id) DO NOTHING");
        let now = sql::now();
        let values: Vec<Value> = ids.iter().flat_map(|id| [(*id).into(), now.into()]).collect();
        tx.conn().execute_raw(sql::bulk(tx.conn(), &insert, values)).await?;
    }
    Ok(())
}

/// What the table of users refuses is a user that it doesn't have.
pub(super) fn unknown(error: DbError) -> DbError {
    match error {
        DbError::Refused(reason) if reason.contains("\"users\"") => {
            DbError::Refused("user_id is no user of this database".into())
        }
        other => other,
    }
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
