//! Keyword search through FTS5.

use sea_orm::FromQueryResult;

use super::{Filter, Viewer};
use crate::db::{Db, DbError, sql};

/// A row that contains the words.
#[derive(Clone, Copy, Debug, FromQueryResult)]
pub struct KeywordHit {
    pub id: i64,
    /// BM25, larger is better, above 0.
    pub score: f64,
}

/// Whether all words must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    All,
    Any,
}

impl Db {
    /// The `k` best rows with `words` that `viewer` may see, best first.
    pub async fn keyword_hits(
        &self,
        words: &[String],
        wanted: Match,
        viewer: &Viewer,
        filter: &Filter,
        k: usize,
    ) -> Result<Vec<KeywordHit>, DbError> {
        if words.is_empty() {
            return Ok(Vec::new());
        }
        let kind = filter.content_type.map(|t| t.as_str());
        let values = [fts_query(words, wanted).into(), viewer.id.into(), kind.into(), (k as i64).into()];
        sql::all(self.read(), &hits_sql(), values).await
    }
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
fn fts_query(words: &[String], wanted: Match) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{}\"", word.replace('"', "\"\""))).collect();
    quoted.join(if wanted == Match::All { " AND " } else { " OR " })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_only_words() {
        let words = ["near".to_string(), "a\"b".to_string()];
        assert_eq!(fts_query(&words, Match::All), r#""near" AND "a""b""#);
        assert_eq!(fts_query(&words, Match::Any), r#""near" OR "a""b""#);
    }
}
