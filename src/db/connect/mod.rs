//! Opens the database, brings its schema up to date and makes its vector index ready.

mod adopt;
pub(super) mod index;
mod postgres;
pub(super) mod reach;
mod sqlite;

use sea_orm::DatabaseConnection;

pub(super) use sqlite::ProcessLock;

use super::{Db, DbError, ModelSpec, sql, state};
use crate::config::sections::DatabaseSettings;

/// Keys of `service_state`.
const DIMENSIONS: &str = "embedding.dimensions";
const MODEL: &str = "embedding.model";

impl Db {
    /// Opens the database for the vectors of `model`, with its schema up to date.
    ///
    /// # Errors
    /// `Incompatible` when another process has the file, when the database holds vectors of another
    /// dimension or of a model that isn't known, or when it is another program's and wasn't adopted.
    pub async fn open(settings: &DatabaseSettings, model: ModelSpec) -> Result<Self, DbError> {
        if settings.is_postgres() {
            postgres::open(settings, model).await
        } else {
            sqlite::open(settings, model).await
        }
    }

    /// Brings the schema up to date, in a database of another program too, and takes over the vectors that
    /// are there under `adopted`, the name of the model that made them.
    pub async fn migrate(settings: &DatabaseSettings, adopted: Option<&str>) -> Result<Migrated, DbError> {
        if settings.is_postgres() {
            postgres::migrate(settings, adopted).await
        } else if adopted.is_some() {
            Err(DbError::Incompatible("--adopt-model: only a PostgreSQL database can be another program's".into()))
        } else {
            sqlite::migrate(settings).await
        }
    }

    /// The SQL that [`Db::migrate`] would run; nothing is changed.
    pub async fn plan(settings: &DatabaseSettings, adopted: Option<&str>) -> Result<String, DbError> {
        if settings.is_postgres() { postgres::plan(settings, adopted).await } else { sqlite::plan(settings).await }
    }
}

/// What a migration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Steps that were missing.
    pub steps: Vec<&'static str>,
    /// Vectors that were taken over.
    pub vectors: u64,
}

/// Remembers which model the vectors are of, and refuses what would mix.
async fn check_model(conn: &DatabaseConnection, model: &ModelSpec) -> Result<(), DbError> {
    let stored = state::get(conn, DIMENSIONS).await?;
    let vectors = "SELECT EXISTS (SELECT 1 FROM recommendations WHERE embedding IS NOT NULL)";
    let has_vectors = sql::scalar::<bool>(conn, vectors, []).await?.unwrap_or(false);
    if let Some(stored) = stored.filter(|stored| has_vectors && *stored != model.dimensions.to_string()) {
        return Err(DbError::Incompatible(format!(
            "embedder.dimensions: the database holds vectors of {stored} components, {} makes {}; \
             configure the model they were made with, or start with a new database.url",
            model.id, model.dimensions
        )));
    }
    state::put(conn, DIMENSIONS, &model.dimensions.to_string()).await?;
    state::put(conn, MODEL, &model.id).await
}
