//! Requests that are wrong before any field is: routes, methods, headers, sizes, and what is hardly HTTP.

use futures_util::stream;
use reqwest::header::{ALLOW, HeaderValue};
use reqwest::{Body, Method};
use serde_json::json;

use super::raw::{Raw, exchange, head};
use super::{API, IMPORT, SAVE, SEARCH, body, names, names_field, path_of};
use crate::support::app::{TestApp, user};

/// Every route, with its methods.
const ROUTES: [(&str, &[&str]); 18] = [
    (SAVE, &["POST"]),
    (IMPORT, &["POST"]),
    (SEARCH, &["POST"]),
    ("/api/recommendations/1", &["GET", "HEAD", "PUT", "DELETE"]),
    ("/api/recommendations/1/embedding", &["GET", "HEAD"]),
    ("/api/recommendations/user/00000000-0000-0000-0000-000000000001", &["GET", "HEAD"]),
    ("/api/recommendations/place/1", &["GET", "HEAD"]),
    ("/api/recommendations/place/1/network-rating", &["GET", "HEAD"]),
    ("/api/recommendations/place/google/x", &["GET", "HEAD"]),
    ("/api/recommendations/places/reviewed", &["GET", "HEAD"]),
    ("/api/recommendations/embedding-queue/status", &["GET", "HEAD"]),
    ("/api/recommendations/embedding-queue/config", &["GET", "HEAD", "PUT"]),
    ("/api/users/1/following/2", &["PUT", "DELETE"]),
    ("/health/live", &["GET", "HEAD"]),
    ("/health/ready", &["GET", "HEAD"]),
    ("/openapi.json", &["GET", "HEAD"]),
    ("/api/recommendations/2", &["GET", "HEAD", "PUT", "DELETE"]),
    ("/api/users/%00/following/x", &["PUT", "DELETE"]),
];
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"];

fn method(name: &str) -> Method {
    Method::from_bytes(name.as_bytes()).unwrap()
}

