//! Reads the JSON bodies of recommendations into [`Draft`] and [`Patch`]. Every refusal names the field.
//!
//! Bodies are read by hand rather than by derive: serde names a line and a column, a person wants the field.
//! Fields that this program doesn't know are left alone, as MapX's clients send more than we need.

use serde_json::Value;
use uuid::Uuid;

use super::fields::{Fields, InvalidField, MAX_SHORT, Read, user_id};
use super::priority::Priority;
use super::recommendation::{ContentType, Draft, Patch, PlaceDraft, ServiceDraft, Visibility};

/// Reads a body of `save` or a line of `import`. `acting` is the authenticated user, who wins over the
/// body's `user_id`; `dimensions` is the length of a ready `embedding`.
pub fn draft(body: Value, acting: Option<Uuid>, dimensions: usize) -> Read<Draft> {
    let fields = Fields::new(body)?;
    let stated = fields.raw_text("user_id", MAX_SHORT)?.map(|id| user_id("user_id", id)).transpose()?;
    let user_id = acting.or(stated).ok_or_else(|| InvalidField::new("user_id", "is required"))?;
    // Coordinates or a category alone name no place that could be found again.
    let place = Some(fields.place()?).filter(PlaceDraft::is_named);
    let service = Some(fields.service()?).filter(ServiceDraft::is_named);
    let inferred = match (&place, &service) {
        (Some(_), _) => ContentType::Place,
        (None, Some(_)) => ContentType::Service,
        (None, None) => ContentType::Unclear,
    };
    Ok(Draft {
        user_id,
        content_type: fields.content_type()?.unwrap_or(inferred),
        title: fields.text("title", MAX_SHORT)?,
        description: fields.description()?.ok_or_else(|| InvalidField::new("description", "is required"))?,
        content_data: fields.object("content_data")?,
        labels: fields.labels()?.unwrap_or_default(),
        metadata: fields.object("metadata")?,
        rating: fields.rating()?,
        visibility: fields.parsed::<Visibility>("visibility")?.unwrap_or(Visibility::Friends),
        place,
        service,
        embedding: fields.embedding(dimensions)?,
        priority: fields.parsed::<Priority>("priority")?,
        trace: None,
    })
}

/// Reads a body of `PUT`: an absent field stays as it is, `null` clears what can be cleared.
pub fn patch(body: Value, dimensions: usize) -> Read<Patch> {
    let fields = Fields::new(body)?;
    let patch = Patch {
        content_type: fields.content_type()?,
        title: fields.clearable("title", |f| f.text("title", MAX_SHORT))?,
        description: fields.description()?,
        content_data: fields.clearable("content_data", |f| f.object("content_data"))?,
        labels: fields.clearable("labels", |f| f.labels())?.map(Option::unwrap_or_default),
        metadata: fields.clearable("metadata", |f| f.object("metadata"))?,
        rating: fields.clearable("rating", |f| f.rating())?,
        visibility: fields.parsed::<Visibility>("visibility")?,
        place: Some(fields.place()?).filter(|place| *place != PlaceDraft::default()),
        service: Some(fields.service()?).filter(|service| *service != ServiceDraft::default()),
        embedding: fields.embedding(dimensions)?,
        priority: fields.parsed::<Priority>("priority")?,
        trace: None,
    };
    if fields.is_null("description") {
        return Err(InvalidField::new("description", "can't be cleared"));
    }
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const USER: &str = "3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01";

    fn with(field: &str, value: Value) -> Result<Draft, String> {
        let mut body = json!({"user_id": USER, "description": "Good"});
        body[field] = value;
        draft(body, None, 2).map_err(|e| e.to_string())
    }

    #[test]
    fn the_smallest_body_is_enough() {
        let draft = with("title", Value::Null).unwrap();
        assert_eq!(draft.content_type, ContentType::Unclear);
        assert_eq!(draft.visibility, Visibility::Friends);
        assert_eq!(draft.user_id.to_string(), USER);
    }

    #[test]
    fn the_type_is_inferred_from_what_is_named() {
        assert_eq!(with("place_name", json!("Almada")).unwrap().content_type, ContentType::Place);
        assert_eq!(with("service_name", json!("Ana")).unwrap().content_type, ContentType::Service);
        assert!(with("place_lat", json!(1.5)).unwrap().place.is_none());
    }

    #[test]
    fn every_refusal_names_its_field() {
        let bad = [
            ("description", json!("   "), "description must not be empty or blank"),
            ("description", json!(7), "description must be a string, not a number"),
            ("description", json!("a\0b"), "description must not contain NUL"),
            ("user_id", json!("me"), "user_id must be a UUID"),
            ("rating", json!(0), "rating must be a whole number from 1 to 5"),
            ("rating", json!(6), "rating must be"),
            ("rating", json!(2.5), "rating must be"),
            ("rating", json!("5"), "rating must be"),
            ("visibility", json!("secret"), "visibility must be \"friends\" or \"public\""),
            ("content_type", json!("tip"), "content_type \"tip\" and \"contact\" are no longer"),
            ("content_type", json!("song"), "content_type must be"),
            ("labels", json!("a"), "labels must be a list of strings"),
            ("labels", json!(["a", 1]), "labels[1] must be a string"),
            ("metadata", json!([1]), "metadata must be an object, not a list"),
            ("metadata", json!({"a": [{"b\0": 1}]}), "metadata must not contain NUL"),
            ("place_lat", json!(91), "place_lat must be a number from -90 to 90"),
            ("place_lng", json!("x"), "place_lng must be a number"),
            ("embedding", json!([1.0]), "embedding has 1 numbers, must have 2"),
            ("embedding", json!([1e300, 0.0]), "embedding number 0 is not finite"),
            ("embedding", json!([0, 0]), "embedding is all zeros"),
            ("embedding", json!("no"), "embedding must be a list of numbers"),
            ("priority", json!("urgent"), "priority must be"),
            ("title", json!("x".repeat(1_001)), "title must be at most 1000 characters"),
        ];
        for (field, value, expected) in bad {
            let message = with(field, value).unwrap_err();
            assert!(message.starts_with(expected), "{message:?} should start with {expected:?}");
        }
        assert_eq!(draft(json!([]), None, 2).unwrap_err().field, "body");
        assert_eq!(draft(json!({"user_id": USER}), None, 2).unwrap_err().to_string(), "description is required");
        assert_eq!(draft(json!({"description": "x"}), None, 2).unwrap_err().to_string(), "user_id is required");
    }

    #[test]
    fn the_acting_user_wins_over_the_body() {
        let other = Uuid::from_u128(9);
        assert_eq!(draft(json!({"user_id": USER, "description": "x"}), Some(other), 2).unwrap().user_id, other);
    }

    #[test]
    fn a_patch_tells_absent_from_null() {
        let change = patch(json!({"title": null, "rating": 4, "labels": null}), 2).unwrap();
        assert_eq!(change.title, Some(None));
        assert_eq!(change.rating, Some(Some(4)));
        assert_eq!(change.labels, Some(vec![]));
        assert_eq!(change.metadata, None);
        assert!(patch(json!({"description": null}), 2).unwrap_err().to_string().contains("cleared"));
        assert!(patch(json!({"description": ""}), 2).unwrap_err().to_string().contains("blank"));
    }
}
