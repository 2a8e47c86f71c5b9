//! Settings that can be changed while the service runs, in all its processes at once.

use serde_json::{Map, Value};

use super::layers::plain;
use super::sections::QueueSettings;
use super::{SettingsError, validate};
use crate::domain::fields::whole;

/// Characters of an unknown key that are told back.
const TOLD: usize = 64;

/// A setting that can be changed live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveKey {
    /// Provider calls at once.
    MaxConcurrent,
    /// Texts in one provider call.
    BatchSize,
}

impl LiveKey {
    pub const ALL: [Self; 2] = [Self::MaxConcurrent, Self::BatchSize];

    /// Its name in a request and in an answer.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxConcurrent => "max_concurrent",
            Self::BatchSize => "batch_size",
        }
    }

    /// Its path in the settings, which is its key in the database, too.
    pub fn stored_as(self) -> &'static str {
        match self {
            Self::MaxConcurrent => "queue.max_concurrent",
            Self::BatchSize => "queue.batch_size",
        }
    }

    /// The largest value; the least is 1.
    pub fn max(self) -> u64 {
        match self {
            Self::MaxConcurrent => 1_000,
            Self::BatchSize => 2_048,
        }
    }

    /// Its value in these settings.
    pub fn of(self, queue: &QueueSettings) -> usize {
        match self {
            Self::MaxConcurrent => queue.max_concurrent,
            Self::BatchSize => queue.batch_size,
        }
    }

    /// `maxConcurrent` and `max_concurrent` are one key, as they are in a file.
    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| plain(key.name()) == plain(name))
    }

    fn check(self, value: u64) -> Result<usize, SettingsError> {
        validate::within(self.name(), value, 1, self.max())?;
        Ok(value as usize)
    }

    fn read(self, value: &Value) -> Result<usize, SettingsError> {
        match value {
            Value::Number(n) => match whole(value).and_then(|n| u64::try_from(n).ok()) {
                Some(value) => self.check(value),
                None => Err(self.refused(format!("{n} is not from 1 to {}", self.max()))),
            },
            _ => Err(self.refused(format!("must be a whole number from 1 to {}, or null", self.max()))),
        }
    }

    fn refused(self, problem: String) -> SettingsError {
        SettingsError::Invalid { key: self.name(), problem }
    }
}

/// The values that hold in all processes; `None` leaves to each process its own configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveQueue {
    pub max_concurrent: Option<usize>,
    pub batch_size: Option<usize>,
}

impl LiveQueue {
    pub fn get(self, key: LiveKey) -> Option<usize> {
        match key {
            LiveKey::MaxConcurrent => self.max_concurrent,
            LiveKey::BatchSize => self.batch_size,
        }
    }

    /// Takes over what is stored for a key. A value out of its range, which only a person's own SQL can have put
    /// there, counts as none: never below one.
    pub fn with_stored(mut self, key: LiveKey, stored: &str) -> Self {
        let value = stored.parse().ok().and_then(|value| key.check(value).ok());
        match key {
            LiveKey::MaxConcurrent => self.max_concurrent = value,
            LiveKey::BatchSize => self.batch_size = value,
        }
        self
    }
}

/// What a request changes: at least one key, each with its new value or `None` for each process's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveChange(Vec<(LiveKey, Option<usize>)>);

impl LiveChange {
    /// Reads a JSON body; all of it is good, or none of it is taken.
    ///
    /// # Errors
    /// Names the field that is unknown, given twice or out of its range.
    pub fn read(body: &Value) -> Result<Self, SettingsError> {
        let body_must = |problem: &str| SettingsError::Invalid { key: "body", problem: problem.to_owned() };
        let fields = body.as_object().ok_or_else(|| body_must("must be a JSON object"))?;
        if fields.is_empty() {
            return Err(body_must("must have max_concurrent, batch_size or both"));
        }
        let mut changes: Vec<(LiveKey, Option<usize>)> = Vec::with_capacity(fields.len());
        for (key, value) in known(fields)? {
            if changes.iter().any(|(other, _)| *other == key) {
                return Err(key.refused("is given twice".to_owned()));
            }
            changes.push((key, if value.is_null() { None } else { Some(key.read(value)?) }));
        }
        // Everybody's order: two requests at once can't wait for each other's rows.
        changes.sort_by_key(|(key, _)| key.name());
        Ok(Self(changes))
    }

    /// In the order in which they are to be written.
    pub fn changes(&self) -> &[(LiveKey, Option<usize>)] {
        &self.0
    }
}

