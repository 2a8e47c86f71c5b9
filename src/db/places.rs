//! Places: found again or made, and what follows when one is renamed.

use std::collections::HashMap;

use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, FromQueryResult, QueryFilter};
use serde_json::{Map, Value as Json};

use super::entities::place;
use super::recommendations::object;
use super::{Db, DbError, Tx, sql, tasks};
use crate::domain::recommendation::PlaceDraft;

/// Rows in one statement: ten parameters each.
const BATCH: usize = 1_000;

/// The place that `draft` means: a known one, brought up to what the draft says, or a new one.
pub(super) async fn resolve(tx: &Tx<'_>, draft: &PlaceDraft) -> Result<place::Model, DbError> {
    match find_place(tx.conn(), draft).await? {
        Some(known) => bring_up_to(tx, known, draft).await,
        None => insert(tx, draft).await,
    }
}

/// The places of all drafts with a Google id, by that id: those that are known as they are, the others
/// made of the first draft that names them. Two statements for a whole batch.
pub(super) async fn by_google_id(
    tx: &Tx<'_>,
    drafts: &[&PlaceDraft],
) -> Result<HashMap<String, place::Model>, DbError> {
    let mut first: HashMap<&str, &PlaceDraft> = HashMap::new();
    for draft in drafts {
        if let Some(google) = draft.google_place_id.as_deref() {
            first.entry(google).or_insert(draft);
        }
    }
    let ids: Vec<&str> = first.keys().copied().collect();
    let mut places = HashMap::with_capacity(ids.len());
    for ids in ids.chunks(BATCH) {
        let known = find_by_google_ids(tx, ids).await?;
        let missing = ids.iter().filter(|id| !known.contains_key(**id)).map(|id| new_place(first[*id]));
        let missing: Vec<place::ActiveModel> = missing.collect();
        places.extend(known);
        if !missing.is_empty() {
            place::Entity::insert_many(missing).exec_without_returning(tx.conn()).await?;
        }
    }
    if places.len() < ids.len() {
        let made: Vec<&str> = ids.into_iter().filter(|id| !places.contains_key(*id)).collect();
        for ids in made.chunks(BATCH) {
            places.extend(find_by_google_ids(tx, ids).await?);
        }
    }
    Ok(places)
}

async fn find_by_google_ids(tx: &Tx<'_>, ids: &[&str]) -> Result<HashMap<String, place::Model>, DbError> {
    let ids = ids.iter().copied();
    let found = place::Entity::find().filter(place::Column::GooglePlaceId.is_in(ids)).all(tx.conn()).await?;
    Ok(found.into_iter().filter_map(|place| Some((place.google_place_id.clone()?, place))).collect())
}

/// Fills in and replaces what the draft says of a known place.
///
/// A new name or address is part of the texts of all its recommendations: they are enqueued again.
pub(super) async fn bring_up_to(
    tx: &Tx<'_>,
    known: place::Model,
    draft: &PlaceDraft,
) -> Result<place::Model, DbError> {
    let wanted = place::Model {
        name: draft.name.clone().or(known.name.clone()),
        address: draft.address.clone().or(known.address.clone()),
        lat: draft.lat.or(known.lat),
        lng: draft.lng.or(known.lng),
        category_name: draft.category.clone().or(known.category_name.clone()),
        metadata: json(&draft.metadata).or(known.metadata.clone()),
        ..known.clone()
    };
    if wanted == known {
        return Ok(known);
    }
    let renamed = wanted.name != known.name || wanted.address != known.address;
    let wanted = place::Model { updated_at: Some(sql::now()), ..wanted };
    let changes = place::ActiveModel {
        name: Set(wanted.name.clone()),
        address: Set(wanted.address.clone()),
        lat: Set(wanted.lat),
        lng: Set(wanted.lng),
        category_name: Set(wanted.category_name.clone()),
        metadata: Set(wanted.metadata.clone()),
        updated_at: Set(wanted.updated_at),
        ..Default::default()
    };
    let update = place::Entity::update_many().set(changes).filter(place::Column::Id.eq(wanted.id));
    update.exec(tx.conn()).await?;
    if renamed {
        tasks::enqueue_shown(tx, "place_id", wanted.id).await?;
    }
    Ok(wanted)
}

/// By hand: an entity whose column is cast gets no name for it from RETURNING.
async fn insert(tx: &Tx<'_>, draft: &PlaceDraft) -> Result<place::Model, DbError> {
    let insert = "INSERT INTO places (google_place_id, name, address, lat, lng, category_name, metadata, created_at, \
        updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) RETURNING CAST(id AS BIGINT) AS id, google_place_id, \
        name, address, lat, lng, category_name, metadata, created_at, updated_at";
    let values = [
        draft.google_place_id.clone().into(),
        draft.name.clone().into(),
        draft.address.clone().into(),
        draft.lat.into(),
        draft.lng.into(),
        draft.category.clone().into(),
        json(&draft.metadata).into(),
        sql::now().into(),
    ];
    let made = sql::one(tx.conn(), insert, values).await?;
    made.ok_or_else(|| DbError::Unavailable("the new place was not returned".into()))
}

