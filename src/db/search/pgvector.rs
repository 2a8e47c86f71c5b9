//! Search in PostgreSQL: vectors through pgvector, words through `tsvector`, both in one round trip.

use async_trait::async_trait;
use sea_orm::prelude::PgVector;
use sea_orm::{DatabaseConnection, FromQueryResult, Value};

use super::{ByMeaning, ByWords, Found, IndexChange, Match, Scope, VectorIndex};
use crate::db::{DbError, ModelSpec, sql};

/// Rows with the words that are ranked at most: `ts_rank_cd` reads each row's words, and over a common word
/// of 100,000 rows that took 56 to 135 ms.
const RANKED: i64 = 2_000;
/// pgvector indexes `vector` up to this many dimensions, and `halfvec` up to twice as many.
pub(in crate::db) const MAX_VECTOR: usize = 2_000;
pub(in crate::db) const MAX_HALFVEC: usize = 4_000;

pub(in crate::db) struct PgVectorIndex {
    conn: DatabaseConnection,
    model: ModelSpec,
}

#[derive(FromQueryResult)]
struct Hit {
    by_words: bool,
    id: i64,
    score: f64,
    cosine: Option<f64>,
}

impl PgVectorIndex {
    pub(in crate::db) fn new(conn: DatabaseConnection, model: ModelSpec) -> Self {
        Self { conn, model }
    }
}

/// The indexed expression of a column or parameter. It must read the same in the index and in the query.
pub(in crate::db) fn indexed(column: &str, dimensions: usize) -> String {
    if dimensions <= MAX_VECTOR { column.to_owned() } else { format!("({column}::halfvec({dimensions}))") }
}

/// The statement's pieces as they are put together.
struct Query {
    parts: Vec<String>,
    selects: Vec<String>,
    values: Vec<Value>,
}

impl Query {
    /// `$1` is the viewer, `$2` the content type, `$3` how many.
    fn new(scope: Scope) -> Self {
        let kind = scope.content_type.map(|kind| kind.as_str());
        let values = vec![scope.viewer.into(), kind.into(), (scope.k as i64).into()];
        Self { parts: Vec::new(), selects: Vec::new(), values }
    }

    fn parameter(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    /// Materialized and sorted once more, as an iterative scan gives its rows in nearly their order.
    fn by_meaning(&mut self, by: ByMeaning<'_>, model: &ModelSpec) -> String {
        let vector = self.parameter(PgVector::from(by.query.as_slice().to_vec()));
        let (id, floor) = (self.parameter(model.id.to_string()), self.parameter(f64::from(by.floor)));
        let column = indexed("r.embedding", model.dimensions);
        let query = indexed(&vector, model.dimensions);
        self.parts.push(format!(
            "near AS MATERIALIZED (SELECT r.id, 1 - (r.embedding <=> {vector}) AS cosine FROM recommendations r \
             WHERE r.embedding IS NOT NULL AND r.embedding_model = {id} AND {VISIBLE} \
             ORDER BY {column} <=> {query} LIMIT $3)"
        ));
        self.selects.push(format!(
            "SELECT false AS by_words, CAST(id AS BIGINT) AS id, cosine AS score, cosine FROM near \
             WHERE cosine >= {floor}"
        ));
        format!("CASE WHEN r.embedding_model = {id} THEN 1 - (r.embedding <=> {vector}) END")
    }

    /// `cosine` is an expression over the row `r`, for the similarity that is shown.
    fn by_words(&mut self, by: ByWords<'_>, cosine: &str) {
        let query = self.parameter(ts_query(by));
        self.parts.push(format!(
            "wanted AS MATERIALIZED (SELECT to_tsquery('english', mapx_folded({query})) AS query), \
             matching AS MATERIALIZED (SELECT r.id, ts_rank_cd('{{0.1, 0.25, 0.5, 1.0}}', w.words, wanted.query, 1) \
               AS score FROM wanted, recommendation_words w JOIN recommendations r ON r.id = w.recommendation_id \
               WHERE w.words @@ wanted.query AND {VISIBLE} LIMIT {RANKED}), \
             worded AS MATERIALIZED (SELECT m.id, m.score FROM matching m ORDER BY m.score DESC, m.id LIMIT $3)"
        ));
        self.selects.push(format!(
            "SELECT true AS by_words, CAST(r.id AS BIGINT) AS id, CAST(worded.score AS DOUBLE PRECISION) AS score, \
             {cosine} AS cosine FROM worded JOIN recommendations r ON r.id = worded.id"
        ));
    }

    fn sql(&self) -> String {
        let (parts, selects) = (self.parts.join(", "), self.selects.join(" UNION ALL "));
        format!("WITH {parts} {selects} ORDER BY by_words, score DESC, id")
    }
}

/// Whom the viewer follows is looked up once, not once a row.
const VISIBLE: &str = "(r.visibility = 'public' OR r.user_id = $1 OR r.user_id = ANY(ARRAY(SELECT f.following_id \
    FROM user_follows f WHERE f.follower_id = $1))) AND ($2 IS NULL OR r.content_type = $2)";

/// Every word quoted: the operators of `tsquery` are then only words.
fn ts_query(by: ByWords<'_>) -> String {
    let quoted: Vec<String> =
        by.words.iter().map(|word| format!("'{}'", word.replace('\\', "\\\\").replace('\'', "''"))).collect();
    quoted.join(if by.wanted == Match::All { " & " } else { " | " })
}

#[async_trait]
impl VectorIndex for PgVectorIndex {
    async fn find(
        &self,
        meaning: Option<ByMeaning<'_>>,
        words: Option<ByWords<'_>>,
        scope: Scope,
    ) -> Result<Found, DbError> {
        let mut query = Query::new(scope);
        let cosine = meaning.map(|by| query.by_meaning(by, &self.model));
        if let Some(by) = words {
            query.by_words(by, cosine.as_deref().unwrap_or("CAST(NULL AS DOUBLE PRECISION)"));
        }
        if query.selects.is_empty() {
            return Ok(Found::default());
        }
        let hits: Vec<Hit> = sql::all(&self.conn, &query.sql(), query.values).await?;
        let mut found = Found::default();
        for hit in hits {
            if hit.by_words {
                found.by_words.push((hit.id, hit.score));
                found.cosines.extend(hit.cosine.map(|cosine| (hit.id, cosine as f32)));
            } else {
                found.by_meaning.push((hit.id, hit.score as f32));
            }
        }
        Ok(found)
    }

    fn apply(&self, _: Vec<IndexChange>) {}

    async fn vectors(&self) -> Result<u64, DbError> {
        let count = "SELECT count(*) FROM recommendations WHERE embedding IS NOT NULL AND embedding_model = $1";
        let count: Option<i64> = sql::scalar(&self.conn, count, [self.model.id.to_string().into()]).await?;
        Ok(count.unwrap_or(0).max(0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_only_words() {
        let words = &["near".to_string(), "a'b\\".to_string()];
        assert_eq!(ts_query(ByWords { words, wanted: Match::All }), r"'near' & 'a''b\\'");
        assert_eq!(ts_query(ByWords { words, wanted: Match::Any }), r"'near' | 'a''b\\'");
    }

    #[test]
    fn what_has_too_many_dimensions_for_an_index_is_indexed_at_half_precision() {
        assert_eq!(indexed("$1", 2000), "$1");
        assert_eq!(indexed("$1", 3072), "($1::halfvec(3072))");
    }
}
