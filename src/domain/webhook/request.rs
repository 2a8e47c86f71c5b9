//! The bodies that make and change an endpoint, each field refused by its name.

use serde_json::Value;

use super::Event;
use super::address::endpoint_url;
use crate::domain::fields::{Fields, InvalidField, Read};

const MAX_DESCRIPTION: usize = 200;

/// Which events an endpoint is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub ready: bool,
    pub failed: bool,
    pub finished: bool,
}

impl Chosen {
    pub const ALL: Self = Self { ready: true, failed: true, finished: true };

    pub fn events(self) -> Vec<Event> {
        let chosen = [self.ready, self.failed, self.finished];
        Event::CHOSEN.into_iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(event, _)| event).collect()
    }
}

/// An endpoint that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEndpoint {
    pub url: String,
    pub description: Option<String>,
    pub chosen: Chosen,
    /// Whether it is told of each row of a regeneration, too.
    pub include_regenerations: bool,
}

/// What is to be changed; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointChange {
    pub url: Option<String>,
    pub description: Option<Option<String>>,
    pub chosen: Option<Chosen>,
    pub include_regenerations: Option<bool>,
    pub enabled: Option<bool>,
}

impl NewEndpoint {
    /// Reads a JSON body. Without `events` it is told of all.
    ///
    /// # Errors
    /// Names the field that is missing, unknown or wrong.
    pub fn read(body: Value, allow_private: bool) -> Result<Self, InvalidField> {
        let fields = known(body, &["url", "events", "description", "include_regenerations"])?;
        let url = url(&fields, allow_private)?;
        Ok(Self {
            url: url.ok_or_else(|| InvalidField::new("url", "is required"))?,
            description: fields.text("description", MAX_DESCRIPTION)?,
            chosen: chosen(&fields)?.unwrap_or(Chosen::ALL),
            include_regenerations: flag(&fields, "include_regenerations")?.unwrap_or(false),
        })
    }
}

impl EndpointChange {
    /// Reads a JSON body that names what is to be changed.
    ///
    /// # Errors
    /// Names the field that is unknown or wrong, or says that none is named. A null leaves what it names as it is, but for
    /// the description, which it removes.
    pub fn read(body: Value, allow_private: bool) -> Result<Self, InvalidField> {
        const KNOWN: [&str; 5] = ["url", "events", "description", "include_regenerations", "enabled"];
        let nothing = body.as_object().is_some_and(serde_json::Map::is_empty);
        let fields = known(body, &KNOWN)?;
        if nothing {
            return Err(InvalidField::new("body", format!("must name one of {}", KNOWN.join(", "))));
        }
        Ok(Self {
            url: url(&fields, allow_private)?,
            description: fields.clearable("description", |fields| fields.text("description", MAX_DESCRIPTION))?,
            chosen: chosen(&fields)?,
            include_regenerations: flag(&fields, "include_regenerations")?,
            enabled: flag(&fields, "enabled")?,
        })
    }
}

fn known(body: Value, names: &[&str]) -> Read<Fields> {
    let unknown = body.as_object().and_then(|fields| fields.keys().find(|name| !names.contains(&name.as_str())));
    if let Some(name) = unknown {
        let name: String = name.chars().take(64).collect();
        return Err(InvalidField::new(name, format!("is not known here; there are {}", names.join(", "))));
    }
    Fields::new(body)
}

fn url(fields: &Fields, allow_private: bool) -> Read<Option<String>> {
    match fields.get("url") {
        None => Ok(None),
        Some(Value::String(text)) => match endpoint_url(text, allow_private) {
            Ok(url) => Ok(Some(url.into())),
            Err(problem) => Err(InvalidField::new("url", problem)),
        },
        Some(_) => Err(InvalidField::new("url", "must be a string")),
    }
}

fn flag(fields: &Fields, name: &str) -> Read<Option<bool>> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(InvalidField::new(name, "must be true or false")),
    }
}

fn chosen(fields: &Fields) -> Read<Option<Chosen>> {
    let Some(value) = fields.get("events") else { return Ok(None) };
    let names = || Event::CHOSEN.map(Event::as_str).join(", ");
    let wrong = || InvalidField::new("events", format!("must be a list of one or more of {}", names()));
    let events = value.as_array().filter(|events| !events.is_empty()).ok_or_else(wrong)?;
    let mut chosen = Chosen { ready: false, failed: false, finished: false };
    for (n, event) in events.iter().enumerate() {
        match event.as_str().and_then(Event::parse) {
            Some(Event::Ready) => chosen.ready = true,
            Some(Event::Failed) => chosen.failed = true,
            Some(Event::Finished) => chosen.finished = true,
            Some(Event::Test) | None => {
                return Err(InvalidField::new(format!("events[{n}]"), format!("must be one of {}", names())));
            }
        }
    }
    Ok(Some(chosen))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const URL: &str = "https://example.com/hook";

    #[test]
    fn an_endpoint_without_events_is_told_of_all() {
        let endpoint = NewEndpoint::read(json!({ "url": URL }), false).unwrap();
        assert_eq!((endpoint.chosen, endpoint.include_regenerations), (Chosen::ALL, false));
        assert_eq!(endpoint.chosen.events(), Event::CHOSEN);
        let body = json!({ "url": URL, "events": ["embedding.failed"], "include_regenerations": true });
        let endpoint = NewEndpoint::read(body, false).unwrap();
        assert_eq!((endpoint.chosen.events(), endpoint.include_regenerations), (vec![Event::Failed], true));
    }

    #[test]
    fn every_refusal_names_its_field() {
        for (body, told) in [
            (json!({}), "url is required"),
            (json!({ "url": 1 }), "url must be a string"),
            (json!({ "url": "http://10.0.0.1/" }), "url leads to an address that is private"),
            (json!({ "url": URL, "events": [] }), "events must be a list of one or more"),
            (json!({ "url": URL, "events": "embedding.ready" }), "events must be a list"),
            (json!({ "url": URL, "events": ["embedding.ready", "other"] }), "events[1] must be one of"),
            (json!({ "url": URL, "events": ["webhook.test"] }), "events[0] must be one of"),
            (json!({ "url": URL, "include_regenerations": 1 }), "include_regenerations must be true or false"),
            (json!({ "url": URL, "secret": "whsec_mine" }), "secret is not known here"),
            (json!({ "url": URL, "description": "x".repeat(201) }), "description must be at most 200"),
            (json!([]), "body must be a JSON object"),
        ] {
            let problem = NewEndpoint::read(body, false).unwrap_err().to_string();
            assert!(problem.starts_with(told), "{problem:?} should start with {told:?}");
        }
        for (body, told) in [
            (json!({}), "body must name one of url, events"),
            (json!({ "enabled": "no" }), "enabled must be true or false"),
            (json!({ "url": "http://localhost/" }), "url leads to an address that is loopback"),
        ] {
            let problem = EndpointChange::read(body, false).unwrap_err().to_string();
            assert!(problem.starts_with(told), "{problem:?} should start with {told:?}");
        }
        let cleared = EndpointChange::read(json!({ "description": null }), false).unwrap();
        assert_eq!(cleared, EndpointChange { description: Some(None), ..EndpointChange::default() });
    }
}
