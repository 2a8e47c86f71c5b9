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
words!(Strategy { InPlace = "in-place" });
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
    fn every_stored_word_is_read_back() {
        assert!(Scope::ALL.iter().all(|scope| scope.as_str().parse() == Ok(*scope)));
        assert!(JobState::ALL.iter().all(|state| state.as_str().parse() == Ok(*state)));
        assert!(Origin::ALL.iter().all(|origin| origin.as_str().parse() == Ok(*origin)));
        assert!(Strategy::ALL.iter().all(|strategy| strategy.as_str().parse() == Ok(*strategy)));
    }
}
