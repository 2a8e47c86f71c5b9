//! Changing and deleting recommendations.

use futures_util::FutureExt;
use sea_orm::EntityTrait;
use serde_json::Value as Json;
use uuid::Uuid;

use super::entities::{place, service};
use super::recommendations::{Saved, blank, finished, labels, object, with_subjects};
use super::rows::{self, Row};
use super::search::{IndexChange, IndexedRow};
use super::tasks::{self, NewTask};
use super::{Db, DbError, ModelSpec, Tx, embeddings, places, services, sql};
use crate::domain::embedding::Embedding;
use crate::domain::priority::Priority;
use crate::domain::recommendation::{ContentType, Patch, PlaceDraft, ServiceDraft, Visibility};
use crate::domain::status::EmbeddingStatus;
use crate::domain::text::Content;
use crate::domain::trace::TraceParent;

/// What became of a change or a deletion.
#[derive(Debug)]
pub enum Changed<T> {
    Done(T),
    /// No such row.
    NotFound,
    /// It belongs to someone else; `visible` says whether the acting user may know that it exists.
    NotYours {
        visible: bool,
    },
}

impl Db {
    /// Applies `patch` for `acting`. A change of the embedded text makes a new version, which is enqueued
    /// at `high` unless the patch says otherwise.
    pub async fn update(&self, id: i64, acting: Uuid, patch: Patch) -> Result<Changed<Saved>, DbError> {
        let (model, brought) = (self.model().clone(), patch.embedding.is_some());
        let changed = self.write(move |tx| update_in(tx, id, acting, patch.clone(), model.clone()).boxed()).await?;
        if let Changed::Done(saved) = &changed
            && (brought || saved.status != EmbeddingStatus::Ready)
        {
            self.chronicle().note_saved(saved, None);
        }
        Ok(changed)
    }

    /// Deletes the row, its task and its vector; in tables of a program that keeps such rows, it is marked.
    pub async fn delete(&self, id: i64, acting: Uuid) -> Result<Changed<()>, DbError> {
        let marks = self.marks_deleted;
        self.write(move |tx| {
            async move {
                let Some(known) = rows::find(tx, id).await? else {
                    return Ok(Changed::NotFound);
                };
                if known.user_id != acting {
                    return Ok(Changed::NotYours { visible: visible(tx, &known, acting).await? });
                }
                match marks {
                    true => rows::mark_deleted(tx, id).await?,
                    false => rows::delete(tx, id).await?,
                }
                tx.on_commit(IndexChange::Remove(id));
                Ok(Changed::Done(()))
            }
            .boxed()
        })
        .await
    }
}

async fn update_in(
    tx: &Tx<'_>,
    id: i64,
    acting: Uuid,
    mut patch: Patch,
    model: ModelSpec,
) -> Result<Changed<Saved>, DbError> {
    let Some(known) = rows::find(tx, id).await? else { return Ok(Changed::NotFound) };
    if known.user_id != acting {
        return Ok(Changed::NotYours { visible: visible(tx, &known, acting).await? });
    }
    let (old_place, old_service) = subjects_of(tx, &known).await?;
    let before = content_of(&known, old_place.as_ref(), old_service.as_ref());
    let changed_place = patch.place.take().map(|change| places::changed(change, old_place.as_ref()));
    let place = match changed_place.filter(PlaceDraft::is_named) {
        Some(wanted) => Some(places::resolve(tx, &wanted).await?),
        None => old_place,
    };
    let changed_service = patch.service.take().map(|change| services::changed(change, old_service.as_ref()));
    let service = match changed_service.filter(ServiceDraft::is_named) {
        Some(wanted) => Some(services::resolve(tx, &wanted).await?),
        None => old_service,
    };
    // A place that was renamed just now may have given this row a new version already.
    let mut known = rows::find(tx, id).await?.unwrap_or(known);
    let embedding = patch.embedding.take();
    let (priority, trace) = (patch.priority.unwrap_or(Priority::High), patch.trace);
    apply(&mut known, patch);
    known.place_id = place.as_ref().map(|p| p.id);
    known.service_id = service.as_ref().map(|s| s.id);
    let after = content_of(&known, place.as_ref(), service.as_ref());
    let rewritten = before.compose() != after.compose();
    if rewritten || embedding.is_some() {
        known.content_version += 1;
    }
    known.write_back(tx).await?;
    let status = follow_up(tx, &known, embedding, &after, (priority, trace), &model).await?;
    Ok(Changed::Done(Saved { id, place_id: known.place_id, service_id: known.service_id, status }))
}

