//! What went wrong in the database, named by what the caller does next.

use sea_orm::{DbErr, RuntimeErr, SqlxError};

/// A failure of the database, named by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// Locked, full, unreachable, shutting down: the same call may work later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A deadlock or a race with another transaction: the same work can be done again at once.
    #[error("the transaction lost a race: {0}")]
    Conflict(String),
    /// A unique or a foreign key is in the way: another transaction has just broken it, or, when the same work
    /// fails again, it can't be stored here.
    #[error("the database refuses it: {0}")]
    Clash(String),
    /// The rules of the tables don't allow it: what was asked for can't be stored here.
    #[error("{0}")]
    Refused(String),
    /// A statement that can't work: a bug of ours or a broken file.
    #[error("the database failed: {0}")]
    Failed(#[source] DbErr),
    /// What is stored can't be used with this program or these settings; the message says what to do.
    #[error("{0}")]
    Incompatible(String),
}

impl From<DbErr> for DbError {
    fn from(error: DbErr) -> Self {
        let text = error.to_string();
        // SQLite's transient conditions by their message, as they have no code of their own in all versions.
        let transient = ["is locked", "is full", "disk I/O error", "unable to open database"];
        match &error {
            DbErr::Conn(_) | DbErr::ConnectionAcquire(_) => return Self::Unavailable(text),
            _ if transient.iter().any(|t| text.contains(t)) => return Self::Unavailable(text),
            DbErr::Exec(RuntimeErr::SqlxError(cause)) | DbErr::Query(RuntimeErr::SqlxError(cause)) => {
                if let Some(classified) = classified(cause) {
                    return classified;
                }
            }
            _ => {}
        }
        Self::Failed(error)
    }
}

impl From<SqlxError> for DbError {
    fn from(error: SqlxError) -> Self {
        Self::from(DbErr::Query(RuntimeErr::SqlxError(error.into())))
    }
}

/// By the kind of the driver's error and by PostgreSQL's SQLSTATE (its documentation, appendix A).
fn classified(error: &SqlxError) -> Option<DbError> {
    let text = error.to_string();
    let database = match error {
        SqlxError::Io(_)
        | SqlxError::Tls(_)
        | SqlxError::Protocol(_)
        | SqlxError::PoolTimedOut
        | SqlxError::PoolClosed
        | SqlxError::WorkerCrashed => return Some(DbError::Unavailable(text)),
        SqlxError::Database(database) => database,
        _ => return None,
    };
    // SQLite's codes are plain numbers.
    let state = database.code().filter(|code| code.len() == 5)?;
    let message = database.message().to_owned();
    Some(match &*state {
        // Serialization failure, deadlock, a lock that wasn't to be had in the time that it was waited for.
        "40001" | "40P01" | "55P03" => DbError::Conflict(message),
        // Foreign key, unique, exclusion.
        "23503" | "23505" | "23P01" => DbError::Clash(message),
        // Read-only: a standby that was not told yet. Others of class 25 are bugs.
        "25006" => DbError::Unavailable(message),
        // Not null, check, too long, what the encoding doesn't have, and what a trigger of another program says.
        "23502" | "23514" | "23001" | "22001" | "22021" | "22P05" | "22003" | "P0001" => {
            DbError::Refused(format!("the database refuses it: {message}"))
        }
        "42501" => DbError::Incompatible(format!("database.url: its user has too few rights: {message}")),
        _ => match &state[..2] {
            // Connection, resources, operator's intervention, the system itself.
            "08" | "53" | "57" | "58" => DbError::Unavailable(message),
            _ => return None,
        },
    })
}

/// A piece of work whose task panicked or was ended by the runtime's shutdown.
pub(super) fn ended(end: tokio::task::JoinError) -> DbErr {
    DbErr::Custom(format!("a write ended early: {end}"))
}
