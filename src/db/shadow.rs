//! Taking the vectors' index away for as long as they are written in bulk, on PostgreSQL.
//!
//! An HNSW index is slow to write, and it is written by *any* new version of a row: a second column for the new
//! vectors, beside the old one and its index, was filled as slowly as the old one itself (in a table of 20,000 random
//! vectors of 256 dimensions, 5,000 in 15.6 s and in 15.3 s), as a row of such a size has no room in its page and moves.
//! So it is the old vectors that go aside, into a table of their own, where they are indexed and searched, while the new
//! ones are written in their place without an index: all 20,000 in 0.3 s, and each of the two indexes in 7 s.
//!
//! The row's own vector is the truth the whole time, whoever writes it, so that nothing can be lost at whatever
//! instruction a process dies. Every step may be done again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use sea_orm::{ConnectionTrait, DatabaseConnection, Value};

use super::connect::{index, reach};
use super::search::pgvector::{STANDS_IN, stand_in};
use super::{DbError, ModelSpec, sql, state};
use crate::config::sections::{DatabaseSettings, VectorIndexKind};

/// The advisory lock of the process that tends the shadow: any number that is ours. Not that of the schema, which a
/// process waits for when it is started.
const LOCK: i64 = 0x6d61_7078_7368_6477;
/// Rows that are copied in one statement.
const BATCH: i64 = 5_000;
/// How often a lock of a table is tried, and how long is waited at first and at last. Each time for a moment only: behind
/// one that waits, everybody waits, and a dump of the database lets nobody have it for as long as it takes.
const TRIES: usize = 40;
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// What the session is told. A server that builds an index doesn't notice by itself that its client has died, and would
/// keep the lock until it is done.
const SESSION: &str =
    "SET statement_timeout = 0; SET lock_timeout = 0; SET client_connection_check_interval = '1s'";
const BRIEFLY: &str = "SET lock_timeout = '200ms'";
/// After so long every process knows that there is a copy to search: twice as long as they take to look.
pub const NOTICE: Duration = Duration::from_millis(600);
/// The most memory that the building of an index is given, in bytes, unless the server gives more: one that doesn't fit
/// is built many times as slowly.
const MEMORY: u64 = 512 << 20;
/// Bytes that a vector takes in an index that is being built, besides its components: its links, its element.
const ELEMENT: u64 = 512;

const COPIES_INDEX: &str = "embedding_stand_ins_hnsw";
const TRIGGER: &str = "mapx_stand_in";

/// What a process knows of shadows.
pub(super) struct Shadow {
    settings: DatabaseSettings,
    model: ModelSpec,
    /// As [`super::search::pgvector::PgVectorIndex`] is told.
    stands_in: Arc<AtomicBool>,
}

impl Shadow {
    pub(super) fn new(settings: &DatabaseSettings, model: ModelSpec, stands_in: Arc<AtomicBool>) -> Self {
        Self { settings: settings.clone(), model, stands_in }
    }

    /// Whether this process would build an index at all.
    pub(super) fn keeps_an_index(&self) -> bool {
        self.settings.vector_index == VectorIndexKind::Hnsw
    }

    /// Whether the vectors have an index of ours that is whole.
    pub(super) async fn has_index(&self, conn: &DatabaseConnection) -> Result<bool, DbError> {
        is_whole(conn, index::NAME).await
    }

    /// Finds out whether a copy is to be searched.
    pub(super) async fn look(&self, conn: &DatabaseConnection) -> Result<bool, DbError> {
        let stands_in = state::get(conn, STANDS_IN).await?.is_some();
        self.stands_in.store(stands_in, Ordering::Relaxed);
        Ok(stands_in)
    }

    /// A connection that has the lock; none while another process has it, which `pooled` tells without a login.
    pub(super) async fn lock(&self, pooled: &DatabaseConnection) -> Result<Option<DatabaseConnection>, DbError> {
        let free = "SELECT pg_try_advisory_xact_lock($1)";
        if sql::scalar::<bool>(pooled, free, [LOCK.into()]).await? != Some(true) {
            return Ok(None);
        }
        let conn = reach::glance(&self.settings).await?;
        let lock = "SELECT pg_try_advisory_lock($1)";
        if sql::scalar::<bool>(&conn, lock, [LOCK.into()]).await? != Some(true) {
            conn.close().await?;
            return Ok(None);
        }
        conn.execute_unprepared(SESSION).await?;
        Ok(Some(conn))
    }

