//! Examples of answers, made of the schemas where nobody wrote one.

use serde_json::{Map, Value, json};

/// Levels of schemas in schemas: none refers to itself today, and one that did must not end the program.
const DEEPEST: usize = 32;

/// The schemas that others refer to.
pub struct Schemas<'d>(pub &'d Value);

impl<'d> Schemas<'d> {
    /// The schema itself where this only refers to it.
    pub fn resolve(&self, schema: &'d Value) -> &'d Value {
        let name = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
        name.map_or(schema, |name| &self.0[name])
    }

    /// The name by which others refer to a schema.
    pub fn name(schema: &Value) -> Option<&str> {
        schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next())
    }

    /// A value that the schema describes: its own example, or one made of its parts'.
    pub fn example(&self, schema: &'d Value) -> Value {
        self.example_at(schema, 0)
    }

    fn example_at(&self, schema: &'d Value, depth: usize) -> Value {
        let schema = self.resolve(schema);
        if let Some(example) = schema.get("example").or_else(|| schema.get("default")) {
            return example.clone();
        }
        if depth > DEEPEST {
            return Value::Null;
        }
        if let Some(words) = schema["enum"].as_array() {
            return words.first().cloned().unwrap_or_default();
        }
        for alternatives in ["oneOf", "anyOf"] {
            let some = schema[alternatives].as_array().and_then(|all| all.iter().find(|one| one["type"] != "null"));
            if let Some(some) = some {
                return self.example_at(some, depth + 1);
            }
        }
        if schema["properties"].is_object() || schema["allOf"].is_array() {
            let mut fields = Map::new();
            self.fields(schema, depth, &mut fields);
            return Value::Object(fields);
        }
        match type_of(schema) {
            "array" => json!([self.example_at(&schema["items"], depth + 1)]),
            "object" => json!({}),
            "boolean" => json!(true),
            "integer" => schema.get("minimum").cloned().unwrap_or(json!(1)),
            "number" => json!(0.5),
            "string" => match schema["format"].as_str() {
                Some("uuid") => json!("3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01"),
                Some("date-time") => json!("2026-01-31T12:00:00Z"),
                _ => json!("…"),
            },
            _ => Value::Null,
        }
    }

    fn fields(&self, schema: &'d Value, depth: usize, into: &mut Map<String, Value>) {
        let schema = self.resolve(schema);
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.fields(part, depth + 1, into);
        }
        let required =
            |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let told = self.resolve(field).get("example").is_some();
            let value = if required(name) || told { self.example_at(field, depth + 1) } else { Value::Null };
            into.insert(name.clone(), value);
        }
    }
}

/// The type of a schema, whether or not it may also be null.
pub fn type_of(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(types) => {
            types.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("null")
        }
        one => one.as_str().unwrap_or(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_wrote_is_made_of_the_parts() {
        let known = json!({
            "Lane": { "type": "string", "enum": ["high", "low"] },
            "Place": { "type": "object", "properties": { "id": { "type": "integer", "minimum": 3 } }, "required": ["id"] },
            "Told": { "type": "object", "properties": { "x": {} }, "example": { "x": 9 } },
            "Endless": { "type": "array", "items": { "$ref": "#/components/schemas/Endless" } },
        });
        let schema = json!({
            "allOf": [
                { "$ref": "#/components/schemas/Place" },
                {
                    "type": "object", "required": ["lanes", "told", "at"],
                    "properties": {
                        "lanes": { "type": "array", "items": { "$ref": "#/components/schemas/Lane" } },
                        "told": { "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Told" }] },
                        "at": { "type": ["string", "null"], "format": "date-time" },
                        "why": { "type": ["string", "null"] },
                    },
                },
            ]
        });
        let made = Schemas(&known).example(&schema);
        let expected =
            json!({ "id": 3, "lanes": ["high"], "told": { "x": 9 }, "at": "2026-01-31T12:00:00Z", "why": null });
        assert_eq!(made, expected);
        let endless = json!({ "$ref": "#/components/schemas/Endless" });
        assert!(Schemas(&known).example(&endless).is_array());
    }
}
