//! Small pieces that every query of this room uses.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, ExprTrait, Func};
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, ExecResult, FromQueryResult, QueryResult, Statement, TryGetable, Value,
};

use super::DbError;

/// `SELECT` through `$1`-style parameters, which both back ends read.
pub(super) async fn all<T: FromQueryResult>(
    conn: &impl ConnectionTrait,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Vec<T>, DbError> {
    let rows = conn.query_all_raw(statement(conn, sql, values)).await?;
    Ok(rows.iter().map(|row| T::from_query_result(row, "")).collect::<Result<_, _>>()?)
}

pub(super) async fn one<T: FromQueryResult>(
    conn: &impl ConnectionTrait,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Option<T>, DbError> {
    let row = conn.query_one_raw(statement(conn, sql, values)).await?;
    Ok(row.map(|row| T::from_query_result(&row, "")).transpose()?)
}

/// The first column of the first row.
pub(super) async fn scalar<T: sea_orm::TryGetable>(
    conn: &impl ConnectionTrait,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Option<T>, DbError> {
    let row: Option<QueryResult> = conn.query_one_raw(statement(conn, sql, values)).await?;
    Ok(row.map(|row| row.try_get_by_index(0)).transpose()?)
}

pub(super) async fn execute(
    conn: &impl ConnectionTrait,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<ExecResult, DbError> {
    Ok(conn.execute_raw(statement(conn, sql, values)).await?)
}

/// A row read column by column, in the order of its SELECT: by name, each column is looked up and each NULL makes a
/// text that nobody reads, together a third of what a row of twenty columns costs.
pub(super) struct InOrder<'r> {
    row: &'r QueryResult,
    next: usize,
}

impl<'r> InOrder<'r> {
    pub(super) fn new(row: &'r QueryResult) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn next<T: TryGetable>(&mut self) -> Result<T, DbErr> {
        let column = self.next;
        self.next += 1;
        self.row.try_get_by_index(column)
    }
}

fn statement(conn: &impl ConnectionTrait, sql: &str, values: impl IntoIterator<Item = Value>) -> Statement {
    Statement::from_sql_and_values(conn.get_database_backend(), sql, values)
}

pub(super) fn is_postgres(conn: &impl ConnectionTrait) -> bool {
    conn.get_database_backend() == DbBackend::Postgres
}

/// A column of labels as JSON: `TEXT[]` on PostgreSQL, where an adopted table may leave it empty.
pub(super) fn labels(conn: &impl ConnectionTrait, column: &str) -> String {
    if is_postgres(conn) { format!("coalesce(to_jsonb({column}), '[]'::jsonb)") } else { column.to_owned() }
}

/// A condition that `column` is one of `ids`, with its parameters from `$from` on. On PostgreSQL they are one
/// parameter, so that the statement is prepared once for any number of them.
pub(super) fn among(conn: &impl ConnectionTrait, column: &str, from: usize, ids: &[i64]) -> (String, Vec<Value>) {
    if is_postgres(conn) {
        return (format!("{column} = ANY(${from})"), vec![ids.to_vec().into()]);
    }
    (format!("{column} IN {}", tuple(from, ids.len())), ids.iter().map(|id| (*id).into()).collect())
}

/// `($from, $from+1, …)` with `n` parameters.
pub(super) fn tuple(from: usize, n: usize) -> String {
    let names: Vec<String> = (from..from + n).map(|i| format!("${i}")).collect();
    format!("({})", names.join(", "))
}

/// `(?, …), (?, …), …`: `rows` tuples of `columns` parameters each, for a statement of [`bulk`].
pub(super) fn tuples(rows: usize, columns: usize) -> String {
    let tuple = format!("({})", vec!["?"; columns].join(", "));
    vec![tuple; rows].join(", ")
}

/// A statement with thousands of parameters, each written `?`, in the order of the values.
///
/// Not `$n`: SQLite keeps those as names, and the driver looks each one up among all the others, which took
/// a tenth of an import's time.
pub(super) fn bulk(conn: &impl ConnectionTrait, sql: &str, values: Vec<Value>) -> Statement {
    let backend = conn.get_database_backend();
    if backend != DbBackend::Postgres {
        return Statement::from_sql_and_values(backend, sql, values);
    }
    let mut numbered = String::with_capacity(sql.len() + values.len() * 4);
    for (position, piece) in sql.split('?').enumerate() {
        if position > 0 {
            numbered.push_str(&format!("${position}"));
        }
        numbered.push_str(piece);
    }
    Statement::from_sql_and_values(backend, numbered, values)
}

/// The text column has this value, where none and an empty one are the same: as the indexes by name have it.
pub(super) fn same(column: &'static str, value: &Option<String>) -> Expr {
    let wanted = value.clone().unwrap_or_default();
    Expr::expr(Func::coalesce([Expr::col(column), Expr::cust("''")])).eq(wanted)
}

/// A moment for an answer, as `AS name`: an adopted table may not know it, and then it is the first of all.
pub(super) fn moment(conn: &impl ConnectionTrait, column: &str, name: &str) -> String {
    if is_postgres(conn) {
        format!("coalesce({column}, 'epoch'::timestamptz) AS {name}")
    } else {
        format!("{column} AS {name}")
    }
}

/// Now, in the milliseconds that are stored and shown: what is read back equals what was written.
pub(super) fn now() -> DateTime<Utc> {
    let now = Utc::now();
    DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now)
}

/// True for whoever may see the row `r`: `$n` is the viewer's id or NULL. Nobody sees what another program has
/// marked as deleted.
pub(super) fn visible_to(n: usize) -> String {
    format!(
        "r.deleted_at IS NULL AND (r.visibility = 'public' OR r.user_id = ${n} OR EXISTS (SELECT 1 FROM user_follows f \
         WHERE f.follower_id = ${n} AND f.following_id = r.user_id))"
    )
}
