//! Saving recommendations: the row, its place, its task, in one transaction.
//!
//! PostgreSQL could do row and task in one statement through a data-modifying CTE; SQLite has none, and in
//! one process there is no round trip to save. The transaction is what counts.

use std::collections::HashMap;

use futures_util::FutureExt;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::EntityTrait;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::embeddings::{self, Finished, Made};
use super::entities::{place, recommendation as row, service};
use super::tasks::{self, NewTask};
use super::{Db, DbError, ModelSpec, Tx, places, services, sql, users};
use crate::domain::embedding::Embedding;
use crate::domain::priority::Priority;
use crate::domain::recommendation::{ContentType, Draft, PlaceDraft};
use crate::domain::status::EmbeddingStatus;
use crate::domain::task::{EmbedTask, Target};
use crate::domain::text::{Content, content_hash};

/// Rows in one INSERT: fifteen parameters each.
const INSERT_ROWS: usize = 1000;

/// What a save answers.
#[derive(Clone, Debug)]
pub struct Saved {
    pub id: i64,
    pub place_id: Option<i64>,
    pub service_id: Option<i64>,
    pub status: EmbeddingStatus,
}

/// Resolved places and services of a batch, by draft, so that a batch asks once for each.
#[derive(Default)]
struct Subjects {
    /// The batch's places with a Google id, before what its later drafts say of them.
    by_google_id: HashMap<String, place::Model>,
    places: HashMap<String, place::Model>,
    services: HashMap<String, service::Model>,
}

/// A draft with the rows it refers to.
struct Resolved {
    draft: Draft,
    place: Option<place::Model>,
    service: Option<service::Model>,
}

impl Db {
    /// Saves one recommendation; its embedding follows at `normal` priority unless the draft says otherwise.
    pub async fn save(&self, draft: Draft) -> Result<Saved, DbError> {
        let mut saved = self.save_all(vec![draft], Priority::Normal).await?;
        saved.pop().ok_or_else(|| DbError::Unavailable("the save answered nothing".into()))
    }

    /// Saves all or none; the answers are in the order of the drafts.
    pub async fn save_all(&self, drafts: Vec<Draft>, default: Priority) -> Result<Vec<Saved>, DbError> {
        let model = self.model().clone();
        self.write(move |tx| save_in(tx, drafts, default, model).boxed()).await
    }
}

async fn save_in(
    tx: &Tx<'_>,
    drafts: Vec<Draft>,
    default: Priority,
    model: ModelSpec,
) -> Result<Vec<Saved>, DbError> {
    let mut authors: Vec<Uuid> = drafts.iter().map(|d| d.user_id).collect();
    authors.sort_unstable();
    authors.dedup();
    users::ensure(tx, &authors).await?;
    let places: Vec<&PlaceDraft> = drafts.iter().filter_map(|d| d.place.as_ref()).collect();
    let mut subjects = Subjects { by_google_id: places::by_google_id(tx, &places).await?, ..Default::default() };
    let mut resolved = Vec::with_capacity(drafts.len());
    for draft in drafts {
        resolved.push(subjects.resolve(tx, draft).await?);
    }
    let ids = insert_rows(tx, &resolved).await?;
    let mut waiting = Vec::new();
    let mut ready = Vec::new();
    let mut saved = Vec::with_capacity(resolved.len());
    for (id, mut resolved) in ids.zip(resolved) {
        let status = match resolved.draft.embedding.take() {
            Some(embedding) => {
                ready.push(finished(id, 1, embedding, &resolved.content()));
                EmbeddingStatus::Ready
            }
            None => {
                let priority = resolved.draft.priority.unwrap_or(default);
                waiting.push(NewTask { recommendation_id: id, content_version: 1, priority });
                EmbeddingStatus::Pending
            }
        };
        let (place_id, service_id) = (resolved.place.map(|p| p.id), resolved.service.map(|s| s.id));
        saved.push(Saved { id, place_id, service_id, status });
    }
    tasks::enqueue(tx, &waiting).await?;
    embeddings::store(tx, &model, ready).await?;
    Ok(saved)
}

/// Inserts the rows under ids that are taken beforehand: no order of RETURNING needs to be trusted.
async fn insert_rows(tx: &Tx<'_>, resolved: &[Resolved]) -> Result<std::ops::Range<i64>, DbError> {
    // Within the one write transaction nobody else takes ids.
    let last = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'recommendations'), 0)";
    let first = sql::scalar::<i64>(tx.conn(), last, []).await?.unwrap_or(0) + 1;
    let mut next = first;
    for rows in resolved.chunks(INSERT_ROWS) {
        let models: Vec<row::ActiveModel> = rows.iter().zip(next..).map(|(r, id)| r.active_model(id)).collect();
        row::Entity::insert_many(models).exec_without_returning(tx.conn()).await?;
        next += rows.len() as i64;
    }
    Ok(first..next)
}

