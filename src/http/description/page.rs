//! The description as one page: no script, no style but its own file, nothing from elsewhere.

use std::collections::BTreeMap;

use serde_json::Value;

use super::example::Schemas;
use super::fields;
use super::markup::{anchor, code, escape, line, paragraphs};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
/// Where the service listens unless told otherwise.
const BASE: &str = "http://127.0.0.1:3000";

struct Operation<'d> {
    method: &'static str,
    path: &'d str,
    described: &'d Value,
}

/// The page of an OpenAPI document.
pub fn render(document: &Value) -> String {
    let title = format!("{} {}", text(&document["info"]["title"]), text(&document["info"]["version"]));
    let (title, about) = (escape(&title), paragraphs(text(&document["info"]["description"])));
    let groups = groups(document);
    let contents: String = groups.iter().map(|(tag, operations)| contents_of(tag, operations)).collect();
    let schemas = Schemas(&document["components"]["schemas"]);
    let sections: String =
        groups.iter().map(|(tag, operations)| section(document, &schemas, tag, operations)).collect();
    format!(
        r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/style.css">
</head>
<body>
<a class="skip" href="#operations">Skip to the operations</a>
<header>
<h1>{title}</h1>
{about}<p><a href="/openapi.json">/openapi.json</a> is the same for programs, in OpenAPI {version}.</p>
</header>
<div class="columns">
<nav aria-label="Contents">
<details open>
<summary>Contents</summary>
{contents}</details>
</nav>
<main id="operations">
{sections}</main>
</div>
</body>
</html>
"##,
        version = escape(text(&document["openapi"])),
    )
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The operations by tag: the tags in the document's order, then those that it doesn't list.
fn groups(document: &Value) -> Vec<(&str, Vec<Operation<'_>>)> {
    let mut by_tag: BTreeMap<&str, Vec<Operation<'_>>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for method in METHODS {
            if let Some(described) = item.get(method) {
                let tag = described["tags"][0].as_str().unwrap_or("other");
                by_tag.entry(tag).or_default().push(Operation { method, path, described });
            }
        }
    }
    let listed = document["tags"].as_array().into_iter().flatten().map(|tag| text(&tag["name"]));
    let mut groups: Vec<_> = listed.filter_map(|tag| by_tag.remove_entry(tag)).collect();
    groups.extend(by_tag);
    groups
}

impl Operation<'_> {
    fn anchor(&self) -> String {
        anchor(&format!("{} {}", self.method, self.path.trim_matches('/')))
    }

    fn summary(&self) -> &str {
        self.described["summary"].as_str().unwrap_or(self.path)
    }

    fn parameters(&self) -> impl Iterator<Item = &Value> {
        self.described["parameters"].as_array().into_iter().flatten()
    }

    /// The body's kind and how it is described.
    fn body(&self) -> Option<(&str, &Value)> {
        let content = self.described["requestBody"]["content"].as_object()?;
        content.iter().next().map(|(kind, content)| (kind.as_str(), content))
    }

    fn needs_token(&self) -> bool {
        self.described["security"].as_array().is_some_and(|all| !all.is_empty())
    }

    /// A call that can be copied.
    fn curl(&self, schemas: &Schemas) -> String {
        let mut path = self.path.to_owned();
        let mut call = String::from("curl");
        if self.method != "get" {
            call.push_str(&format!(" -X {}", self.method.to_uppercase()));
        }
        let mut headers = String::new();
        if self.needs_token() {
            headers.push_str(" \\\n  -H \"authorization: Bearer $MAPX_TOKEN\"");
        }
        for parameter in self.parameters() {
            let (name, example) = (text(&parameter["name"]), plain(&parameter["example"]));
            match text(&parameter["in"]) {
                "path" => path = path.replace(&format!("{{{name}}}"), &example),
                "header" if !example.is_empty() => {
                    headers.push_str(&format!(" \\\n  -H {}", quoted(&format!("{name}: {example}"))))
                }
                _ => {}
            }
        }
        call.push_str(&format!(" {BASE}{path}{headers}"));
        if let Some((kind, content)) = self.body() {
            let example = example_of(schemas, content);
            let sent = example.as_str().map_or_else(|| format!("{example:#}"), |lines| lines.trim_end().to_owned());
            let flag = if example.is_string() { "--data-binary" } else { "-d" };
            call.push_str(&format!(
                " \\\n  -H {} \\\n  {flag} {}",
                quoted(&format!("content-type: {kind}")),
                quoted(&sent)
            ));
        }
        call
    }
}

