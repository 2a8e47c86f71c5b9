//! What is remembered by name, in `service_state`.

use sea_orm::ConnectionTrait;

use super::{DbError, sql};

pub(super) async fn get(conn: &impl ConnectionTrait, key: &str) -> Result<Option<String>, DbError> {
    sql::scalar(conn, "SELECT value FROM service_state WHERE key = $1", [key.into()]).await
}

pub(super) async fn put(conn: &impl ConnectionTrait, key: &str, value: &str) -> Result<(), DbError> {
    let put = "INSERT INTO service_state (key, value) VALUES ($1, $2) \
               ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    sql::execute(conn, put, [key.into(), value.into()]).await?;
    Ok(())
}

pub(super) async fn forget(conn: &impl ConnectionTrait, key: &str) -> Result<(), DbError> {
    sql::execute(conn, "DELETE FROM service_state WHERE key = $1", [key.into()]).await?;
    Ok(())
}
