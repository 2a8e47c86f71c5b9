//! Search in PostgreSQL: vectors through pgvector, words through `tsvector`, both in one statement. The driver parses
//! it first, which is a round trip of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use sea_orm::DatabaseConnection;
use sea_orm::prelude::{PgVector, Uuid};
use sea_orm::sqlx::{self, Row as _};

use super::{ByMeaning, ByWords, Found, IndexChange, Match, Scope, VectorIndex};
use crate::db::{DbError, ModelSpec, sql};

/// Rows with the words that are ranked at most: `ts_rank_cd` reads each row's words, and over a common word
/// of 100,000 rows that took 56 to 135 ms.
const RANKED: i64 = 2_000;
/// Words of a text that is no longer preferred for being short: else one that has all of the words would come after
/// one that has nothing but one of them.
const SHORT: u32 = 16;
/// pgvector indexes `vector` up to this many dimensions, and `halfvec` up to twice as many.
pub(in crate::db) const MAX_VECTOR: usize = 2_000;
pub(in crate::db) const MAX_HALFVEC: usize = 4_000;

/// Key of `service_state`: that searches look through `embedding_stand_ins`.
pub(in crate::db) const STANDS_IN: &str = "search.stands_in";

pub(in crate::db) struct PgVectorIndex {
    conn: DatabaseConnection,
    model: ModelSpec,
    /// Whether a copy may be serving in the vectors' place. Only a hint: the statement that it leads to asks the
    /// database, and the other one finds all there is, though slowly where the index is being built anew.
    stands_in: Arc<AtomicBool>,
}

/// A parameter of the statement.
enum Parameter {
    Viewer(Uuid),
    Kind(&'static str),
    Count(i64),
    Number(f64),
    Text(String),
    Words(Vec<String>),
    Vector(PgVector),
}

impl PgVectorIndex {
    pub(in crate::db) fn new(conn: DatabaseConnection, model: ModelSpec, stands_in: Arc<AtomicBool>) -> Self {
        Self { conn, model, stands_in }
    }
}

/// The indexed expression of a column or parameter. It must read the same in the index and in the query.
pub(in crate::db) fn indexed(column: &str, dimensions: usize) -> String {
    if dimensions <= MAX_VECTOR { column.to_owned() } else { format!("({column}::halfvec({dimensions}))") }
}

/// The indexed expression of a copy's vector, whose column has no dimension of its own.
pub(in crate::db) fn stand_in(column: &str, dimensions: usize) -> String {
    let kind = if dimensions <= MAX_VECTOR { "vector" } else { "halfvec" };
    format!("({column}::{kind}({dimensions}))")
}

/// The statement's pieces as they are put together.
struct Query {
    /// Which rows may be found: a condition over the row `r`.
    visible: String,
    parts: Vec<String>,
    selects: Vec<String>,
    values: Vec<Parameter>,
}

impl Query {
    /// `$1` is how many.
    ///
    /// The condition says nothing that isn't asked for: the planner takes a list of unknown length, or a
    /// parameter that may be null, for many rows, and then scans the index where few rows pass.
    fn new(scope: Scope) -> Self {
        let values = vec![Parameter::Count(scope.k as i64)];
        let mut query = Self { visible: String::new(), parts: Vec::new(), selects: Vec::new(), values };
        let whose = match scope.viewer.map(|viewer| query.parameter(Parameter::Viewer(viewer))) {
            // Whom the viewer follows is looked up once, not once a row.
            Some(viewer) => format!(
                "(r.visibility = 'public' OR r.user_id = {viewer} OR r.user_id = ANY(ARRAY(SELECT f.following_id \
                 FROM user_follows f WHERE f.follower_id = {viewer})))"
            ),
            None => "r.visibility = 'public'".to_owned(),
        };
        query.visible = format!("r.deleted_at IS NULL AND {whose}");
        if let Some(kind) = scope.content_type {
            let kind = query.parameter(Parameter::Kind(kind.as_str()));
            query.visible.push_str(&format!(" AND r.content_type = {kind}"));
        }
        query
    }

    fn parameter(&mut self, value: Parameter) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }

