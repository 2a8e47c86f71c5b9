//! A recommendation as it is after parsing: its types can't hold what the database must not.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::embedding::Embedding;
use super::priority::Priority;
use super::trace::TraceParent;

/// What a recommendation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContentType {
    Place,
    Service,
    Unclear,
}

impl ContentType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Service => "service",
            Self::Unclear => "unclear",
        }
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("must be \"place\", \"service\" or \"unclear\"")]
pub struct UnknownContentType;

impl FromStr for ContentType {
    type Err = UnknownContentType;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        [Self::Place, Self::Service, Self::Unclear].into_iter().find(|t| t.as_str() == s).ok_or(UnknownContentType)
    }
}

/// Who may see a recommendation besides its author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Those who follow the author.
    Friends,
    /// Everyone.
    Public,
}

impl Visibility {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Friends => "friends",
            Self::Public => "public",
        }
    }
}

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("must be \"friends\" or \"public\"")]
pub struct UnknownVisibility;

impl FromStr for Visibility {
    type Err = UnknownVisibility;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        [Self::Friends, Self::Public].into_iter().find(|v| v.as_str() == s).ok_or(UnknownVisibility)
    }
}

/// The place of a body. Two bodies mean the same place when their Google ids are equal, or, without one,
/// when name and address are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlaceDraft {
    pub google_place_id: Option<String>,
    pub name: Option<String>,
    pub address: Option<String>,
    /// Degrees, −90 to 90.
    pub lat: Option<f64>,
    /// Degrees, −180 to 180.
    pub lng: Option<f64>,
    pub category: Option<String>,
    pub metadata: Option<Map<String, Value>>,
}

impl PlaceDraft {
    /// Whether it could be found again.
    pub fn is_named(&self) -> bool {
        self.google_place_id.is_some() || self.name.is_some() || self.address.is_some()
    }
}

/// The service of a body. Two bodies mean the same service when name, business name and address are equal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceDraft {
    pub name: Option<String>,
    pub service_type: Option<String>,
    pub business_name: Option<String>,
    pub address: Option<String>,
    pub metadata: Option<Map<String, Value>>,
}

impl ServiceDraft {
    /// Whether it could be found again.
    pub fn is_named(&self) -> bool {
        self.name.is_some() || self.business_name.is_some() || self.service_type.is_some()
    }
}

/// A recommendation to be saved.
#[derive(Clone, Debug)]
pub struct Draft {
    pub user_id: Uuid,
    pub content_type: ContentType,
    pub title: Option<String>,
    /// Neither empty nor blank.
    pub description: String,
    pub content_data: Option<Map<String, Value>>,
    pub labels: Vec<String>,
    pub metadata: Option<Map<String, Value>>,
    /// 1 to 5.
    pub rating: Option<i16>,
    pub visibility: Visibility,
    pub place: Option<PlaceDraft>,
    pub service: Option<ServiceDraft>,
    /// A ready vector of the current model: nothing is enqueued.
    pub embedding: Option<Embedding>,
    pub priority: Option<Priority>,
    /// The trace that its embedding belongs to.
    pub trace: Option<TraceParent>,
}

/// A change of a recommendation: `None` leaves a field as it is, `Some(None)` clears it.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    pub content_type: Option<ContentType>,
    pub title: Option<Option<String>>,
    pub description: Option<String>,
    pub content_data: Option<Option<Map<String, Value>>>,
    pub labels: Option<Vec<String>>,
    pub metadata: Option<Option<Map<String, Value>>>,
    pub rating: Option<Option<i16>>,
    pub visibility: Option<Visibility>,
    /// Its absent fields stay as they are, and so do those of the service.
    pub place: Option<PlaceDraft>,
    pub service: Option<ServiceDraft>,
    pub embedding: Option<Embedding>,
    pub priority: Option<Priority>,
    /// As a draft's.
    pub trace: Option<TraceParent>,
}
