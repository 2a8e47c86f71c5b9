//! What a regeneration with a shadow has to do besides its rows, and who does it: one process at a time, under a lock
//! of its own, so that the rows' feeder is neither held up nor replaced while an index is built.

use futures_util::FutureExt;
use sea_orm::Value;

use super::{Extent, Regeneration, Row, changes, feed};
use crate::db::shadow::Shadow;
use crate::db::webhooks::tell_finished;
use crate::db::{Db, DbError, Tx, sql};
use crate::domain::regeneration::{Circumstances, JobState, Phase, Scope, Strategy, VectorsIndex};

impl Regeneration {
    /// The phase once its state is `wanted`. A cancelled one gives the searches their index back, over whatever is
    /// there; one that is resumed after that begins with a copy again.
    pub(super) fn phase_when(&self, wanted: JobState) -> Option<Phase> {
        match (self.state, wanted) {
            (_, JobState::Cancelled) => self.phase.map(|_| Phase::Indexing),
            (JobState::Cancelled, JobState::Running) => {
                (self.strategy == Strategy::Shadow).then_some(Phase::Preparing)
            }
            _ => self.phase,
        }
    }
}

impl Db {
    /// How a regeneration of these rows would bring its vectors into the index, and why so.
    pub async fn regeneration_strategy(
        &self,
        scope: Scope,
        extent: Extent,
        shadow_rows: u64,
    ) -> Result<(Strategy, String), DbError> {
        let mut circumstances = Circumstances {
            scope,
            index: VectorsIndex::Memory,
            rows: extent.rows.max(0) as u64,
            vectors: 0,
            shadow_rows,
        };
        if let Some(shadow) = &self.shadow {
            circumstances.index = VectorsIndex::NotOurs;
            // While a cancelled one's shadow is there, the index is on its way back.
            if shadow.keeps_an_index()
                && (shadow.has_index(self.read()).await? || self.shadow_job().await?.is_some())
            {
                let count = "SELECT count(*) FROM recommendations WHERE embedding IS NOT NULL";
                let vectors = sql::scalar::<i64>(self.read(), count, []).await?.unwrap_or(0);
                (circumstances.index, circumstances.vectors) = (VectorsIndex::Ours, vectors.max(0) as u64);
            }
        }
        Ok(circumstances.strategy())
    }

    /// The regeneration whose shadow is there, or has to be; it may be cancelled.
    pub async fn shadow_job(&self) -> Result<Option<Regeneration>, DbError> {
        let select = "SELECT * FROM regenerations WHERE phase IS NOT NULL ORDER BY id DESC LIMIT 1";
        let row: Option<Row> = sql::one(self.read(), select, []).await?;
        Ok(row.map(Regeneration::from))
    }

    /// Does what the shadow needs next, which may take minutes; returns the job that went on. Nothing is done where
    /// nothing needs it, or another process does it. Dropped half-way, it is done anew by whoever comes next.
    pub async fn tend_shadow(&self) -> Result<Option<Regeneration>, DbError> {
        let Some(shadow) = self.shadow.clone() else { return Ok(None) };
        shadow.look(self.read()).await?;
        if self.shadow_job().await?.is_none_or(|job| job.waits_for_others()) {
            return Ok(None);
        }
        let Some(conn) = shadow.lock(self.read()).await? else { return Ok(None) };
        let outcome = self.tend(&shadow, &conn).await;
        // With the connection goes the lock.
        conn.close().await?;
        outcome
    }

    async fn tend(
        &self,
        shadow: &Shadow,
        conn: &sea_orm::DatabaseConnection,
    ) -> Result<Option<Regeneration>, DbError> {
        // Again, as another process may have come first.
        let Some(job) = self.shadow_job().await?.filter(|job| !job.waits_for_others()) else { return Ok(None) };
        match job.phase {
            Some(Phase::Preparing) => {
                shadow.prepare(conn, job.total).await?;
                self.pass(job.id, Phase::Preparing, Phase::Filling).await
            }
            Some(Phase::Indexing) => {
                shadow.index(conn, job.total).await?;
                self.pass(job.id, Phase::Indexing, Phase::Swapping).await
            }
            Some(Phase::Swapping) => {
                shadow.swap(conn).await?;
                let id = job.id;
                self.write(move |tx| end(tx, id).boxed()).await
            }
            Some(Phase::Filling) | None => Ok(None),
        }
    }

    /// From one phase to the next; it may have been cancelled or resumed meanwhile, and then is in another.
    async fn pass(&self, id: i64, from: Phase, to: Phase) -> Result<Option<Regeneration>, DbError> {
        let pass = "UPDATE regenerations SET phase = $3, updated_at = $4 WHERE id = $1 AND phase = $2 RETURNING *";
        let values: [Value; 4] = [id.into(), from.as_str().into(), to.as_str().into(), sql::now().into()];
        let rows: Vec<Row> = self.change_returning(pass, values).await?;
        Ok(rows.into_iter().next().map(Regeneration::from))
    }
}

impl Regeneration {
    /// Whether its shadow has nothing to do: its rows are being embedded, or it is paused.
    fn waits_for_others(&self) -> bool {
        self.phase == Some(Phase::Filling) || self.state == JobState::Paused
    }
}

/// Its shadow is gone, and so nothing is left to do.
async fn end(tx: &Tx<'_>, id: i64) -> Result<Option<Regeneration>, DbError> {
    let lock = "SELECT * FROM regenerations WHERE id = $1 AND phase = $2 FOR UPDATE";
    let row: Option<Row> = sql::one(tx.conn(), lock, [id.into(), Phase::Swapping.as_str().into()]).await?;
    let Some(mut job) = row.map(Regeneration::from) else { return Ok(None) };
    match job.state {
        JobState::Running => complete(tx, &mut job).await?,
        // It stays at this until it is resumed.
        JobState::Paused => return Ok(None),
        JobState::Cancelled | JobState::Completed => job.phase = None,
    }
    feed::write(tx, &job).await?;
    Ok(Some(job))
}

/// Nothing is left to do: tells so, and forgets what it knew of its texts.
pub(super) async fn complete(tx: &Tx<'_>, job: &mut Regeneration) -> Result<(), DbError> {
    (job.state, job.phase, job.rate, job.finished_at) = (JobState::Completed, None, 0.0, Some(sql::now()));
    changes::clear(tx).await?;
    tell_finished(tx, job).await
}