    /// Materialized and sorted once more, as an iterative scan gives its rows in nearly their order.
    ///
    /// HNSW's graph may have rows that no path leads to, a small group far from the rest above all: of 50 such rows
    /// among 5,000 a scan found 24. So one that comes home with fewer than it was sent for is followed by a
    /// comparison with every visible row, in the same statement; where it found enough, that part never starts.
    fn by_meaning(&mut self, by: ByMeaning<'_>, model: &ModelSpec, stands_in: bool) -> String {
        let vector = self.parameter(Parameter::Vector(PgVector::from(by.query.as_slice().to_vec())));
        let id = self.parameter(Parameter::Text(model.id.to_string()));
        let floor = self.parameter(Parameter::Number(f64::from(by.floor)));
        let column = indexed("r.embedding", model.dimensions);
        let query = indexed(&vector, model.dimensions);
        let visible = &self.visible;
        let rows = format!(
            "SELECT r.id, 1 - (r.embedding <=> {vector}) AS cosine FROM recommendations r \
             WHERE r.embedding IS NOT NULL AND r.embedding_model = {id} AND {visible}"
        );
        if stands_in {
            self.near_in_either(&rows, (&column, &query), (&vector, &id), model);
        } else {
            self.near(&rows, (&column, &query), &vector);
        }
        self.selects.push(format!(
            "SELECT false AS by_words, CAST(id AS BIGINT) AS id, cosine AS score, cosine FROM \
             (SELECT * FROM near WHERE NOT (SELECT yes FROM short) UNION ALL SELECT * FROM every) AS nearest \
             WHERE cosine >= {floor}"
        ));
        format!("CASE WHEN r.embedding_model = {id} THEN 1 - (r.embedding <=> {vector}) END")
    }

    fn near(&mut self, rows: &str, (column, query): (&str, &str), vector: &str) {
        self.parts.extend([
            format!("near AS MATERIALIZED ({rows} ORDER BY {column} <=> {query} LIMIT $1)"),
            "short AS MATERIALIZED (SELECT count(*) < $1 AS yes FROM near)".to_owned(),
            // The sum keeps the index out.
            format!(
                "every AS MATERIALIZED ({rows} AND (SELECT yes FROM short) \
                 ORDER BY (r.embedding <=> {vector}) + 0 LIMIT $1)"
            ),
        ]);
    }

    /// As [`Self::near`], through the vectors or the copy that stands in for them, whichever serves at the moment of
    /// this very statement. Of the other one no part ever starts.
    fn near_in_either(
        &mut self,
        rows: &str,
        (column, query): (&str, &str),
        (vector, id): (&str, &str),
        model: &ModelSpec,
    ) {
        let visible = &self.visible;
        let copies = format!(
            "SELECT r.id, 1 - (s.embedding <=> {vector}) AS cosine FROM embedding_stand_ins s JOIN recommendations r \
             ON r.id = s.recommendation_id WHERE s.embedding IS NOT NULL AND s.model = {id} \
             AND r.embedded_version IS NOT NULL AND {visible}"
        );
        let copy = stand_in("s.embedding", model.dimensions);
        let (copies, rows) = (
            format!("{copies} AND (SELECT yes FROM stands_in)"),
            format!("{rows} AND NOT (SELECT yes FROM stands_in)"),
        );
        self.parts.extend([
            format!(
                "stands_in AS MATERIALIZED (SELECT EXISTS (SELECT 1 FROM service_state WHERE key = '{STANDS_IN}') AS yes)"
            ),
            format!("near_copies AS MATERIALIZED ({copies} ORDER BY {copy} <=> {query} LIMIT $1)"),
            format!("near_rows AS MATERIALIZED ({rows} ORDER BY {column} <=> {query} LIMIT $1)"),
            "near AS MATERIALIZED (SELECT * FROM near_copies UNION ALL SELECT * FROM near_rows)".to_owned(),
            "short AS MATERIALIZED (SELECT count(*) < $1 AS yes FROM near)".to_owned(),
            format!(
                "every AS MATERIALIZED ((SELECT * FROM ({copies} AND (SELECT yes FROM short) \
                   ORDER BY (s.embedding <=> {vector}) + 0 LIMIT $1) AS c) UNION ALL \
                 (SELECT * FROM ({rows} AND (SELECT yes FROM short) ORDER BY (r.embedding <=> {vector}) + 0 LIMIT $1) AS r))"
            ),
        ]);
    }

