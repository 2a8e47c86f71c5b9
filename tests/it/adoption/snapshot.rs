//! What a database is: its columns, indexes, rules and triggers, and a hash of each table's rows.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

#[derive(Debug, PartialEq)]
pub struct Snapshot {
    /// One line each.
    catalog: BTreeSet<String>,
    /// Columns by table.
    columns: BTreeMap<String, Vec<String>>,
    /// By table, over the columns that it had when it was taken.
    hashes: BTreeMap<String, String>,
}

const CATALOG: &str = "
    SELECT format('column %s.%s %s %s default %s %s', table_name, column_name, data_type, udt_name, column_default,
        is_nullable) FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT 'type ' || attrelid::regclass || '.' || attname || ' ' || format_type(atttypid, atttypmod)
        FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT 'valid ' || indexrelid::regclass FROM pg_index WHERE indisvalid
        AND indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    UNION ALL SELECT format('rule %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT format('trigger %s %s', pg_get_triggerdef(oid), tgenabled) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND prokind = 'f' AND probin IS NULL
    UNION ALL SELECT 'sequence ' || sequencename || ' ' || coalesce(last_value, 0) FROM pg_sequences
        WHERE schemaname = 'public'
    UNION ALL SELECT 'dictionary ' || dictname FROM pg_ts_dict WHERE dictnamespace = 'public'::regnamespace";

impl Snapshot {
    pub async fn take(conn: &DatabaseConnection) -> Self {
        let catalog = strings(conn, CATALOG).await.into_iter().collect();
        let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let all = "SELECT table_name || '.' || column_name FROM information_schema.columns c JOIN pg_class t \
                   ON t.oid = to_regclass(quote_ident(table_name)) AND t.relkind = 'r' WHERE table_schema = 'public' \
                   ORDER BY ordinal_position";
        for name in strings(conn, all).await {
            let (table, column) = name.split_once('.').expect("a table and a column");
            columns.entry(table.to_owned()).or_default().push(column.to_owned());
        }
        let hashes = hashes(conn, &columns).await;
        Self { catalog, columns, hashes }
    }

    /// Everything that was there is there, and its rows are the same in the columns that were there.
    #[track_caller]
    pub fn assert_kept(&self, later: &Snapshot, hashes: &BTreeMap<String, String>) {
        let lost: Vec<&String> = self.catalog.difference(&later.catalog).collect();
        assert!(lost.is_empty(), "lost or changed: {lost:#?}");
        assert_eq!(&self.hashes, hashes, "rows have changed");
    }

    /// The rows as they are now, in the columns of this snapshot.
    pub async fn rows_now(&self, conn: &DatabaseConnection) -> BTreeMap<String, String> {
        hashes(conn, &self.columns).await
    }
}

async fn hashes(conn: &DatabaseConnection, columns: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, String> {
    let mut hashes = BTreeMap::new();
    for (table, columns) in columns {
        let select = format!(
            "SELECT count(*) || ' ' || md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) \
             FROM (SELECT {} FROM {table}) AS t",
            columns.join(", ")
        );
        hashes.insert(table.clone(), strings(conn, &select).await.remove(0));
    }
    hashes
}

async fn strings(conn: &DatabaseConnection, select: &str) -> Vec<String> {
    let statement = Statement::from_string(conn.get_database_backend(), select);
    let rows = conn.query_all_raw(statement).await.unwrap_or_else(|error| panic!("{select}: {error}"));
    rows.iter().map(|row| row.try_get_by_index(0).expect("text")).collect()
}
