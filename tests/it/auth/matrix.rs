//! Every route by everyone: who is let in, who isn't, and that whoever isn't changes nothing.

use std::collections::BTreeSet;

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::{
    ADMIN, API, QUEUE, READER, SAVE, SCRAPER, SEARCH, app, call, get, saved, send, token_of, token_with_role,
};
use crate::support::app::{TestApp, eventually, user};

/// Those who call. `owner` is the author of what is called for.
const CALLERS: [&str; 8] =
    ["anonymous", "owner", "other", "reading-user", "reader", "admin-user", "admin", "scraper"];

const EVERYBODY: &str = "anonymous owner other reading-user reader admin-user admin scraper";
const WITH_TOKEN: &str = "owner other reading-user reader admin-user admin";
const ACTING_USERS: &str = "owner other admin-user";
const IMPORTERS: &str = "owner other admin-user admin";
const OWNER: &str = "owner";
const SEE_ALL: &str = "reading-user reader admin-user admin";
const SEE_NUMBERS: &str = "reading-user reader admin-user admin scraper";
const OPERATORS: &str = "admin-user admin";

fn token(caller: &str) -> Option<String> {
    Some(match caller {
        "owner" => token_of(1),
        "other" => token_of(2),
        "reading-user" => token_with_role(3, "reader"),
        "admin-user" => token_with_role(4, "admin"),
        "reader" => READER.into(),
        "admin" => ADMIN.into(),
        "scraper" => SCRAPER.into(),
        _ => return None,
    })
}

/// A route, what it is asked, what it answers to those who may, and who may.
type Row = (&'static str, String, Option<Value>, u16, &'static str);

fn rows() -> Vec<Row> {
    let (list, jobs) = (format!("{QUEUE}/dead-letters"), format!("{API}/regenerate-embeddings"));
    let (hooks, none) = ("/api/webhooks".to_owned(), || Some(json!({})));
    vec![
        ("POST", SAVE.into(), Some(json!({ "description": "Good" })), 201, ACTING_USERS),
        ("POST", format!("{API}/import"), Some(json!({ "description": "Good" })), 200, IMPORTERS),
        ("GET", format!("{API}/{{id}}"), None, 200, WITH_TOKEN),
        ("PUT", format!("{API}/{{id}}"), Some(json!({ "title": "New" })), 200, OWNER),
        ("DELETE", format!("{API}/{{id}}"), None, 200, OWNER),
        ("GET", format!("{API}/{{id}}/embedding"), None, 200, WITH_TOKEN),
        ("GET", format!("{API}/user/{{user_id}}"), None, 200, WITH_TOKEN),
        ("GET", format!("{API}/place/{{place_id}}"), None, 200, WITH_TOKEN),
        ("GET", format!("{API}/place/{{place_id}}/network-rating"), None, 200, WITH_TOKEN),
        ("GET", format!("{API}/place/google/{{google_place_id}}"), None, 200, WITH_TOKEN),
        ("GET", format!("{API}/places/reviewed"), None, 200, WITH_TOKEN),
        ("POST", SEARCH.into(), Some(json!({ "query": "coffee" })), 200, WITH_TOKEN),
        ("PUT", "/api/users/{id}/following/{other}".into(), None, 200, OWNER),
        ("DELETE", "/api/users/{id}/following/{other}".into(), None, 200, OWNER),
        ("GET", format!("{QUEUE}/status"), None, 200, WITH_TOKEN),
        ("GET", format!("{QUEUE}/events"), None, 200, SEE_ALL),
        ("GET", format!("{QUEUE}/history"), None, 200, SEE_ALL),
        ("GET", format!("{QUEUE}/coverage"), None, 200, SEE_ALL),
        ("GET", format!("{QUEUE}/config"), None, 200, SEE_ALL),
        ("PUT", format!("{QUEUE}/config"), Some(json!({ "batch_size": 7 })), 200, OPERATORS),
        ("GET", format!("{QUEUE}/audit"), None, 200, SEE_ALL),
        ("GET", list.clone(), None, 200, SEE_ALL),
        ("GET", format!("{list}/groups"), None, 200, SEE_ALL),
        ("GET", format!("{list}/{{recommendation_id}}"), None, 404, SEE_ALL),
        ("POST", format!("{list}/replay"), Some(json!({ "filter": {} })), 200, OPERATORS),
        ("POST", format!("{list}/discard"), Some(json!({ "filter": {} })), 200, OPERATORS),
        ("POST", format!("{QUEUE}/pause"), Some(json!({ "lane": "low" })), 200, OPERATORS),
        ("POST", format!("{QUEUE}/resume"), none(), 200, OPERATORS),
        ("POST", format!("{QUEUE}/workers/{{id}}/drain"), none(), 404, OPERATORS),
        ("POST", format!("{QUEUE}/workers/{{id}}/undrain"), none(), 404, OPERATORS),
        ("GET", jobs.clone(), None, 200, SEE_ALL),
        ("POST", jobs.clone(), Some(json!({ "scope": "missing", "dry_run": true })), 200, OPERATORS),
        ("GET", format!("{jobs}/{{job}}"), None, 404, SEE_ALL),
        ("DELETE", format!("{jobs}/{{job}}"), None, 404, OPERATORS),
        ("POST", format!("{jobs}/{{job}}/pause"), none(), 404, OPERATORS),
        ("POST", format!("{jobs}/{{job}}/resume"), none(), 404, OPERATORS),
        ("POST", hooks.clone(), Some(json!({ "url": "https://hook.invalid/" })), 201, OPERATORS),
        ("GET", hooks.clone(), None, 200, SEE_ALL),
        ("GET", format!("{hooks}/{{id}}"), None, 404, SEE_ALL),
        ("PATCH", format!("{hooks}/{{id}}"), Some(json!({ "enabled": false })), 404, OPERATORS),
        ("DELETE", format!("{hooks}/{{id}}"), None, 404, OPERATORS),
        ("POST", format!("{hooks}/{{id}}/test"), none(), 404, OPERATORS),
        ("POST", format!("{hooks}/{{id}}/rotate-secret"), none(), 404, OPERATORS),
        ("GET", format!("{hooks}/{{id}}/deliveries"), None, 404, SEE_ALL),
        ("GET", format!("{hooks}/{{id}}/deliveries/{{delivery}}"), None, 404, SEE_ALL),
        ("POST", format!("{hooks}/{{id}}/deliveries/{{delivery}}/redeliver"), none(), 404, OPERATORS),
        ("GET", "/health/live".into(), None, 200, EVERYBODY),
        ("GET", "/health/ready".into(), None, 200, EVERYBODY),
        ("GET", "/metrics".into(), None, 200, SEE_NUMBERS),
        ("GET", "/openapi.json".into(), None, 200, EVERYBODY),
    ]
}