fn known<'v>(fields: &'v Map<String, Value>) -> Result<Vec<(LiveKey, &'v Value)>, SettingsError> {
    let one = |(name, value): (&'v String, &'v Value)| match LiveKey::named(name) {
        Some(key) => Ok((key, value)),
        None => Err(SettingsError::UnknownKey {
            key: String::from_iter(name.chars().take(TOLD)),
            origin: "the body".to_owned(),
            hint: "; max_concurrent and batch_size can be changed".to_owned(),
        }),
    };
    fields.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Settings;

    fn read(body: Value) -> Result<Vec<(LiveKey, Option<usize>)>, String> {
        LiveChange::read(&body).map(|change| change.changes().to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn both_spellings_null_and_whole_numbers_are_read() {
        use LiveKey::{BatchSize, MaxConcurrent};
        let (four, own) = ((MaxConcurrent, Some(4)), (BatchSize, None));
        assert_eq!(read(json!({ "max_concurrent": 4 })), Ok(vec![four]));
        assert_eq!(read(json!({ "maxConcurrent": 4.0 })), Ok(vec![four]));
        for body in
            [json!({ "max_concurrent": 4, "batchSize": null }), json!({ "batch_size": null, "maxConcurrent": 4 })]
        {
            assert_eq!(read(body), Ok(vec![own, four]));
        }
        let most = json!({ "max_concurrent": 1_000, "batch_size": 2_048 });
        assert_eq!(read(most), Ok(vec![(BatchSize, Some(2_048)), (MaxConcurrent, Some(1_000))]));
    }

    #[test]
    fn every_refusal_names_its_field() {
        let refused = [
            (json!({ "max_concurrent": 0 }), "max_concurrent: 0 is not from 1 to 1000"),
            (json!({ "maxConcurrent": 1_001 }), "max_concurrent: 1001 is not from 1 to 1000"),
            (json!({ "batch_size": 2_049 }), "batch_size: 2049 is not from 1 to 2048"),
            (json!({ "batch_size": -1 }), "batch_size: -1 is not from 1 to 2048"),
            (json!({ "batch_size": 2.5 }), "batch_size: 2.5 is not from 1 to 2048"),
            (json!({ "batch_size": 1e300 }), "batch_size: 1e+300 is not from 1 to 2048"),
            (json!({ "batch_size": "4" }), "batch_size: must be a whole number from 1 to 2048, or null"),
            (json!({ "batch_size": [4] }), "batch_size: must be a whole number"),
            (json!({ "max_concurrent": 1, "maxConcurrent": 1 }), "max_concurrent: is given twice"),
            (
                json!({ "max_concurrent": 1, "max_retries": 1 }),
                "unknown key max_retries in the body; max_concurrent and",
            ),
            (json!({}), "body: must have max_concurrent, batch_size or both"),
            (json!([1]), "body: must be a JSON object"),
            (json!(null), "body: must be a JSON object"),
        ];
        for (body, expected) in refused {
            let message = read(body).unwrap_err();
            assert!(message.starts_with(expected), "{message:?} should start with {expected:?}");
        }
        assert!(read(json!({ "x".repeat(5_000): 1 })).unwrap_err().len() < 200);
    }

    #[test]
    fn what_a_boot_refuses_a_request_is_refused_in_the_same_words() {
        for (name, key) in
            [("MAPX__QUEUE__MAX_CONCURRENT", "max_concurrent"), ("MAPX__QUEUE__BATCH_SIZE", "batch_size")]
        {
            for value in [0, 5_000] {
                let boot = Settings::load(None, [(name.to_owned(), value.to_string())]).unwrap_err().to_string();
                assert_eq!(boot, format!("queue.{}", read(json!({ key: value })).unwrap_err()));
            }
        }
    }

    #[test]
    fn a_live_value_stands_in_for_the_own_one() {
        let own = Settings::load(None, []).unwrap().queue;
        let live = LiveQueue::default().with_stored(LiveKey::MaxConcurrent, "7");
        let queue = own.under(live);
        assert_eq!((queue.max_concurrent, queue.batch_size), (7, own.batch_size));
        assert_eq!(QueueSettings::prefetch(7, 2), 36);
        for nonsense in ["0", "-1", "1001", "many", ""] {
            assert_eq!(live.with_stored(LiveKey::MaxConcurrent, nonsense), LiveQueue::default(), "{nonsense}");
        }
    }
}
