//! The schema's steps: SQL twins in `migrations/`, wrapped as sea-orm migrations.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, FromQueryResult};
use sea_orm_migration::{MigrationName, MigrationTrait, MigratorTrait, SchemaManager};

use super::{DbError, sql};

/// One numbered step.
struct Step {
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

/// `steps!["0001_initial", …]`: a missing twin doesn't compile.
macro_rules! steps {
    ($($name:literal),+ $(,)?) => {
        &[$(Step {
            name: $name,
            sqlite: include_str!(concat!("../../migrations/sqlite/", $name, ".sql")),
            postgres: include_str!(concat!("../../migrations/postgres/", $name, ".sql")),
        }),+]
    };
}

const STEPS: &[Step] = steps![
    "0001_initial",
    "0002_lane_progress",
    "0003_claims",
    "0004_provider",
    "0005_embedding_cache",
    "0006_provider_usage",
    "0007_operations",
    "0008_regenerations",
    "0009_webhooks",
    "0010_history",
    "0011_traces",
    "0012_shadow",
    "0013_failed_webhooks"
];

impl MigrationName for &'static Step {
    fn name(&self) -> &str {
        self.name
    }
}

#[async_trait::async_trait]
impl MigrationTrait for &'static Step {
    /// A step that fails half-way leaves nothing behind.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, schema: &SchemaManager) -> Result<(), DbErr> {
        schema.get_connection().execute_unprepared(self.sql(schema.get_database_backend())?).await?;
        Ok(())
    }
}

impl Step {
    fn sql(&self, backend: DbBackend) -> Result<&'static str, DbErr> {
        match backend {
            DbBackend::Sqlite => Ok(self.sqlite),
            DbBackend::Postgres => Ok(self.postgres),
            other => Err(DbErr::Migration(format!("unsupported database {other:?}"))),
        }
    }
}

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        STEPS.iter().map(|step| Box::new(step) as Box<dyn MigrationTrait>).collect()
    }
}

/// Applies the steps that are missing, and returns them.
pub(super) async fn up(conn: &DatabaseConnection) -> Result<Vec<&'static str>, DbError> {
    let before = applied(conn).await?;
    Migrator::up(conn, None).await?;
    Ok(names().into_iter().filter(|step| !before.iter().any(|known| known == step)).collect())
}

/// The SQL of all steps.
pub(super) fn all_sql(backend: DbBackend) -> String {
    let sqls = STEPS.iter().map(|step| format!("-- {}\n\n{}", step.name, step.sql(backend).unwrap_or_default()));
    sqls.collect::<Vec<_>>().join("\n")
}

/// The SQL of the steps that are missing; empty when there are none. Changes nothing.
pub(super) async fn pending_sql(conn: &DatabaseConnection) -> Result<String, DbError> {
    let applied = applied(conn).await?;
    let backend = conn.get_database_backend();
    let pending = STEPS.iter().filter(|step| !applied.iter().any(|name| name == step.name));
    let sqls = pending.map(|step| format!("-- {}\n\n{}", step.name, step.sql(backend).unwrap_or_default()));
    Ok(sqls.collect::<Vec<_>>().join("\n"))
}

/// The steps that this database has had; none where it has no record of them.
pub(super) async fn applied(conn: &DatabaseConnection) -> Result<Vec<String>, DbError> {
    let recorded = match conn.get_database_backend() {
        DbBackend::Postgres => "SELECT to_regclass('seaql_migrations') IS NOT NULL",
        _ => "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'seaql_migrations')",
    };
    if sql::scalar::<bool>(conn, recorded, []).await? != Some(true) {
        return Ok(Vec::new());
    }
    #[derive(FromQueryResult)]
    struct Applied {
        version: String,
    }
    let rows: Vec<Applied> = sql::all(conn, "SELECT version FROM seaql_migrations", []).await?;
    Ok(rows.into_iter().map(|row| row.version).collect())
}

/// The names of all steps, in order.
pub fn names() -> Vec<&'static str> {
    STEPS.iter().map(|step| step.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a table that this step creates; none otherwise.
    fn columns(sql: &str, table: &str) -> Vec<String> {
        let plain = sql.replace("IF NOT EXISTS ", "");
        let Some(start) = plain.find(&format!("CREATE TABLE {table} (")) else { return Vec::new() };
        let body = &plain[start..start + plain[start..].find("\n)").expect("the table ends")];
        let lines = body.lines().skip(1).map(str::trim);
        let columns = lines.filter(|l| l.starts_with(|c: char| c.is_lowercase()));
        columns.map(|l| l.split_whitespace().next().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_twins_have_the_same_tables_and_columns() {
        let tables = [
            "users",
            "user_follows",
            "places",
            "services",
            "recommendations",
            "embedding_tasks",
            "workers",
            "service_state",
            "claims",
            "embedding_cache",
            "provider_usage",
            "embedding_attempts",
            "embedding_audit",
            "regenerations",
            "regeneration_items",
            "regeneration_texts",
            "embedding_history",
            "embedding_journal",
            "webhook_endpoints",
            "webhook_deliveries",
            "webhook_attempts",
            "embedding_stand_ins",
        ];
        for step in STEPS {
            for table in tables {
                let sqlite = columns(step.sqlite, table);
                assert_eq!(sqlite, columns(step.postgres, table), "{table}");
            }
        }
        for table in tables {
            assert!(STEPS.iter().any(|step| columns(step.sqlite, table).len() >= 2), "{table}");
        }
        // The first step also takes in the tables of an adopted database, on PostgreSQL alone.
        for step in &STEPS[1..] {
            assert_eq!(alterations(step.sqlite), alterations(step.postgres), "{}", step.name);
        }
    }

    /// Without the types of new columns, which differ, and how PostgreSQL stores and cleans up.
    fn alterations(sql: &str) -> Vec<String> {
        let lines = sql.lines().filter(|line| line.starts_with("ALTER TABLE") && !line.contains(" SET "));
        lines.map(|line| line.split_whitespace().take(6).collect::<Vec<_>>().join(" ")).collect()
    }
}