impl Subjects {
    async fn resolve(&mut self, tx: &Tx<'_>, draft: Draft) -> Result<Resolved, DbError> {
        let place = match &draft.place {
            Some(wanted) => {
                let key = format!("{wanted:?}");
                if !self.places.contains_key(&key) {
                    let place = self.resolve_place(tx, wanted).await?;
                    self.places.insert(key.clone(), place);
                }
                self.places.get(&key).cloned()
            }
            None => None,
        };
        let service = match &draft.service {
            Some(wanted) => {
                let key = format!("{wanted:?}");
                if !self.services.contains_key(&key) {
                    self.services.insert(key.clone(), services::resolve(tx, wanted).await?);
                }
                self.services.get(&key).cloned()
            }
            None => None,
        };
        Ok(Resolved { draft, place, service })
    }

    async fn resolve_place(&mut self, tx: &Tx<'_>, wanted: &PlaceDraft) -> Result<place::Model, DbError> {
        let google = wanted.google_place_id.as_deref();
        let Some((google, known)) = google.and_then(|google| self.by_google_id.remove_entry(google)) else {
            return places::resolve(tx, wanted).await;
        };
        let place = places::bring_up_to(tx, known, wanted).await?;
        self.by_google_id.insert(google, place.clone());
        Ok(place)
    }
}

impl Resolved {
    fn active_model(&self, id: i64) -> row::ActiveModel {
        let now = sql::now();
        let draft = &self.draft;
        row::ActiveModel {
            id: Set(id),
            user_id: Set(draft.user_id),
            content_type: Set(draft.content_type.as_str().to_owned()),
            title: Set(draft.title.clone()),
            description: Set(draft.description.clone()),
            content_data: Set(draft.content_data.clone().map(Json::Object)),
            labels: Set(Json::from(draft.labels.clone())),
            metadata: Set(draft.metadata.clone().map(Json::Object)),
            rating: Set(draft.rating),
            visibility: Set(draft.visibility.as_str().to_owned()),
            place_id: Set(self.place.as_ref().map(|p| p.id)),
            service_id: Set(self.service.as_ref().map(|s| s.id)),
            content_version: Set(1),
            created_at: Set(now),
            updated_at: Set(now),
            embedded_version: NotSet,
            embedded_hash: NotSet,
            embedding_model: NotSet,
            embedding_parts: NotSet,
            embedded_at: NotSet,
        }
    }

    fn content(&self) -> Content {
        let draft = &self.draft;
        let fields = Content {
            content_type: draft.content_type,
            title: draft.title.clone(),
            description: draft.description.clone(),
            labels: draft.labels.clone(),
            rating: draft.rating,
            content_data: draft.content_data.clone(),
            metadata: draft.metadata.clone(),
            ..blank()
        };
        with_subjects(fields, self.place.as_ref(), self.service.as_ref())
    }
}

pub(super) fn blank() -> Content {
    Content {
        content_type: ContentType::Unclear,
        title: None,
        description: String::new(),
        labels: Vec::new(),
        rating: None,
        place_name: None,
        place_address: None,
        service_name: None,
        service_type: None,
        service_business_name: None,
        content_data: None,
        metadata: None,
    }
}

pub(super) fn with_subjects(
    mut content: Content,
    place: Option<&place::Model>,
    service: Option<&service::Model>,
) -> Content {
    content.place_name = place.and_then(|p| p.name.clone());
    content.place_address = place.and_then(|p| p.address.clone());
    content.service_name = service.and_then(|s| s.name.clone());
    content.service_type = service.and_then(|s| s.service_type.clone());
    content.service_business_name = service.and_then(|s| s.business_name.clone());
    content
}

pub(super) fn finished(id: i64, version: i64, embedding: Embedding, content: &Content) -> Finished {
    let task = EmbedTask { recommendation_id: id, content_version: version, target: Target::Current };
    let hash = content_hash(&content.compose());
    Finished { task, made: Made::Vector { embedding, hash, parts: 1 } }
}

/// The strings of a stored list.
pub(super) fn labels(stored: &Json) -> Vec<String> {
    let items = stored.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|label| label.as_str().map(str::to_owned)).collect()
}

pub(super) fn object(stored: &Option<Json>) -> Option<Map<String, Json>> {
    stored.as_ref().and_then(Json::as_object).cloned()
}
