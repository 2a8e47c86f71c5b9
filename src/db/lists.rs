//! Recommendations as the API shows them.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, FromQueryResult};
use serde_json::Value as Json;
use uuid::Uuid;

use super::places::ReviewedPlace;
use super::{Db, DbError, sql};
use crate::domain::recommendation::Visibility;

/// A recommendation with its author's name, its place and its service.
#[derive(Clone, Debug, FromQueryResult)]
pub struct Listed {
    pub id: i64,
    pub user_id: Uuid,
    pub user_name: Option<String>,
    pub content_type: String,
    pub title: Option<String>,
    pub description: String,
    pub content_data: Option<Json>,
    pub labels: Json,
    pub metadata: Option<Json>,
    pub rating: Option<i16>,
    pub visibility: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub place_id: Option<i64>,
    pub google_place_id: Option<String>,
    pub place_name: Option<String>,
    pub place_address: Option<String>,
    pub place_lat: Option<f64>,
    pub place_lng: Option<f64>,
    pub place_category: Option<String>,
    pub service_id: Option<i64>,
    pub service_name: Option<String>,
    pub service_type: Option<String>,
    pub service_business_name: Option<String>,
    pub service_address: Option<String>,
}

/// An adopted table may have its ids as INTEGER and leave labels, visibility and moments empty.
fn listed(conn: &impl ConnectionTrait) -> String {
    let labels = sql::labels(conn, "r.labels");
    let created = sql::moment(conn, "coalesce(r.created_at, r.updated_at)", "created_at");
    let updated = sql::moment(conn, "coalesce(r.updated_at, r.created_at)", "updated_at");
    format!(
        "SELECT CAST(r.id AS BIGINT) AS id, r.user_id, u.display_name AS user_name, r.content_type, r.title, \
         r.description, r.content_data, {labels} AS labels, r.metadata, r.rating, \
         coalesce(r.visibility, 'friends') AS visibility, {created}, {updated}, \
         CAST(r.place_id AS BIGINT) AS place_id, p.google_place_id, p.name AS place_name, \
         p.address AS place_address, p.lat AS place_lat, p.lng AS place_lng, p.category_name AS place_category, \
         CAST(r.service_id AS BIGINT) AS service_id, s.name AS service_name, s.service_type, \
         s.business_name AS service_business_name, s.address AS service_address \
         FROM recommendations r LEFT JOIN users u ON u.id = r.user_id \
         LEFT JOIN places p ON p.id = r.place_id LEFT JOIN services s ON s.id = r.service_id"
    )
}

/// A part of a list.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub limit: u64,
    pub offset: u64,
}

impl Db {
    /// One recommendation, if `viewer` may see it.
    pub async fn recommendation(&self, id: i64, viewer: Option<Uuid>) -> Result<Option<Listed>, DbError> {
        let select = format!("{} WHERE r.id = $1 AND {}", listed(self.read()), sql::visible_to(2));
        sql::one(self.read(), &select, [id.into(), viewer.into()]).await
    }

    /// Those of `ids` that `viewer` may see, in no order.
    pub async fn recommendations(&self, ids: &[i64], viewer: Option<Uuid>) -> Result<Vec<Listed>, DbError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (among, ids) = sql::among(self.read(), "r.id", 2, ids);
        let select = format!("{} WHERE {} AND {among}", listed(self.read()), sql::visible_to(1));
        sql::all(self.read(), &select, std::iter::once(viewer.into()).chain(ids)).await
    }

    /// What `viewer` may see of `user`'s recommendations, newest first, and how many there are in all.
    pub async fn recommendations_by_user(
        &self,
        user: Uuid,
        viewer: Option<Uuid>,
        page: Page,
    ) -> Result<(Vec<Listed>, u64), DbError> {
        let seen = sql::visible_to(2);
        let select = format!(
            "{} WHERE r.user_id = $1 AND {seen} ORDER BY r.created_at DESC, r.id DESC LIMIT $3 OFFSET $4",
            listed(self.read())
        );
        let values = [user.into(), viewer.into(), bounded(page.limit).into(), bounded(page.offset).into()];
        let rows = sql::all(self.read(), &select, values).await?;
        let count = format!("SELECT count(*) FROM recommendations r WHERE r.user_id = $1 AND {seen}");
        let total: Option<i64> = sql::scalar(self.read(), &count, [user.into(), viewer.into()]).await?;
        Ok((rows, total.unwrap_or(0).max(0) as u64))
    }

    /// What `viewer` may see of a place's recommendations, newest first.
    pub async fn recommendations_by_place(
        &self,
        place_id: i64,
        viewer: Option<Uuid>,
        visibility: Option<Visibility>,
        limit: u64,
    ) -> Result<Vec<Listed>, DbError> {
        let select = format!(
            "{} WHERE r.place_id = $1 AND {} AND ($3 IS NULL OR r.visibility = $3) \
             ORDER BY r.created_at DESC, r.id DESC LIMIT $4",
            listed(self.read()),
            sql::visible_to(2)
        );
        let only = visibility.map(|v| v.as_str());
        let values = [place_id.into(), viewer.into(), only.into(), bounded(limit).into()];
        sql::all(self.read(), &select, values).await
    }

    /// Places with at least one recommendation that `viewer` may see, the latest reviewed first.
    pub async fn reviewed_places(
        &self,
        viewer: Option<Uuid>,
        visibility: Option<Visibility>,
        page: Page,
    ) -> Result<(Vec<ReviewedPlace>, u64), DbError> {
        let from = format!(
            "FROM recommendations r JOIN places p ON p.id = r.place_id AND p.deleted_at IS NULL \
             WHERE {} AND ($2 IS NULL OR r.visibility = $2)",
            sql::visible_to(1)
        );
        let only = visibility.map(|v| v.as_str());
        let latest = sql::moment(self.read(), "max(r.created_at)", "latest_review_date");
        let created = sql::moment(self.read(), "p.created_at", "created_at");
        let updated = sql::moment(self.read(), "p.updated_at", "updated_at");
        let select = format!(
            "SELECT CAST(p.id AS BIGINT) AS id, p.google_place_id, p.name, p.address, p.lat, p.lng, p.metadata, p.category_name, \
             count(*) AS review_count, avg(CAST(r.rating AS DOUBLE PRECISION)) AS average_rating, \
             {latest}, {created}, {updated} {from} \
             GROUP BY p.id ORDER BY latest_review_date DESC, p.id DESC LIMIT $3 OFFSET $4"
        );
        let values = [viewer.into(), only.into(), bounded(page.limit).into(), bounded(page.offset).into()];
        let rows = sql::all(self.read(), &select, values).await?;
        let count = format!("SELECT count(DISTINCT p.id) {from}");
        let total: Option<i64> = sql::scalar(self.read(), &count, [viewer.into(), only.into()]).await?;
        Ok((rows, total.unwrap_or(0).max(0) as u64))
    }
}

/// What a request says as an unsigned number, for a column that is signed.
fn bounded(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
