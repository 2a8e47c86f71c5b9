//! Regenerations: jobs that have many rows embedded again.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{Fields, InvalidField};
use super::priority::Priority;

/// Which rows a regeneration is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Every row, paid for again: once a distinct text.
    All,
    /// Rows that have no vector at all.
    Missing,
    /// Rows whose vector is of another model or another text.
    Stale,
    /// Rows whose task was given up or discarded.
    Failed,
}

/// How the new vectors come into the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// One by one, in place of the old ones.
    InPlace,
    /// Without one: it is taken away, while a copy of the old vectors serves the searches, and is built anew over all
    /// of the new ones.
    Shadow,
}

/// What a regeneration with [`Strategy::Shadow`] is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The old vectors are copied, and the copy is indexed.
    Preparing,
    /// The rows are embedded; searches look through the copy.
    Filling,
    /// The new vectors' index is built; searches look through the copy.
    Indexing,
    /// Searches look through the new vectors again, and the copy goes.
    Swapping,
}

/// What the choice of a strategy goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    pub scope: Scope,
    pub index: VectorsIndex,
    /// Rows in its scope, and all that have a vector.
    pub rows: u64,
    pub vectors: u64,
    /// From how many rows on an index is built anew; 0 for never.
    pub shadow_rows: u64,
}

/// What the vectors of the rows are found through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorsIndex {
    /// The matrix in the memory of this process, as on SQLite.
    Memory,
    /// An index that this program has made.
    Ours,
    /// None, or another program's.
    NotOurs,
}

impl Circumstances {
    /// How the new vectors come into the index, and why so, in a few words.
    ///
    /// Putting a vector into an HNSW index takes four to nine times what building the index takes for each of its
    /// vectors, and a shadow builds two: worth it where most of the index is to be replaced, and that takes long. A row's
    /// first vector has nothing to stand in for it, and goes into the copy's index one by one.
    pub fn strategy(&self) -> (Strategy, String) {
        let Self { scope, rows, vectors, shadow_rows: least, .. } = *self;
        let why = match self.index {
            VectorsIndex::Memory => "SQLite has no index that is slow to write".to_owned(),
            VectorsIndex::NotOurs => "the vectors have no index that this program has made".to_owned(),
            _ if !matches!(scope, Scope::All | Scope::Stale) => "only all and stale replace vectors".to_owned(),
            _ if least == 0 => "regeneration.shadow_rows is 0".to_owned(),
            _ if rows < least => format!("{rows} rows are fewer than regeneration.shadow_rows, {least}"),
            _ if rows.saturating_mul(2) < vectors => format!("{rows} rows are less than half of {vectors} vectors"),
            _ if vectors.saturating_mul(2) < rows => {
                format!("of {rows} rows only {vectors} have a vector to replace")
            }
            _ => return (Strategy::Shadow, format!("{rows} rows for {vectors} vectors: a new index is quicker")),
        };
        (Strategy::InPlace, why)
    }
}

/// Who began it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Somebody asked for it.
    Request,
    /// The service, which found the vectors of another model when it was started.
    ModelChange,
}

/// How far a regeneration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Running,
    /// What is in a worker's hands is finished, and nothing else is begun.
    Paused,
    /// As paused; it goes on only when somebody resumes it and no other has begun meanwhile.
    Cancelled,
    Completed,
}

/// Words of an enum that the database stores and the API reads.
macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                let known = || Self::ALL.iter().map(|one| format!("{:?}", one.as_str())).collect::<Vec<_>>().join(", ");
                Self::ALL.iter().copied().find(|one| one.as_str() == word).ok_or_else(|| format!("must be one of {}", known()))
            }
        }
    };
}

words!(Scope { All = "all", Missing = "missing", Stale = "stale", Failed = "failed" });
words!(Strategy { InPlace = "in-place", Shadow = "shadow" });
words!(Phase { Preparing = "preparing", Filling = "filling", Indexing = "indexing", Swapping = "swapping" });
words!(Origin { Request = "request", ModelChange = "model-change" });
words!(JobState { Running = "running", Paused = "paused", Cancelled = "cancelled", Completed = "completed" });

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegenerationRequest {
    pub scope: Scope,
    pub dry_run: bool,
    pub priority: Priority,
}