    /// Has searches look through a copy of the vectors, and takes the vectors' own index away.
    pub(super) async fn prepare(&self, conn: &DatabaseConnection, rows: u64) -> Result<(), DbError> {
        if !has_trigger(conn).await? {
            let create = format!(
                "CREATE TRIGGER {TRIGGER} AFTER UPDATE OF embedding ON recommendations \
                 FOR EACH ROW EXECUTE FUNCTION mapx_stand_in()"
            );
            // It waits for whoever writes the rows at this moment, so that what the trigger doesn't see is copied.
            briefly(conn, &create).await?;
        }
        if !self.look(conn).await? {
            // What another one has left may be older than the rows.
            self.forget(conn).await?;
            self.copy(conn).await?;
            self.memory(conn, rows).await?;
            let column = stand_in("embedding", self.model.dimensions);
            index::build(conn, &self.model, COPIES_INDEX, "embedding_stand_ins", &column).await?;
            conn.execute_unprepared("ANALYZE embedding_stand_ins").await?;
            state::put(conn, STANDS_IN, "yes").await?;
            self.look(conn).await?;
        }
        tokio::time::sleep(NOTICE).await;
        // Waits for the searches that go through it, and keeps nobody waiting.
        conn.execute_unprepared(&format!("DROP INDEX CONCURRENTLY IF EXISTS {}", index::NAME)).await?;
        Ok(())
    }

    /// Copies the vectors. Those of another model can't be compared with a query of this one: of them there is only the
    /// note that the copy is of that text, by which the trigger knows its new vector as one of the regeneration.
    async fn copy(&self, conn: &DatabaseConnection) -> Result<(), DbError> {
        let copy = "WITH page AS MATERIALIZED (SELECT id, embedded_version, embedding_model, \
              CASE WHEN embedding_model = $2 THEN embedding END AS embedding FROM recommendations \
              WHERE id > $1 AND embedding IS NOT NULL AND embedded_version IS NOT NULL ORDER BY id LIMIT $3), \
            copied AS (INSERT INTO embedding_stand_ins (recommendation_id, content_version, model, embedding) \
              SELECT id, embedded_version, embedding_model, embedding FROM page ON CONFLICT DO NOTHING) \
            SELECT CAST(max(id) AS BIGINT) FROM page";
        let mut after = 0;
        loop {
            let values: [Value; 3] = [after.into(), self.model.id.to_string().into(), BATCH.into()];
            match sql::scalar::<Option<i64>>(conn, copy, values).await?.flatten() {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    /// Builds the index over the vectors, unless it is there. Whatever this process is told of indexes: it gives back
    /// what was taken away.
    pub(super) async fn index(&self, conn: &DatabaseConnection, rows: u64) -> Result<(), DbError> {
        if self.has_index(conn).await? {
            return Ok(());
        }
        self.memory(conn, rows).await?;
        let column = super::search::pgvector::indexed("embedding", self.model.dimensions);
        index::build(conn, &self.model, index::NAME, "recommendations", &column).await
    }

    /// Has searches look through the vectors again, from one statement to the next, and leaves no trace of the copy.
    pub(super) async fn swap(&self, conn: &DatabaseConnection) -> Result<(), DbError> {
        state::forget(conn, STANDS_IN).await?;
        if has_trigger(conn).await? {
            briefly(conn, &format!("DROP TRIGGER IF EXISTS {TRIGGER} ON recommendations")).await?;
        }
        // A search that has found the copy in its place holds a lock of it since before it looked.
        self.forget(conn).await
    }

    async fn forget(&self, conn: &DatabaseConnection) -> Result<(), DbError> {
        briefly(conn, &format!("DROP INDEX IF EXISTS {COPIES_INDEX}")).await?;
        briefly(conn, "TRUNCATE embedding_stand_ins").await
    }

    /// Gives the session the memory to build an index of so many rows.
    async fn memory(&self, conn: &DatabaseConnection, rows: u64) -> Result<(), DbError> {
        let needed = rows.saturating_mul(self.model.dimensions as u64 * 4 + ELEMENT).min(MEMORY);
        let set = "SELECT set_config('maintenance_work_mem', greatest(pg_size_bytes(current_setting('maintenance_work_mem')), \
                   $1) / 1024 || 'kB', false)";
        sql::scalar::<String>(conn, set, [(needed as i64).into()]).await?;
        Ok(())
    }
}

async fn is_whole(conn: &DatabaseConnection, name: &str) -> Result<bool, DbError> {
    let whole = "SELECT EXISTS (SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
        JOIN pg_am a ON a.oid = c.relam WHERE i.indexrelid = to_regclass($1) AND i.indisvalid AND a.amname = 'hnsw')";
    Ok(sql::scalar::<bool>(conn, whole, [name.into()]).await? == Some(true))
}

async fn has_trigger(conn: &DatabaseConnection) -> Result<bool, DbError> {
    let there =
        "SELECT EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = 'recommendations'::regclass AND tgname = $1)";
    Ok(sql::scalar::<bool>(conn, there, [TRIGGER.into()]).await? == Some(true))
}

/// Runs a statement that takes a lock of a whole table: again and again, so that what waits behind it waits for moments.
async fn briefly(conn: &DatabaseConnection, statement: &str) -> Result<(), DbError> {
    conn.execute_unprepared(BRIEFLY).await?;
    let pauses = ExponentialBuilder::default().with_min_delay(PAUSES.0).with_max_delay(PAUSES.1).with_factor(1.5);
    let outcome = (async || Ok::<_, DbError>(conn.execute_unprepared(statement).await?))
        .retry(pauses.with_max_times(TRIES))
        .when(|error| matches!(error, DbError::Conflict(_)))
        .await;
    conn.execute_unprepared(SESSION).await?;
    outcome.map(|_| ())
}