/// The path of a request, to a recommendation of the owner where it is one.
fn path(pattern: &str, id: i64) -> String {
    let id = if pattern.contains("/workers/") { "nobody".to_owned() } else { id.to_string() };
    let (one, two) = (user(1).to_string(), user(2).to_string());
    let path = pattern.replace("/users/{id}", &format!("/users/{one}")).replace("{id}", &id);
    let path = path.replace("{user_id}", &one).replace("{other}", &two).replace("{job}", "987654");
    let path = path.replace("{delivery}", "987654");
    path.replace("{place_id}", "1").replace("{google_place_id}", "g1").replace("{recommendation_id}", "987654")
}

fn of(headers: &[(&'static str, &str)]) -> HeaderMap {
    let header =
        |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().expect("a value"));
    headers.iter().map(header).collect()
}

/// What an operator can change, and what the owner has.
async fn state(app: &TestApp, id: i64) -> [Value; 5] {
    let one = get(app, &format!("{API}/{id}"), &token_of(1)).await.json();
    let status = get(app, &format!("{QUEUE}/status"), READER).await.json();
    let config = get(app, &format!("{QUEUE}/config"), READER).await.json();
    let audit = get(app, &format!("{QUEUE}/audit"), READER).await.json();
    let config = json!([config["data"]["max_concurrent"], config["data"]["batch_size"]]);
    // How they fare changes by itself.
    let hooks = get(app, "/api/webhooks", READER).await.data(200).as_array().map(Vec::len);
    [json!(hooks), one, json!([status["data"]["recommendations"], status["data"]["paused"]]), config, audit]
}

/// A URL like Slack's is the key to what it leads to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_where_a_webhook_leads_and_not_its_path() {
    let app = app().await;
    let url = "https://hooks.example.com:8443/services/T0/the-key?token=another";
    app.send(app.request(Method::POST, "/api/webhooks").bearer_auth(ADMIN).json(&json!({ "url": url })))
        .await
        .data(201);
    for (who, expected) in [(ADMIN, url), (READER, "https://hooks.example.com:8443/…")] {
        assert_eq!(get(&app, "/api/webhooks", who).await.data(200)[0]["url"], expected);
        assert_eq!(get(&app, "/api/webhooks/1", who).await.data(200)["url"], expected);
        let test = app.request(Method::POST, "/api/webhooks/1/test").bearer_auth(ADMIN).json(&json!({}));
        let delivery = app.send(test).await.data(202)["id"].clone();
        let log = format!("/api/webhooks/1/deliveries/{delivery}");
        let attempt = eventually("it was tried", async || {
            let told = get(&app, &log, who).await.data(200).clone();
            told["history"].get(0).cloned()
        })
        .await;
        assert_eq!(attempt["url"], expected, "{attempt}");
        assert!(who == ADMIN || !attempt.to_string().contains("the-key"), "{attempt}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_lets_in_those_who_may_and_nobody_else() {
    let app = app().await;
    let mut wrong = Vec::new();
    for (method, pattern, body, status, allowed) in rows() {
        let allowed: BTreeSet<&str> = allowed.split(' ').collect();
        for caller in CALLERS {
            let id = saved(&app, &token_of(1)).await;
            let path = path(&pattern, id);
            let header = token(caller).map(|token| format!("Bearer {token}"));
            let headers: Vec<_> = header.iter().map(|value| ("authorization", value.as_str())).collect();
            // An operator who is no user imports for the users that the lines name.
            let mut body = body.clone();
            if let (true, Some(body)) = (caller == "admin" && path.ends_with("/import"), &mut body) {
                body["user_id"] = json!(user(9));
            }
            let may = allowed.contains(caller);
            let expected = if may {
                status
            } else if caller == "anonymous" {
                401
            } else {
                403
            };
            let before = if may { None } else { Some(state(&app, id).await) };
            if may && path.ends_with("/events") {
                // It goes on without end.
                let told = app.request(Method::GET, &path).headers(of(&headers)).send().await.expect("an answer");
                assert_eq!(told.status(), status, "{caller}: {method} {path}");
                continue;
            }
            let seen = call(&app, method, &path, &headers, body.as_ref()).await;
            if seen.status.as_u16() != expected {
                wrong.push(format!("{caller}: {method} {path}: {}, not {expected}: {}", seen.status, seen.text));
            }
            if let Some(before) = before {
                let code = seen.json()["error"].clone();
                let codes = ["UNAUTHENTICATED", "NOT_ALLOWED", "FORBIDDEN"];
                if !codes.iter().any(|known| code == *known) || state(&app, id).await != before {
                    wrong.push(format!("{caller}: {method} {path}: refused by {code}, and something changed"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    app.stop().await;
}

#[tokio::test]
async fn no_route_is_missing_in_this_matrix() {
    let app = app().await;
    let document = call(&app, "GET", "/openapi.json", &[], None).await.json();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("methods").keys();
            methods.map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
        })
        .collect();
    let walked = rows().into_iter().map(|(method, path, ..)| (method.to_owned(), path)).collect();
    let differences: Vec<_> = described.symmetric_difference(&walked).collect();
    assert!(differences.is_empty(), "walked or described, and not both: {differences:?}");
    app.stop().await;
}

/// They ask for a token themselves, and what they show is behind it.
#[tokio::test]
async fn pages_are_for_everybody() {
    let app = app().await;
    for path in ["/dashboard", "/dashboard/app.js", "/dashboard/style.css"] {
        let page = call(&app, "GET", path, &[], None).await;
        assert_eq!(page.status, 200, "{path}");
        call(&app, "POST", path, &[], None).await.refused(405, "METHOD_NOT_ALLOWED");
    }
    app.stop().await;
}

#[tokio::test]
async fn every_refusal_is_described() {
    let app = app().await;
    let document = call(&app, "GET", "/openapi.json", &[], None).await.json();
    for (method, pattern, _, _, allowed) in rows() {
        let operation = &document["paths"][&pattern][method.to_lowercase()];
        for (status, expected) in [("401", allowed != EVERYBODY), ("403", allowed != EVERYBODY)] {
            let answer = &operation["responses"][status]["content"]["application/json"];
            assert_eq!(answer.is_object(), expected, "{method} {pattern} {status}: {operation}");
        }
        let limited = !pattern.starts_with("/health");
        assert_eq!(operation["responses"]["429"].is_object(), limited, "{method} {pattern}");
        assert_eq!(operation["security"].is_array(), allowed != EVERYBODY, "{method} {pattern}");
    }
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    app.stop().await;
}

#[tokio::test]
async fn no_other_spelling_of_a_route_leads_around_the_table() {
    let app = app().await;
    let config = format!("{QUEUE}/config");
    call(&app, "HEAD", &config, &[], None).await.status_is(401);
    let header = format!("Bearer {}", token_of(1));
    call(&app, "HEAD", &config, &[("authorization", &header)], None).await.status_is(403);
    let pause = format!("{QUEUE}/pause");
    let overriding = [("authorization", header.as_str()), ("x-http-method-override", "POST")];
    call(&app, "GET", &pause, &overriding, Some(&json!({}))).await.refused(405, "METHOD_NOT_ALLOWED");
    for path in [
        format!("{pause}/"),
        format!("/{pause}"),
        pause.replace("embedding-queue", "embedding%2Dqueue"),
        pause.replace("/pause", "%2Fpause"),
        pause.replace("/pause", "//pause"),
        pause.replace("/pause", "/./pause"),
        pause.replace("/pause", "/x/../pause"),
        pause.to_uppercase(),
        format!("{pause};x"),
        format!("{pause}%00"),
    ] {
        let seen = call(&app, "POST", &path, &[("authorization", &header)], Some(&json!({}))).await;
        assert!([403, 404, 405].contains(&seen.status.as_u16()), "{path}: {} {}", seen.status, seen.text);
    }
    let status = get(&app, &format!("{QUEUE}/status"), READER).await.data(200);
    assert!(status["paused"]["low"].is_null(), "{status}");
    // A token anywhere else than in its header is none.
    for path in [format!("{config}?access_token={ADMIN}"), format!("{config}?token={ADMIN}")] {
        call(&app, "GET", &path, &[("cookie", &format!("token={ADMIN}"))], None)
            .await
            .refused(401, "UNAUTHENTICATED");
    }
    app.stop().await;
}

#[tokio::test]
async fn what_is_public_can_be_read_without_a_token_where_that_is_wanted() {
    let app = TestApp::with(|settings| {
        super::guarded(settings);
        settings.auth.anonymous_read = true;
    })
    .await;
    let public = saved(&app, &token_of(1)).await;
    let body = json!({ "description": "Quiet", "visibility": "friends" });
    let friends = send(&app, "POST", SAVE, &token_of(1), &body).await.data(201)["recommendation_id"].clone();
    assert_eq!(call(&app, "GET", &format!("{API}/{public}"), &[], None).await.status, 200);
    assert_eq!(call(&app, "GET", &format!("{API}/{friends}"), &[], None).await.status, 404);
    call(&app, "POST", SEARCH, &[], Some(&json!({ "query": "coffee" }))).await.data(200);
    // Not as somebody, who may see more.
    let one = user(1).to_string();
    let as_user = json!({ "query": "coffee", "user_id": one });
    let message = call(&app, "POST", SEARCH, &[], Some(&as_user)).await.refused(401, "UNAUTHENTICATED");
    assert!(message.starts_with("user_id"), "{message}");
    let seen = call(&app, "GET", &format!("{API}/{friends}"), &[("x-user-id", &one)], None).await;
    assert!(seen.refused(401, "UNAUTHENTICATED").starts_with("x-user-id"));
    // And a wrong token isn't none.
    get(&app, &format!("{API}/{public}"), "wrong").await.refused(401, "UNAUTHENTICATED");
    for (method, path) in [("POST", SAVE), ("GET", &*format!("{QUEUE}/status")), ("GET", "/metrics")] {
        call(&app, method, path, &[], None).await.refused(401, "UNAUTHENTICATED");
    }
    app.stop().await;
}
