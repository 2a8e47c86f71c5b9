//! `search QUERY`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::out;
use super::service::Service;
use super::{SearchArgs, SearchMode, table};
use crate::config::Settings;

/// Characters of a cell.
const CELL: usize = 44;

pub async fn run(settings: Settings, args: SearchArgs) -> anyhow::Result<ExitCode> {
    let service = Service::find(settings, &args.target).await?;
    let mode = match args.mode {
        SearchMode::Hybrid => "hybrid",
        SearchMode::Semantic => "semantic",
        SearchMode::Keyword => "keyword",
    };
    let mut body = json!({ "query": args.query.join(" "), "limit": args.limit, "mode": mode });
    if let Some(threshold) = args.threshold {
        body["threshold"] = threshold.into();
    }
    let found: anyhow::Result<Value> = service.client.post("/api/recommendations/search", &body, args.user).await;
    service.end().await?;
    let found = found?;
    if args.output.json {
        out::line(serde_json::to_string_pretty(&found)?)?;
    } else {
        out::line(describe(&found))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(found: &Value) -> String {
    let metadata = &found["search_metadata"];
    let rows = rows(found);
    let mut text = match rows.is_empty() {
        true => "Nothing found. A lower --threshold finds more.".to_owned(),
        false => table::render(&["similarity", "title", "where or who", "says"], &rows, CELL),
    };
    if metadata["degraded"] == true {
        let reason = metadata["reason"].as_str().unwrap_or("no reason given");
        text.push_str(&format!("\n\nFound by keywords only: {reason}"));
    }
    let took = metadata["took_ms"].as_f64().unwrap_or(0.0);
    text.push_str(&format!("\n\n{} in {took:.1} ms ({})", rows.len(), metadata["mode"].as_str().unwrap_or("?")));
    text
}

/// One row a recommendation, in the order of the groups.
pub fn rows(found: &Value) -> Vec<Vec<String>> {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let groups = found["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = groups.iter().flat_map(|group| {
        let subject = ["place_name", "service_name", "service_business_name", "content_type"];
        let subject = subject.iter().find_map(|name| group[name].as_str()).unwrap_or("").to_owned();
        let items = group["recommendations"].as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().map(move |item| {
            let similarity = format!("{:.2}", item["similarity"].as_f64().unwrap_or(0.0));
            vec![similarity, text(&item["title"]), subject.clone(), text(&item["description"])]
        })
    });
    rows.collect()
}