#[tokio::test]
async fn an_unknown_route_is_a_404_in_the_envelope() {
    let app = TestApp::start().await;
    let routes = [
        "/",
        "/api",
        "/api/",
        "/api/recommendations",
        "/api/recommendations/",
        "/api/recommendations/1/",
        "//",
        "/api/recommendations/1/embedding/x",
        "/API/recommendations/save",
        "/api/recommendations/place/1/x",
        "/api/recommendations/%73ave/",
        "/health",
        "/metrics/x",
        "/api/users/1",
        "/%00",
        "/%FF",
        "/a%2Fb",
        "/import",
        "/api/recommendations/place/google/",
        "/api/recommendations/place/google/a/b",
    ];
    for route in routes {
        for name in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let answer = app.send(app.request(method(name), route)).await;
            assert!(answer.refusal(404).contains(route), "{}", answer.body);
            assert_eq!(answer.body["error"], "NO_SUCH_ROUTE");
            assert_eq!(names(&answer.body), ["error", "message", "success"]);
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_wrong_method_is_a_405_in_the_envelope_and_says_which_are_right() {
    let app = TestApp::start().await;
    for (route, right) in ROUTES {
        for wrong in METHODS.into_iter().filter(|name| !right.contains(name)) {
            let response = app.request(method(wrong), route).send().await.unwrap();
            assert_eq!(response.status(), 405, "{wrong} {route}");
            let mut allowed: Vec<&str> = response.headers()[ALLOW].to_str().unwrap().split(',').collect();
            allowed.sort_unstable();
            let mut right = right.to_vec();
            right.sort_unstable();
            assert_eq!(allowed, right, "{wrong} {route}");
            let text = response.text().await.unwrap();
            assert!(wrong == "HEAD" || text.contains("\"error\":\"METHOD_NOT_ALLOWED\""), "{text}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_head_request_is_a_get_without_the_body() {
    let app = TestApp::start().await;
    app.save(&body(json!({}))).await;
    for (route, methods) in ROUTES.into_iter().filter(|(_, methods)| methods.contains(&"HEAD")) {
        let get = app.request(Method::GET, route).send().await.unwrap();
        let head = app.request(Method::HEAD, route).send().await.unwrap();
        assert_eq!(head.status(), get.status(), "{route} {methods:?}");
        assert_eq!(head.headers().get("content-type"), get.headers().get("content-type"), "{route}");
        assert!(head.bytes().await.unwrap().is_empty(), "{route}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_bad_user_header_is_refused_wherever_it_counts() {
    let app = TestApp::start().await;
    let id = app.save(&body(json!({}))).await;
    let bad = [
        HeaderValue::from_static("me"),
        HeaderValue::from_static(""),
        HeaderValue::from_static("1"),
        HeaderValue::from_static("00000000-0000-0000-0000-00000000000g"),
        HeaderValue::from_bytes(b"\xff\xfe").unwrap(),
        HeaderValue::from_str(&"0".repeat(10_000)).unwrap(),
        HeaderValue::from_str(&format!("{},{}", user(1), user(2))).unwrap(),
    ];
    let calls = [
        (Method::POST, SAVE.to_owned()),
        (Method::POST, IMPORT.to_owned()),
        (Method::POST, SEARCH.to_owned()),
        (Method::GET, path_of(id)),
        (Method::PUT, path_of(id)),
        (Method::DELETE, path_of(id)),
        (Method::GET, format!("{}/embedding", path_of(id))),
        (Method::GET, format!("{API}/user/{}", user(1))),
        (Method::GET, format!("{API}/place/1")),
        (Method::GET, format!("{API}/place/1/network-rating")),
        (Method::GET, format!("{API}/places/reviewed")),
        (Method::PUT, format!("/api/users/{}/following/{}", user(1), user(2))),
        (Method::DELETE, format!("/api/users/{}/following/{}", user(1), user(2))),
    ];
    for (method, path) in calls {
        for value in &bad {
            let request = app.request(method.clone(), &path).header("x-user-id", value.clone());
            let answer = app.send(request.json(&json!({ "query": "x", "description": "x" }))).await;
            names_field(&answer, "x-user-id");
        }
    }
    app.stop().await;
}

const LIMIT: usize = 20_000;

async fn small() -> TestApp {
    TestApp::with(|settings| settings.server.body_limit_bytes = LIMIT).await
}

/// A save of exactly so many bytes.
fn of_size(bytes: usize) -> Vec<u8> {
    let mut text = body(json!({})).to_string().into_bytes();
    text.resize(bytes, b' ');
    text
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_a_413_with_and_without_its_length() {
    let app = small().await;
    for path in [SAVE, SEARCH] {
        for size in [LIMIT + 1, 10 * LIMIT, 300 * LIMIT] {
            let announced = app.request(Method::POST, path).body(of_size(size));
            let pieces = of_size(size).chunks(5_000).map(|c| Ok(c.to_vec())).collect::<Vec<std::io::Result<_>>>();
            let chunked = app.request(Method::POST, path).body(Body::wrap_stream(stream::iter(pieces)));
            for request in [announced, chunked] {
                let answer = app.send(request).await;
                assert_eq!(answer.refusal(413), format!("the body is larger than {LIMIT} bytes"));
                assert_eq!(answer.body["error"], "BODY_TOO_LARGE");
            }
        }
    }
    assert_eq!(app.queue().await["recommendations"], 0);
    app.stop().await;
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_read() {
    let app = small().await;
    app.send(app.request(Method::POST, SAVE).body(of_size(LIMIT))).await.data(201);
    let whole = stream::iter([Ok::<_, std::io::Error>(of_size(LIMIT))]);
    app.send(app.request(Method::POST, SAVE).body(Body::wrap_stream(whole))).await.data(201);
    app.stop().await;
}

#[tokio::test]
async fn a_length_beyond_the_limit_is_refused_before_the_body_comes() {
    let app = TestApp::start().await;
    for method in ["POST /api/recommendations/save", "PUT /api/recommendations/1", "DELETE /api/recommendations/1"]
    {
        let (method, path) = method.split_once(' ').unwrap();
        let reply = exchange(&app, head(method, path, "Content-Length: 9223372036854775807\r\n")).await;
        assert_eq!((reply.status, reply.error().as_str()), (413, "BODY_TOO_LARGE"));
    }
    app.stop().await;
}

#[tokio::test]
async fn targets_of_other_kinds_are_routed_or_refused() {
    let app = TestApp::start().await;
    let cases = [
        ("OPTIONS *", 404),
        ("CONNECT example.org:80", 404),
        ("GET http://example.org", 404),
        ("GET http://example.org/health/live", 200),
        ("GET /health/live?", 200),
        ("GET /health/live?%00%FF&&=&===", 200),
        ("GET /api/recommendations/places/reviewed?limit=1&limit=1000", 400),
    ];
    for (line, status) in cases {
        let (method, target) = line.split_once(' ').unwrap();
        let reply = exchange(&app, head(method, target, "")).await;
        assert_eq!(reply.status, status, "{line}: {reply:?}");
        if status >= 400 {
            reply.error();
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn what_is_hardly_http_is_refused_and_the_connection_closed() {
    let app = TestApp::start().await;
    let long = |n| "a".repeat(n);
    let cases: [(Vec<u8>, u16); 12] = [
        (b"hello\r\n\r\n".into(), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".into(), 400),
        (b"GET /health/live HTTP/9.9\r\n\r\n".into(), 400),
        (b"GET /\xff\xfe HTTP/1.1\r\n\r\n".into(), 400),
        (b"GET /health/live HTTP/1.1\r\nbad header\r\n\r\n".into(), 400),
        (b"GET /health/live HTTP/1.1\r\nx-user-id: a\0b\r\n\r\n".into(), 400),
        (head("POST", SAVE, "Content-Length: -1\r\n").into(), 400),
        (head("POST", SAVE, "Content-Length: 1\r\nContent-Length: 2\r\n").into(), 400),
        (format!("{}zz\r\n", head("POST", SAVE, "Transfer-Encoding: chunked\r\n")).into(), 400),
        (head("GET", &format!("/{}", long(70_000)), "").into(), 414),
        (head("GET", "/health/live", &format!("x: {}\r\n", long(500_000))).into(), 431),
        (head("GET", "/health/live", &"x: y\r\n".repeat(1_000)).into(), 431),
    ];
    for (bytes, status) in cases {
        let reply = exchange(&app, &bytes).await;
        assert_eq!(reply.status, status, "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(80)]));
    }
    app.stop().await;
}

#[tokio::test]
async fn only_http_1_is_spoken() {
    let app = TestApp::start().await;
    let mut raw = Raw::open(&app).await;
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let reply = String::from_utf8_lossy(&raw.until_closed().await).into_owned();
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400"), "{reply}");
    app.stop().await;
}