/// The vector of a changed row: stored when it came along, enqueued when the stored one isn't of this text.
async fn follow_up(
    tx: &Tx<'_>,
    known: &Row,
    embedding: Option<Embedding>,
    content: &Content,
    (priority, trace): (Priority, Option<TraceParent>),
    model: &ModelSpec,
) -> Result<EmbeddingStatus, DbError> {
    tx.on_commit(IndexChange::Describe(indexed(known)));
    if let Some(embedding) = embedding {
        let ready = finished(known.id, known.content_version, embedding, content);
        tasks::forget(tx, known.id).await?;
        embeddings::store(tx, model, &[ready]).await?;
        return Ok(EmbeddingStatus::Ready);
    }
    if known.embedded_version == Some(known.content_version) {
        return Ok(EmbeddingStatus::Ready);
    }
    // Not only after a new text: an edit of a dead or retrying recommendation starts it afresh.
    let task = NewTask { recommendation_id: known.id, content_version: known.content_version, priority, trace };
    tasks::enqueue(tx, &[task]).await?;
    Ok(EmbeddingStatus::Pending)
}

async fn subjects_of(tx: &Tx<'_>, known: &Row) -> Result<(Option<place::Model>, Option<service::Model>), DbError> {
    let place = match known.place_id {
        Some(id) => place::Entity::find_by_id(id).one(tx.conn()).await?,
        None => None,
    };
    let service = match known.service_id {
        Some(id) => service::Entity::find_by_id(id).one(tx.conn()).await?,
        None => None,
    };
    Ok((place, service))
}

fn content_of(known: &Row, place: Option<&place::Model>, service: Option<&service::Model>) -> Content {
    let fields = Content {
        content_type: known.content_type.parse().unwrap_or(ContentType::Unclear),
        title: known.title.clone(),
        description: known.description.clone(),
        labels: labels(&known.labels),
        rating: known.rating,
        content_data: object(&known.content_data),
        metadata: object(&known.metadata),
        ..blank()
    };
    with_subjects(fields, place, service)
}

fn apply(known: &mut Row, patch: Patch) {
    if let Some(content_type) = patch.content_type {
        known.content_type = content_type.as_str().to_owned();
    }
    if let Some(title) = patch.title {
        known.title = title;
    }
    if let Some(description) = patch.description {
        known.description = description;
    }
    if let Some(data) = patch.content_data {
        known.content_data = data.map(Json::Object);
    }
    if let Some(labels) = patch.labels {
        known.labels = Json::from(labels);
    }
    if let Some(metadata) = patch.metadata {
        known.metadata = metadata.map(Json::Object);
    }
    if let Some(rating) = patch.rating {
        known.rating = rating;
    }
    if let Some(visibility) = patch.visibility {
        known.visibility = visibility.as_str().to_owned();
    }
}

fn indexed(known: &Row) -> IndexedRow {
    IndexedRow {
        id: known.id,
        owner: known.user_id,
        visibility: known.visibility.parse().unwrap_or(Visibility::Friends),
        content_type: known.content_type.parse().unwrap_or(ContentType::Unclear),
    }
}

async fn visible(tx: &Tx<'_>, known: &Row, acting: Uuid) -> Result<bool, DbError> {
    let select = format!("SELECT {} FROM recommendations r WHERE r.id = $2", sql::visible_to(1));
    let seen: Option<bool> = sql::scalar(tx.conn(), &select, [acting.into(), known.id.into()]).await?;
    Ok(seen.unwrap_or(false))
}
