//! Saves a second at 16 connections, beside a bare single-row INSERT through the same pool.

use std::time::Duration;

use mapx_embeddings::db::{Db, ModelSpec};
use mapx_embeddings::domain::recommendation::{ContentType, Draft, PlaceDraft, Visibility};
use sea_orm::sqlx;
use sea_orm::sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use crate::stack::{Data, median, rate};

const CLIENTS: usize = 16;
const SPAN: Duration = Duration::from_secs(3);

pub fn draft(client: usize, turn: usize, place: bool) -> Draft {
    let at = PlaceDraft {
        google_place_id: Some(format!("bench-{client}-{turn}")),
        name: Some(format!("The corner café {turn}")),
        address: Some(format!("Long Street {client}")),
        ..PlaceDraft::default()
    };
    Draft {
        user_id: Uuid::from_u128(client as u128 + 1),
        content_type: if place { ContentType::Place } else { ContentType::Unclear },
        title: None,
        description: format!("Nobody talks up here and every table has a plug, number {turn} of {client}."),
        content_data: None,
        labels: vec!["quiet".into(), "wifi".into()],
        metadata: None,
        rating: Some(5),
        visibility: Visibility::Public,
        place: place.then_some(at),
        service: None,
        embedding: None,
        priority: None,
        trace: None,
    }
}

pub async fn run() {
    println!("## Saves at {CLIENTS} connections, beside a bare single-row INSERT\n");
    let data = Data::new().await;
    let settings = data.settings();
    let model = ModelSpec { id: "none".into(), dimensions: 256 };
    let db = Db::open(&settings.database, model).await.expect("the database opens");
    let pool = PgPoolOptions::new().max_connections(CLIENTS as u32).connect(&data.url()).await.expect("connects");
    // The same columns, without our index and triggers: the least that any save can be.
    let bare = "CREATE TABLE bare (LIKE recommendations INCLUDING DEFAULTS INCLUDING IDENTITY); \
                ALTER TABLE bare ADD PRIMARY KEY (id)";
    sqlx::raw_sql(bare).execute(&pool).await.expect("a table");
    let insert = move |_, turn: usize| {
        let pool = pool.clone();
        async move {
            let insert = "INSERT INTO bare (user_id, content_type, description, labels, rating, visibility, created_at, \
                          updated_at) VALUES ($1, 'unclear', $2, $3, 5::smallint, 'public', now(), now())";
            let text = format!("Nobody talks up here and every table has a plug, number {turn}.");
            let query = sqlx::query(insert).bind(Uuid::from_u128(1)).bind(text).bind(["quiet", "wifi"].as_slice());
            query.execute(&pool).await.expect("inserted");
        }
    };
    let save = |place: bool| {
        let db = db.clone();
        move |client, turn| {
            let db = db.clone();
            async move {
                db.save(draft(client, turn, place)).await.expect("saved");
            }
        }
    };
    let (mut bare, mut plain, mut placed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        bare.push(rate(CLIENTS, SPAN, insert.clone()).await);
        plain.push(rate(CLIENTS, SPAN, save(false)).await);
        // Other places in each round.
        placed.push(rate(CLIENTS, SPAN, save(true)).await);
    }
    let (bare, plain, placed) = (median(bare), median(plain), median(placed));
    println!("bare INSERT              {bare:.0} rows/s");
    println!("save, row and task       {plain:.0} rows/s, {:.2} of the bare INSERT", plain / bare);
    println!("save with a new place    {placed:.0} rows/s, {:.2}", placed / bare);
    db.close().await;
    data.end().await;
}
