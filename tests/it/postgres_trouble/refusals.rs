//! A configuration that can't work ends the start at once, with one line that says what to do.

use std::time::{Duration, Instant};

use mapx_embeddings::config::secret::ServerUrl;
use mapx_embeddings::db::{Db, DbError, ModelSpec};
use sea_orm::ConnectionTrait;

use super::{complaint, program};
use crate::support::data::{TestData, server};
use crate::support::servers::Servers;

const SECRET: &str = "s3cret-w0rd";

/// What both a start and a migration say of this address, within the time of a wait for a server.
async fn refused(url: &str, password: &str) -> String {
    let env = [("MAPX__DATABASE__URL", url.to_owned()), ("MAPX__DATABASE__PASSWORD", password.to_owned())];
    let mut said = Vec::new();
    for command in ["all", "migrate"] {
        let started = Instant::now();
        let output = program(&[command], &env).await;
        said.push(complaint(&output, 2));
        assert!(started.elapsed() < Duration::from_secs(30), "{command} waited for {url}");
        assert!(!format!("{output:?}").contains(SECRET), "{output:?}");
    }
    assert_eq!(said[0], said[1]);
    assert!(said[0].contains("database.url"), "{}", said[0]);
    said.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_read() {
    for url in ["postgres://mapx:s3cret-w0rd@db:port/mapx", "postgres://mapx:s3cret-w0rd@db/mapx?sslmode=perhaps"] {
        let said = refused(url, "").await;
        assert!(said.starts_with("error: database.url: is no PostgreSQL address: "), "{said}");
    }
    let env = [("MAPX__DATABASE__URL", "postgres:mapx".to_owned())];
    let said = complaint(&program(&["all"], &env).await, 2);
    assert!(said.contains("must be sqlite://PATH or postgres://USER@HOST/DATABASE"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_or_a_user_that_is_not_there() {
    let url = server("MAPX_TEST_POSTGRES_URL");
    let (server, _) = url.rsplit_once('/').expect("a URL with a database");
    let said = refused(&format!("{server}/mapx_nowhere"), SECRET).await;
    assert!(said.contains("\"mapx_nowhere\" does not exist") && said.contains("CREATE DATABASE"), "{said}");
    let (_, host) = server.rsplit_once('@').expect("a URL with a user");
    let said = refused(&format!("postgres://mapx_nobody:{SECRET}@{host}/mapx"), "").await;
    assert!(said.contains("\"mapx_nobody\" does not exist") && said.contains("pg_hba.conf"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password() {
    let servers = Servers::start_postgres().await;
    let url = servers.address("MAPX_TEST_POSTGRES_URL").to_owned();
    let asked = "CREATE ROLE mapx_app LOGIN SUPERUSER PASSWORD 'right'; CREATE DATABASE mapx_asked";
    for statement in asked.split("; ") {
        servers.run(&["psql", "-qc", statement]).await;
    }
    servers.ask_for_passwords("mapx_app").await;
    let (_, host) = url.rsplit_once('@').expect("a URL with a user");
    let url = format!("postgres://mapx_app@{}_asked", host);
    for password in ["", SECRET] {
        let said = refused(&url, password).await;
        assert!(said.contains("refuses the login of mapx_app") && said.contains("database.password"), "{said}");
    }
    let inside = url.replace("mapx_app@", &format!("mapx_app:{SECRET}@"));
    refused(&inside, "").await;
    // The right one opens it, from the URL and from the key of its own.
    for (url, password) in [(url.clone(), "right"), (url.replace("mapx_app@", "mapx_app:right@"), "")] {
        let env = [("MAPX__DATABASE__URL", url), ("MAPX__DATABASE__PASSWORD", password.into())];
        let output = program(&["migrate"], &env).await;
        assert!(output.status.success(), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("right"), "{output:?}");
    }
}

/// What opening says.
async fn opening(data: &TestData, url: String) -> DbError {
    let mut settings = data.settings().database;
    settings.url = ServerUrl::new(url);
    let model = ModelSpec { id: "model-a".into(), dimensions: 4 };
    Db::open(&settings, model).await.err().expect("refused")
}

#[track_caller]
fn names_the_remedy(error: &DbError, cause: &str) {
    let text = error.to_string();
    assert!(matches!(error, DbError::Incompatible(_)), "{error:?}");
    assert!(text.contains(cause) && text.starts_with("database.url: "), "{text}");
    assert!(text.contains("CREATE EXTENSION vector") && text.contains("pgvector/pgvector"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_pgvector() {
    let data = TestData::postgres().await;
    let conn = data.connect().await;
    let hide = format!("ALTER DATABASE {} SET extension_control_path = '/nowhere'", data.name());
    conn.execute_unprepared(&hide).await.expect("as on a server that lacks it");
    conn.close().await.expect("closes");
    names_the_remedy(&opening(&data, data.url()).await, "\"vector\" is not available");
    let env = [("MAPX__DATABASE__URL", data.url())];
    let said = complaint(&program(&["migrate"], &env).await, 2);
    assert!(said.contains("lacks the extension pgvector"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_create_the_extension_or_the_tables() {
    let data = TestData::postgres().await;
    let role = data.name().to_owned();
    let conn = data.connect().await;
    conn.execute_unprepared(&format!("CREATE ROLE {role} LOGIN")).await.expect("a role");
    let url = data.url().replace("postgres@", &format!("{role}@"));
    names_the_remedy(&opening(&data, url.clone()).await, "permission denied to create extension");
    conn.execute_unprepared("CREATE EXTENSION vector").await.expect("by its owner");
    let error = opening(&data, url.clone()).await;
    assert!(matches!(error, DbError::Incompatible(_)), "{error:?}");
    assert!(error.to_string().contains("too few rights: permission denied for schema public"), "{error}");
    conn.execute_unprepared(&format!("GRANT CREATE ON SCHEMA public TO {role}")).await.expect("granted");
    let mut settings = data.settings().database;
    settings.url = ServerUrl::new(url);
    let db = Db::open(&settings, ModelSpec { id: "model-a".into(), dimensions: 4 }).await.expect("it opens");
    db.close().await;
    conn.execute_unprepared(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.expect("nothing is left");
    conn.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_in_another_encoding() {
    let name = format!("mapx_test_latin_{}", std::process::id());
    let data = TestData::postgres().await;
    let conn = data.connect().await;
    let create =
        format!("CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0");
    conn.execute_unprepared(&create).await.expect("a database");
    let url = data.url().replace(data.name(), &name);
    let error = opening(&data, url).await.to_string();
    conn.execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)")).await.expect("nothing is left");
    conn.close().await.expect("closes");
    assert_eq!(error, "database.url: the database is in LATIN1, must be in UTF8");
}