/// As a shell takes it literally.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn example_of(schemas: &Schemas, content: &Value) -> Value {
    let written = content.get("example").cloned();
    written.unwrap_or_else(|| schemas.example(&content["schema"]))
}

fn contents_of(tag: &str, operations: &[Operation]) -> String {
    let items: String = operations
        .iter()
        .map(|operation| {
            let (anchor, method, summary) = (operation.anchor(), operation.method, escape(operation.summary()));
            format!("<li><a href=\"#{anchor}\"><b class=\"{method}\">{method}</b> {summary}</a></li>\n")
        })
        .collect();
    format!("<p><a href=\"#{}\">{}</a></p>\n<ul>\n{items}</ul>\n", anchor(tag), escape(tag))
}

fn section(document: &Value, schemas: &Schemas, tag: &str, operations: &[Operation]) -> String {
    let listed = document["tags"].as_array().into_iter().flatten().find(|one| one["name"] == tag);
    let about = listed.map(|one| paragraphs(text(&one["description"]))).unwrap_or_default();
    let articles: String = operations.iter().map(|operation| article(schemas, operation)).collect();
    let anchor = anchor(tag);
    format!(
        "<section aria-labelledby=\"{anchor}\">\n<h2 id=\"{anchor}\">{}</h2>\n{about}{articles}</section>\n",
        escape(tag)
    )
}

fn article(schemas: &Schemas, operation: &Operation) -> String {
    let anchor = operation.anchor();
    let mut html = format!(
        "<article aria-labelledby=\"{anchor}\">\n<h3 id=\"{anchor}\">{}</h3>\n<p class=\"call\"><b class=\"{method}\">{method}</b> \
         <a href=\"#{anchor}\"><code>{}</code></a></p>\n",
        escape(operation.summary()),
        escape(operation.path),
        method = operation.method,
    );
    html.push_str(&paragraphs(text(&operation.described["description"])));
    let parameters: String = operation.parameters().map(|parameter| parameter_item(schemas, parameter)).collect();
    if !parameters.is_empty() {
        html.push_str(&format!("<h4>Parameters</h4>\n<dl>\n{parameters}</dl>\n"));
    }
    html.push_str(&body(schemas, operation));
    html.push_str("<h4>Example</h4>\n");
    html.push_str(&code(&format!("Example of {}", operation.summary()), &operation.curl(schemas)));
    html.push_str("<h4>Answers</h4>\n");
    for (status, response) in operation.described["responses"].as_object().into_iter().flatten() {
        html.push_str(&answer(schemas, operation, status, response));
    }
    html.push_str("</article>\n");
    html
}

fn parameter_item(schemas: &Schemas, parameter: &Value) -> String {
    let place = text(&parameter["in"]);
    let told =
        format!("{} In the {place}.", text(&parameter["description"]).trim_end_matches('.').to_owned() + ".");
    let told = told.trim_start_matches(['.', ' ']);
    let required = parameter["required"] == true;
    fields::item(schemas, text(&parameter["name"]), &parameter["schema"], required, Some(told))
}

fn body(schemas: &Schemas, operation: &Operation) -> String {
    let Some((kind, content)) = operation.body() else { return String::new() };
    let request = &operation.described["requestBody"];
    let need = if request["required"] == true { "required" } else { "may be absent" };
    let told = request["description"].as_str().or_else(|| about(schemas, &content["schema"]));
    let told = told.map(|text| format!("<p>{}</p>\n", line(&text.replace('\n', " ")))).unwrap_or_default();
    let fields = fields::list(schemas, &content["schema"]);
    let kind = escape(kind);
    format!("<h4>Body <span class=\"kind\">{kind}</span> <span class=\"need\">{need}</span></h4>\n{told}{fields}")
}

