//! Rooms and what each may use: the design's table as data, checked against the sources. Test modules count too.
//! It reads tokens, not types, so that it needs nothing but `std`; what a text literal or a comment says is no use.

#[path = "architecture/source.rs"]
mod source;

use std::collections::BTreeSet;

use source::{Kind, Source, sources};

/// Everything directly under `src/` with the rooms it may use. A room uses only rooms above it: no cycles.
const ROOMS: &[(&str, &str)] = &[
    ("domain", ""),
    ("config", "domain"),
    ("shutdown", ""),
    ("busy", ""),
    ("traces", "domain config"),
    ("measures", "traces"),
    ("telemetry", "config"),
    ("auth", "domain config"),
    ("db", "domain config busy"),
    ("broker", "domain config"),
    ("embedder", "domain config measures"),
    ("budget", "config db embedder"),
    ("metrics", "domain db measures"),
    ("search", "domain config db embedder"),
    ("regeneration", "domain config db embedder"),
    ("webhook", "domain config"),
    ("http", "domain config auth traces measures db metrics search regeneration webhook"),
    ("relay", "domain config traces measures db broker"),
    ("worker", "domain config busy traces measures db broker embedder webhook"),
    ("heartbeat", "config db embedder relay worker"),
    // The only composition root.
    (
        "app",
        "domain config shutdown telemetry auth traces measures db broker embedder budget metrics search regeneration webhook http relay worker heartbeat",
    ),
    ("cli", "domain config shutdown telemetry db broker embedder heartbeat http app"),
    ("lib", ""),
    ("main", "cli"),
];

/// Crates with a home: outside these rooms their types would tie a room to a back end.
const HOMES: &[(&str, &str)] = &[
    ("sea_orm", "db"),
    ("sea_orm_migration", "db"),
    ("sqlx", "db"),
    ("lapin", "broker"),
    ("model2vec_rs", "embedder"),
    ("reqwest", "auth embedder webhook cli traces"),
    ("opentelemetry", "traces"),
    ("opentelemetry_http", "traces"),
    ("opentelemetry_otlp", "traces"),
    ("opentelemetry_sdk", "traces"),
    ("jsonwebtoken", "auth"),
    // But in `auth` it is `rustls::crypto::ring`, the same cryptography for TLS.
    ("ring", "auth embedder webhook main"),
    ("governor", "http"),
    ("standardwebhooks", "webhook"),
    ("axum", "http"),
    ("hyper", "http"),
    ("hyper_util", "http"),
    ("tower", "http"),
    ("tower_http", "http"),
    ("clap", "cli main"),
    ("indicatif", "cli"),
    // Elsewhere an error says what the caller does next.
    ("anyhow", "app cli"),
    // `domain` is free of I/O; `config` and `telemetry` have nothing to wait for.
    (
        "tokio",
        "shutdown busy auth traces db broker embedder metrics search regeneration webhook http relay worker heartbeat app cli main",
    ),
];