impl RegenerationRequest {
    /// Reads a JSON body. Without one it is what MapX's own client means, which sends none: the rows that have no
    /// vector. Bulk work goes to the low lane unless somebody asks for another.
    ///
    /// # Errors
    /// Names the field that is unknown or wrong; a misspelt `dry_run` must not become a bill.
    pub fn read(body: Value) -> Result<Self, InvalidField> {
        const KNOWN: [&str; 3] = ["scope", "dry_run", "priority"];
        let unknown =
            body.as_object().and_then(|fields| fields.keys().find(|name| !KNOWN.contains(&name.as_str())));
        if let Some(name) = unknown {
            let name: String = name.chars().take(64).collect();
            return Err(InvalidField::new(name, "is not known here; scope, dry_run and priority are"));
        }
        let fields = Fields::new(body)?;
        let dry_run = match fields.get("dry_run") {
            None => false,
            Some(Value::Bool(dry_run)) => *dry_run,
            Some(_) => return Err(InvalidField::new("dry_run", "must be true or false")),
        };
        Ok(Self {
            scope: fields.parsed("scope")?.unwrap_or(Scope::Missing),
            dry_run,
            priority: fields.parsed("priority")?.unwrap_or(Priority::Low),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_body_means_the_rows_without_a_vector() {
        let request = RegenerationRequest { scope: Scope::Missing, dry_run: false, priority: Priority::Low };
        assert_eq!(RegenerationRequest::read(json!({})), Ok(request));
        let all = json!({ "scope": "all", "dry_run": true, "priority": "high" });
        let request = RegenerationRequest { scope: Scope::All, dry_run: true, priority: Priority::High };
        assert_eq!(RegenerationRequest::read(all), Ok(request));
    }

    #[test]
    fn every_refusal_names_its_field() {
        let refused = [
            (json!({ "scope": "everything" }), "scope must be one of \"all\", \"missing\", \"stale\", \"failed\""),
            (json!({ "scope": 1 }), "scope must be a string"),
            (json!({ "dry_run": "yes" }), "dry_run must be true or false"),
            (json!({ "dryrun": true }), "dryrun is not known here"),
            (json!({ "priority": "urgent" }), "priority must be"),
            (json!([1]), "body must be a JSON object"),
        ];
        for (body, expected) in refused {
            let message = RegenerationRequest::read(body).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message:?} should start with {expected:?}");
        }
    }

    #[test]
    fn a_shadow_is_for_most_of_a_large_table_with_an_index_of_ours() {
        let most = Circumstances {
            scope: Scope::All,
            index: VectorsIndex::Ours,
            rows: 20_000,
            vectors: 40_000,
            shadow_rows: 20_000,
        };
        assert_eq!(
            most.strategy(),
            (Strategy::Shadow, "20000 rows for 40000 vectors: a new index is quicker".to_owned())
        );
        assert_eq!(Circumstances { scope: Scope::Stale, ..most }.strategy().0, Strategy::Shadow);
        assert_eq!(Circumstances { vectors: 10_000, ..most }.strategy().0, Strategy::Shadow);
        let in_place = [
            (Circumstances { index: VectorsIndex::Memory, ..most }, "SQLite"),
            (Circumstances { index: VectorsIndex::NotOurs, ..most }, "no index that this program"),
            (Circumstances { scope: Scope::Missing, ..most }, "only all and stale"),
            (Circumstances { scope: Scope::Failed, ..most }, "only all and stale"),
            (Circumstances { shadow_rows: 0, ..most }, "regeneration.shadow_rows is 0"),
            (Circumstances { rows: 19_999, ..most }, "19999 rows are fewer than regeneration.shadow_rows, 20000"),
            (Circumstances { vectors: 40_001, ..most }, "less than half of 40001 vectors"),
            (Circumstances { vectors: 9_999, ..most }, "of 20000 rows only 9999 have a vector"),
        ];
        for (circumstances, expected) in in_place {
            let (strategy, why) = circumstances.strategy();
            assert_eq!(strategy, Strategy::InPlace, "{circumstances:?}");
            assert!(why.contains(expected), "{why:?} should contain {expected:?}");
        }
    }

    #[test]
    fn every_stored_word_is_read_back() {
        assert!(Scope::ALL.iter().all(|scope| scope.as_str().parse() == Ok(*scope)));
        assert!(JobState::ALL.iter().all(|state| state.as_str().parse() == Ok(*state)));
        assert!(Origin::ALL.iter().all(|origin| origin.as_str().parse() == Ok(*origin)));
        assert!(Phase::ALL.iter().all(|phase| phase.as_str().parse() == Ok(*phase)));
        assert!(Strategy::ALL.iter().all(|strategy| strategy.as_str().parse() == Ok(*strategy)));
    }
}