/// What a schema says of itself, or the one that it may be besides null.
fn about<'d>(schemas: &Schemas<'d>, schema: &'d Value) -> Option<&'d str> {
    let own = schemas.resolve(schema);
    let inner = own["oneOf"].as_array().into_iter().flatten().map(|one| schemas.resolve(one));
    std::iter::once(own).chain(inner).find_map(|one| one["description"].as_str())
}

fn answer(schemas: &Schemas, operation: &Operation, status: &str, response: &Value) -> String {
    let good = if status.starts_with('2') { "good" } else { "bad" };
    let (status, told) = (escape(status), line(text(&response["description"])));
    let Some((kind, content)) = response["content"].as_object().and_then(|content| content.iter().next()) else {
        return format!("<p class=\"answer\"><b class=\"{good}\">{status}</b> {told}</p>\n");
    };
    let shown = match example_of(schemas, content) {
        Value::Null => String::new(),
        Value::String(lines) => lines,
        example => format!("{example:#}"),
    };
    let example = if shown.is_empty() {
        String::new()
    } else {
        code(&format!("Example of the answer {status} of {}", operation.summary()), &shown)
    };
    // Every error has the same fields, which the head of the page tells.
    let is_error = Schemas::name(&content["schema"]) == Some("ErrorBody");
    let fields = if is_error { String::new() } else { fields::list(schemas, &content["schema"]) };
    format!(
        "<details class=\"answer\">\n<summary><b class=\"{good}\">{status}</b> {told} <span class=\"kind\">{}</span></summary>\n\
         {example}{fields}</details>\n",
        escape(kind)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A description whose every text tries to be a tag.
    fn hostile() -> Value {
        const BAD: &str = "</code></pre><script src=x>'\"&";
        json!({
            "openapi": "3.1.0", "info": { "title": BAD, "version": BAD, "description": BAD },
            "tags": [{ "name": BAD, "description": BAD }],
            "paths": { "/a/{id}": { "post": {
                "tags": [BAD], "summary": BAD, "description": BAD, "operationId": BAD,
                "parameters": [
                    { "name": "id", "in": "path", "required": true, "schema": { "type": "string" }, "example": BAD },
                    { "name": BAD, "in": "header", "description": BAD, "schema": { "type": "string", "pattern": BAD }, "example": BAD },
                ],
                "requestBody": { "description": BAD, "content": { "application/json": {
                    "schema": { "type": "object", "properties": { BAD: { "enum": [BAD], "example": BAD, "description": BAD } } },
                    "example": { BAD: BAD },
                } } },
                "responses": { "200": { "description": BAD, "content": { BAD: { "example": BAD } } }, "204": { "description": BAD } },
            } } },
            "components": { "schemas": {} }
        })
    }

    #[test]
    fn everything_is_escaped() {
        let page = render(&hostile());
        assert!(!page.contains("<script") && !page.contains("src=x>"), "{page}");
        assert_eq!(page.matches("<pre").count(), page.matches("</pre>").count());
        assert!(page.contains("&lt;script src=x&gt;&#39;&quot;&amp;"));
    }

    #[test]
    fn a_call_can_be_copied_into_a_shell() {
        let page = hostile();
        let schemas = Schemas(&page["components"]["schemas"]);
        let operation = Operation { method: "post", path: "/a/{id}", described: &page["paths"]["/a/{id}"]["post"] };
        let call = operation.curl(&schemas);
        assert!(call.starts_with("curl -X POST http://127.0.0.1:3000/a/"), "{call}");
        assert!(call.contains(r"<script src=x>'\''"), "{call}");
        assert!(call.contains("-H 'content-type: application/json' \\\n  -d '{"), "{call}");
    }
}
