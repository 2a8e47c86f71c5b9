//! Who is acting is who the token says, never who the request says.

use serde_json::json;

use super::{ADMIN, API, QUEUE, READER, SAVE, SEARCH, app, call, get, saved, send, token_of, token_with_role};
use crate::support::app::user;

#[tokio::test]
async fn a_recommendation_is_the_tokens_users() {
    let app = app().await;
    let id = saved(&app, &token_of(1)).await;
    let path = format!("{API}/{id}");
    assert_eq!(get(&app, &path, &token_of(2)).await.data(200)["user_id"], json!(user(1)));
    // The same user may be named; it makes no difference.
    let body = json!({ "user_id": user(1), "description": "Good" });
    send(&app, "POST", SAVE, &token_of(1), &body).await.data(201);
    app.stop().await;
}

#[tokio::test]
async fn a_body_or_header_that_names_another_user_is_refused_by_its_name() {
    let app = app().await;
    let id = saved(&app, &token_of(1)).await;
    let (one, two) = (token_of(1), user(2).to_string());
    let bodies = [
        ("POST", SAVE.to_owned(), json!({ "user_id": two, "description": "Not mine" })),
        ("POST", SEARCH.to_owned(), json!({ "user_id": two, "query": "coffee" })),
        ("PUT", format!("{API}/{id}"), json!({ "user_id": two, "title": "New" })),
        ("DELETE", format!("{API}/{id}"), json!({ "user_id": two })),
    ];
    for (method, path, body) in bodies {
        let message = send(&app, method, &path, &one, &body).await.refused(403, "NOT_THE_TOKENS_USER");
        assert!(message.starts_with("user_id "), "{message}");
        let mut wrong = body.clone();
        wrong["user_id"] = json!(7);
        let message = send(&app, method, &path, &one, &wrong).await.refused(400, "INVALID_FIELD");
        assert!(message.starts_with("user_id "), "{message}");
        let mut own = body;
        own.as_object_mut().expect("an object").remove("user_id");
        let header = format!("Bearer {one}");
        let headers = [("authorization", header.as_str()), ("x-user-id", &two)];
        let message = call(&app, method, &path, &headers, Some(&own)).await.refused(403, "NOT_THE_TOKENS_USER");
        assert!(message.starts_with("x-user-id "), "{message}");
    }
    assert_eq!(get(&app, &format!("{API}/{id}"), &one).await.data(200)["title"], json!(null));
    // Nor does the admin's token make one a user.
    let headers = [("authorization", &*format!("Bearer {ADMIN}")), ("x-user-id", &two)];
    call(&app, "GET", &format!("{API}/{id}"), &headers, None).await.refused(403, "NOT_THE_TOKENS_USER");
    app.stop().await;
}

#[tokio::test]
async fn what_is_kept_for_friends_is_shown_to_the_tokens_user() {
    let app = app().await;
    let body = json!({ "description": "A secret bar", "visibility": "friends" });
    let saved = send(&app, "POST", SAVE, &token_of(1), &body).await.data(201);
    let path = format!("{API}/{}", saved["recommendation_id"]);
    get(&app, &path, &token_of(1)).await.data(200);
    for stranger in [token_of(2), READER.to_owned(), ADMIN.to_owned()] {
        get(&app, &path, &stranger).await.refused(404, "NOT_FOUND");
    }
    let follow = format!("/api/users/{}/following/{}", user(2), user(1));
    send(&app, "PUT", &follow, &token_of(1), &json!({})).await.refused(403, "FORBIDDEN");
    send(&app, "PUT", &follow, &token_of(2), &json!({})).await.data(200);
    get(&app, &path, &token_of(2)).await.data(200);
    app.stop().await;
}

#[tokio::test]
async fn lines_of_an_import_are_the_tokens_users_unless_an_operator_imports() {
    let app = app().await;
    let line = |n: u128| json!({ "user_id": user(n), "description": format!("of {n}"), "visibility": "public" });
    let lines = format!("{}\n{}\n{{\"description\": \"nobody's\"}}", line(1), line(2));
    let import = async |token: String| {
        let request = app.request(reqwest::Method::POST, &format!("{API}/import"));
        app.send(request.bearer_auth(token).body(lines.clone())).await.data(200).clone()
    };
    let of = async |n: u128| {
        let seen = get(&app, &format!("{API}/user/{}", user(n)), READER).await.json();
        seen["pagination"]["total"].as_u64().expect("a total")
    };
    // A user's: the line of another is named and left out, the one without a user is theirs.
    let counts = import(token_of(1)).await;
    assert_eq!((&counts["imported"], &counts["refused"]), (&json!(2), &json!(1)), "{counts}");
    assert_eq!(counts["errors"][0]["line"], 2);
    assert!(counts["errors"][0]["message"].as_str().unwrap().starts_with("user_id "), "{counts}");
    assert_eq!((of(1).await, of(2).await), (1, 0));
    // An operator's who is no user: each line must say whose it is.
    let counts = import(ADMIN.into()).await;
    assert_eq!((&counts["imported"], &counts["errors"][0]["message"]), (&json!(2), &json!("user_id is required")));
    // An operator's who is one: what names nobody is theirs.
    let counts = import(token_with_role(4, "admin")).await;
    assert_eq!(counts["imported"], 3);
    assert_eq!((of(1).await, of(2).await), (3, 2));
    app.stop().await;
}

#[tokio::test]
async fn the_audit_names_the_tokens_user_and_believes_no_header() {
    let app = app().await;
    let pause = format!("{QUEUE}/pause");
    let audit = async || get(&app, &format!("{QUEUE}/audit"), READER).await.data(200)["items"][0]["who"].clone();
    send(&app, "POST", &pause, &token_with_role(4, "admin"), &json!({})).await.data(200);
    assert_eq!(audit().await, json!(user(4)));
    send(&app, "POST", &pause, ADMIN, &json!({})).await.data(200);
    assert_eq!(audit().await, "admin token");
    let headers = [("authorization", &*format!("Bearer {ADMIN}")), ("x-actor", "somebody")];
    call(&app, "POST", &pause, &headers, Some(&json!({}))).await.data(200);
    assert_eq!(audit().await, "admin token (somebody)");
    app.stop().await;
}

#[tokio::test]
async fn the_processes_are_shown_to_those_who_may_see_everything() {
    let app = app().await;
    let workers = async |token: &str| {
        let data = get(&app, &format!("{QUEUE}/status"), token).await.data(200);
        data["workers"].as_array().expect("a list").len()
    };
    crate::support::app::eventually("it has told of itself", async || (workers(READER).await == 1).then_some(()))
        .await;
    assert_eq!((workers(ADMIN).await, workers(&token_of(1)).await), (1, 0));
    app.stop().await;
}
