//! Saving recommendations: the row, its place, its task, in one transaction.

use std::collections::HashMap;

use futures_util::FutureExt;
use serde_json::{Map, Value as Json};

use super::embeddings::{self, Finished, Made};
use super::entities::{place, service};
use super::pooled::{Pooled, Races};
use super::rows::{self, NewRow};
use super::{Db, DbError, ModelSpec, Tx, Writes, places, saver, services};
use crate::domain::embedding::Embedding;
use crate::domain::priority::Priority;
use crate::domain::recommendation::{ContentType, Draft, PlaceDraft};
use crate::domain::status::EmbeddingStatus;
use crate::domain::task::{EmbedTask, Target};
use crate::domain::text::{Content, content_hash};

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
        let saved = match &self.writes {
            Writes::SideBySide { saver, .. } => saver.save(draft).await?,
            Writes::InTurn(_) => saver::only(self.save_all(vec![draft], Priority::Normal).await?)?,
        };
        self.chronicle().note_saved(&saved, Some(1));
        Ok(saved)
    }

    /// Saves all or none; the answers are in the order of the drafts.
    pub async fn save_all(&self, drafts: Vec<Draft>, default: Priority) -> Result<Vec<Saved>, DbError> {
        let model = self.model().clone();
        self.write(move |tx| save_in(tx, drafts.clone(), default, model.clone()).boxed()).await
    }
}

pub(super) async fn save_in(
    tx: &Tx<'_>,
    drafts: Vec<Draft>,
    default: Priority,
    model: ModelSpec,
) -> Result<Vec<Saved>, DbError> {
    let places: Vec<&PlaceDraft> = drafts.iter().filter_map(|d| d.place.as_ref()).collect();
    let mut subjects = Subjects { by_google_id: places::by_google_id(tx, &places).await?, ..Default::default() };
    let mut resolved = Vec::with_capacity(drafts.len());
    for draft in drafts {
        resolved.push(subjects.resolve(tx, draft).await?);
    }
    let rows: Vec<NewRow> = resolved.iter().map(|resolved| resolved.row(default)).collect();
    let ids = rows::insert(tx, &rows).await?;
    let mut ready = Vec::new();
    let mut saved = Vec::with_capacity(resolved.len());
    for (id, mut resolved) in ids.into_iter().zip(resolved) {
        let status = match resolved.draft.embedding.take() {
            Some(embedding) => {
                ready.push(finished(id, 1, embedding, &resolved.content()));
                EmbeddingStatus::Ready
            }
            None => EmbeddingStatus::Pending,
        };
        let (place_id, service_id) = (resolved.place.map(|p| p.id), resolved.service.map(|s| s.id));
        saved.push(Saved { id, place_id, service_id, status });
    }
    embeddings::store(tx, &model, &ready).await?;
    Ok(saved)
}

/// Saves drafts that name no place and no service and bring no vector: one statement, no transaction.
pub(super) async fn save_plain(
    pooled: &Pooled,
    drafts: impl Iterator<Item = &Draft>,
) -> Result<Vec<Saved>, DbError> {
    let rows: Vec<NewRow> = drafts.map(|draft| row(draft, None, None, Priority::Normal)).collect();
    let mut races = Races::default();
    let ids = loop {
        match rows::insert_postgres(pooled.conn(), &rows).await {
            Ok(ids) => break ids,
            Err(error) => races.again(error).await?,
        }
    };
    pooled.wake_relay();
    let saved = |id| Saved { id, place_id: None, service_id: None, status: EmbeddingStatus::Pending };
    Ok(ids.into_iter().map(saved).collect())
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
    fn row(&self, default: Priority) -> NewRow {
        let (place, service) = (self.place.as_ref().map(|p| p.id), self.service.as_ref().map(|s| s.id));
        row(&self.draft, place, service, default)
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

fn row(draft: &Draft, place_id: Option<i64>, service_id: Option<i64>, default: Priority) -> NewRow {
    NewRow {
        user_id: draft.user_id,
        content_type: draft.content_type.as_str(),
        title: draft.title.clone(),
        description: draft.description.clone(),
        content_data: draft.content_data.clone().map(Json::Object),
        labels: draft.labels.clone(),
        metadata: draft.metadata.clone().map(Json::Object),
        rating: draft.rating,
        visibility: draft.visibility.as_str(),
        place_id,
        service_id,
        task: draft.embedding.is_none().then(|| draft.priority.unwrap_or(default)),
        trace: draft.trace,
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
    Finished { task, made: Made::Vector { embedding, hash, parts: 1 }, enqueued_at: None, regenerated: false }
}

/// The strings of a stored list.
pub(super) fn labels(stored: &Json) -> Vec<String> {
    let items = stored.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|label| label.as_str().map(str::to_owned)).collect()
}

pub(super) fn object(stored: &Option<Json>) -> Option<Map<String, Json>> {
    stored.as_ref().and_then(Json::as_object).cloned()
}