/// What may panic outside tests, with the reason why it can't.
const MAY_PANIC: &[(&str, &str, &str)] = &[
    ("cli/import.rs", r#"expect("the template is fixed")"#, "a constant that every run with a bar parses"),
    ("cli/status.rs", r#"expect("the template is fixed")"#, "a constant that every run with a bar parses"),
    ("config/mod.rs", r#"expect("settings are tables of scalars")"#, "the type holds nothing TOML can't say"),
    ("domain/envelope.rs", r#"expect("numbers and fixed words always serialise")"#, "no map, no writer that fails"),
];

const LONGEST_FILE: usize = 400;
/// Files that are longer today, each with a limit of its own until it is split.
const LONGER: &[(&str, usize)] = &[];

const SQL: &[&str] =
    &["SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM ", "CREATE TABLE ", "BEGIN IMMEDIATE", "PRAGMA "];

/// What the table's row of that name lists.
fn row(table: &[(&str, &'static str)], name: &str) -> Option<Vec<&'static str>> {
    table.iter().find(|(of, _)| *of == name).map(|(_, row)| row.split_whitespace().collect())
}

#[track_caller]
fn none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

/// Uses of rooms that the table doesn't allow.
fn forbidden(source: &Source) -> Vec<String> {
    let allowed = row(ROOMS, source.room()).unwrap_or_default();
    let uses = source.uses().into_iter();
    let refused = uses.filter(|(_, name)| name != source.room() && !allowed.contains(&name.as_str()));
    refused.map(|(line, name)| format!("src/{}:{line}: {} uses {name}", source.path, source.room())).collect()
}

#[test]
fn every_room_is_in_the_table_and_the_table_has_no_cycle() {
    let sources = sources();
    let there: BTreeSet<&str> = sources.iter().map(Source::room).collect();
    let placed: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    assert_eq!(there, placed, "src/ (left) and ROOMS (right): place the new room, drop the row of a gone one");
    for (at, (room, uses)) in ROOMS.iter().enumerate() {
        for used in uses.split_whitespace() {
            assert!(
                ROOMS[..at].iter().any(|(above, _)| *above == used),
                "{room} uses {used}, which isn't above it"
            );
        }
    }
}

#[test]
fn rooms_use_only_what_the_table_allows() {
    none("imports go one way", &sources().iter().flat_map(forbidden).collect::<Vec<_>>());
}

#[test]
fn crates_with_a_home_stay_there() {
    let mut findings = Vec::new();
    for source in sources() {
        for (at, token) in source.tokens.iter().enumerate().filter(|(_, token)| token.kind == Kind::Word) {
            let named = source.path_goes_on(at + 1) || at > 0 && source.word(at - 1, "use");
            let away = row(HOMES, &token.text).is_some_and(|homes| !homes.contains(&source.room()));
            if named && away {
                findings.push(format!("src/{}:{}: {}", source.path, token.line, token.text));
            }
        }
    }
    none("crates outside their rooms", &findings);
}

#[test]
fn sql_is_written_in_the_db_room_only() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.room() != "db") {
        for token in source.tokens.iter().filter(|token| token.kind == Kind::Text) {
            let text = token.text.replace('\n', " ");
            if SQL.iter().any(|statement| text.contains(statement)) {
                findings.push(format!("src/{}:{}: {:?}", source.path, token.line, token.text));
            }
        }
    }
    none("SQL outside src/db", &findings);
}

#[test]
fn nothing_panics_but_what_is_listed_with_a_reason() {
    let sources = sources();
    let tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    let (mut findings, mut met) = (Vec::new(), BTreeSet::new());
    for source in &sources {
        let of =
            |module: &String| source.path.strip_prefix(module).is_some_and(|rest| rest.starts_with(['.', '/']));
        if tests.iter().any(of) {
            continue;
        }
        for line in source.panics() {
            let text = source.lines[line - 1].trim();
            match MAY_PANIC.iter().position(|(path, call, _)| source.path == *path && text.contains(call)) {
                Some(entry) => drop(met.insert(entry)),
                None => findings.push(format!("src/{}:{line}: {text}", source.path)),
            }
        }
    }
    none("may panic (return an error, or list it with its reason)", &findings);
    let stale = MAY_PANIC.iter().enumerate().filter(|(entry, _)| !met.contains(entry));
    none("listed but gone", &stale.map(|(_, (path, call, _))| format!("{path}: {call}")).collect::<Vec<_>>());
}

#[test]
fn no_file_is_too_long_to_read() {
    let limit =
        |path: &str| LONGER.iter().find(|(longer, _)| *longer == path).map_or(LONGEST_FILE, |(_, limit)| *limit);
    let sources = sources();
    let too_long = sources.iter().filter(|source| source.lines.len() > limit(&source.path));
    none("too long", &too_long.map(|s| format!("src/{}: {} lines", s.path, s.lines.len())).collect::<Vec<_>>());
    let stale = LONGER.iter().filter(|(path, _)| {
        !sources.iter().any(|source| source.path == *path && source.lines.len() > LONGEST_FILE)
    });
    none("no longer too long: drop it from LONGER", &stale.map(|(path, _)| (*path).to_owned()).collect::<Vec<_>>());
}

#[test]
fn a_forbidden_use_is_named() {
    let source = Source::new("db/a.rs", "use crate::domain::x;\nuse crate::{config, http};");
    assert_eq!(forbidden(&source), ["src/db/a.rs:2: db uses http"]);
}
