//! The row without its vector: `embedding` is read and written by [`super::super::embeddings`] alone, as
//! its type differs between the back ends.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "recommendations")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub user_id: Uuid,
    pub content_type: String,
    pub title: Option<String>,
    pub description: String,
    pub content_data: Option<Json>,
    pub labels: Json,
    pub metadata: Option<Json>,
    pub rating: Option<i16>,
    pub visibility: String,
    pub place_id: Option<i64>,
    pub service_id: Option<i64>,
    pub content_version: i64,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
    pub embedded_version: Option<i64>,
    pub embedded_hash: Option<String>,
    pub embedding_model: Option<String>,
    pub embedding_parts: Option<i32>,
    pub embedded_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
