//! Keyword search through FTS5.

use sea_orm::{DatabaseConnection, FromQueryResult};

use super::{ByWords, Match, Scope};
use crate::db::{DbError, sql};

#[derive(FromQueryResult)]
struct Hit {
    id: i64,
    score: f64,
}

/// The best rows with the words, with their BM25 above 0, best first.
pub(super) async fn hits(
    conn: &DatabaseConnection,
    by: ByWords<'_>,
    scope: Scope,
) -> Result<Vec<(i64, f64)>, DbError> {
    let kind = scope.content_type.map(|t| t.as_str());
    let values = [fts_query(by).into(), scope.viewer.into(), kind.into(), (scope.k as i64).into()];
    let hits: Vec<Hit> = sql::all(conn, &hits_sql(), values).await?;
    Ok(hits.into_iter().map(|hit| (hit.id, hit.score)).collect())
}

/// Titles and labels tell more than descriptions: their words weigh more.
fn hits_sql() -> String {
    format!(
        "SELECT r.id AS id, -bm25(recommendations_fts, 4.0, 1.0, 2.0, 2.0) AS score \
         FROM recommendations_fts JOIN recommendations r ON r.id = recommendations_fts.rowid \
         WHERE recommendations_fts MATCH $1 AND {} AND ($3 IS NULL OR r.content_type = $3) \
         ORDER BY score DESC, r.id LIMIT $4",
        sql::visible_to(2)
    )
}

/// Every word quoted: FTS5's own operators and column names are then only words.
fn fts_query(by: ByWords<'_>) -> String {
    let quoted: Vec<String> = by.words.iter().map(|word| format!("\"{}\"", word.replace('"', "\"\""))).collect();
    quoted.join(if by.wanted == Match::All { " AND " } else { " OR " })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_only_words() {
        let words = &["near".to_string(), "a\"b".to_string()];
        assert_eq!(fts_query(ByWords { words, wanted: Match::All }), r#""near" AND "a""b""#);
        assert_eq!(fts_query(ByWords { words, wanted: Match::Any }), r#""near" OR "a""b""#);
    }
}
