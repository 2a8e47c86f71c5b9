//! Services: found again or made.

use sea_orm::ActiveValue::Set;
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter};

use super::entities::service;
use super::places::json;
use super::recommendations::object;
use super::{DbError, Tx, sql};
use crate::domain::recommendation::ServiceDraft;

/// The service that `old` becomes by a change: what the change leaves out stays.
pub(super) fn changed(change: ServiceDraft, old: Option<&service::Model>) -> ServiceDraft {
    let Some(old) = old else { return change };
    ServiceDraft {
        name: change.name.or(old.name.clone()),
        service_type: change.service_type.or(old.service_type.clone()),
        business_name: change.business_name.or(old.business_name.clone()),
        address: change.address.or(old.address.clone()),
        metadata: change.metadata.or(object(&old.metadata)),
    }
}

/// The service that `draft` means, found by name, type and business and brought up to what the draft says,
/// or a new one.
pub(super) async fn resolve(tx: &Tx<'_>, draft: &ServiceDraft) -> Result<service::Model, DbError> {
    // Most of a batch's services are new, so the attempt to insert comes before the look; but in adopted tables
    // the names may not be unique, and then nothing stops it.
    let looked = if sql::is_postgres(tx.conn()) { find(tx.conn(), draft).await? } else { None };
    let known = match looked {
        Some(known) => known,
        None => match insert(tx.conn(), draft).await? {
            Some(made) => return Ok(made),
            None => find(tx.conn(), draft)
                .await?
                .ok_or_else(|| DbError::Unavailable("a service was there and is gone".into()))?,
        },
    };
    let address = draft.address.clone().or(known.address.clone());
    let metadata = json(&draft.metadata).or(known.metadata.clone());
    if address == known.address && metadata == known.metadata {
        return Ok(known);
    }
    let known = service::Model { address, metadata, updated_at: Some(sql::now()), ..known };
    let changes = service::ActiveModel {
        address: Set(known.address.clone()),
        metadata: Set(known.metadata.clone()),
        updated_at: Set(known.updated_at),
        ..Default::default()
    };
    let update = service::Entity::update_many().set(changes).filter(service::Column::Id.eq(known.id));
    update.exec(tx.conn()).await?;
    Ok(known)
}

/// The new service, or `None` when there is one of that name, type and business.
async fn insert(conn: &DatabaseTransaction, draft: &ServiceDraft) -> Result<Option<service::Model>, DbError> {
    let insert = "INSERT INTO services (name, service_type, business_name, address, metadata, created_at, updated_at) \
                  VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT DO NOTHING RETURNING CAST(id AS BIGINT) AS id, \
                  name, service_type, business_name, address, metadata, created_at, updated_at";
    let values = [
        draft.name.clone().into(),
        draft.service_type.clone().into(),
        draft.business_name.clone().into(),
        draft.address.clone().into(),
        json(&draft.metadata).into(),
        sql::now().into(),
    ];
    sql::one(conn, insert, values).await
}

async fn find(conn: &DatabaseTransaction, draft: &ServiceDraft) -> Result<Option<service::Model>, DbError> {
    let query = service::Entity::find()
        .filter(sql::same("name", &draft.name))
        .filter(sql::same("service_type", &draft.service_type))
        .filter(sql::same("business_name", &draft.business_name));
    Ok(query.one(conn).await?)
}