async fn find_place(conn: &DatabaseTransaction, draft: &PlaceDraft) -> Result<Option<place::Model>, DbError> {
    let query = match &draft.google_place_id {
        Some(google) => place::Entity::find().filter(place::Column::GooglePlaceId.eq(google.as_str())),
        None => place::Entity::find()
            .filter(place::Column::GooglePlaceId.is_null())
            .filter(sql::same("name", &draft.name))
            .filter(sql::same("address", &draft.address)),
    };
    Ok(query.one(conn).await?)
}

fn new_place(draft: &PlaceDraft) -> place::ActiveModel {
    let now = sql::now();
    place::ActiveModel {
        id: NotSet,
        google_place_id: Set(draft.google_place_id.clone()),
        name: Set(draft.name.clone()),
        address: Set(draft.address.clone()),
        lat: Set(draft.lat),
        lng: Set(draft.lng),
        category_name: Set(draft.category.clone()),
        metadata: Set(json(&draft.metadata)),
        created_at: Set(Some(now)),
        updated_at: Set(Some(now)),
    }
}

/// The place that `old` becomes by a change: what the change leaves out stays.
///
/// Another Google id is another place altogether. Another name or address without a Google id isn't the
/// place that Google knows either: that one is others' too and must keep its name.
pub(super) fn changed(change: PlaceDraft, old: Option<&place::Model>) -> PlaceDraft {
    let Some(old) = old else { return change };
    if change.google_place_id.is_some() && change.google_place_id != old.google_place_id {
        return change;
    }
    let same = |new: &Option<String>, old: &Option<String>| new.is_none() || new == old;
    let still_it = same(&change.name, &old.name) && same(&change.address, &old.address);
    PlaceDraft {
        google_place_id: change.google_place_id.or(old.google_place_id.clone().filter(|_| still_it)),
        name: change.name.or(old.name.clone()),
        address: change.address.or(old.address.clone()),
        lat: change.lat.or(old.lat),
        lng: change.lng.or(old.lng),
        category: change.category.or(old.category_name.clone()),
        metadata: change.metadata.or(object(&old.metadata)),
    }
}

pub(super) fn json(map: &Option<Map<String, Json>>) -> Option<Json> {
    map.clone().map(Json::Object)
}

/// A place with what its public and visible recommendations say of it.
#[derive(Debug, FromQueryResult)]
pub struct ReviewedPlace {
    pub id: i64,
    pub google_place_id: Option<String>,
    pub name: Option<String>,
    pub address: Option<String>,
    pub lat: Option<f64>,
    pub lng: Option<f64>,
    pub metadata: Option<Json>,
    pub category_name: Option<String>,
    pub review_count: i64,
    pub average_rating: Option<f64>,
    pub latest_review_date: chrono::DateTime<chrono::Utc>,
    pub created_at: chrono::DateTime<chrono::Utc>,
    pub updated_at: chrono::DateTime<chrono::Utc>,
}

/// A place as it is.
#[derive(Debug, FromQueryResult)]
pub struct Place {
    pub id: i64,
    pub google_place_id: Option<String>,
    pub name: Option<String>,
    pub address: Option<String>,
    pub lat: Option<f64>,
    pub lng: Option<f64>,
    pub metadata: Option<Json>,
    pub category_name: Option<String>,
    pub created_at: chrono::DateTime<chrono::Utc>,
    pub updated_at: chrono::DateTime<chrono::Utc>,
}

impl Db {
    pub async fn place_by_google_id(&self, google_place_id: &str) -> Result<Option<Place>, DbError> {
        let select = format!(
            "SELECT CAST(id AS BIGINT) AS id, google_place_id, name, address, lat, lng, metadata, category_name, \
             {}, {} FROM places WHERE google_place_id = $1 AND deleted_at IS NULL",
            sql::moment(self.read(), "created_at", "created_at"),
            sql::moment(self.read(), "updated_at", "updated_at")
        );
        sql::one(self.read(), &select, [google_place_id.into()]).await
    }

    /// Average rating (1 to 5) and count over what `viewer` and those it follows say of a place.
    pub async fn network_rating(
        &self,
        place_id: i64,
        viewer: Option<uuid::Uuid>,
    ) -> Result<(Option<f64>, i64), DbError> {
        #[derive(FromQueryResult)]
        struct Row {
            average: Option<f64>,
            count: i64,
        }
        let select = "SELECT avg(CAST(r.rating AS DOUBLE PRECISION)) AS average, count(r.rating) AS count \
                      FROM recommendations r WHERE r.place_id = $1 AND r.deleted_at IS NULL AND (r.user_id = $2 OR EXISTS \
                      (SELECT 1 FROM user_follows f WHERE f.follower_id = $2 AND f.following_id = r.user_id))";
        let row: Option<Row> = sql::one(self.read(), select, [place_id.into(), viewer.into()]).await?;
        Ok(row.map_or((None, 0), |row| (row.average, row.count)))
    }
}
