//! Places and services: found again or made, and what follows when one is renamed.

use sea_orm::ActiveValue::{NotSet, Set, Unchanged};
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveModelTrait, ColumnTrait, DatabaseTransaction, EntityTrait, FromQueryResult, QueryFilter};
use serde_json::{Map, Value as Json};

use super::entities::{place, service};
use super::recommendations::object;
use super::{Db, DbError, Tx, sql, tasks};
use crate::domain::recommendation::{PlaceDraft, ServiceDraft};

/// The id of the place that `draft` means: a known one, brought up to what the draft says, or a new one.
///
/// A new name or address is part of the texts of all its recommendations: they are enqueued again.
pub(super) async fn resolve(tx: &Tx<'_>, draft: &PlaceDraft) -> Result<place::Model, DbError> {
    let Some(known) = find_place(tx.conn(), draft).await? else {
        return Ok(new_place(draft).insert(tx.conn()).await?);
    };
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
    let updated = place::ActiveModel {
        id: Unchanged(wanted.id),
        google_place_id: NotSet,
        name: Set(wanted.name),
        address: Set(wanted.address),
        lat: Set(wanted.lat),
        lng: Set(wanted.lng),
        category_name: Set(wanted.category_name),
        metadata: Set(wanted.metadata),
        created_at: NotSet,
        updated_at: Set(sql::now()),
    };
    let updated = updated.update(tx.conn()).await?;
    if renamed {
        tasks::enqueue_shown(tx, "place_id", updated.id).await?;
    }
    Ok(updated)
}

async fn find_place(conn: &DatabaseTransaction, draft: &PlaceDraft) -> Result<Option<place::Model>, DbError> {
    let query = match &draft.google_place_id {
        Some(google) => place::Entity::find().filter(place::Column::GooglePlaceId.eq(google.as_str())),
        None => place::Entity::find()
            .filter(place::Column::GooglePlaceId.is_null())
            .filter(Expr::cust_with_values("coalesce(name, '') = ?", [draft.name.clone().unwrap_or_default()]))
            .filter(Expr::cust_with_values(
                "coalesce(address, '') = ?",
                [draft.address.clone().unwrap_or_default()],
            )),
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
        created_at: Set(now),
        updated_at: Set(now),
    }
}

/// The service that `draft` means, found by name, type and business, or a new one.
pub(super) async fn resolve_service(tx: &Tx<'_>, draft: &ServiceDraft) -> Result<service::Model, DbError> {
    let same = |column: &str, value: &Option<String>| {
        Expr::cust_with_values(format!("coalesce({column}, '') = ?"), [value.clone().unwrap_or_default()])
    };
    let known = service::Entity::find()
        .filter(same("name", &draft.name))
        .filter(same("service_type", &draft.service_type))
        .filter(same("business_name", &draft.business_name))
        .one(tx.conn())
        .await?;
    let now = sql::now();
    let Some(known) = known else {
        let new = service::ActiveModel {
            id: NotSet,
            name: Set(draft.name.clone()),
            service_type: Set(draft.service_type.clone()),
            business_name: Set(draft.business_name.clone()),
            address: Set(draft.address.clone()),
            metadata: Set(json(&draft.metadata)),
            created_at: Set(now),
            updated_at: Set(now),
        };
        return Ok(new.insert(tx.conn()).await?);
    };
    let address = draft.address.clone().or(known.address.clone());
    let metadata = json(&draft.metadata).or(known.metadata.clone());
    if address == known.address && metadata == known.metadata {
        return Ok(known);
    }
    let updated = service::ActiveModel {
        id: Unchanged(known.id),
        address: Set(address),
        metadata: Set(metadata),
        updated_at: Set(now),
        ..Default::default()
    };
    Ok(updated.update(tx.conn()).await?)
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

/// The service that `old` becomes by a change: what the change leaves out stays.
pub(super) fn changed_service(change: ServiceDraft, old: Option<&service::Model>) -> ServiceDraft {
    let Some(old) = old else { return change };
    ServiceDraft {
        name: change.name.or(old.name.clone()),
        service_type: change.service_type.or(old.service_type.clone()),
        business_name: change.business_name.or(old.business_name.clone()),
        address: change.address.or(old.address.clone()),
        metadata: change.metadata.or(object(&old.metadata)),
    }
}

fn json(map: &Option<Map<String, Json>>) -> Option<Json> {
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
        let select = "SELECT id, google_place_id, name, address, lat, lng, metadata, category_name, created_at, \
                      updated_at FROM places WHERE google_place_id = $1";
        sql::one(self.read(), select, [google_place_id.into()]).await
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
                      FROM recommendations r WHERE r.place_id = $1 AND (r.user_id = $2 OR EXISTS \
                      (SELECT 1 FROM user_follows f WHERE f.follower_id = $2 AND f.following_id = r.user_id))";
        let row: Option<Row> = sql::one(self.read(), select, [place_id.into(), viewer.into()]).await?;
        Ok(row.map_or((None, 0), |row| (row.average, row.count)))
    }
}
