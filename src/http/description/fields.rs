//! The fields of a schema as a list, those of its parts with the names of both.

use serde_json::Value;

use super::example::{Schemas, type_of};
use super::markup::{escape, line};

const DEEPEST: usize = 8;
/// Anything but white space, of which U+0085 is one for us and none for the regular expressions of JSON Schema.
const NOT_BLANK: &str = r"[^\s\u0085]";

/// A list of all fields of a schema; nothing for one without fields.
pub fn list(schemas: &Schemas, schema: &Value) -> String {
    let mut items = String::new();
    collect(schemas, schema, "", 0, &mut items);
    if items.is_empty() { items } else { format!("<dl>\n{items}</dl>\n") }
}

/// A name with its type, its limits and what it means.
pub fn item(schemas: &Schemas, name: &str, schema: &Value, required: bool, told: Option<&str>) -> String {
    let need = if required { " <span class=\"need\">required</span>" } else { "" };
    let own = schemas.resolve(schema);
    let mut meaning: Vec<String> = Vec::new();
    let described = told.or_else(|| schema["description"].as_str()).or_else(|| described(schemas, own));
    meaning.extend(described.map(|text| line(&text.replace('\n', " "))));
    meaning.extend(limits(schemas, own));
    let kind = escape(&kind(schemas, schema));
    let name = escape(name);
    let meaning = meaning.join(" ");
    let meaning = if meaning.is_empty() { String::new() } else { format!("<dd>{meaning}</dd>\n") };
    format!("<dt><code>{name}</code> <span class=\"kind\">{kind}</span>{need}</dt>\n{meaning}")
}

/// The alternatives that aren't null.
fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    let all = ["oneOf", "anyOf"].into_iter().filter_map(|name| schema[name].as_array()).flatten();
    all.filter(|one| one["type"] != "null")
}

fn described<'d>(schemas: &Schemas<'d>, schema: &'d Value) -> Option<&'d str> {
    let inner = alternatives(schema).find_map(|one| one["description"].as_str());
    let own = |one: &'d Value| schemas.resolve(one)["description"].as_str();
    schema["description"].as_str().or(inner).or_else(|| alternatives(schema).find_map(own))
}

fn collect(schemas: &Schemas, schema: &Value, prefix: &str, depth: usize, into: &mut String) {
    if depth > DEEPEST {
        return;
    }
    let schema = schemas.resolve(schema);
    for part in schema["allOf"].as_array().into_iter().flatten().chain(alternatives(schema)) {
        collect(schemas, part, prefix, depth + 1, into);
    }
    if let Some(items) = schema.get("items") {
        collect(schemas, items, &format!("{prefix}[]"), depth + 1, into);
    }
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (needed, others): (Vec<_>, Vec<_>) = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .partition(|(name, _)| required.contains(&name.as_str()));
    for (name, field) in needed.into_iter().chain(others) {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        into.push_str(&item(schemas, &path, field, required.contains(&name.as_str()), None));
        collect(schemas, field, &path, depth + 1, into);
    }
}

/// `integer`, `text, a UUID`, `list of objects or null`.
fn kind(schemas: &Schemas, schema: &Value) -> String {
    let schema = schemas.resolve(schema);
    let null =
        |all: &Value| all.as_array().is_some_and(|all| all.iter().any(|t| t == "null" || t["type"] == "null"));
    let or_null = if null(&schema["type"]) || null(&schema["oneOf"]) { " or null" } else { "" };
    let mut kinds: Vec<String> = alternatives(schema).map(|one| kind(schemas, one)).collect();
    kinds.dedup();
    let kind = match (kinds.is_empty(), type_of(schema)) {
        (false, _) => kinds.join(" or "),
        (true, "array") => format!("list of {}", kind_of_items(schemas, &schema["items"])),
        (true, "string") => match schema["format"].as_str() {
            Some("uuid") => "text, a UUID".to_owned(),
            Some("date-time") => "text, a moment (RFC 3339)".to_owned(),
            _ => "text".to_owned(),
        },
        (true, "integer") => "whole number".to_owned(),
        (true, "") if schema["allOf"].is_array() => "object".to_owned(),
        (true, "") => "any".to_owned(),
        (true, other) => other.to_owned(),
    };
    format!("{kind}{or_null}")
}

fn kind_of_items(schemas: &Schemas, items: &Value) -> String {
    match kind(schemas, items) {
        kind if kind == "text" => "texts".to_owned(),
        kind if kind.starts_with("text,") || kind.ends_with("null") => kind,
        kind => format!("{kind}s"),
    }
}

/// What a value must keep to.
fn limits(schemas: &Schemas, schema: &Value) -> Vec<String> {
    let mut told = Vec::new();
    let words = |all: &Value| all.as_array().map(|all| all.iter().map(code).collect::<Vec<_>>().join(", "));
    told.extend(words(&schema["enum"]).map(|words| format!("One of {words}.")));
    let range = |least: &str, most: &str, of: &str| match (schema.get(least), schema.get(most)) {
        (Some(least), Some(most)) => Some(format!("{least} to {most}{of}.")),
        // No count is below zero: the type says it.
        (Some(least), None) if *least != 0 => Some(format!("At least {least}{of}.")),
        (None, Some(most)) => Some(format!("At most {most}{of}.")),
        _ => None,
    };
    told.extend(range("minimum", "maximum", ""));
    told.extend(range("minLength", "maxLength", " characters"));
    told.extend(range("minItems", "maxItems", " items"));
    told.extend(schema.get("default").map(|value| format!("By default {}.", code(value))));
    told.extend(schema["pattern"].as_str().map(|pattern| match pattern {
        NOT_BLANK => "Not blank.".to_owned(),
        pattern => format!("Matches <code>{}</code>.", escape(pattern)),
    }));
    let is_plain = !matches!(type_of(schema), "object" | "array" | "");
    told.extend(schema.get("example").filter(|_| is_plain).map(|value| format!("Such as {}.", code(value))));
    if told.is_empty() {
        told.extend(alternatives(schema).flat_map(|one| limits(schemas, schemas.resolve(one))));
    }
    told
}

fn code(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("<code>{}</code>", escape(&text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_is_listed_with_its_type_its_limits_and_its_meaning() {
        let known = json!({
            "Lane": { "type": "string", "enum": ["high", "low"], "description": "The <lane>." },
            "Part": { "type": "object", "required": ["id"], "properties": { "id": { "type": "integer", "minimum": 1 } } },
        });
        let schema = json!({
            "type": "object", "required": ["parts"],
            "properties": {
                "lane": { "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Lane" }] },
                "parts": { "type": ["array", "null"], "maxItems": 9, "items": { "$ref": "#/components/schemas/Part" } },
                "title": { "type": "string", "minLength": 1, "maxLength": 5, "pattern": NOT_BLANK, "example": "<x>" },
            }
        });
        let html = list(&Schemas(&known), &schema);
        for told in [
            "<code>lane</code> <span class=\"kind\">text or null</span></dt>\n<dd>The &lt;lane&gt;. One of <code>high</code>, <code>low</code>.",
            "<code>parts</code> <span class=\"kind\">list of objects or null</span> <span class=\"need\">required</span>",
            "<dd>At most 9 items.</dd>",
            "<code>parts[].id</code> <span class=\"kind\">whole number</span> <span class=\"need\">required</span></dt>\n<dd>At least 1.",
            "<dd>1 to 5 characters. Not blank. Such as <code>&lt;x&gt;</code>.</dd>",
        ] {
            assert!(html.contains(told), "{told}\n{html}");
        }
        assert_eq!(list(&Schemas(&known), &json!({ "type": "string" })), "");
    }
}