    /// Each word is quoted: what is left of it once its signs are gone is only words, next to each other.
    /// `cosine` is an expression over the row `r`, for the similarity that is shown.
    fn by_words(&mut self, by: ByWords<'_>, cosine: &str) {
        let words = self.parameter(Parameter::Words(by.words.to_vec()));
        let operator = if by.wanted == Match::All { "&" } else { "|" };
        let visible = &self.visible;
        self.parts.push(format!(
            "wanted AS MATERIALIZED (SELECT to_tsquery('mapx_english', string_agg(quote_literal(word), ' {operator} ')) \
               AS query FROM (SELECT mapx_folded(w) AS word FROM unnest({words}) AS w) AS folded WHERE btrim(word) <> ''), \
             matching AS MATERIALIZED (SELECT r.id, ts_rank_cd('{{0.1, 0.25, 0.5, 1.0}}', w.words, wanted.query) \
               / ln({SHORT} + length(w.words)) AS score FROM wanted, recommendation_words w JOIN recommendations r ON r.id = w.recommendation_id \
               WHERE w.words @@ wanted.query AND {visible} LIMIT {RANKED}), \
             worded AS MATERIALIZED (SELECT m.id, m.score FROM matching m ORDER BY m.score DESC, m.id LIMIT $1)"
        ));
        self.selects.push(format!(
            "SELECT true AS by_words, CAST(r.id AS BIGINT) AS id, CAST(worded.score AS DOUBLE PRECISION) AS score, \
             {cosine} AS cosine FROM worded JOIN recommendations r ON r.id = worded.id"
        ));
    }

    /// Through the driver itself, to have the statement planned for these very values each time: a plan made
    /// for any values scanned the whole table, where the index takes half a millisecond.
    async fn run(self, pool: &sqlx::PgPool) -> Result<Vec<sqlx::postgres::PgRow>, DbError> {
        let mut query = sqlx::query(sqlx::AssertSqlSafe(self.sql())).persistent(false);
        for value in self.values {
            query = match value {
                Parameter::Viewer(id) => query.bind(id),
                Parameter::Kind(kind) => query.bind(kind),
                Parameter::Count(count) => query.bind(count),
                Parameter::Number(number) => query.bind(number),
                Parameter::Text(text) => query.bind(text),
                Parameter::Words(words) => query.bind(words),
                Parameter::Vector(vector) => query.bind(vector),
            };
        }
        Ok(query.fetch_all(pool).await?)
    }

    fn sql(&self) -> String {
        let (parts, selects) = (self.parts.join(", "), self.selects.join(" UNION ALL "));
        format!("WITH {parts} {selects} ORDER BY by_words, score DESC, id")
    }
}

/// A row of the answer.
struct Hit {
    by_words: bool,
    id: i64,
    score: f64,
    cosine: Option<f64>,
}

impl Hit {
    fn read(row: &sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
        let (by_words, id) = (row.try_get("by_words")?, row.try_get("id")?);
        Ok(Self { by_words, id, score: row.try_get("score")?, cosine: row.try_get("cosine")? })
    }
}

impl FromIterator<Hit> for Found {
    fn from_iter<T: IntoIterator<Item = Hit>>(hits: T) -> Self {
        let mut found = Self::default();
        for hit in hits {
            if hit.by_words {
                found.by_words.push((hit.id, hit.score));
                found.cosines.extend(hit.cosine.map(|cosine| (hit.id, cosine as f32)));
            } else {
                found.by_meaning.push((hit.id, hit.score as f32));
            }
        }
        found
    }
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
        let cosine = meaning.map(|by| query.by_meaning(by, &self.model, self.stands_in.load(Ordering::Relaxed)));
        if let Some(by) = words {
            query.by_words(by, cosine.as_deref().unwrap_or("CAST(NULL AS DOUBLE PRECISION)"));
        }
        if query.selects.is_empty() {
            return Ok(Found::default());
        }
        let rows = query.run(self.conn.get_postgres_connection_pool()).await?;
        Ok(rows.iter().map(Hit::read).collect::<Result<Vec<_>, _>>()?.into_iter().collect())
    }

    fn apply(&self, _: Vec<IndexChange>) {}

    async fn vectors(&self) -> Result<u64, DbError> {
        let count = "SELECT count(*) FROM recommendations WHERE embedding IS NOT NULL AND embedding_model = $1 \
                     AND deleted_at IS NULL";
        let count: Option<i64> = sql::scalar(&self.conn, count, [self.model.id.to_string().into()]).await?;
        Ok(count.unwrap_or(0).max(0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_too_many_dimensions_for_an_index_is_indexed_at_half_precision() {
        assert_eq!(indexed("$1", 2000), "$1");
        assert_eq!(indexed("$1", 3072), "($1::halfvec(3072))");
    }
}
